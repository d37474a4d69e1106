"""Dynamic int8 linear layers whose range is that of the whole text: one fused op each.

    x (1, tokens, K) float32 -> DynamicQuantizeMatMul with int8 weights and bias -> float32

For files that are given one text at a time, without padding: there a text's answer cannot depend on
another's although all its tokens share one range.

1. The layers of ``quantize_linears`` rule 1, but for those that read an activation: a Gelu's or
   Relu's outputs have single tokens that are much larger than the others, and one range for all of
   them would round these away. What this pass leaves is for ``quantize_linears``.
2. Weights as in ``quantize_linears``, rule 2.
3. A constant bias that follows is taken into the op.

The op is ONNX Runtime's own (domain com.microsoft): scale, product and bias in two sweeps instead
of eight.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgeformer.converters.onnx_passes.editing import (
    MICROSOFT,
    Linear,
    constant,
    following_bias,
    insert,
    linears,
    replace,
    uses,
)
from edgeformer.converters.onnx_passes.quantize_linears import is_quantizable, quantize_weight

_ACTIVATIONS = ("Gelu", "Relu")


def quantize_texts(model: ir.Model, reduce_range: bool, kept: Collection[str] = frozenset()) -> int:
    """Rewrite the linear layers of ``model`` in place and return how many there were.

    Args:
        model: float32 graph that is given one text at a time.
        reduce_range: see ``quantize_linears``.
        kept: names of weights that stay float32.
    """
    found = [x for x in linears(model) if is_quantizable(x, kept) and not _reads_activation(x)]
    for linear in found:
        _rewrite(model, linear, reduce_range)
    if found:
        uses(model, MICROSOFT)
    return len(found)


def _reads_activation(linear: Linear) -> bool:
    producer = linear.x.producer()
    return producer is not None and producer.op_type in _ACTIVATIONS


def _rewrite(model: ir.Model, linear: Linear, reduce_range: bool) -> None:
    name = linear.weight_name
    weight, scale = quantize_weight(linear.weight, reduce_range)
    inputs = [
        linear.x,
        constant(model, f"{name}.int8", weight),
        constant(model, f"{name}.scale", scale),
        constant(model, f"{name}.zero", np.zeros(len(scale), np.int8)),
    ]
    bias, last = linear.bias, linear.node
    added = following_bias(linear.node) if bias is None else None
    if added is not None:
        last, bias = added
    if bias is not None:
        inputs.append(bias)
    op, kind = "DynamicQuantizeMatMul", ir.DataType.FLOAT
    product = insert(model, linear.node, op, inputs, dtype=kind, domain=MICROSOFT)
    replace(model, last, product)
    if last is not linear.node:
        model.graph.remove(linear.node, safe=True)
