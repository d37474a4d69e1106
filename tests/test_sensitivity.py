"""What a user would lose: a model whose outliers int8 cannot hold, or bytes kept for nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgeformer.converters.fake_int8 import FakeInt8, round_rows, round_symmetric
from edgeformer.converters.sensitivity import Site, rank_sites, scan
from edgeformer.converters.sites import site_of, weight_sites
from edgeformer.converters.verification import Reference, judge
from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import ToleranceError
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.manifest import Parity, Variant
from tests.tiny_models import save_folder, tiny_model

PLANTED = "encoder.layers.1.feed_forward.down.weight"
TOLERANCE = load_profile("rpi4").tolerance
PROFILE = """extends = "rpi4"
[length]
max_tokens = 32
bucket_tokens = [32]
[quantization]
max_fp32_share = {share}
"""


def planted_folder(path: Path, size: float) -> Path:
    """A tiny BERT two of whose neurons always answer ``size``: they use up the eight bits of all
    others at the layer that reads them, and no normalisation stands before it to be smoothed."""
    model = tiny_model()
    with torch.no_grad():
        up, down = model.encoder.layer[1].intermediate.dense, model.encoder.layer[1].output.dense
        up.bias[:2] = size
        down.weight[:, :2] *= 2 / size
        down.weight[:, 2:] *= 4
    return save_folder(model, path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_folder(tmp_path_factory.mktemp("planted") / "model", 400.0)


def profile(folder: Path, share: float) -> str:
    path = folder / f"share-{share}.toml"
    path.write_text(PROFILE.format(share=share))
    return str(path)


@pytest.mark.parametrize("engine", ["onnx", "tflite"])
def test_planted_outliers_fail_without_the_scan_and_pass_with_it(
    planted: Path, tmp_path: Path, engine: str
) -> None:
    if engine == "tflite":
        pytest.importorskip("litert_torch", reason="needs edgeformer[convert-tflite]")
    output = tmp_path / "x.edge"

    def converted(share: float) -> object:
        return convert(
            planted,
            profile=profile(tmp_path, share),
            output=output,
            engines=(engine,),
            precisions=("int8",),
        )

    with pytest.raises(ToleranceError, match=r"min cosine 0\.9(.|\n)*the 0 most sensitive sites"):
        converted(0.0)
    assert not output.exists()
    report = converted(0.25)
    [variant] = report.manifest.variants
    found = report.scans[variant.id]
    assert [site.name for site in found.kept] == [PLANTED]
    assert found.sites[0].name == PLANTED
    assert found.sites[0].error > 100 * found.sites[1].error
    assert PLANTED in variant.note
    assert any(PLANTED in notice for notice in report.notices)
    assert variant.parity is not None
    assert variant.parity.passed
    stored = json.loads((output / variant.id / "sensitivity.json").read_text())
    assert [site["name"] for site in stored["sites"] if site["kept"]] == [PLANTED]
    assert stored["trials"][0] == {
        "kept": 0,
        "min_cosine": found.trials[0].min_cosine,
        "mean_cosine": found.trials[0].mean_cosine,
        "top1": None,
        "passed": False,
    }
    with load(output) as model:
        assert model.embed("a lovely film").shape == (32,)


def test_without_outliers_nothing_is_kept(tmp_path: Path) -> None:
    folder = save_folder(tiny_model(), tmp_path / "model")
    report = convert(
        folder,
        profile=profile(tmp_path, 0.25),
        output=tmp_path / "x.edge",
        engines=("onnx",),
        precisions=("int8",),
    )
    assert report.scans == {}
    assert not list(report.path.rglob("sensitivity.json"))
    assert "float32" not in report.manifest.variants[0].note
    assert not any("rank" in stage.name for stage in report.stages)


@pytest.mark.parametrize("helps", [True, False])
def test_a_file_that_misses_the_proof_is_repaired_once(
    helps: bool, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calibration texts found nothing, the proof does: all that may stay in float32 does."""
    from edgeformer.converters import proving

    verify, asked = proving.verify, []

    def unlucky(engine: Any, variant: Variant, *rest: Any) -> Parity:
        asked.append(variant.note)
        parity = verify(engine, variant, *rest)
        if helps and len(asked) > 1:
            return parity
        return judge(replace(parity, min_cosine=0.9), "int8", TOLERANCE)

    monkeypatch.setattr(proving, "verify", unlucky)
    calm = save_folder(tiny_model(), tmp_path / "calm")
    output = tmp_path / "x.edge"

    def converted() -> Any:
        return convert(
            calm,
            profile=profile(tmp_path, 0.25),
            output=output,
            engines=("onnx",),
            precisions=("int8",),
        )

    if not helps:
        with pytest.raises(ToleranceError, match=r"min cosine 0\.9000(.|\n)*stay in float32"):
            converted()
        assert not output.exists()
    else:
        report = converted()
        [variant], [found] = report.manifest.variants, report.scans.values()
        assert variant.parity.passed and variant.note.endswith("with less it missed the proof")
        assert 0.1 < found.kept_share <= 0.25
        stored = json.loads((output / variant.id / "sensitivity.json").read_text())
        assert sum(site["kept"] for site in stored["sites"]) == len(found.kept)
        with load(output) as model:
            assert model.embed("a lovely film").shape == (32,)
    assert ["float32" in note for note in asked] == [False, True]


def test_texts_that_judge_are_not_those_that_choose(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeformer.converters import proving, refining

    seen: dict[str, set[bytes]] = {"choose": set(), "judge": set()}

    def listen(module: object, role: str) -> None:
        verify = module.verify  # type: ignore[attr-defined]

        def wrapped(engine: object, variant: object, reference: Reference, *rest: object) -> object:
            seen[role] |= {one["input_ids"].tobytes() for one in reference.inputs}
            return verify(engine, variant, reference, *rest)

        monkeypatch.setattr(module, "verify", wrapped)

    listen(refining, "choose")
    listen(proving, "judge")
    texts = tmp_path / "texts.txt"
    words = ["good", "bad", "very", "boring", "lovely", "film", "the", "a", "was", "not"]
    texts.write_text("\n".join([f"{a} {b} {c}" for a in words for b in words for c in words] * 2))
    convert(
        planted,
        profile=profile(tmp_path, 0.25),
        output=tmp_path / "x.edge",
        engines=("onnx",),
        precisions=("int8",),
        calibration=texts,
    )
    assert len(seen["choose"]) == 128
    assert len(seen["judge"]) == 512
    assert not seen["choose"] & seen["judge"]


class TwoLayers(nn.Module):
    """A table, a layer with one input far out, and a layer without."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = nn.Embedding(50, 16)
        self.calm, self.wild = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Parameter(torch.randn(16, 16))
        with torch.no_grad():
            self.calm.bias[0] = 300.0
            self.wild.weight[:, 0] /= 300.0

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": F.linear(self.wild(torch.relu(self.calm(self.table(ids)))), self.head)}


def two_layers() -> tuple[TwoLayers, tuple[dict[str, torch.Tensor], ...], Reference]:
    module = TwoLayers().eval()
    generator = torch.Generator().manual_seed(0)
    examples = tuple({"ids": torch.randint(0, 50, (1, 6), generator=generator)} for _ in range(20))
    with torch.inference_mode():
        outputs = tuple({"y": module(**one)["y"].numpy()} for one in examples)
    return (
        module,
        examples,
        Reference(None, tuple({"ids": one["ids"].numpy()} for one in examples), outputs),
    )


def test_ranking_puts_the_wild_layer_first_and_finds_parameters_of_all_kinds() -> None:
    module, examples, reference = two_layers()
    sizes = {name: values.size for name, values in weight_sites(module).items()}
    ranked = rank_sites(module, examples, reference, sizes | {"elsewhere.weight": 4})
    assert {site.name for site in ranked} == {"table.weight", "calm.weight", "wild.weight", "head"}
    assert ranked[0].name == "wild.weight"
    assert ranked[0].error > 3 * ranked[1].error
    assert ranked == rank_sites(module, examples, reference, sizes)
    only = rank_sites(module, examples, reference, {"calm.weight": 512})
    assert [site.name for site in only] == ["calm.weight"]


def test_rounding_is_torchs_own_quantization() -> None:
    torch.manual_seed(1)
    values = torch.randn(5, 64) * torch.tensor([[1e-3], [1], [10], [500], [1]])
    scale = values.abs().amax(1) / 127
    wanted = torch.fake_quantize_per_channel_affine(
        values, scale, torch.zeros(5, dtype=torch.int32), 0, -127, 127
    )
    torch.testing.assert_close(round_symmetric(values), wanted)
    for row in torch.cat([values, values.relu(), -values.relu()]):
        low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
        step = (high - low) / 255
        wanted = torch.fake_quantize_per_tensor_affine(row, step, round(-low / step), 0, 255)
        torch.testing.assert_close(round_rows(row[None])[0], wanted, atol=step * 1e-3, rtol=1e-4)
    assert torch.equal(round_rows(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_nothing_is_rounded_that_is_not_named() -> None:
    module, examples, reference = two_layers()
    with torch.inference_mode(), FakeInt8(module, set()) as mode:
        same = module(**examples[0])["y"].numpy()
    np.testing.assert_array_equal(same, reference.outputs[0]["y"])
    assert mode.used == {"table.weight", "calm.weight", "wild.weight", "head"}


def test_a_named_layer_rounds_its_inputs_and_its_weights() -> None:
    layer = nn.Linear(16, 4)
    x = torch.randn(3, 16)
    with torch.inference_mode():
        with FakeInt8(layer, {"weight"}):
            answer = layer(x)
        wanted = F.linear(round_rows(x), round_symmetric(layer.weight), layer.bias)
        torch.testing.assert_close(answer, wanted)
        assert not torch.allclose(answer, layer(x), atol=1e-5)


def parity(cosine: float) -> Parity:
    measured = Parity(9, 0.0, 1.0, cosine, cosine, None, 1.0, True)
    return judge(measured, "int8", TOLERANCE)


SITES = [Site(f"s{i}", 10, 1 / (i + 1)) for i in range(12)]


@given(st.integers(1, 14), st.floats(0, 1), st.sampled_from([0.9905, 0.9999]))
def test_the_scan_keeps_the_fewest_sites_that_reach_the_tolerance(
    needed: int, share: float, reached: float
) -> None:
    """Whatever the number needed; 0.9905 is within the tolerance, and not halfway to exact."""
    tried = []

    def measure(kept: frozenset[str]) -> Parity:
        tried.append(kept)
        assert kept == {f"s{i}" for i in range(len(kept))}  # the most sensitive ones
        return parity(reached if len(kept) >= needed else 0.9)

    found = scan(SITES, parity(0.9), measure, TOLERANCE, share)
    allowed = int(share * 120 // 10)
    assert found.passed == (needed <= allowed)
    assert len(found.kept) == (needed if found.passed else 0)
    assert all(site.name == f"s{i}" for i, site in enumerate(found.kept))
    assert len(tried) == len(set(tried)) == len(found.trials) - 1 <= 5
    assert found.kept_share <= share
    assert (f"{min(allowed, 12)} most" in found.sentence()) == (not found.passed)


def test_a_large_site_that_does_not_fit_is_passed_over() -> None:
    sites = [Site("small", 10, 3.0), Site("huge", 900, 2.0), Site("next", 10, 1.0)]
    asked = []

    def measure(kept: frozenset[str]) -> Parity:
        asked.append(kept)
        return parity(0.9999 if len(kept) == 2 else 0.9)

    found = scan(sites, parity(0.9), measure, TOLERANCE, 0.1)
    assert {site.name for site in found.kept} == {"small", "next"}
    assert [site.name for site in found.sites] == ["small", "huge", "next"]


def test_a_weight_is_known_by_its_values_up_to_a_factor() -> None:
    module, _, _ = two_layers()
    sites = weight_sites(module)
    weight = module.calm.weight.detach().numpy()
    assert site_of(weight * np.float32(0.42), sites) == "calm.weight"
    assert site_of(weight[::-1].copy(), sites) is None
    changed = weight.copy()
    changed[3, 5] += 0.01
    assert site_of(changed, sites) is None
    assert site_of(weight.T.copy(), sites) is None
