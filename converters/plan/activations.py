"""Passes on activations.

``recognise``: elementwise arithmetic on a linear layer's output that only spells GELU, its tanh
form or SiLU becomes that activation. It is recognised by value, not by form: evaluated on 4001
points of [-20, 20] it differs by at most 2e-6 * max(1, |x|) from exactly one of them.

1. The expression reads one linear layer's output and numbers, nothing else.
2. Only its last value is used outside it.

``fuse``: an activation of a linear layer's output that is used nowhere else becomes part of the
linear layer.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeformer.converters.plan.evaluate import evaluate_elementwise
from edgeformer.converters.plan.graph import Graph, Node, rewrite, scalar_of
from edgeformer.runtime.activations import ACTIVATIONS
from edgeformer.runtime.scratch import Scratch

_CANDIDATES = ("gelu", "gelu_tanh", "silu")
_GRID = np.linspace(-20, 20, 4001).astype(np.float32)


def recognise(graph: Graph) -> Graph:
    """Replace spelled-out activations."""
    makers, replacements = graph.makers(), dict[str, list[Node]]()
    for node in graph.nodes:
        if node.op != "binary" or node.attributes["fn"] not in ("multiply", "divide"):
            continue
        cone: dict[str, Node] = {}
        source = _collect(graph, makers, node, cone)
        if source is None or len(cone) < 3 or not _is_closed(graph, cone, node):
            continue
        values = _evaluate(graph, cone, node.output, source)
        for fn in _CANDIDATES:
            expected = np.empty_like(_GRID)
            ACTIVATIONS[fn](_GRID, expected, Scratch())
            if bool((np.abs(values - expected) <= 2e-6 * np.maximum(1, np.abs(_GRID))).all()):
                replacements[node.output] = [
                    Node("activate", (source,), node.output, {"fn": fn}, node.where)
                ]
                break
    return rewrite(graph, replacements)


def _collect(
    graph: Graph, makers: dict[str, Node], node: Node, cone: dict[str, Node]
) -> str | None:
    """Fill ``cone`` with the expression that ends in ``node``; its one source, None if not one."""
    sources: set[str] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        cone[current.output] = current
        for name in current.inputs:
            if name is None or scalar_of(graph, name) is not None or name in cone:
                continue
            maker = makers.get(name)
            if maker is not None and maker.op in ("binary", "unary", "activate"):
                pending.append(maker)
            else:
                sources.add(name)
    if len(sources) != 1:
        return None
    source = sources.pop()
    maker = makers.get(source)
    return source if maker is not None and maker.op == "linear" else None


def _is_closed(graph: Graph, cone: dict[str, Node], last: Node) -> bool:
    """Rule 2."""
    outside = [n for n in graph.nodes if n.output not in cone]
    used = {name for n in outside for name in n.inputs} | set(graph.outputs.values())
    return not used & (set(cone) - {last.output})


def _evaluate(graph: Graph, cone: dict[str, Node], name: str, source: str) -> NDArray[np.float32]:
    values: dict[str, NDArray[np.float32]] = {source: _GRID}
    for node in graph.nodes:
        if node.output in cone:
            operands = [
                values[n] if n in values else graph.constants[n].reshape(())
                for n in node.inputs
                if n is not None
            ]
            dtype = graph.types[node.output].dtype
            values[node.output] = evaluate_elementwise(node, operands, dtype)
    return values[name]


def fuse(graph: Graph) -> Graph:
    """Let linear layers apply the activation that follows them."""
    makers, uses = graph.makers(), graph.uses()
    replacements: dict[str, list[Node]] = {}
    for node in graph.nodes:
        linear = makers.get(str(node.inputs[0])) if node.op == "activate" else None
        if linear is None or linear.op != "linear" or uses[linear.output] != 1:
            continue
        if not linear.attributes["activation"]:
            fused = replace(
                linear, output=node.output, attributes={"activation": node.attributes["fn"]}
            )
            replacements[linear.output] = []
            replacements[node.output] = [fused]
    return rewrite(graph, replacements)
