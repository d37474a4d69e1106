"""A graph for inputs without padding: the attention mask is all ones, and no input any more.

1. What elementwise ops make of the mask and of single constants has one value everywhere, which
   is computed here.
2. ``x + 0``, ``x - 0``, ``x * 1`` and ``x / 1`` with such a value become ``x``, unless that value
   could widen ``x``: its every dimension must be 1, or the same as ``x`` has there.
3. Whatever still reads the mask (the number of tokens of a mean) reads ones in the shape of
   the ids.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeformer.converters.onnx_passes.editing import replace

_RESHAPES = ("Unsqueeze", "Squeeze", "Reshape", "Expand", "Identity", "Transpose")
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}
_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


def assume_no_padding(model: ir.Model, mask: ir.Value, ids: ir.Value) -> int:
    """Rewrite ``model`` in place and return how many ops rule 2 removed.

    Args:
        model: its shapes are known.
        mask: the input that is 1 for a token; it is removed from the inputs.
        ids: the input whose shape the mask had.
    """
    uniform: dict[ir.Value, float] = {mask: 1.0}
    removed = 0
    for node in list(model.graph):
        value = _uniform_result(node, uniform)
        if value is not None:
            uniform[node.outputs[0]] = value
            continue
        kept = _neutral_to(node, uniform)
        if kept is not None:
            replace(model, node, kept)
            removed += 1
    _replace_input(model, mask, ids)
    common.RemoveUnusedNodesPass()(model)
    return removed


def _uniform_result(node: ir.Node, uniform: dict[ir.Value, float]) -> float | None:
    """Rule 1: the value that ``node`` gives everywhere, None if there is not one."""
    first = node.inputs[0] if node.inputs else None
    if node.op_type in (*_RESHAPES, "Cast"):
        return uniform.get(first) if first is not None else None
    if node.op_type not in _ELEMENTWISE:
        return None
    numbers = [_number(value, uniform) for value in node.inputs]
    if not any(value in uniform for value in node.inputs if value is not None):
        return None
    if any(number is None for number in numbers):
        return None
    return float(_ELEMENTWISE[node.op_type](*numbers))


def _number(value: ir.Value | None, uniform: dict[ir.Value, float]) -> float | None:
    if value is None:
        return None
    held = value.const_value
    if held is not None and held.size == 1:
        return float(held.numpy().reshape(-1)[0])
    return uniform.get(value)


def _neutral_to(node: ir.Node, uniform: dict[ir.Value, float]) -> ir.Value | None:
    """Rule 2: the input that ``node`` gives back unchanged, None if it does more."""
    if node.op_type not in _NEUTRAL:
        return None
    first, second = node.inputs
    pairs = [(first, second)]
    if node.op_type in ("Add", "Mul"):
        pairs.append((second, first))
    for x, other in pairs:
        if x is None or other is None or uniform.get(other) != _NEUTRAL[node.op_type]:
            continue
        if _cannot_widen(other.shape, x.shape):
            return x
    return None


def _cannot_widen(narrow: ir.Shape | None, wide: ir.Shape | None) -> bool:
    if narrow is None or wide is None or len(narrow) > len(wide):
        return False
    pairs = zip(reversed(list(narrow)), reversed(list(wide)), strict=False)
    return all(a == 1 or a == b for a, b in pairs)


def _replace_input(model: ir.Model, mask: ir.Value, ids: ir.Value) -> None:
    """Rule 3."""
    model.graph.inputs.remove(mask)
    if not list(mask.consumers()):
        return
    shape = ir.node("Shape", [ids])
    one = ir.tensor(np.array([1], np.int64))
    ones = ir.node("ConstantOfShape", [shape.outputs[0]], {"value": one})
    first = model.graph[0]
    model.graph.insert_before(first, [shape, ones])
    ones.outputs[0].type, ones.outputs[0].shape = mask.type, mask.shape
    ir.convenience.replace_all_uses_with(mask, ones.outputs[0])
