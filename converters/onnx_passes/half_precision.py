"""float32 -> float16 inside, while inputs and outputs keep their types.

1. Every float32 constant and every Cast to float32 becomes float16; finite values beyond +-65504
   (a mask of the smallest float32) become +-65504.
2. Sums, means, norms, powers, roots, exponentials, logarithms and divisions run in float32
   between two Casts: float16 would overflow, or lose the small terms. LayerNormalization and
   Softmax need no Cast: the former computes in float32 by its stash_type, the latter subtracts
   the row's maximum first. A chain of such ops stays in float32 throughout.
3. A float32 input is cast after it comes in; a float output is cast to float32 before it leaves.
"""

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeformer.converters.onnx_passes.editing import constant
from edgeformer.errors import ModelError

_LARGEST = 65504.0
_SUMS = {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd"}
_SUMS |= {"ReduceLogSumExp", "LpNormalization", "CumSum"}
_POWERS = {"Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Div"}
_EXACT = frozenset(_SUMS | _POWERS | {"ConstantOfShape", "Range"})
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def convert_half(model: ir.Model) -> None:
    """Rewrite ``model`` in place.

    Raises:
        ModelError: a value whose type cannot be inferred.
    """
    common.ShapeInferencePass()(model)
    _check_types(model)
    kept = _exact_nodes(model)
    halves: dict[ir.Value, ir.Value] = {}
    exacts: dict[ir.Value, ir.Value] = {}
    floats = {v for v in _values(model) if v.dtype == _FLOAT}
    exacts.update((v, v) for v in model.graph.inputs if v in floats)
    for node in list(model.graph):
        for i, value in enumerate(node.inputs):
            if value is None or value not in floats:
                continue
            wanted = _exact(model, value, exacts) if node in kept else _half(model, value, halves)
            node.replace_input_with(i, wanted)
        _retype_outputs(model, node, node in kept, floats, halves, exacts)
    for i, output in enumerate(list(model.graph.outputs)):
        if output in floats:
            model.graph.outputs[i] = _exact(model, output, exacts)
    common.RemoveUnusedNodesPass()(model)


def _retype_outputs(
    model: ir.Model,
    node: ir.Node,
    exact: bool,
    floats: set[ir.Value],
    halves: dict[ir.Value, ir.Value],
    exacts: dict[ir.Value, ir.Value],
) -> None:
    if node.op_type == "Cast" and not exact and node.outputs[0] in floats:
        node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
    for value in node.outputs:
        if value in floats:
            if exact:
                exacts[value] = value
            else:
                value.type = ir.TensorType(_HALF)
                halves[value] = value


def _exact_nodes(model: ir.Model) -> set[ir.Node]:
    """Rule 2, and elementwise products and sums with only such neighbours around them."""
    kept = {node for node in model.graph if node.op_type in _EXACT}
    for node in model.graph:
        if node.op_type in ("Mul", "Add", "Sub", "Max", "Min", "Clip"):
            users = [user for out in node.outputs for user in out.consumers()]
            if users and all(user in kept for user in users):
                kept.add(node)
    return kept


def _half(model: ir.Model, value: ir.Value, halves: dict[ir.Value, ir.Value]) -> ir.Value:
    if value not in halves:
        if value.const_value is not None:
            array = np.clip(value.const_value.numpy(), -_LARGEST, _LARGEST, dtype=np.float32)
            halves[value] = constant(model, f"{value.name}.half", array.astype(np.float16))
        else:
            halves[value] = _cast(model, value, _HALF)
    return halves[value]


def _exact(model: ir.Model, value: ir.Value, exacts: dict[ir.Value, ir.Value]) -> ir.Value:
    if value not in exacts:
        exacts[value] = value if value.const_value is not None else _cast(model, value, _FLOAT)
    return exacts[value]


def _cast(model: ir.Model, value: ir.Value, to: ir.DataType) -> ir.Value:
    node = ir.node("Cast", [value], {"to": int(to)})
    node.outputs[0].type = ir.TensorType(to)
    node.outputs[0].shape = value.shape
    producer = value.producer()
    if producer is not None:
        model.graph.insert_after(producer, node)
    elif len(model.graph):
        model.graph.insert_before(model.graph[0], node)
    return node.outputs[0]


def _values(model: ir.Model) -> list[ir.Value]:
    graph = model.graph
    made = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]


def _check_types(model: ir.Model) -> None:
    for node in model.graph:
        for value in node.outputs:
            if value.dtype is None and list(value.consumers()):
                raise ModelError(
                    f"float16 needs to know the type of every value, and that of a {node.op_type}"
                    " cannot be inferred",
                    hint="convert with --precision fp32 or int8",
                )
