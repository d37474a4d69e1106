"""The NumPy engine: packed and dense, alone and in batches, against PyTorch; threads and errors."""

import concurrent.futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import EngineError, InputError
from edgeformer.pipeline import prepare_checkpoint
from edgeformer.runtime import blas
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.blas import BlasInfo, blas_threads, identify_blas, loaded_libraries
from edgeformer.runtime.engines import numpy_engine
from edgeformer.runtime.engines.numpy_engine import NumpyEngine, open_engine
from tests.plan_models import (
    LONGEST,
    VOCABULARY,
    TinyBert,
    assert_close,
    bundle_of,
    engine_for,
    example_arrays,
    plain_prepared,
    reference,
    save,
    tiny,
    token_prepared,
)
from tests.tiny_models import tiny_family_folder

HEADS = ("mean", "cls", "tokens")


def batch_of(lengths: list[int], seed: int = 0) -> RaggedBatch:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(3, VOCABULARY, n).tolist() for n in lengths]
    return RaggedBatch.from_lists(ids, [[i % 2 for i in row] for row in ids])


def torch_rows(head: str, batch: RaggedBatch) -> np.ndarray:
    """PyTorch's answer text by text: one row per text, or per token."""
    rows = []
    for i in range(len(batch)):
        part = batch.select([i])
        n = len(part.ids)
        inputs: dict[str, np.ndarray] = dict(part.padded(n))
        inputs["position_ids"] = np.arange(n)[None]
        rows.append(reference(tiny(head), inputs)["answer"][0])
    return np.concatenate(rows) if head == "tokens" else np.stack(rows)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], NumpyEngine]:
    made = {}
    for head in HEADS:
        for layout in ("packed", "dense"):
            folder = tmp_path_factory.mktemp(f"{head}-{layout}")
            made[head, layout] = engine_for(tiny(head), folder, packing=layout == "packed")
    return made


@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, LONGEST), max_size=6), st.integers(0, 1000))
def test_encode_equals_torch_text_by_text(
    engines: dict[Any, NumpyEngine], head: str, layout: str, lengths: list[int], seed: int
) -> None:
    batch = batch_of(lengths, seed)
    answer = engines[head, layout].encode(batch)["answer"]
    if not lengths:
        assert answer.shape == (0, 3 if head != "mean" else 32)
    else:
        assert_close(answer, torch_rows(head, batch))


def test_chunks_of_a_large_batch_keep_the_order(
    engines: dict[Any, NumpyEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_engine, "CHUNK_TOKENS", 10)
    batch = batch_of([3, 12, 1, 1, 9, 2, 20, 5])
    for head in HEADS:
        assert_close(engines[head, "packed"].encode(batch)["answer"], torch_rows(head, batch))


@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("head", HEADS)
def test_run_equals_torch_and_ignores_padding(
    engines: dict[Any, NumpyEngine], head: str, layout: str
) -> None:
    """The padded example: equal where tokens are; what padding holds must not matter."""
    engine, inputs = engines[head, layout], example_arrays(tiny(head))
    kept = inputs["attention_mask"] == 1
    expected, got = reference(tiny(head), inputs)["answer"], engine.run("main", inputs)["answer"]
    if head == "tokens":
        if layout == "packed":
            assert (got[~kept] == 0).all()
        expected, got = expected[kept], got[kept]
    assert_close(got, expected)
    other = dict(inputs, input_ids=np.where(kept, inputs["input_ids"], 57))
    again = engine.run("main", other)["answer"]
    np.testing.assert_allclose(again[kept] if head == "tokens" else again, got, atol=1e-6)


def test_holes_and_left_padding(engines: dict[Any, NumpyEngine]) -> None:
    inputs = example_arrays(tiny("mean"))
    inputs["attention_mask"] = np.array([[0, 0, 1, 1, 0, 1], [1, 0, 0, 0, 0, 0]])
    got = engines["mean", "packed"].run("main", inputs)["answer"]
    assert_close(got, reference(tiny("mean"), inputs)["answer"])
    with pytest.raises(InputError, match="first column"):
        engines["cls", "packed"].run("main", inputs)


@pytest.mark.parametrize(
    ("mask", "message"),
    [([[1, 1], [0, 0]], "row 1 .* has no token"), ([[1, 1], [1, 2]], "1 for tokens and 0")],
)
def test_masks_that_mean_nothing(
    engines: dict[Any, NumpyEngine], mask: list[list[int]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engines["mean", "packed"].run(
            "main", {"input_ids": np.ones((2, 2), int), "attention_mask": mask}
        )


@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_bad_calls(engines: dict[Any, NumpyEngine], layout: str) -> None:
    engine = engines["mean", layout]
    with pytest.raises(InputError, match="input_ids"):
        engine.run("main", {})
    with pytest.raises(InputError, match="no program 'head'"):
        engine.run("head", {"input_ids": [[1]]})
    with pytest.raises(InputError, match=f"{VOCABULARY} rows"):
        engine.run("main", {"input_ids": [[1, VOCABULARY]]})
    with pytest.raises(InputError, match=f"{LONGEST} rows"):
        engine.encode(batch_of([LONGEST + 1]))
    # and the engine still works
    assert_close(engine.encode(batch_of([4]))["answer"], torch_rows("mean", batch_of([4])))


@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_no_texts_at_all(engines: dict[Any, NumpyEngine], layout: str) -> None:
    got = engines["tokens", layout].run("main", {"input_ids": np.zeros((0, 5), int)})
    assert got["answer"].shape == (0, 5, 3)


def test_answers_do_not_change_with_company_or_repetition(
    engines: dict[Any, NumpyEngine],
) -> None:
    batch = batch_of([5, 17, 2, 9, 24, 1])
    for layout in ("packed", "dense"):
        engine = engines["mean", layout]
        together = engine.encode(batch)["answer"]
        alone = [engine.encode(batch.select([i]))["answer"][0] for i in range(len(batch))]
        assert (together * np.stack(alone)).sum(1).min() >= 0.9999
        np.testing.assert_array_equal(engine.encode(batch)["answer"], together)


def test_results_are_the_callers_own(engines: dict[Any, NumpyEngine]) -> None:
    engine = engines["mean", "packed"]
    first = engine.encode(batch_of([5]))["answer"]
    copy = first.copy()
    engine.encode(batch_of([9, 3]))
    np.testing.assert_array_equal(first, copy)


def test_many_threads_get_their_own_answers(engines: dict[Any, NumpyEngine]) -> None:
    batches = [batch_of([1 + i % 7, 3, 1 + i % 5], seed=i) for i in range(24)]
    for layout in ("packed", "dense"):
        engine = engines["mean", layout]
        expected = [engine.encode(b)["answer"] for b in batches]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = [result["answer"] for result in pool.map(engine.encode, batches)]
        for got, want in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_int8_is_near_and_does_not_depend_on_company(tmp_path: Path) -> None:
    engine = engine_for(tiny("mean"), tmp_path, "int8")
    batch = batch_of([5, 17, 2, 9])
    together = engine.encode(batch)["answer"]
    assert (together * torch_rows("mean", batch)).sum(1).min() >= 0.999
    alone = [engine.encode(batch.select([i]))["answer"][0] for i in range(len(batch))]
    assert (together * np.stack(alone)).sum(1).min() >= 0.99999


class NoMask(TinyBert):
    """A token model that cannot be padded."""

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        x = self.norm(self.words(input_ids))
        for layer in self.layers:
            x = layer(x, None)
        return {"answer": x.mean(1), "logits": self.classifier(x)}


def test_a_token_model_without_a_mask(tmp_path: Path) -> None:
    full = token_prepared(NoMaskAdapter(), names=())
    ports = tuple(port for port in full.inputs if port.name == "input_ids")
    example = {"input_ids": full.examples[0]["input_ids"]}
    prepared = type(full)(NoMask(), ports, full.outputs, (example,), full.card)
    engine = engine_for(prepared, tmp_path)
    assert "attention_mask" in save(prepared, tmp_path).note
    batch = batch_of([4, 2, 4, 1])
    got = engine.encode(batch)
    assert got["logits"].shape == (11, 3)
    for i in range(4):
        ids = batch.select([i]).ids[None].astype(np.int64)
        expected = reference(prepared, {"input_ids": ids})
        assert_close(got["answer"][i], expected["answer"][0])
        rows = slice(int(batch.offsets[i]), int(batch.offsets[i + 1]))
        assert_close(got["logits"][rows], expected["logits"][0])


class NoMaskAdapter(NoMask):
    """Only to let ``token_prepared`` work out the output ports."""

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return super().forward(input_ids)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": F.softmax(self.body(pixels), dim=-1)}


def test_a_plain_module_of_any_batch(tmp_path: Path) -> None:
    prepared = plain_prepared(Mlp(), pixels=torch.randn(1, 6))
    engine = engine_for(prepared, tmp_path)
    for rows in (0, 1, 7):
        x = np.random.default_rng(rows).standard_normal((rows, 6))
        got = engine.run("main", {"pixels": x})["logits"]
        assert_close(got, reference(prepared, {"pixels": x.astype(np.float32)})["logits"])
    with pytest.raises(InputError, match="'pixels', which is not made from text"):
        engine.encode(batch_of([3]))


# --- families of transformers ----------------------------------------------------------------

FAMILIES = {
    "bert": "packed",
    "distilbert": "packed",
    "roberta": "packed",
    "albert": "packed",
    "electra": "packed",
    "mpnet": "packed",
    "mobilebert": "dense",
    "deberta-v2": "dense",
    "modernbert": "dense",
}


@pytest.mark.parametrize(("family", "layout"), FAMILIES.items())
def test_families_of_transformers(family: str, layout: str, tmp_path: Path) -> None:
    folder = tiny_family_folder(tmp_path / family, family)
    prepared, _ = prepare_checkpoint(folder, "embedding", None, load_profile("rpi4"))
    engine = engine_for(prepared, tmp_path)
    variant = save(prepared, tmp_path)
    assert (variant.layout, bool(variant.note)) == (layout, layout == "dense")
    batch = batch_of([7, 3, 12])
    answer = engine.encode(RaggedBatch(batch.ids % 20 + 5, batch.type_ids * 0, batch.offsets))
    for i in range(3):
        ids = batch.select([i]).ids[None].astype(np.int64) % 20 + 5
        inputs: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for port in prepared.inputs:
            if port.name == "token_type_ids":
                inputs[port.name] = np.zeros_like(ids)
            if port.name == "position_ids":
                start = int(str(port.default).removeprefix("positions+"))
                inputs[port.name] = np.arange(ids.shape[1])[None] + start
        assert_close(answer["embedding"][i], reference(prepared, inputs)["embedding"][0])


# --- threads and BLAS ------------------------------------------------------------------------


def test_threads_are_set_while_open_and_restored(tmp_path: Path) -> None:
    variant = save(tiny("mean"), tmp_path)
    with blas_threads(2):
        before = identify_blas()
        assert before.controllable and before.threads == 2
        engine = open_engine(bundle_of(tmp_path), variant, 1)
        assert engine.threads == 1
        assert identify_blas().threads == 1
        engine.close()
        assert identify_blas().threads == 2
        with pytest.raises(EngineError, match="closed"):
            engine.encode(batch_of([3]))
        engine.close()  # twice is harmless


def test_numpy_from_pypi_carries_openblas() -> None:
    info = identify_blas()
    assert (info.name, info.is_reference) == ("openblas", False)
    assert "OpenBLAS" in info.version
    assert Path(info.path).exists()


def test_loaded_libraries_are_read_from_the_maps(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f0000-7f1000 r-xp 00000000 fe:00 123    /usr/lib/my folder/libblas.so.3.11.0\n"
        "7f1000-7f2000 r--p 00001000 fe:00 123    /usr/lib/my folder/libblas.so.3.11.0\n"
        "7f3000-7f4000 rw-p 00000000 00:00 0      [heap]\n"
        "7f4000-7f5000 rw-p 00000000 00:00 0\n"
    )
    assert loaded_libraries(maps) == ["/usr/lib/my folder/libblas.so.3.11.0"]
    assert loaded_libraries(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/usr/lib/aarch64-linux-gnu/blas/libblas.so.3.11.0"], ("reference", True)),
        (["/usr/lib/libm.so.6"], ("unknown", False)),
        ([], ("unknown", False)),
    ],
)
def test_other_blas_libraries(
    paths: list[str], expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "loaded_libraries", lambda: paths)
    info = identify_blas()
    assert (info.name, info.is_reference) == expected
    assert not info.controllable
    with blas_threads(1) as inside:
        assert isinstance(inside, BlasInfo) and inside.name == expected[0]
