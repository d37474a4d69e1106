"""What the rules of the packing proof write with: kinds of values, and the packed graph."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from edgeformer.converters.plan.graph import Graph, Node, Shape, ValueType, prune
from edgeformer.converters.plan.kinds import (
    Fixed,
    Kind,
    Mask,
    NotPackable,
    Positions,
    Texts,
    Tokens,
    row_axis,
)

# What a packed program may ask about its texts; the engine fills these in.
GEOMETRY = {
    "offsets": ValueType((("+", "batch", 1),), "int64"),
    "positions": ValueType(("tokens",), "int64"),
    "first_rows": ValueType(("batch",), "int64"),
    "lengths": ValueType(("batch", 1), "float32"),
}


class Packer:
    """The proof so far: ``kinds`` of the original graph's values, and packed nodes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.kinds: dict[str, Kind] = {name: Fixed(name) for name in graph.constants}
        self.constants = dict(graph.constants)
        self._nodes: list[Node] = []
        self._types: dict[str, ValueType] = dict(GEOMETRY)
        self._looked_up: dict[str, Tokens] = {}
        for name in graph.inputs:
            self._types[name] = ValueType(("tokens",), graph.types[name].dtype)
            self.kinds[name] = Mask(1, 1.0, 0.0) if name == "attention_mask" else Tokens(name, 1)

    def finish(self) -> Graph:
        """The packed graph, with those inputs that it uses."""
        outputs = {port: self._output(port, name) for port, name in self.graph.outputs.items()}
        used = {n for node in self._nodes for n in node.inputs if n} | set(outputs.values())
        possible = (*self.graph.inputs, *GEOMETRY)
        inputs = tuple(name for name in possible if name in used)
        types = {k: v for k, v in self._types.items() if k in inputs or k not in possible}
        limits = {"batch": 0, "tokens": 0, "sequence": self.graph.limits.get("sequence", 0)}
        return prune(Graph(inputs, outputs, tuple(self._nodes), types, self.constants, limits))

    def _output(self, port: str, name: str) -> str:
        kind, leading = self.kind(name), self.shape(name)[:2]
        if isinstance(kind, Texts):
            return kind.name
        if isinstance(kind, Tokens) and kind.batched and leading == ("batch", "sequence"):
            return kind.name
        raise NotPackable(f"output {port} is neither one row per text nor one per token")

    def shape(self, name: str | None) -> Shape:
        """Original shape of an operand that must be there."""
        assert name is not None
        return self.graph.type_of(name).shape

    def kind(self, name: str | None) -> Kind:
        """Kind of an operand; Positions that can be looked up for each token are Tokens."""
        assert name is not None
        kind = self.kinds[name]
        if not isinstance(kind, Positions):
            return kind
        return self._look_up(name, kind) or kind

    def _look_up(self, name: str, kind: Positions) -> Tokens | None:
        shape = self.shape(name)
        axis = row_axis(shape)
        if axis is None or shape[:axis] != (1,) * axis:
            return None
        if name not in self._looked_up:
            dtype, table = self.graph.type_of(name).dtype, kind.name
            if axis:
                table = self.add(Node("reshape", (table,), "", {}), shape[axis:], dtype)
            take = Node("take", (table, "positions"), "", {"axis": 0})
            packed = self.add(take, ("tokens", *shape[axis + 1 :]), dtype)
            self._looked_up[name] = Tokens(packed, axis, batched=False)
        return self._looked_up[name]

    def type_of(self, packed: str) -> ValueType:
        """Type of a packed value."""
        return self._types[packed]

    def refuse(self, node: Node, why: str) -> NotPackable:
        """The proof fails at ``node``."""
        return NotPackable(f"{node.op} {why} ({node.where})" if node.where else f"{node.op} {why}")

    def constant(self, array: NDArray[Any]) -> str:
        """Add a constant."""
        name = f"packed_{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, node: Node, shape: Shape, dtype: str) -> str:
        """Add a node under a name of its own."""
        output = f"p{len(self._nodes)}_{node.op}"
        self._nodes.append(replace(node, output=output))
        self._types[output] = ValueType(shape, dtype)
        return output

    def tokens(
        self,
        node: Node,
        inputs: tuple[str | None, ...],
        result: Tokens,
        attributes: Mapping[str, Any] | None = None,
    ) -> Tokens:
        """Add ``node`` as an operation on rows.

        Args:
            node: of the original graph.
            inputs: packed operands.
            result: what is known of the result; its name is filled in.
            attributes: those that change because axes before the row are gone.
        """
        row = self.shape(node.output)[result.axis + 1 :]
        changed = replace(node, inputs=inputs, attributes={**node.attributes, **(attributes or {})})
        name = self.add(changed, ("tokens", *row), self.graph.types[node.output].dtype)
        return replace(result, name=name)

    def same(self, node: Node, inputs: tuple[str | None, ...]) -> str:
        """Add ``node`` with other operands and otherwise as it is; the name of its result."""
        kind = self.graph.types[node.output]
        return self.add(replace(node, inputs=inputs), kind.shape, kind.dtype)
