"""The graph that passes rewrite: nodes in order, values by name, weights beside them.

A pass is a function ``Graph -> Graph``. It never changes a node, it makes a new list of them.
Operations are those of ``edgeformer.runtime.operations``; every value has a shape of sizes (see
``runtime.plan.Size``) and a NumPy dtype name.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.operations import OPS
from edgeformer.runtime.plan import Size

Array = NDArray[Any]
Shape = tuple[Size, ...]


@dataclass(frozen=True)
class ValueType:
    """Shape and dtype of a value."""

    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: a key of ``OPS``.
        inputs: names of values or constants, None where an optional operand is absent.
        output: name of the value it makes.
        attributes: what ``OPS[op]`` lists.
        where: which line of the model it comes from, for messages.
    """

    op: str
    inputs: tuple[str | None, ...]
    output: str
    attributes: Mapping[str, Any]
    where: str = ""


@dataclass(frozen=True)
class Graph:
    """A program before it has buffers.

    Attributes:
        inputs: input name -> value name (the same, here).
        outputs: output name -> value name.
        nodes: in an order in which every operand is made before it is used.
        types: value name -> type, for inputs and nodes' outputs.
        constants: name -> array; a name is never both a constant and a value.
        limits: dimension -> largest size, 0 where any size runs.
    """

    inputs: tuple[str, ...]
    outputs: dict[str, str]
    nodes: tuple[Node, ...]
    types: dict[str, ValueType]
    constants: dict[str, Array]
    limits: dict[str, int]

    def type_of(self, name: str) -> ValueType:
        """Type of a value or constant."""
        if name in self.constants:
            array = self.constants[name]
            return ValueType(tuple(int(n) for n in array.shape), str(array.dtype))
        return self.types[name]

    def makers(self) -> dict[str, Node]:
        """Value name -> the node that makes it."""
        return {node.output: node for node in self.nodes}

    def uses(self) -> Counter[str]:
        """How often each name is used, as an operand or as an output of the graph."""
        counts = Counter(name for node in self.nodes for name in node.inputs if name is not None)
        counts.update(self.outputs.values())
        return counts


def rewrite(
    graph: Graph,
    replacements: Mapping[str, Iterable[Node]],
    types: Mapping[str, ValueType] | None = None,
    constants: Mapping[str, Array] | None = None,
) -> Graph:
    """Replace nodes, named by what they make, and drop whatever is no longer used.

    Args:
        graph: the graph before.
        replacements: output of a node -> the nodes in its place, the last of which makes that
            output; no nodes at all only where nothing uses it any more.
        types, constants: new values and weights.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(replacements.get(node.output, (node,)))
    return prune(
        replace(
            graph,
            nodes=tuple(nodes),
            types={**graph.types, **(types or {})},
            constants={**graph.constants, **(constants or {})},
        )
    )


def prune(graph: Graph) -> Graph:
    """Drop nodes and weights that no output depends on."""
    needed = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(name for name in node.inputs if name is not None)
    kept.reverse()
    return replace(
        graph,
        nodes=tuple(kept),
        types={k: v for k, v in graph.types.items() if k in needed or k in graph.inputs},
        constants={k: v for k, v in graph.constants.items() if k in needed},
    )


def is_view(node: Node) -> bool:
    """True if the node computes nothing."""
    return OPS[node.op].view


def scalar_of(graph: Graph, name: str | None) -> float | None:
    """The value of a constant that has only one element, None for anything else."""
    if name is None or name not in graph.constants or graph.constants[name].size != 1:
        return None
    return float(graph.constants[name].reshape(()))


def float32(array: Array) -> NDArray[np.float32]:
    """``array`` as contiguous float32."""
    return np.ascontiguousarray(array, np.float32)
