"""The packing proof: may the padding of a batch be left out altogether?

1. Every value gets a kind (``kinds``), from the inputs on, by the rules below. A packed graph is
   written along the way; where no rule applies, the whole proof fails and says at which operation.
2. An operation within rows keeps Tokens, whatever the padding rows hold.
3. Elementwise operations on Masks are evaluated for 1 and for 0. On Tokens a Mask is its value for
   tokens; multiplied by 1 / 0 it also proves that padding rows would be zero.
4. Attention is allowed if its mask adds 0 for tokens and at most -10000 for padding.
5. A sum over the sequence needs padding rows of zero and becomes one sum per text; the sum of the
   mask is the text's length; the first column is each text's first row.
6. A slice of a table from its start, as long as the sequence, looks up positions.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeformer.converters.plan.evaluate import evaluate_elementwise
from edgeformer.converters.plan.graph import (
    Graph,
    Node,
    Shape,
    ValueType,
    prune,
    scalar_of,
)
from edgeformer.converters.plan.kinds import (
    Fixed,
    Kind,
    Mask,
    NotPackable,
    Texts,
    Tokens,
    is_static,
    row_axis,
)
from edgeformer.runtime.manifest import Port

GEOMETRY = {
    "offsets": ValueType((("+", "batch", 1),), "int64"),
    "positions": ValueType(("tokens",), "int64"),
    "first_rows": ValueType(("batch",), "int64"),
    "lengths": ValueType(("batch", 1), "float32"),
}
_HIDDEN = -1e4  # a logit this low has weight exp(-10000) = 0 in float32


def pack(graph: Graph, ports: tuple[Port, ...]) -> Graph:
    """The packed form of a token model's graph.

    Raises:
        NotPackable: naming the operation at which the proof fails.
    """
    names = {port.name for port in ports}
    if "attention_mask" not in names or "input_ids" not in names:
        raise NotPackable("the model has no input_ids with an attention_mask")
    for port in ports:
        if port.shape != ("batch", "sequence"):
            raise NotPackable(f"input {port.name} is not (batch, sequence)")
    return _Packer(graph).run()


class _Packer:
    """Walks the graph once. ``kinds`` has what was proven of each value so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.kinds: dict[str, Kind] = {}
        self.nodes: list[Node] = []
        self.types: dict[str, ValueType] = dict(GEOMETRY)
        self.constants = dict(graph.constants)

    def run(self) -> Graph:
        for name in self.graph.inputs:
            kind = self.graph.types[name]
            self.types[name] = ValueType(("tokens",), kind.dtype)
            self.kinds[name] = Mask(1, 1.0, 0.0) if name == "attention_mask" else Tokens(name, 1)
        for name in self.graph.constants:
            self.kinds[name] = Fixed(name)
        for node in self.graph.nodes:
            rule = _RULES.get(node.op)
            kind = rule(self, node) if rule else None
            if kind is None:
                raise NotPackable(f"{node.op} may mix tokens with padding ({node.where})")
            self.kinds[node.output] = kind
        outputs = {port: self._output(port, name) for port, name in self.graph.outputs.items()}
        used = {n for node in self.nodes for n in node.inputs if n} | set(outputs.values())
        inputs = tuple(n for n in (*self.graph.inputs, *GEOMETRY) if n in used)
        limits = {"batch": 0, "tokens": 0, "sequence": self.graph.limits.get("sequence", 0)}
        types = {k: v for k, v in self.types.items() if k in inputs or k not in self._all_inputs()}
        return prune(Graph(inputs, outputs, tuple(self.nodes), types, self.constants, limits))

    def _all_inputs(self) -> set[str]:
        return {*self.graph.inputs, *GEOMETRY}

    def _output(self, port: str, name: str) -> str:
        kind = self.kinds[name]
        shape = self.graph.type_of(name).shape
        if isinstance(kind, Texts) or (
            isinstance(kind, Tokens) and kind.batched and shape[:2] == ("batch", "sequence")
        ):
            return kind.name
        raise NotPackable(f"output {port} is neither one row per text nor one per token")

    def shape(self, name: str) -> Shape:
        """Original shape of a value."""
        return self.graph.type_of(name).shape

    def kind(self, name: str | None) -> Kind:
        """Kind of an operand that must be there."""
        assert name is not None
        return self.kinds[name]

    def refuse(self, node: Node, why: str) -> NotPackable:
        """The proof fails at ``node``."""
        return NotPackable(f"{node.op} {why} ({node.where})")

    def emit(
        self, node: Node, inputs: tuple[str | None, ...], shape: Shape, **changes: object
    ) -> str:
        """Add ``node`` with packed operands and shape; ``changes`` replace attributes."""
        dtype = self.graph.types[node.output].dtype
        return self.add(
            replace(node, inputs=inputs, attributes={**node.attributes, **changes}), shape, dtype
        )

    def add(self, node: Node, shape: Shape, dtype: str) -> str:
        """Add a node under a name of its own."""
        output = f"p{len(self.nodes)}_{node.op}"
        self.nodes.append(replace(node, output=output))
        self.types[output] = ValueType(shape, dtype)
        return output

    def constant(self, array: np.ndarray) -> str:  # type: ignore[type-arg]
        """Add a constant."""
        name = f"packed_{len(self.constants)}"
        self.constants[name] = array
        return name

    def tokens(
        self,
        node: Node,
        inputs: tuple[str | None, ...],
        axis: int,
        batched: bool,
        padding: float | None = None,
        **changes: object,
    ) -> Tokens:
        """Emit ``node`` as an operation on rows; its rows start after ``axis``."""
        row = self.shape(node.output)[axis + 1 :]
        name = self.emit(node, inputs, ("tokens", *row), **changes)
        return Tokens(name, axis, batched, padding)

    def texts(self, node: Node, inputs: tuple[str | None, ...]) -> Texts:
        """Emit ``node`` as it is, on one row per text."""
        return Texts(self.emit(node, inputs, self.shape(node.output)))


def _elementwise(p: _Packer, node: Node) -> Kind | None:
    names = [name for name in node.inputs if name is not None]
    kinds = [p.kind(name) for name in names]
    rank = len(p.shape(node.output))
    if any(isinstance(kind, Tokens) for kind in kinds):
        return _elementwise_tokens(p, node, names, kinds)
    if any(isinstance(kind, Mask) for kind in kinds):
        return _elementwise_mask(p, node, names, kinds)
    if all(isinstance(kind, Fixed) for kind in kinds):
        return None
    for name, kind in zip(names, kinds, strict=True):
        shape = p.shape(name)
        spread = isinstance(kind, Fixed) and (len(shape) < rank or shape[:1] == (1,))
        if not spread and not (isinstance(kind, Texts) and len(shape) == rank):
            return None
    inputs = tuple(kind.name for kind in kinds if isinstance(kind, (Texts, Fixed)))
    return p.texts(node, inputs)


def _elementwise_mask(p: _Packer, node: Node, names: list[str], kinds: list[Kind]) -> Kind | None:
    """Rule 3: compute the result once with the mask's value for tokens, once for padding."""
    distance, columns = None, []
    for name, kind in zip(names, kinds, strict=True):
        if isinstance(kind, Mask):
            here = len(p.shape(name)) - kind.axis
            if distance not in (None, here):
                return None
            distance, pair = here, (kind.token, kind.padding)
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


def _elementwise_tokens(p: _Packer, node: Node, names: list[str], kinds: list[Kind]) -> Kind | None:
    rank = len(p.shape(node.output))
    axis = row_axis(p.shape(node.output))
    if axis is None:
        return None
    inputs: list[str] = []
    for name, kind in zip(names, kinds, strict=True):
        if isinstance(kind, (Tokens, Mask)) and len(p.shape(name)) - kind.axis != rank - axis:
            return None
        packed = _row_operand(p, name, kind, rank - axis - 1)
        if packed is None:
            return None
        inputs.append(packed)
    batched = any(isinstance(k, Mask) or (isinstance(k, Tokens) and k.batched) for k in kinds)
    padding = _padding_after(p, node, kinds)
    kept = _unchanged(p, node, kinds)
    if kept is not None:
        return Tokens(kept, axis, batched, padding)
    return p.tokens(node, tuple(inputs), axis, batched, padding)


def _row_operand(p: _Packer, name: str, kind: Kind, row_rank: int) -> str | None:
    """An operand beside Tokens whose rows have ``row_rank`` axes, None if it varies otherwise."""
    if isinstance(kind, Tokens):
        return kind.name
    dtype = p.graph.type_of(name).dtype
    if isinstance(kind, Mask):
        return p.constant(np.asarray(kind.token, dtype))
    if not isinstance(kind, Fixed):
        return None
    array = p.constants[kind.name]
    extra = array.ndim - row_rank
    if extra <= 0:
        return kind.name
    if any(n != 1 for n in array.shape[:extra]):
        return None
    return p.constant(array.reshape(array.shape[extra:]))


def _padding_after(p: _Packer, node: Node, kinds: list[Kind]) -> float | None:
    """What padding rows hold after an elementwise operation, if it follows from the kinds."""
    values = [k.padding if isinstance(k, (Tokens, Mask)) else None for k in kinds]
    fn = node.attributes.get("fn")
    if node.op == "copy":
        return values[0]
    if fn == "multiply" and 0.0 in values:
        return 0.0
    if fn == "divide" and values[0] == 0.0:
        return 0.0
    if node.op == "where" and isinstance(kinds[0], Mask):
        chosen = kinds[1] if kinds[0].padding else kinds[2]
        if isinstance(chosen, Fixed):
            return scalar_of(p.graph, chosen.name)
    return None


def _unchanged(p: _Packer, node: Node, kinds: list[Kind]) -> str | None:
    """The packed value that a multiplication by 1, or a choice by the mask, leaves as it is."""
    kept: Kind | None = None
    if node.op == "where" and isinstance(kinds[0], Mask):
        kept = kinds[1] if kinds[0].token else kinds[2]
    elif node.attributes.get("fn") == "multiply":
        ones = [k for k in kinds if isinstance(k, Mask) and k.token == 1.0]
        others = [k for k in kinds if isinstance(k, Tokens)]
        kept = others[0] if len(ones) == 1 and len(others) == 1 else None
    if not isinstance(kept, Tokens):
        return None
    axis = row_axis(p.shape(node.output))
    wanted = p.shape(node.output)[axis + 1 :] if axis is not None else ()
    same = p.types[kept.name] == ValueType(("tokens", *wanted), p.graph.types[node.output].dtype)
    return kept.name if same else None


def _reshape(p: _Packer, node: Node) -> Kind | None:
    kind, shape = p.kind(node.inputs[0]), p.shape(node.output)
    if isinstance(kind, Tokens):
        axis = row_axis(shape)
        return (
            None if axis is None else p.tokens(node, (kind.name,), axis, kind.batched, kind.padding)
        )
    if isinstance(kind, Mask):
        axes = [axis for axis, size in enumerate(shape) if size == "sequence"]
        plain = all(size in ("batch", "sequence", 1) for size in shape)
        return replace(kind, axis=axes[0]) if plain and len(axes) == 1 else None
    if isinstance(kind, Texts) and shape[:1] == ("batch",) and is_static(shape[1:]):
        return p.texts(node, (kind.name,))
    return None


def _expand(p: _Packer, node: Node) -> Kind | None:
    name = node.inputs[0]
    assert name is not None
    kind, shape = p.kind(name), p.shape(node.output)
    added = len(shape) - len(p.shape(name))
    if isinstance(kind, Mask):
        return replace(kind, axis=kind.axis + added)
    if isinstance(kind, Fixed):
        return kind
    if isinstance(kind, Tokens):
        axis = row_axis(shape)
        if axis != kind.axis + added:
            return None
        if p.types[kind.name].shape[1:] == shape[axis + 1 :]:
            return replace(kind, axis=axis, batched=kind.batched or "batch" in shape)
        return p.tokens(node, (kind.name,), axis, True, kind.padding)
    return p.texts(node, (kind.name,)) if added == 0 and is_static(shape[1:]) else None


def _transpose(p: _Packer, node: Node) -> Kind | None:
    kind, axes = p.kind(node.inputs[0]), node.attributes["axes"]
    if isinstance(kind, Tokens) and axes[: kind.axis + 1] == tuple(range(kind.axis + 1)):
        rows = (0, *(a - kind.axis for a in axes[kind.axis + 1 :]))
        return p.tokens(node, (kind.name,), kind.axis, kind.batched, kind.padding, axes=rows)
    if isinstance(kind, Texts) and axes[0] == 0:
        return p.texts(node, (kind.name,))
    return None


def _slice(p: _Packer, node: Node) -> Kind | None:
    kind, a = p.kind(node.inputs[0]), node.attributes
    if isinstance(kind, Fixed):
        array, start = p.graph.constants[kind.name], a["start"]
        whole = p.shape(node.output)[a["axis"]] == "sequence" and a["step"] == 1
        leading = all(n == 1 for n in array.shape[: a["axis"]])
        if not (whole and leading and isinstance(start, int)):
            return None
        table = p.constant(array.reshape(array.shape[a["axis"] :])[start:])
        row = p.shape(node.output)[a["axis"] + 1 :]
        look_up = Node("take", (table, "positions"), "", {"axis": 0}, node.where)
        name = p.add(look_up, ("tokens", *row), str(array.dtype))
        return Tokens(name, a["axis"], batched=False)
    return _within_rows(p, node)


def _select(p: _Packer, node: Node) -> Kind | None:
    kind, a = p.kind(node.inputs[0]), node.attributes
    if isinstance(kind, Tokens) and a["axis"] == kind.axis:
        if not kind.batched or a["index"] != 0 or "batch" not in p.shape(node.output)[:1]:
            raise p.refuse(node, "picks a token other than the first of each text")
        take = Node("take", (kind.name, "first_rows"), "", {"axis": 0}, node.where)
        return Texts(p.add(take, p.shape(node.output), p.graph.types[node.output].dtype))
    return _within_rows(p, node)


def _within_rows(p: _Packer, node: Node) -> Kind | None:
    """Operations on one operand along ``axis``, which must lie inside the rows."""
    kind, axis = p.kind(node.inputs[0]), node.attributes["axis"]
    axis = axis % len(p.shape(str(node.inputs[0])))
    if isinstance(kind, Tokens) and axis > kind.axis:
        return p.tokens(node, (kind.name,), kind.axis, kind.batched, axis=axis - kind.axis)
    if isinstance(kind, Texts) and axis > 0:
        return p.texts(node, (kind.name,))
    return None


def _last_axis(p: _Packer, node: Node) -> Kind | None:
    """linear, layer_norm and embedding: the other operands are weights."""
    position = 1 if node.op == "embedding" else 0
    kind = p.kind(node.inputs[position])
    inputs = list(node.inputs)
    weights = [n for k, n in enumerate(inputs) if k != position and n is not None]
    if not isinstance(kind, (Tokens, Texts)) or not set(weights) <= set(p.constants):
        return None
    inputs[position] = kind.name
    if isinstance(kind, Texts):
        return p.texts(node, tuple(inputs))
    inside = kind.axis < len(p.shape(node.output)) - 1
    return p.tokens(node, tuple(inputs), kind.axis, kind.batched) if inside else None


def _reduce(p: _Packer, node: Node) -> Kind | None:
    name, axes, fn = node.inputs[0], node.attributes["axes"], node.attributes["fn"]
    assert name is not None
    kind = p.kind(name)
    axes = tuple(axis % len(p.shape(name)) for axis in axes)
    if isinstance(kind, Tokens) and min(axes) > kind.axis:
        rows = tuple(axis - kind.axis for axis in axes)
        return p.tokens(node, (kind.name,), kind.axis, kind.batched, axes=rows)
    if isinstance(kind, Texts) and min(axes) > 0:
        return p.texts(node, (kind.name,))
    if isinstance(kind, Tokens) and axes == (kind.axis,):
        return _sum_of_texts(p, node, kind, fn)
    if isinstance(kind, Mask) and axes == (kind.axis,):
        return _lengths(p, node, kind, fn)
    return None


def _sum_of_texts(p: _Packer, node: Node, kind: Tokens, fn: str) -> Kind:
    if fn != "sum" or kind.padding != 0.0 or not kind.batched:
        raise p.refuse(node, f"takes the {fn} over the sequence, padding included")
    dtype = p.graph.types[node.output].dtype
    total = Node("segment_sum", (kind.name, "offsets"), "", {}, node.where)
    name = p.add(total, ("batch", *p.types[kind.name].shape[1:]), dtype)
    return Texts(_reshaped(p, node, name))


def _lengths(p: _Packer, node: Node, kind: Mask, fn: str) -> Kind:
    if fn != "sum" or (kind.token, kind.padding) != (1.0, 0.0):
        raise p.refuse(node, "reduces the attention mask to something else than lengths")
    dtype, name = p.graph.types[node.output].dtype, "lengths"
    if dtype != "float32":
        name = p.add(Node("copy", (name,), "", {}, node.where), ("batch", 1), dtype)
    shape = p.shape(node.output)
    narrow: Shape = ("batch", *((1,) * (len(shape) - 1)))
    if p.types[name].shape != narrow:
        name = p.add(Node("reshape", (name,), "", {}, node.where), narrow, dtype)
    if shape != narrow:
        name = p.add(Node("expand", (name,), "", {}, node.where), shape, dtype)
    return Texts(name)


def _reshaped(p: _Packer, node: Node, name: str) -> str:
    shape = p.shape(node.output)
    if p.types[name].shape == shape:
        return name
    return p.add(Node("reshape", (name,), "", {}, node.where), shape, p.types[name].dtype)


def _attention(p: _Packer, node: Node) -> Kind | None:
    kinds = [p.kind(name) for name in node.inputs[:3]]
    mask = None if node.inputs[3] is None else p.kind(node.inputs[3])
    rows = [k.name for k in kinds if isinstance(k, Tokens) and k.axis == 1 and k.batched]
    if len(rows) != 3:
        return None
    if mask is None:
        raise p.refuse(node, "sees padding: it has no mask")
    if not isinstance(mask, Mask) or mask.axis != 3:
        raise p.refuse(node, "has a mask that is not made from attention_mask alone")
    if p.graph.type_of(str(node.inputs[3])).dtype == "bool":
        hides = (mask.token, mask.padding) == (1.0, 0.0)
    else:
        hides = mask.token == 0.0 and mask.padding <= _HIDDEN
    if not hides:
        raise p.refuse(node, "has a mask that does not hide padding")
    packed = replace(node, op="attention_packed")
    return p.tokens(packed, (*rows, "offsets"), 1, True)


def _concatenate(p: _Packer, node: Node) -> Kind | None:
    kinds, axis = [p.kind(name) for name in node.inputs], node.attributes["axis"]
    rows = [k for k in kinds if isinstance(k, Tokens)]
    if len(rows) == len(kinds) and len({k.axis for k in rows}) == 1 and axis > rows[0].axis:
        names = tuple(k.name for k in rows)
        start = rows[0].axis
        return p.tokens(node, names, start, any(k.batched for k in rows), axis=axis - start)
    texts = [k.name for k in kinds if isinstance(k, Texts)]
    return p.texts(node, tuple(texts)) if len(texts) == len(kinds) and axis > 0 else None


def _look_up(p: _Packer, node: Node) -> Kind | None:
    """take and gather from a table that all texts share, by an index for each token."""
    table, index = p.kind(node.inputs[0]), p.kind(node.inputs[1])
    if not isinstance(table, Fixed) or not isinstance(index, Tokens):
        return None
    array, axis = p.constants[table.name], node.attributes["axis"]
    if any(n != 1 for n in array.shape[:axis]) or (node.op == "gather" and array.ndim != 2):
        return None
    flat = p.constant(array.reshape(array.shape[axis:]))
    look_up = replace(node, op="take")
    return p.tokens(look_up, (flat, index.name), index.axis, index.batched, axis=0)


def _range(p: _Packer, node: Node) -> Kind | None:
    if p.shape(node.output) != ("sequence",) or node.attributes["step"] != 1:
        return None
    dtype, name = p.graph.types[node.output].dtype, "positions"
    if dtype != "int64":
        name = p.add(Node("copy", (name,), "", {}, node.where), ("tokens",), dtype)
    if node.attributes["start"]:
        start = p.constant(np.asarray(node.attributes["start"], dtype))
        shifted = Node("binary", (name, start), "", {"fn": "add"}, node.where)
        name = p.add(shifted, ("tokens",), dtype)
    return Tokens(name, 0, batched=False)


_RULES: dict[str, Callable[[_Packer, Node], Kind | None]] = {
    **dict.fromkeys(("binary", "unary", "activate", "where", "copy"), _elementwise),
    **dict.fromkeys(("linear", "layer_norm", "embedding"), _last_axis),
    **dict.fromkeys(("take", "gather"), _look_up),
    "reshape": _reshape,
    "expand": _expand,
    "transpose": _transpose,
    "slice": _slice,
    "select": _select,
    "softmax": _within_rows,
    "reduce": _reduce,
    "attention_dense": _attention,
    "concatenate": _concatenate,
    "range": _range,
}
