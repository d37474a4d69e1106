"""Pass on layer norms: the addition before one becomes part of it.

1. The sum of two float32 values of the same shape, neither broadcast.
2. Nothing but the layer norm uses the sum.
"""

from dataclasses import replace

from edgeformer.converters.plan.graph import Graph, Node, rewrite


def residuals(graph: Graph) -> Graph:
    """Fuse ``layer_norm(a + b)``."""
    makers, uses = graph.makers(), graph.uses()
    replacements: dict[str, list[Node]] = {}
    for node in graph.nodes:
        total = makers.get(str(node.inputs[0])) if node.op == "layer_norm" else None
        if total is None or total.op != "binary" or total.attributes["fn"] != "add":
            continue
        kinds = {graph.type_of(str(name)) for name in (*total.inputs, total.output)}
        if len(kinds) == 1 and uses[total.output] == 1 and node.inputs[1] is None:
            inputs = (*total.inputs, *node.inputs[2:])
            replacements[node.output] = [replace(node, inputs=inputs)]
            replacements[total.output] = []
    return rewrite(graph, replacements)
