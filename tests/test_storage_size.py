"""What a pruned ALBERT-base weighs: EdgeBERT's accounting, and a real bundle on the disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner

from edgeformer.cli.main import commands
from edgeformer.errors import ToleranceError
from edgeformer.inspection import verify_bundle
from edgeformer.pipeline import convert
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.stored import Store
from edgeformer.stored_sizes import StoredSize, bundle_sizes, stored_sizes
from tests.tiny_bundles import bundle as tiny_bundle
from tests.tiny_bundles import checkpoint, texts_file
from tests.tiny_models import save_folder, tiny_model

ALBERT_BASE: dict[str, Any] = {
    "vocab_size": 30000,
    "embedding_size": 128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
EMBEDDING_ZEROS, ENCODER_ZEROS = 0.6, 0.8
TABLE = "embeddings.word_embeddings.weight"
PROFILE = """extends = "rpi4"
[storage]
weights = "adaptivfloat8e3"
ranges = "channel"
decoded = "{decoded}"
"""


def in_encoder(name: str) -> bool:
    """A matrix of the shared layer, or the one from 128 to 768; not the pooler."""
    return name.startswith("encoder.") and name.endswith("weight") and "orm" not in name


@dataclass(frozen=True)
class Accounting:
    """Megabytes of the weights that are stored, in fp32 and in 8 bits at those shares of zeros."""

    fp32: float
    with_bitmask: float
    without: float


def accounting(removed_heads: int) -> Accounting:
    """All but the pooler, over the shapes of transformers' model, by the sizes that files have."""
    config = transformers.AlbertConfig(**ALBERT_BASE)
    with torch.device("meta"):
        model = transformers.AlbertModel(config)
    fp32 = sum(p.numel() for p in model.parameters()) * 4 / 1e6
    with_bitmask = without = 0.0
    for name, parameter in model.named_parameters():
        if name.startswith("pooler"):
            continue
        count = parameter.numel()
        if ".attention." in name:
            count -= count * removed_heads // config.num_attention_heads
        share = EMBEDDING_ZEROS if name == TABLE else ENCODER_ZEROS
        sparse = name == TABLE or in_encoder(name)
        kept = round(count * (1 - share)) if sparse else count
        with_bitmask += Store(8, 3, 1, kept if sparse else None).size_bytes(count) / 1e6
        without += Store(8, 3, 1, None).size_bytes(kept) / 1e6
    return Accounting(fp32, with_bitmask, without)


def test_edgeberts_accounting_is_reproduced() -> None:
    """46.7 MB of fp32 are 4.4 MB with bitmasks, 3.0 MB without, 3.9 MB with 8 of 12 heads gone."""
    whole, fewer = accounting(0), accounting(8)
    assert whole.fp32 == pytest.approx(46.7, abs=0.05)
    assert whole.with_bitmask == pytest.approx(4.4, abs=0.05)
    assert whole.without == pytest.approx(3.0, abs=0.05)
    assert fewer.with_bitmask == pytest.approx(3.9, abs=0.05)


def prune(model: torch.nn.Module) -> None:
    """The smallest weights of each matrix become zero, in EdgeBERT's shares."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == TABLE or in_encoder(name):
                share = EMBEDDING_ZEROS if name == TABLE else ENCODER_ZEROS
                count = round(share * parameter.numel())
                smallest = parameter.abs().flatten().argsort()[:count]
                parameter.view(-1)[smallest] = 0


def albert_folder(path: Path, **sizes: Any) -> Path:
    """A pruned random ALBERT for embeddings, as transformers saves it."""
    torch.manual_seed(0)
    config = tiny_model("albert", **sizes).config
    model = transformers.AlbertModel(config).eval()  # transformers' own initialisation
    prune(model)
    return save_folder(model, path)


def packed_albert(tmp_path: Path, decoded: str, **sizes: Any) -> Path:
    (tmp_path / "packed.toml").write_text(PROFILE.format(decoded=decoded))
    return convert(
        albert_folder(tmp_path / "albert", **sizes),
        profile=str(tmp_path / "packed.toml"),
        output=tmp_path / f"{decoded}.edge",
        engines=("numpy",),
        calibration=texts_file(),
    ).path


def rows_of(path: Path) -> dict[tuple[str, str], StoredSize]:
    with open_bundle(path) as bundle:
        return {(row.kind, row.form): row for row in bundle_sizes(bundle)["numpy-int8"]}


def test_what_too_few_bits_do_is_found_by_the_conversion(tmp_path: Path) -> None:
    """Whatever the file holds is judged by its answers: four bits miss what eight keep."""
    own = tmp_path / "own.toml"
    for bits, keeps in (("4e3", False), ("8e3", True)):
        own.write_text(
            f'extends = "rpi4"\n[storage]\nweights = "adaptivfloat{bits}"\nranges = "channel"\n'
        )
        settings: dict[str, Any] = {
            "profile": str(own),
            "output": tmp_path / f"{bits}.edge",
            "engines": ("numpy",),
            "calibration": texts_file(),
        }
        if keeps:
            note = convert(checkpoint(), **settings).manifest.variants[0].note
            assert "stored as adaptivfloat8e3, a range for each channel, decoded to int8" in note
        else:
            with pytest.raises(ToleranceError, match="cosine"):
                convert(checkpoint(), **settings)
            assert list(tmp_path.iterdir()) == [own]


@pytest.mark.slow
@pytest.mark.parametrize("decoded", ["int8", "fp32"])
def test_albert_base_is_packed_into_4_6_megabytes(tmp_path: Path, decoded: str) -> None:
    path = packed_albert(tmp_path, decoded, **ALBERT_BASE)
    file = path / "numpy-int8" / "model.plan"
    whole = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    rows = rows_of(path)
    tables = rows["tables", "adaptivfloat8e3 + bitmask"]
    matrices = rows["matrices", "adaptivfloat8e3 + bitmask"]
    assert file.stat().st_size <= 4_600_000
    assert whole <= 4_600_000
    assert matrices.values == 4 * 768 * 768 + 2 * 768 * 3072 + 128 * 768
    assert 1 - tables.nonzeros / tables.values == pytest.approx(EMBEDDING_ZEROS, abs=0.01)
    assert 1 - matrices.nonzeros / matrices.values == pytest.approx(ENCODER_ZEROS, abs=0.01)
    assert verify_bundle(path).passed


def test_a_tied_albert_is_stored_once(tmp_path: Path) -> None:
    """Four layers that share their weights take one layer's room."""
    sizes = []
    for layers in (1, 4):
        folder = tmp_path / str(layers)
        folder.mkdir()
        path = packed_albert(folder, "int8", num_hidden_layers=layers)
        sizes.append({key: (r.values, r.file_bytes) for key, r in rows_of(path).items()})
    assert sizes[0] == sizes[1]
    assert {kind for kind, _ in sizes[0]} == {"tables", "matrices", "other"}


def test_inspect_counts_every_byte_of_a_mapped_file() -> None:
    with open_bundle(tiny_bundle()) as bundle:
        rows = stored_sizes(bundle, bundle.manifest.variant("numpy-int8"))
        size = bundle.size("numpy-int8/model.plan")
    assert {row.form for row in rows if row.kind == "matrices"} == {"int8"}
    assert all(row.decoded_bytes == 0 and row.nonzeros == row.values for row in rows)
    counted = sum(row.file_bytes for row in rows)
    assert 0.5 * size < counted < size  # the rest is the header, and the gaps between tensors


def test_inspect_shows_what_the_file_holds(tmp_path: Path) -> None:
    path = packed_albert(tmp_path, "int8")
    shown = CliRunner().invoke(commands, ["inspect", str(path)]).output
    assert "numpy-int8 holds" in shown and "matrices as adaptivfloat8e3 + bitmask" in shown
    assert " 80%" in shown
    found = json.loads(CliRunner().invoke(commands, ["inspect", str(path), "--json"]).output)
    stored = [StoredSize(**row) for row in found["stored"]["numpy-int8"]]
    assert stored == list(rows_of(path).values())
    (path / "numpy-int8" / "model.plan").write_bytes(
        b"damaged"
    )  # the manifest is shown all the same
    shown = CliRunner().invoke(commands, ["inspect", str(path)]).output
    assert "numpy-int8" in shown and "holds" not in shown
