"""Folds around attention; each shrinks arithmetic and leaves the answer as it is.

``scale``: the factor of the scores moves into the weight and bias of the q projection, if that
projection is used by this attention alone.

``key_bias``: a bias of k adds the same number, q . bias, to all scores of a query, and softmax
does not see it. Dropped if the projection is used by this attention alone.

``value_bias``: attention weights sum to 1, so a bias of v comes out as it went in; it is added to
the bias of the linear layer behind: b_o + W_o b_v. Only without a mask, because a mask could hide
all keys of a query, and if both projections are used here alone.

``merge``: q, k and v projections of the same input, used here alone, become one linear layer
whose output is sliced: one large matrix product instead of three.
"""

from dataclasses import replace

import numpy as np

from edgeformer.converters.plan.graph import Graph, Node, ValueType, float32, rewrite

_ATTENTION = ("attention_dense", "attention_packed")


def _own_linear(graph: Graph, name: str | None) -> Node | None:
    """The linear layer that makes ``name``, if nothing else uses it."""
    node = graph.makers().get(str(name))
    if node is None or node.op != "linear" or graph.uses()[node.output] != 1:
        return None
    return None if node.attributes["activation"] else node


def scale(graph: Graph) -> Graph:
    """Fold the scale of the scores into the q projection."""
    for node in graph.nodes:
        if node.op not in _ATTENTION or node.attributes["scale"] == 1.0:
            continue
        linear = _own_linear(graph, node.inputs[0])
        if linear is None:
            continue
        factor = np.float32(node.attributes["scale"])
        constants = {
            f"{name}_scaled": float32(graph.constants[name] * factor)
            for name in linear.inputs[1:]
            if name is not None
        }
        names = tuple(None if n is None else f"{n}_scaled" for n in linear.inputs[1:])
        graph = rewrite(
            graph,
            {
                linear.output: [replace(linear, inputs=(linear.inputs[0], *names))],
                node.output: [replace(node, attributes={**node.attributes, "scale": 1.0})],
            },
            constants=constants,
        )
    return graph


def key_bias(graph: Graph) -> Graph:
    """Drop the bias of the k projection."""
    replacements = {}
    for node in graph.nodes:
        linear = _own_linear(graph, node.inputs[1]) if node.op in _ATTENTION else None
        if linear is not None:
            replacements[linear.output] = [replace(linear, inputs=(*linear.inputs[:2], None))]
    return rewrite(graph, replacements)


def value_bias(graph: Graph) -> Graph:
    """Move the bias of the v projection behind the attention."""
    users = {name: node for node in graph.nodes for name in node.inputs if name is not None}
    replacements: dict[str, list[Node]] = {}
    constants = {}
    uses = graph.uses()
    for node in graph.nodes:
        if node.op not in _ATTENTION or (node.op == "attention_dense" and node.inputs[3]):
            continue
        value = _own_linear(graph, node.inputs[2])
        output = users.get(node.output)
        if value is None or value.inputs[2] is None or output is None:
            continue
        if output.op != "linear" or output.inputs[0] != node.output or uses[node.output] != 1:
            continue
        _, weight, bias = output.inputs
        moved = graph.constants[value.inputs[2]] @ graph.constants[str(weight)]
        if bias is not None:
            moved = moved + graph.constants[bias]
        constants[f"{output.output}_bias"] = float32(moved)
        replacements[value.output] = [replace(value, inputs=(*value.inputs[:2], None))]
        replacements[output.output] = [
            replace(output, inputs=(*output.inputs[:2], f"{output.output}_bias"))
        ]
    return rewrite(graph, replacements, constants=constants)


def merge(graph: Graph) -> Graph:
    """Make one linear layer of the q, k and v projections."""
    for node in graph.nodes:
        if node.op not in _ATTENTION:
            continue
        layers = [_own_linear(graph, name) for name in node.inputs[:3]]
        q, k, v = layers
        if q is None or k is None or v is None:
            continue
        if len({layer.inputs[0] for layer in (q, k, v)}) == 1:
            graph = _merged(graph, node, (q, k, v))
    return graph


def _merged(graph: Graph, node: Node, layers: tuple[Node, Node, Node]) -> Graph:
    weights = [graph.constants[str(layer.inputs[1])] for layer in layers]
    biases = [
        np.zeros(weight.shape[1], np.float32)
        if layer.inputs[2] is None
        else graph.constants[layer.inputs[2]]
        for layer, weight in zip(layers, weights, strict=True)
    ]
    stem = f"{node.output}_qkv"
    has_bias = any(layer.inputs[2] is not None for layer in layers)
    constants = {f"{stem}_weight": float32(np.concatenate(weights, axis=1))}
    if has_bias:
        constants[f"{stem}_bias"] = float32(np.concatenate(biases))
    shape = graph.types[layers[0].output].shape
    widths = [weight.shape[1] for weight in weights]
    types = {stem: ValueType((*shape[:-1], sum(widths)), "float32")}
    inputs = (layers[0].inputs[0], f"{stem}_weight", f"{stem}_bias" if has_bias else None)
    nodes = [replace(layers[0], inputs=inputs, output=stem)]
    starts = np.cumsum([0, *widths]).tolist()
    for layer, start, stop in zip(layers, starts, starts[1:], strict=False):
        where = {"axis": len(shape) - 1, "start": start, "stop": stop, "step": 1}
        nodes.append(Node("slice", (stem,), layer.output, where, layer.where))
    first = min(layers, key=graph.nodes.index)
    replacements: dict[str, list[Node]] = {layer.output: [] for layer in layers}
    replacements[first.output] = nodes
    return rewrite(graph, replacements, types, constants)
