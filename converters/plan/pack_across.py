"""Packing rules for the few operations that may cross rows: attention, an LSTM, sums, the first
token."""

from dataclasses import replace

from edgeformer.converters.plan.graph import Node, Shape
from edgeformer.converters.plan.kinds import Biased, Kind, Mask, Texts, Tokens
from edgeformer.converters.plan.pack_rows import along_axis
from edgeformer.converters.plan.packer import Packer

_HIDDEN = -1e4  # a logit this low has weight exp(-10000) = 0 in float32


def attention(p: Packer, node: Node) -> Kind | None:
    """Attention whose mask shows all tokens and hides all padding works text by text."""
    kinds = [p.kind(name) for name in node.inputs[:3]]
    rows = [k.name for k in kinds if isinstance(k, Tokens) and k.axis == 1 and k.batched]
    if len(rows) != 3:
        return None
    if node.inputs[3] is None:
        raise p.refuse(node, "sees padding: it has no mask")
    mask: Kind = p.kind(node.inputs[3])
    bias = mask.bias if isinstance(mask, Biased) else None
    if isinstance(mask, Biased):
        mask = mask.mask
    if not isinstance(mask, Mask) or mask.axis != 3:
        raise p.refuse(node, "has a mask that is not made from attention_mask and positions alone")
    if p.graph.type_of(node.inputs[3]).dtype == "bool":
        hides = (mask.token, mask.padding) == (1.0, 0.0)
    else:
        hides = mask.token == 0.0 and mask.padding <= _HIDDEN
    if not hides:
        raise p.refuse(node, "has a mask that does not hide padding")
    packed = replace(node, op="attention_packed")
    return p.tokens(packed, (*rows, "offsets", bias), Tokens("", 1))


def lstm(p: Packer, node: Node) -> Kind | None:
    """An LSTM that skips padding works text by text, and answers 0 at padding."""
    gates, mask = p.kind(node.inputs[0]), p.kind(node.inputs[2])
    if not isinstance(gates, Tokens) or gates.axis != 1 or not gates.batched:
        return None
    if not isinstance(mask, Mask) or (mask.token, mask.padding) != (1.0, 0.0):
        raise p.refuse(node, "is told by something else than attention_mask what is a token")
    packed = replace(node, op="lstm_packed")
    inputs = (gates.name, node.inputs[1], "offsets")
    if node.attributes["states"] == "last":
        return Texts(p.same(packed, inputs))
    return p.tokens(packed, inputs, Tokens("", 1, padding=0.0))


def select(p: Packer, node: Node) -> Kind | None:
    """The first column is the first row of each text; others are within rows."""
    kind, index = p.kind(node.inputs[0]), node.attributes["index"]
    if not isinstance(kind, Tokens) or node.attributes["axis"] != kind.axis:
        return along_axis(p, node)
    shape = p.shape(node.output)
    if not kind.batched or index != 0 or shape[:1] != ("batch",):
        raise p.refuse(node, "picks a token other than the first of each text")
    take = Node("take", (kind.name, "first_rows"), "", {"axis": 0}, node.where)
    return Texts(p.add(take, shape, p.graph.types[node.output].dtype))


def reduce(p: Packer, node: Node) -> Kind | None:
    """Within rows as it is; over the sequence only sums that padding cannot change."""
    name, fn = node.inputs[0], node.attributes["fn"]
    kind, rank = p.kind(name), len(p.shape(name))
    axes = tuple(axis % rank for axis in node.attributes["axes"])
    if isinstance(kind, Tokens) and min(axes) > kind.axis:
        rows = tuple(axis - kind.axis for axis in axes)
        return p.tokens(node, (kind.name,), replace(kind, padding=None), {"axes": rows})
    if isinstance(kind, Texts) and min(axes) > 0:
        return Texts(p.same(node, (kind.name,)))
    if isinstance(kind, Tokens) and axes == (kind.axis,):
        if fn != "sum" or kind.padding != 0.0 or not kind.batched:
            raise p.refuse(node, f"takes the {fn} over the sequence, padding included")
        total = Node("segment_sum", (kind.name, "offsets"), "", {}, node.where)
        shape: Shape = ("batch", *p.type_of(kind.name).shape[1:])
        return Texts(_shaped(p, node, p.add(total, shape, p.graph.types[node.output].dtype)))
    if isinstance(kind, Mask) and axes == (kind.axis,):
        if fn != "sum" or (kind.token, kind.padding) != (1.0, 0.0):
            raise p.refuse(node, "reduces the attention mask to something else than lengths")
        return Texts(_shaped(p, node, _lengths(p, node)))
    return None


def _lengths(p: Packer, node: Node) -> str:
    """Number of tokens of each text, (batch, 1), in the node's dtype."""
    dtype = p.graph.types[node.output].dtype
    if dtype == "float32":
        return "lengths"
    return p.add(Node("copy", ("lengths",), "", {}, node.where), ("batch", 1), dtype)


def _shaped(p: Packer, node: Node, name: str) -> str:
    """``name`` in the shape of the node's result: with axes of 1, then broadcast."""
    shape, dtype = p.shape(node.output), p.graph.types[node.output].dtype
    plain = [size for size in p.type_of(name).shape if size != 1]
    if plain == [size for size in shape if size != 1]:
        narrow = shape
    else:
        narrow = ("batch", *((1,) * (len(shape) - 1)))
    if p.type_of(name).shape != narrow:
        name = p.add(Node("reshape", (name,), "", {}, node.where), narrow, dtype)
    if narrow != shape:
        name = p.add(Node("expand", (name,), "", {}, node.where), shape, dtype)
    return name
