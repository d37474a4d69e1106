"""Cut programs out of a graph: what some of its outputs need, from others of its outputs on."""

from dataclasses import replace

from edgeformer.converters.exits import MASK, Cut
from edgeformer.converters.plan.graph import Graph, prune
from edgeformer.errors import ModelError


def cut_program(graph: Graph, cut: Cut) -> Graph:
    """The part of ``graph``, packed or dense, that computes ``cut``.

    Constants stay what they are, so that a file holds them once for all programs.

    Raises:
        ModelError: it needs more than the cut's inputs: parts of the model beside the layers.
    """
    if set(cut.gives.values()) == set(graph.outputs) and not cut.reads:
        return graph  # the only program: a model without exits
    renamed: dict[str | None, str] = {graph.outputs[w]: name for name, w in cut.reads.items()}
    nodes = tuple(
        replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if node.output not in renamed
    )
    types = graph.types | {name: graph.types[graph.outputs[w]] for name, w in cut.reads.items()}
    outputs = {name: graph.outputs[whole] for name, whole in cut.gives.items()}
    inputs = (*cut.reads, *graph.inputs)
    part = prune(replace(graph, inputs=inputs, outputs=outputs, nodes=nodes, types=types))
    used = {n for node in part.nodes for n in node.inputs if n} | set(outputs.values())
    tokens = {port.name for port in cut.inputs} | {MASK}
    unknown = [n for n in graph.inputs if n in used and n not in tokens and n not in _GEOMETRY]
    if cut.reads and unknown:
        raise ModelError(
            f"{cut.name} needs {', '.join(unknown)}, which only the first segment reads",
            hint="convert the model without exits, or leave this engine out: --engines onnx,tflite",
        )
    inputs = tuple(name for name in part.inputs if name in used)
    types = {k: v for k, v in part.types.items() if k in inputs or k not in part.inputs}
    return replace(part, inputs=inputs, types=types)


_GEOMETRY = ("offsets", "positions", "first_rows", "lengths")
