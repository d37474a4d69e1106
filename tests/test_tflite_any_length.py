"""What a user would lose: time and memory to padded lengths, or right answers at other lengths."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

pytest.importorskip("litert_torch", reason="needs edgeformer[convert-tflite]")

from ai_edge_litert import schema_py_generated as schema

from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.tflite_any_length import FixedLengthError, any_length
from edgeformer.converters.tflite_convert import Signature, convert
from edgeformer.converters.verification import reference_answers
from edgeformer.errors import InputError
from edgeformer.pipeline import prepare_checkpoint
from edgeformer.runtime.engines.tflite_engine import TfliteEngine, open_engine
from tests.tflite_models import (
    Converted,
    FakeBundle,
    cosines,
    profile,
    random_texts,
    tokens_two_buckets,
    torch_answers,
)
from tests.tflite_models import convert as converted
from tests.tiny_models import tiny_family_folder

LONGEST = 48  # positions of the tiny models


def prepared(family: str, task: str) -> PreparedModel:
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_family_folder(Path(folder) / family, family, task)
        return prepare_checkpoint(path, None, None, profile(32, 64))[0]


@functools.cache
def tagger() -> Converted:
    return converted(prepared("bert", "token-classification"), 32, 64)


@functools.cache
def engine(precision: str) -> TfliteEngine:
    bundle: Any = FakeBundle(tagger().files)
    return open_engine(bundle, tagger().variants[precision], 1)


def texts(lengths: list[int]) -> Any:
    batch = random_texts(*lengths)
    np.remainder(batch.ids, 60, out=batch.ids)  # the tiny vocabulary
    return batch


def test_one_signature_holds_the_weights_once() -> None:
    for precision, variant in tagger().variants.items():
        assert (variant.layout, variant.note) == ("dense", "")
        assert (variant.programs["main"].entry, variant.programs["main"].buckets) == ("main", ())
        model = schema.ModelT.InitFromPackedBuf(tagger().files[f"tflite-{precision}/model.tflite"])
        assert [s.signatureKey for s in model.signatureDefs] == [b"main"]
        assert len(model.subgraphs) == 1
        graph = model.subgraphs[0]
        assert all(graph.tensors[i].shapeSignature.tolist() == [1, -1] for i in graph.inputs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=8))
def test_fp32_answers_are_pytorchs_at_every_length_in_every_order(lengths: list[int]) -> None:
    batch = texts(lengths)
    answer = engine("fp32").encode(batch)["logits"]
    expected = torch_answers(tagger().prepared, batch)["logits"]
    assert answer.shape == expected.shape
    assert np.abs(answer - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, LONGEST), min_size=2, max_size=6))
def test_int8_answers_do_not_depend_on_what_ran_before(lengths: list[int]) -> None:
    batch = texts(lengths)
    answer = engine("int8").encode(batch)["logits"]
    backwards = engine("int8").encode(batch.select(list(range(len(lengths)))[::-1]))["logits"]
    parts = np.split(backwards, np.cumsum(lengths[::-1])[:-1])
    np.testing.assert_array_equal(answer, np.concatenate(parts[::-1]))
    assert cosines(answer, torch_answers(tagger().prepared, batch)["logits"]).min() > 0.98


def test_run_takes_padded_arrays_and_no_rows() -> None:
    batch = texts([4, 11, 7])
    answer = engine("fp32").run("main", batch.padded(13))["logits"]
    real = answer[batch.padded(13)["attention_mask"] == 1]
    np.testing.assert_allclose(real, engine("fp32").encode(batch)["logits"], atol=1e-5)
    assert engine("fp32").run("main", {"input_ids": np.zeros((0, 3), int)})["logits"].shape[0] == 0


def test_too_long_is_said_and_the_engine_lives_on() -> None:
    with pytest.raises(InputError, match=f"an id is {LONGEST}, outside .* 0 to {LONGEST - 1}"):
        engine("fp32").encode(texts([LONGEST + 3]))
    assert engine("fp32").encode(texts([5]))["logits"].shape == (5, 3)


def test_a_length_that_cannot_be_freed_is_named_and_padded_for() -> None:
    """Relative positions are constants of the length."""
    model = converted(prepared("mpnet", "embedding"), 8, 32)
    variant = model.variants["fp32"]
    assert variant.layout == "buckets"
    assert variant.programs["main"].buckets == (8, 32)
    assert variant.note.startswith("fixed lengths: the length is part of the operation")
    bundle: Any = FakeBundle(model.files)
    batch = texts([3, 20])
    reference = reference_answers(model.prepared, batch)
    answer = open_engine(bundle, variant, 1).encode(batch)["embedding"]
    for row, expected in zip(answer, reference.outputs, strict=True):
        largest = float(np.abs(expected["embedding"]).max())
        np.testing.assert_allclose(row, expected["embedding"][0], atol=1e-5 * max(1.0, largest))


def test_a_file_with_constants_of_the_length_keeps_its_buckets() -> None:
    assert tokens_two_buckets().variants["int8"].note.startswith("fixed lengths: ")


class Scores(nn.Module):
    """Products of two activations, which come out in one answer or another."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape
        self.linear, self.values = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.linear(x)
        n = x.shape[1]
        if self.shape == "squared":
            return {"y": (x @ x.transpose(1, 2)).reshape(1, n * n)}
        if self.shape == "slices":
            wider = F.pad(x, (0, 0, 2, 3))
            return {"y": wider[:, 1:-4] + wider[:, -n:] + x[:, :1] + wider[:, 2 : n + 2]}
        if self.shape == "half":
            return {"y": x[:, : n // 2] + 0}
        if self.shape == "places":
            return {"y": x + torch.arange(n, dtype=torch.float32)[None, :, None]}
        if self.shape == "one head":
            head, values = x.reshape(1, n, 1, 8).transpose(1, 2), self.values(x)[:, None]
            mask = x[:, None, None, :, 0]
            mixed = torch.softmax(head @ head.transpose(2, 3) * 0.5 + mask, -1) @ values
            return {"y": x + self.linear(mixed.transpose(1, 2).reshape(1, n, 8))}
        heads = x.reshape(1, n, 2, 4).transpose(1, 2)
        return {"y": torch.softmax(heads @ heads.transpose(2, 3) * 0.5, -1) @ heads}


def two_lengths(shape: str) -> tuple[nn.Module, bytes]:
    torch.manual_seed(4)
    module = Scores(shape).eval()
    signatures = [Signature(f"main_{n}", {"x": torch.zeros(1, n, 8)}) for n in (5, 8)]
    return module, convert(module, signatures)


@pytest.mark.parametrize("shape", ["heads", "one head"])
def test_lengths_that_meet_other_sizes_are_told_apart(shape: str) -> None:
    """One of the two lengths, 8, is also the width. The converter multiplies matrices without a
    batch where a single head is left."""
    from ai_edge_litert.interpreter import Interpreter

    module, content = two_lengths(shape)
    runner = Interpreter(model_content=any_length(content)).get_signature_runner("main")
    for n in (8, 3, 8, 1, 19, 5):
        x = torch.randn(1, n, 8)
        with torch.inference_mode():
            expected = module(x)["y"].numpy()
        np.testing.assert_allclose(runner(x=x.numpy())["y"], expected, atol=1e-5)


def test_slices_count_from_the_end_they_stay_near() -> None:
    """A file that keeps one length in a slice answers with rows of another text, or none."""
    from ai_edge_litert.interpreter import Interpreter

    module, content = two_lengths("slices")
    runner = Interpreter(model_content=any_length(content)).get_signature_runner("main")
    for n in (8, 3, 1, 19, 5):
        x = torch.randn(1, n, 8)
        with torch.inference_mode():
            expected = module(x)["y"].numpy()
        np.testing.assert_allclose(runner(x=x.numpy())["y"], expected, atol=1e-5)


def test_a_slice_up_to_the_middle_keeps_its_length() -> None:
    _, content = two_lengths("half")
    with pytest.raises(FixedLengthError, match="SLICE has neither end"):
        any_length(content)


def test_constants_of_a_length_are_found() -> None:
    _, content = two_lengths("places")
    with pytest.raises(FixedLengthError, match="ADD"):
        any_length(content)


def test_a_length_squared_may_still_be_worked_out() -> None:
    from ai_edge_litert.interpreter import Interpreter

    module, content = two_lengths("squared")
    runner = Interpreter(model_content=any_length(content)).get_signature_runner("main")
    x = torch.randn(1, 11, 8)
    with torch.inference_mode():
        expected = module(x)["y"].numpy()
    np.testing.assert_allclose(runner(x=x.numpy())["y"], expected, atol=1e-4)
