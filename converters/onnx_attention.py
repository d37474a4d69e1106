"""How scaled_dot_product_attention becomes ONNX: six ops instead of the exporter's twenty.

The exporter's own translation reshapes the keys through computed shapes before it transposes
them; one Transpose does the same, and ONNX Runtime then fuses it and the scale into the MatMul.
"""

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from onnxscript.function_libs.torch_lib.ops.nn import (
    aten_scaled_dot_product_attention as exporters_own,
)


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query @ key^T * scale + mask) @ value (Vaswani et al. 2017, equation 1).

    Args:
        query: (..., queries, head size); ``key`` and ``value`` likewise, (..., keys, head size).
        attn_mask: additive float mask, broadcast to (..., queries, keys), or None. Boolean and
            causal masks and grouped heads are left to the exporter.
        dropout_p: must be 0, as it is in eval mode.
        is_causal, scale, enable_gqa: as in torch.
    """
    head_size = query.shape[-1] if query.shape is not None else None
    boolean = attn_mask is not None and attn_mask.dtype == ir.DataType.BOOL
    if is_causal or enable_gqa or boolean or dropout_p or not isinstance(head_size, int):
        return exporters_own(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    factor = scale if scale is not None else 1 / math.sqrt(head_size)
    axes = list(range(len(key.shape)))
    transposed = op.Transpose(key, perm=[*axes[:-2], axes[-1], axes[-2]])
    scores = op.MatMul(
        op.Mul(query, op.CastLike(op.Constant(value_float=factor), query)), transposed
    )
    if attn_mask is not None:
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.scaled_dot_product_attention.default: attention
}
