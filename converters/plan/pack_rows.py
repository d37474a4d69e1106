"""Packing rules for operations that stay within a row: of a token, of a text, or of a table."""

from dataclasses import replace

from edgeformer.converters.plan.graph import Node
from edgeformer.converters.plan.kinds import (
    Fixed,
    Kind,
    Mask,
    Positions,
    Texts,
    Tokens,
    is_static,
    row_axis,
)
from edgeformer.converters.plan.packer import Packer


def positional(p: Packer, node: Node) -> Kind | None:
    """Operations on tables and places alone, left as they are; None for anything else.

    Each of these computes an element from elements at the same places, and none sees how long
    the sequence is, as ``Positions`` demands.
    """
    kinds = [p.kinds[name] for name in node.inputs if name is not None]
    shape = p.shape(node.output)
    if "batch" in shape or not all(isinstance(kind, (Positions, Fixed)) for kind in kinds):
        return None
    cut = node.op == "slice" and shape[node.attributes["axis"]] == "sequence"
    if cut and (not isinstance(node.attributes["start"], int) or node.attributes["step"] != 1):
        return None
    starts = node.op == "range" and shape == ("sequence",)
    if not (starts or cut or any(isinstance(kind, Positions) for kind in kinds)):
        return None
    if node.op == "reshape" and _without_ones(shape) != _without_ones(p.shape(node.inputs[0])):
        return None
    allowed = ("binary", "unary", "activate", "where", "copy", "transpose", "reshape", "expand")
    tables = ("embedding", "take")
    if not (starts or cut or node.op in allowed):
        if node.op not in tables or not isinstance(kinds[0], Fixed):
            return None
        if node.attributes.get("axis", 0) != 0:
            return None
    names = tuple(k.name for k in kinds if isinstance(k, (Positions, Fixed)))
    return Positions(p.same(node, names))


def _without_ones(shape: tuple[object, ...]) -> list[object]:
    return [size for size in shape if size != 1]


def reshape(p: Packer, node: Node) -> Kind | None:
    """Rows may be reshaped; the axes before them may be merged or get a 1."""
    kind, shape = p.kind(node.inputs[0]), p.shape(node.output)
    if isinstance(kind, Tokens):
        axis = row_axis(shape)
        if axis is None:
            return None
        return p.tokens(node, (kind.name,), replace(kind, axis=axis))
    if isinstance(kind, Mask):
        axes = [axis for axis, size in enumerate(shape) if size == "sequence"]
        plain = all(size in ("batch", "sequence", 1) for size in shape)
        return replace(kind, axis=axes[0]) if plain and len(axes) == 1 else None
    if isinstance(kind, Texts) and shape[:1] == ("batch",) and is_static(shape[1:]):
        return Texts(p.same(node, (kind.name,)))
    return None


def expand(p: Packer, node: Node) -> Kind | None:
    """Broadcasting a row, a mask or a constant keeps its kind."""
    kind, shape = p.kind(node.inputs[0]), p.shape(node.output)
    added = len(shape) - len(p.shape(node.inputs[0]))
    if isinstance(kind, Fixed):
        return kind
    if isinstance(kind, Mask):
        return replace(kind, axis=kind.axis + added)
    if isinstance(kind, Positions):
        return kind if added == 0 and shape[0] == "batch" else None
    if isinstance(kind, Tokens):
        axis = row_axis(shape)
        if axis != kind.axis + added:
            return None
        result = replace(kind, axis=axis, batched=kind.batched or "batch" in shape)
        if p.type_of(kind.name).shape[1:] == shape[axis + 1 :]:
            return result
        return p.tokens(node, (kind.name,), result)
    if isinstance(kind, Texts) and added == 0 and is_static(shape[1:]):
        return Texts(p.same(node, (kind.name,)))
    return None


def transpose(p: Packer, node: Node) -> Kind | None:
    """Axes of a row may change places."""
    kind, axes = p.kind(node.inputs[0]), tuple(node.attributes["axes"])
    if isinstance(kind, Tokens) and axes[: kind.axis + 1] == tuple(range(kind.axis + 1)):
        rows = (0, *(a - kind.axis for a in axes[kind.axis + 1 :]))
        return p.tokens(node, (kind.name,), kind, {"axes": rows})
    if isinstance(kind, Texts) and axes[0] == 0:
        return Texts(p.same(node, (kind.name,)))
    return None


def along_axis(p: Packer, node: Node) -> Kind | None:
    """slice, select and softmax along an axis inside the rows."""
    kind = p.kind(node.inputs[0])
    axis = node.attributes["axis"] % len(p.shape(node.inputs[0]))
    if isinstance(kind, Tokens) and axis > kind.axis:
        result = replace(kind, padding=None)
        return p.tokens(node, (kind.name,), result, {"axis": axis - kind.axis})
    if isinstance(kind, Texts) and axis > 0:
        return Texts(p.same(node, (kind.name,)))
    return None


def last_axis(p: Packer, node: Node) -> Kind | None:
    """linear, layer_norm and embedding: all operands but one are weights."""
    position = 1 if node.op == "embedding" else 0
    kind = p.kind(node.inputs[position])
    weights = {n for k, n in enumerate(node.inputs) if k != position and n is not None}
    if not isinstance(kind, (Tokens, Texts)) or not weights <= set(p.graph.constants):
        return None
    inputs = (*node.inputs[:position], kind.name, *node.inputs[position + 1 :])
    if isinstance(kind, Texts):
        return Texts(p.same(node, inputs))
    if kind.axis >= len(p.shape(node.output)) - 1:
        return None
    return p.tokens(node, inputs, replace(kind, padding=None))


def concatenate(p: Packer, node: Node) -> Kind | None:
    """Rows side by side."""
    kinds, axis = [p.kind(name) for name in node.inputs], node.attributes["axis"]
    rows = [k for k in kinds if isinstance(k, Tokens)]
    if len(rows) == len(kinds) and len({k.axis for k in rows}) == 1 and axis > rows[0].axis:
        result = Tokens("", rows[0].axis, any(k.batched for k in rows))
        names = tuple(k.name for k in rows)
        return p.tokens(node, names, result, {"axis": axis - result.axis})
    texts = [k.name for k in kinds if isinstance(k, Texts)]
    return Texts(p.same(node, tuple(texts))) if len(texts) == len(kinds) and axis > 0 else None


def look_up(p: Packer, node: Node) -> Kind | None:
    """take and gather: an index for each token into a table that all texts share."""
    table, index = p.kind(node.inputs[0]), p.kind(node.inputs[1])
    if not isinstance(table, Fixed) or not isinstance(index, Tokens):
        return None
    array, axis = p.constants[table.name], node.attributes["axis"]
    if any(size != 1 for size in array.shape[:axis]):
        return None
    if node.op == "gather" and array.ndim != 2:
        return None
    flat = p.constant(array.reshape(array.shape[axis:]))
    take = replace(node, op="take")
    return p.tokens(take, (flat, index.name), replace(index, padding=None), {"axis": 0})
