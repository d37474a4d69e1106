"""The LSTM of the NumPy engine against torch.nn.LSTM, and the proof that it needs no padding."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeformer.converters.prepared import PreparedModel
from edgeformer.errors import ModelError
from edgeformer.models.lstm import lstm
from edgeformer.runtime import recurrent
from edgeformer.runtime.scratch import Scratch
from tests import bilstm_models
from tests.plan_models import assert_close, engine_for, lowered, reference, token_prepared, traced
from tests.test_32_bit import NarrowNumpy
from tests.test_numpy_engine import batch_of

INPUT, HIDDEN = 5, 4


def gates_last(array: np.ndarray) -> np.ndarray:
    """Rows in torch's order (input, forget, candidate, output) to columns in the kernel's."""
    i, f, g, o = np.split(array, 4)
    return np.ascontiguousarray(np.concatenate([i, f, o, g]).T)


def torch_lstm(seed: int, scale: float) -> tuple[nn.LSTM, tuple[np.ndarray, ...]]:
    torch.manual_seed(seed)
    module = nn.LSTM(INPUT, HIDDEN, batch_first=True, bidirectional=True)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, scale)
    weights = {name: p.detach().numpy() for name, p in module.named_parameters()}
    return module, tuple(
        gates_last(part)
        for suffix in ("", "_reverse")
        for part in (
            weights[f"weight_ih_l0{suffix}"],
            weights[f"weight_hh_l0{suffix}"],
            weights[f"bias_ih_l0{suffix}"] + weights[f"bias_hh_l0{suffix}"],
        )
    )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from([0.1, 1.0, 8.0]),
    st.booleans(),
)
def test_packed_and_dense_are_torchs_lstm_text_by_text(
    seed: int, lengths: list[int], scale: float, quantized: bool
) -> None:
    """Large weights saturate every gate; int8 ones are what their scales say."""
    module, (w_ih, w_hh, bias, *back) = torch_lstm(seed, scale)
    rng = np.random.default_rng(seed)
    offsets, longest = np.cumsum([0, *lengths]), max(lengths) + 2
    x = rng.standard_normal((offsets[-1], INPUT)).astype(np.float32)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    for k, direction in enumerate(recurrent.DIRECTIONS):
        if k:
            w_ih, w_hh, bias = back
        weight, unit = w_hh, None
        if quantized:
            unit = np.abs(w_hh).max(axis=0) / 127
            weight = np.rint(w_hh / unit).astype(np.int8)
            with torch.no_grad():
                i, f, o, g = np.split((weight * unit).T, 4)
                stored = module.get_parameter(f"weight_hh_l0{'_reverse' if k else ''}")
                stored.copy_(torch.from_numpy(np.concatenate([i, f, g, o])))
        gates = x @ w_ih + bias
        wide = rng.standard_normal((*mask.shape, 4 * HIDDEN)).astype(np.float32)
        wide[mask == 1] = gates
        packed = np.empty((len(x), HIDDEN), np.float32)
        padded = np.empty((*mask.shape, HIDDEN), np.float32)
        ends = np.empty((2, len(lengths), HIDDEN), np.float32)
        scratch = Scratch()
        more: dict[str, Any] = {"scale": unit, "direction": direction}
        recurrent.lstm_packed(gates, weight, offsets, packed, scratch, **more, states="every")
        recurrent.lstm_dense(wide, weight, mask, padded, scratch, **more, states="every")
        recurrent.lstm_packed(gates, weight, offsets, ends[0], scratch, **more, states="last")
        recurrent.lstm_dense(wide, weight, mask, ends[1], scratch, **more, states="last")
        assert (padded[mask == 0] == 0).all()
        np.testing.assert_array_equal(padded[mask == 1], packed)
        np.testing.assert_array_equal(ends[0], ends[1])
        for text, (start, stop) in enumerate(pairwise(offsets)):
            with torch.no_grad():
                states, (last, _) = module(torch.from_numpy(x[None, start:stop]))
            half = slice(k * HIDDEN, (k + 1) * HIDDEN)
            np.testing.assert_allclose(packed[start:stop], states[0, :, half], atol=1e-5)
            np.testing.assert_allclose(ends[0, text], last[k, 0], atol=1e-5)


def test_gates_far_out_neither_overflow_nor_warn() -> None:
    gates = np.array([[-1e4] * 4, [1e4] * 4, [1e30] * 4], np.float32)
    out, weight = np.empty((3, 1), np.float32), np.zeros((1, 4), np.float32)
    offsets = np.array([0, 3])
    with np.errstate(all="raise", under="ignore"):
        recurrent.lstm_packed(
            gates, weight, offsets, out, Scratch(), direction="forward", states="every"
        )
    np.testing.assert_allclose(out[:, 0], [0, np.tanh(1), np.tanh(2)], rtol=1e-6)


def test_no_texts_and_texts_without_tokens() -> None:
    weight, empty = np.ones((2, 8), np.float32), np.empty((0, 2), np.float32)
    more: dict[str, Any] = {"direction": "reverse", "states": "last"}
    recurrent.lstm_packed(
        np.empty((0, 8), np.float32), weight, np.array([0]), empty, Scratch(), **more
    )
    out = np.full((2, 2), 7, np.float32)
    gates = np.ones((2, 3, 8), np.float32)
    recurrent.lstm_dense(gates, weight, np.array([[0, 0, 0], [1, 0, 0]]), out, Scratch(), **more)
    assert (out[0] == 0).all()
    assert (out[1] != 0).all()


@pytest.fixture(scope="module")
def student() -> PreparedModel:
    return bilstm_models.prepared(bilstm_models.DEEP)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_student_answers_as_pytorch(
    student: PreparedModel, packing: bool, precision: str, tmp_path: Path
) -> None:
    engine = engine_for(student, tmp_path, precision, packing=packing)
    texts = batch_of([5, 1, 17, 5])
    texts.ids[:] %= bilstm_models.CONFIG.vocab_size
    answer = engine.encode(texts)["logits"]
    inputs = {k: v for k, v in texts.padded(19).items() if k != "token_type_ids"}
    expected = reference(student, inputs)["logits"]
    assert_close(answer, expected, 1e-5 if precision == "fp32" else 0.05)
    assert_close(engine.run("main", inputs)["logits"], answer)


def test_a_student_is_packed_and_asks_only_for_the_states_it_reads(
    student: PreparedModel,
) -> None:
    result = lowered(student)
    assert (result.layout, result.note) == ("packed", "")
    lstms = [node for node in result.graph.nodes if node.op == "lstm_packed"]
    assert [node.attributes["states"] for node in lstms] == ["every", "every", "last", "last"]
    assert [node.attributes["direction"] for node in lstms] == ["forward", "reverse"] * 2
    assert not [node for node in traced(student).nodes if node.op == "lstm_packed"]


class OtherMask(nn.Module):
    """An LSTM that is told by something else than the attention mask what a token is, or whose
    weight is computed."""

    def __init__(self, computed: bool) -> None:
        super().__init__()
        self.table, self.computed = nn.Embedding(60, INPUT), computed
        self.lstm = nn.LSTM(INPUT, HIDDEN)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        weights = [p.clone() for p in self.lstm.parameters()]
        mask = attention_mask
        if self.computed:
            weights[1] = weights[1] * attention_mask.sum()
        else:
            mask = (input_ids != 0).long()
        return {"answer": lstm(self.table(input_ids), mask, *weights, False)[1]}


def test_another_mask_keeps_the_padding_and_the_note_says_so(tmp_path: Path) -> None:
    prepared = token_prepared(OtherMask(False).eval(), ())
    result = lowered(prepared)
    assert result.layout == "dense"
    assert "something else than attention_mask" in result.note
    inputs = {name: tensor.numpy() for name, tensor in prepared.examples[0].items()}
    answer = engine_for(prepared, tmp_path).run("main", inputs)["answer"]
    assert_close(answer, reference(prepared, inputs)["answer"])


def test_a_computed_weight_is_refused() -> None:
    with pytest.raises(ModelError, match="LSTM's weight is computed"):
        traced(token_prepared(OtherMask(True).eval(), ()))


def test_a_narrow_index_type_changes_nothing(
    student: PreparedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on 32-bit systems; see test_32_bit."""
    engine = engine_for(student, tmp_path)
    texts = batch_of([5, 1, 9])
    expected = engine.encode(texts)["logits"]
    monkeypatch.setattr(recurrent, "np", NarrowNumpy())
    np.testing.assert_array_equal(engine.encode(texts)["logits"], expected)
