"""The constants of LSTM nodes: computed once and for all, and stored as int8 where that is asked.

1. Weights and biases that constants become by Gather, Concat and Unsqueeze are computed now: the
   exporter folds small constants only.
2. int8 is storage: a Cast and a Mul stand before the node, which ONNX Runtime computes once, when
   it loads the file. Each row, a gate of one unit, has a scale of its own, symmetric in
   [-127, 127]. The arithmetic stays float32: ONNX Runtime's own int8 LSTM gives all texts of a
   batch one range, so that answers would depend on their neighbours. Biases stay as they are.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeformer.converters.onnx_passes.editing import constant, insert
from edgeformer.converters.onnx_passes.quantize_tables import quantize_rows

_WEIGHTS, _BIASES = (1, 2), 3  # which inputs of a node


def fold_lstm_weights(model: ir.Model) -> None:
    """Rule 1, in place."""
    for node in lstms(model):
        for place in (*_WEIGHTS, _BIASES):
            value = node.inputs[place] if place < len(node.inputs) else None
            array = None if value is None or value.const_value is not None else _folded(value)
            if value is not None and array is not None:
                name = f"{_first_source(value)}.lstm"
                node.replace_input_with(place, constant(model, name, array))


def store_lstm_int8(model: ir.Model) -> None:
    """Rule 2, in place; weights that are not constant float32 are left alone."""
    for node in lstms(model):
        for place in _WEIGHTS:
            value = node.inputs[place]
            held = None if value is None else value.const_value
            if value is None or held is None or held.dtype != ir.DataType.FLOAT:
                continue
            rows, scales = quantize_rows(held.numpy()[0])
            stored = constant(model, f"{value.name}.int8", rows[None])
            scale = constant(model, f"{value.name}.scale", scales[None])
            exact = insert(model, node, "Cast", [stored], {"to": int(ir.DataType.FLOAT)})
            node.replace_input_with(place, insert(model, node, "Mul", [exact, scale]))


def lstms(model: ir.Model) -> list[ir.Node]:
    """The LSTM nodes of the graph, with one direction each."""
    return [
        node
        for node in model.graph
        if node.op_type == "LSTM" and node.attributes.get_string("direction") != "bidirectional"
    ]


def _folded(value: ir.Value) -> NDArray[Any] | None:
    """The array behind ``value``, None if something else than rule 1 says stands before it."""
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    arrays = [_folded(v) for v in node.inputs if v is not None] if node is not None else []
    inputs = [array for array in arrays if array is not None]
    if node is None or len(inputs) != len(arrays):
        return None
    axis = node.attributes.get_int("axis", 0)
    if node.op_type == "Constant":
        return node.attributes["value"].as_tensor().numpy()
    if node.op_type == "Gather":
        return np.take(inputs[0], inputs[1], axis)
    if node.op_type == "Concat":
        return np.concatenate(inputs, axis)
    if node.op_type == "Unsqueeze":
        return np.expand_dims(inputs[0], tuple(inputs[1].tolist()))
    return None


def _first_source(value: ir.Value) -> str:
    """Name of the first initializer behind ``value``."""
    node = value.producer()
    source = node.inputs[0] if node is not None else None
    return _first_source(source) if source is not None else value.name or "weight"
