"""What every pass needs: constants, inserted nodes, and the linear layers of a graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

MICROSOFT = "com.microsoft"  # domain of ONNX Runtime's own ops

Attributes = Mapping[str, int | float | str | Sequence[int]]


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias`` of one MatMul or Gemm node.

    Attributes:
        node: the node itself.
        weight: float32 (in_features, out_features).
        bias: Gemm's third input, None for MatMul.
    """

    node: ir.Node
    weight: NDArray[np.float32]
    bias: ir.Value | None

    @property
    def x(self) -> ir.Value:
        """The node's first input, (..., in_features), as it is now: passes replace it."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def weight_name(self) -> str:
        """Name of the value that the node reads the weight from."""
        value = self.node.inputs[1]
        return (value.name if value is not None else None) or "weight"


def constant(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """An initializer holding ``array``; one of that name and content is used again."""
    initializers = model.graph.initializers
    unique, count = name, 0
    while unique in initializers:
        held = initializers[unique].const_value
        if held is not None and held.dtype == ir.DataType.from_numpy(array.dtype):
            old = held.numpy()
            if old.shape == array.shape and np.array_equal(old, array):
                return initializers[unique]
        count += 1
        unique = f"{name}.{count}"
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(np.asarray(array, order="C"), name=unique),
    )
    model.graph.register_initializer(value)
    return value


def insert(
    model: ir.Model,
    at: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    attributes: Attributes | None = None,
    dtype: ir.DataType | None = None,
    domain: str = "",
) -> ir.Value:
    """Put a node of one output before ``at`` and return that output."""
    node = ir.node(op, inputs, attributes, domain=domain)
    if dtype is not None:
        node.outputs[0].type = ir.TensorType(dtype)
    model.graph.insert_before(at, node)
    return node.outputs[0]


def replace(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Let everything that used the node's only output use ``value``, and remove the node."""
    old = node.outputs[0]
    value.type, value.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def uses(model: ir.Model, domain: str) -> None:
    """Say in the model that ops of ``domain`` (version 1) are used."""
    model.opset_imports.setdefault(domain, 1)


def following_bias(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The Add of a constant vector that alone reads the node's output, and that vector."""
    made = node.outputs[0]
    users = list(made.consumers())
    if len(users) != 1 or users[0].op_type != "Add" or made.is_graph_output():
        return None
    for other in users[0].inputs:
        held = other.const_value if other is not None else None
        if other is not None and held is not None and len(held.shape) == 1 and held.size > 1:
            return users[0], other
    return None


def linears(model: ir.Model) -> list[Linear]:
    """Every MatMul and plain Gemm whose second input is a constant float32 matrix."""
    found = []
    for node in model.graph:
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Gemm" and not _is_plain(node):
            continue
        weight = matrix(node.inputs[1])
        if node.inputs[0] is None or weight is None:
            continue
        if node.attributes.get_int("transB", 0):
            weight = np.ascontiguousarray(weight.T)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        found.append(Linear(node, weight, bias))
    return found


def matrix(value: ir.Value | None) -> NDArray[np.float32] | None:
    """The constant float32 matrix behind ``value``, looking through one Transpose."""
    if value is None:
        return None
    if value.const_value is not None:
        held = value.const_value
        return held.numpy() if held.dtype == ir.DataType.FLOAT and len(held.shape) == 2 else None
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose":
        return None
    behind = matrix(producer.inputs[0])
    return None if behind is None else np.ascontiguousarray(behind.T)


def _is_plain(node: ir.Node) -> bool:
    read = node.attributes
    return (
        read.get_int("transA", 0) == 0
        and read.get_float("alpha", 1.0) == 1.0
        and read.get_float("beta", 1.0) == 1.0
    )
