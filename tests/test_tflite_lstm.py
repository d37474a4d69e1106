"""The LSTM in .tflite files: a user would lose the answer to whatever text ran before another."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("litert_torch", reason="needs edgeformer[convert-tflite]")

from ai_edge_litert import schema_py_generated as schema

from edgeformer.converters.tflite_lstm import holds_lstms, with_lstm_kernels
from edgeformer.models.bilstm import BiLstmClassifier
from edgeformer.runtime.engines.tflite_engine import TfliteEngine, open_engine
from tests import bilstm_models
from tests.bilstm_models import CLASSES, CONFIG, DEEP, padded
from tests.tflite_models import Converted, FakeBundle, convert

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=5)


@functools.cache
def student() -> Converted:
    return convert(bilstm_models.prepared(DEEP), 16, 32)


class WithPlaces(BiLstmClassifier):
    """Places are a constant of the length, so that its file keeps fixed lengths."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        hidden = self.encoder.tokens(input_ids)
        hidden = hidden + torch.arange(hidden.shape[1], dtype=hidden.dtype)[None, :, None] / 8
        _, last = self.encoder.layers[0](hidden, attention_mask)
        return {"logits": self.classifier(self.activation(self.dense(last)))}


@functools.cache
def bucketed() -> Converted:
    module = WithPlaces(CONFIG, CLASSES).eval()
    module.load_state_dict(bilstm_models.classifier().state_dict())
    prepared = bilstm_models.prepared()
    object.__setattr__(prepared, "module", module)
    return convert(prepared, 8, 24)


@functools.cache
def engine(model: Any, precision: str) -> TfliteEngine:
    bundle: Any = FakeBundle(model().files)
    return open_engine(bundle, model().variants[precision], 1)


def expected_of(model: Any, batch: dict[str, torch.Tensor]) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model().prepared.module(**batch)["logits"].numpy()
    return logits


@pytest.mark.parametrize("model", [student, bucketed])
@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(0, 4), st.integers(0, 2**31))
def test_answers_are_pytorchs_in_any_order_and_however_far_padded(
    model: Any, lengths: list[int], padding: int, seed: int
) -> None:
    batch = padded(lengths, max(lengths) + padding, seed)
    answer = engine(model, "fp32").run("main", {k: v.numpy() for k, v in batch.items()})["logits"]
    expected = expected_of(model, batch)
    assert np.abs(answer - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))


def test_the_same_text_has_the_same_answer_after_any_other() -> None:
    """TFLite's LSTM keeps its state from call to call."""
    batch = padded([6, 17, 1, 9], seed=3)
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    for precision in ("fp32", "int8"):
        first = engine(student, precision).run("main", arrays)["logits"]
        backwards = {name: array[::-1].copy() for name, array in arrays.items()}
        again = engine(student, precision).run("main", backwards)["logits"][::-1]
        np.testing.assert_array_equal(first, again)


def test_int8_is_close() -> None:
    batch = padded([3, 12, 20, 7], seed=5)
    answer = engine(student, "int8").run("main", {k: v.numpy() for k, v in batch.items()})
    expected = expected_of(student, batch)
    difference = np.abs(answer["logits"] - expected).max()
    assert 1e-5 < difference <= 0.1 * np.abs(expected).max()


def operations(content: bytes) -> list[str]:
    model = schema.ModelT.InitFromPackedBuf(content)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    return [codes[o.opcodeIndex] for graph in model.subgraphs for o in graph.operators]


def test_one_kernel_for_each_direction_at_any_length() -> None:
    for precision, variant in student().variants.items():
        assert variant.layout == "dense"
        assert variant.note == ("LSTM weights stay float32" if precision == "int8" else "")
        found = operations(student().files[f"tflite-{precision}/model.tflite"])
        assert found.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 4
        assert not {"CUSTOM", "WHILE"} & set(found)


def test_weights_are_stored_once() -> None:
    """Four gates of each direction, one more input channel, and no second copy for buckets."""
    for model in (student, bucketed):
        content = model().files["tflite-fp32/model.tflite"]
        names = [name for name, _ in model().prepared.module.named_parameters()]
        sizes = [4 * p.numel() for p in model().prepared.module.parameters()]
        lstms = sum(".lstm.weight_ih" in name for name in names)
        values = sum(sizes) + lstms * 4 * 4 * CONFIG.hidden_size
        parsed = schema.ModelT.InitFromPackedBuf(content)
        stored = sum(
            buffer.size if buffer.offset else len(buffer.data if buffer.data is not None else ())
            for buffer in parsed.buffers
        )
        assert values * 0.9 < stored < values + 3000


def test_a_file_without_lstms_is_left_alone() -> None:
    assert not holds_lstms(b"anything")
    assert with_lstm_kernels(b"anything") == b"anything"
    assert not holds_lstms(student().files["tflite-int8/model.tflite"])
