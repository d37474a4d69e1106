"""Packing rules for elementwise operations: binary, unary, activate, where and copy."""

import numpy as np

from edgeformer.converters.plan.evaluate import evaluate_elementwise
from edgeformer.converters.plan.graph import Node, ValueType, scalar_of
from edgeformer.converters.plan.kinds import (
    Biased,
    Fixed,
    Kind,
    Mask,
    Positions,
    Texts,
    Tokens,
    row_axis,
)
from edgeformer.converters.plan.packer import Packer


def elementwise(p: Packer, node: Node) -> Kind | None:
    """Kind of the result, by the kinds of the operands."""
    names = [name for name in node.inputs if name is not None]
    kinds = [p.kind(name) for name in names]
    if any(isinstance(kind, Tokens) for kind in kinds):
        return _on_tokens(p, node, names, kinds)
    if any(isinstance(kind, Positions) for kind in kinds):
        return _biased(p, node, names, kinds)
    if any(isinstance(kind, Mask) for kind in kinds):
        return _on_masks(p, node, names, kinds)
    if any(isinstance(kind, Texts) for kind in kinds):
        return _on_texts(p, node, names, kinds)
    return None


def _on_texts(p: Packer, node: Node, names: list[str], kinds: list[Kind]) -> Kind | None:
    rank, inputs = len(p.shape(node.output)), []
    for name, kind in zip(names, kinds, strict=True):
        shape = p.shape(name)
        spread = isinstance(kind, Fixed) and (len(shape) < rank or shape[:1] == (1,))
        if not spread and not (isinstance(kind, Texts) and len(shape) == rank):
            return None
        assert isinstance(kind, (Fixed, Texts))
        inputs.append(kind.name)
    return Texts(p.same(node, tuple(inputs)))


def _on_masks(p: Packer, node: Node, names: list[str], kinds: list[Kind]) -> Kind | None:
    """Compute the result once with the mask's value for tokens, once for padding."""
    distance: int | None = None
    columns = []
    for name, kind in zip(names, kinds, strict=True):
        if isinstance(kind, Mask):
            from_end = len(p.shape(name)) - kind.axis
            if distance not in (None, from_end):
                return None
            distance, pair = from_end, (kind.token, kind.padding)
        else:
            number = scalar_of(p.graph, kind.name) if isinstance(kind, Fixed) else None
            if number is None:
                return None
            pair = (number, number)
        columns.append(np.asarray(pair, p.graph.type_of(name).dtype))
    assert distance is not None
    result = evaluate_elementwise(node, columns, p.graph.types[node.output].dtype)
    axis = len(p.shape(node.output)) - distance
    return Mask(axis, float(result[0]), float(result[1]))


def _biased(p: Packer, node: Node, names: list[str], kinds: list[Kind]) -> Kind | None:
    """A bias plus a mask, or two conditions at once."""
    masks = [kind for kind in kinds if isinstance(kind, Mask)]
    biases = [kind for kind in kinds if isinstance(kind, Positions)]
    dtype = p.graph.type_of(names[0]).dtype
    fn = {"float32": "add", "bool": "logical_and"}.get(dtype)
    if len(kinds) != 2 or not masks or not biases or node.attributes.get("fn") != fn:
        return None
    ranks = {len(p.shape(name)) for name in (*names, node.output)}
    return Biased(biases[0].name, masks[0]) if ranks == {4} else None


def _on_tokens(p: Packer, node: Node, names: list[str], kinds: list[Kind]) -> Kind | None:
    rank, axis = len(p.shape(node.output)), row_axis(p.shape(node.output))
    if axis is None:
        return None
    inputs: list[str] = []
    for name, kind in zip(names, kinds, strict=True):
        aligned = isinstance(kind, (Tokens, Mask)) and len(p.shape(name)) - kind.axis == rank - axis
        packed = _beside_tokens(p, name, kind, rank - axis - 1)
        if packed is None or not (aligned or isinstance(kind, Fixed)):
            return None
        inputs.append(packed)
    batched = any(isinstance(k, Mask) or (isinstance(k, Tokens) and k.batched) for k in kinds)
    result = Tokens("", axis, batched, _padding_after(p, node, kinds))
    kept = _unchanged(p, node, kinds, axis)
    if kept is not None:
        return Tokens(kept, axis, batched, result.padding)
    return p.tokens(node, tuple(inputs), result)


def _beside_tokens(p: Packer, name: str, kind: Kind, row_rank: int) -> str | None:
    """An operand beside Tokens whose rows have ``row_rank`` axes, None if it varies otherwise."""
    if isinstance(kind, Tokens):
        return kind.name
    if isinstance(kind, Mask):
        return p.constant(np.asarray(kind.token, p.graph.type_of(name).dtype))
    if not isinstance(kind, Fixed):
        return None
    array = p.constants[kind.name]
    extra = array.ndim - row_rank
    if extra <= 0:
        return kind.name
    if any(size != 1 for size in array.shape[:extra]):
        return None
    return p.constant(array.reshape(array.shape[extra:]))


def _padding_after(p: Packer, node: Node, kinds: list[Kind]) -> float | None:
    """What padding rows hold after the operation, if it follows from the kinds."""
    values = [k.padding if isinstance(k, (Tokens, Mask)) else None for k in kinds]
    fn = node.attributes.get("fn")
    if node.op == "copy" or (fn == "divide" and values[0] == 0.0):
        return values[0]
    if fn == "multiply" and 0.0 in values:
        return 0.0
    if node.op == "where" and isinstance(kinds[0], Mask):
        chosen = kinds[1] if kinds[0].padding else kinds[2]
        return scalar_of(p.graph, chosen.name) if isinstance(chosen, Fixed) else None
    return None


def _unchanged(p: Packer, node: Node, kinds: list[Kind], axis: int) -> str | None:
    """The packed value that a multiplication by 1, or a choice by the mask, leaves as it is."""
    kept: Kind | None = None
    if node.op == "where" and isinstance(kinds[0], Mask):
        kept = kinds[1] if kinds[0].token else kinds[2]
    elif node.attributes.get("fn") == "multiply" and len(kinds) == 2:
        first, second = kinds
        if isinstance(first, Mask):
            first, second = second, first
        kept = first if isinstance(second, Mask) and second.token == 1.0 else None
    if not isinstance(kept, Tokens):
        return None
    kind = p.graph.types[node.output]
    packed = ValueType(("tokens", *kind.shape[axis + 1 :]), kind.dtype)
    return kept.name if p.type_of(kept.name) == packed else None
