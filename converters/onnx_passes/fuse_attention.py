"""Attention as one op of ONNX Runtime instead of a dozen.

    MultiHeadAttention(q, k, v) = softmax(q k^T * scale + mask) v, heads side by side

1. Found is what onnx_attention.py and the exporter make of scaled_dot_product_attention between
   three linear layers and one: Reshape and Transpose of each to (batch, heads, tokens, dim), a
   constant factor on q, the product, a sum with the mask, Softmax over the last axis, the product
   with v, and the way back.
2. A mask becomes the op's attention_bias, spread over the queries, once for all layers that add
   the same mask. Without a mask the op never writes the scores to memory.
3. Anything that looks different stays: other numbers of heads for k and v, a product that
   something else reads too, a mask whose shape is not known to have four dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgeformer.converters.onnx_passes.editing import MICROSOFT, constant, insert, replace, uses

_BY_HEAD = [0, 2, 1, 3]  # (batch, tokens, heads, dim) to (batch, heads, tokens, dim) and back


@dataclass(frozen=True)
class _Found:
    """One attention: what it reads, (batch, tokens, heads * dim), and the node that ends it."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    last: ir.Node
    num_heads: int
    scale: float


def fuse_attention(model: ir.Model) -> int:
    """Rewrite ``model`` in place and return how many attentions were fused."""
    common.ShapeInferencePass()(model)
    biases: dict[ir.Value, ir.Value] = {}
    count = 0
    for node in list(model.graph):
        found = _find(node) if node.op_type == "Softmax" else None
        if found is None:
            continue
        inputs: list[ir.Value | None] = [found.query, found.key, found.value]
        if found.mask is not None:
            if found.mask not in biases:
                biases[found.mask] = _spread(model, node, found.mask, found.query)
            inputs += [None, None, biases[found.mask]]
        attributes = {"num_heads": found.num_heads, "scale": found.scale}
        op, kind = "MultiHeadAttention", ir.DataType.FLOAT
        fused = insert(model, found.last, op, inputs, attributes, kind, MICROSOFT)
        replace(model, found.last, fused)
        count += 1
    if count:
        uses(model, MICROSOFT)
        common.RemoveUnusedNodesPass()(model)
    return count


def _find(softmax: ir.Node) -> _Found | None:
    """Rules 1 and 3, from the Softmax outwards."""
    scores, mask = softmax.inputs[0], None
    if scores is None or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    made = scores.producer()
    if made is not None and made.op_type == "Add":
        scores, mask = made.inputs
        if mask is None or mask.shape is None or len(mask.shape) != 4:
            return None
    product = _alone(scores, "MatMul")
    context = _only_user(softmax, "MatMul")
    if product is None or context is None or context.inputs[0] is not softmax.outputs[0]:
        return None
    last = _way_back(context)
    query, factor = _unscaled(product.inputs[0])
    split = [_by_head(query), _by_head(product.inputs[1], transposed=True)]
    split.append(_by_head(context.inputs[1]))
    if last is None or factor is None or any(part is None for part in split):
        return None
    (q, heads), (k, _), (v, _) = (part for part in split if part is not None)
    if len({part[1] for part in split if part is not None}) != 1:
        return None
    return _Found(q, k, v, mask, last, heads, factor)


def _alone(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node of that op that makes ``value``, if only one node reads it."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != op or len(list(value.consumers())) != 1:
        return None
    return node


def _only_user(node: ir.Node, op: str) -> ir.Node | None:
    users = list(node.outputs[0].consumers())
    return users[0] if len(users) == 1 and users[0].op_type == op else None


def _way_back(context: ir.Node) -> ir.Node | None:
    """The Reshape that puts the heads side by side again."""
    turned = _only_user(context, "Transpose")
    if turned is None or _permutation(turned) != _BY_HEAD:
        return None
    return _only_user(turned, "Reshape")


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float | None]:
    """What a constant factor is applied to, and the factor; 1 without one."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Mul":
        return value, 1.0
    for x, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        held = other.const_value if other is not None else None
        if held is not None and held.size == 1:
            return x, float(held.numpy().reshape(-1)[0])
    return value, None


def _by_head(value: ir.Value | None, transposed: bool = False) -> tuple[ir.Value, int] | None:
    """(batch, tokens, heads * dim) behind a value by heads, and the number of heads.

    ``transposed``: the value is (batch, heads, dim, tokens), by one Transpose or by two.
    """
    order = list(range(4))
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Transpose":
        order = [_permutation(node)[i] for i in order]
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    wanted = [0, 2, 3, 1] if transposed else _BY_HEAD
    if node is None or node.op_type != "Reshape" or order != wanted:
        return None
    shape, source = node.outputs[0].shape, node.inputs[0]
    if source is None or shape is None or len(shape) != 4 or not isinstance(shape[2], int):
        return None
    return source, shape[2]


def _permutation(node: ir.Node) -> Sequence[int]:
    return list(node.attributes.get_ints("perm", ()))


def _spread(model: ir.Model, at: ir.Node, mask: ir.Value, query: ir.Value) -> ir.Value:
    """The mask (batch, 1 or heads, 1 or queries, keys) with its row repeated for every query."""
    length = insert(model, at, "Shape", [query], {"start": 1, "end": 2})
    ones = constant(model, "one_each", np.array([1, 1], np.int64))
    tail = constant(model, "one", np.array([1], np.int64))
    shape = insert(model, at, "Concat", [ones, length, tail], {"axis": 0})
    return insert(model, at, "Expand", [mask, shape], dtype=ir.DataType.FLOAT)
