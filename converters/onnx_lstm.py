"""How an LSTM becomes ONNX: one LSTM node for each direction, told the length of each text."""

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset20 as op

_ONNX_ORDER = (0, 3, 1, 2)  # of torch's gates: input, forget, candidate, output


def lstm(
    x: Any,
    attention_mask: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    reverse: bool,
) -> tuple[Any, Any]:
    """``edgeformer::lstm``: the state after each token, and that after the last.

    Args:
        x: (batch, sequence, input); ONNX Runtime has no LSTM whose batch comes first.
        attention_mask: (batch, sequence), 1 for tokens, then 0 for padding.
        weight_ih: (4 * hidden, input); ``weight_hh`` likewise, (4 * hidden, hidden).
        bias_ih: (4 * hidden,); ``bias_hh`` likewise.
        reverse: from the last token to the first.
    """
    hidden = int(weight_hh.shape[1])
    zeroth, first = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    order = np.arange(4 * hidden).reshape(4, hidden)[list(_ONNX_ORDER)].reshape(-1)
    rows = op.Constant(value=ir.tensor(order))
    biases = [op.Gather(bias, rows, axis=0) for bias in (bias_ih, bias_hh)]
    mask = op.Cast(attention_mask, to=ir.DataType.INT32.value)
    states, last, _ = op.LSTM(
        op.Transpose(x, perm=[1, 0, 2]),
        op.Unsqueeze(op.Gather(weight_ih, rows, axis=0), zeroth),
        op.Unsqueeze(op.Gather(weight_hh, rows, axis=0), zeroth),
        op.Unsqueeze(op.Concat(*biases, axis=0), zeroth),
        op.ReduceSum(mask, first, keepdims=0),
        direction="reverse" if reverse else "forward",
        hidden_size=hidden,
    )
    return op.Transpose(op.Squeeze(states, first), perm=[1, 0, 2]), op.Squeeze(last, zeroth)


def lstm_translation() -> dict[Any, Any]:
    """The translation of the operation, where a model that uses it was imported."""
    found = getattr(torch.ops.edgeformer, "lstm", None)
    return {} if found is None else {found.default: lstm}
