"""Passes on attention: find it however it is spelled, and let it work on rows.

``spelled_out``: softmax(q k^T * scale + mask) v, written with matmul and softmax, becomes one
``attention_heads``.

1. The softmax is over the last axis and is used once, on the left of a product with v.
2. Its operand is a product of q with a transposed k, scaled by numbers and with masks added, in
   any order before and after; every step is used once.
3. Masks are added up first; a scale between them applies to those added before it, so a scale
   after a mask stops the match.

``rows``: ``attention_heads`` between a split into heads and its reverse becomes one
``attention_dense`` on rows of heads * dim values.

1. q, k and v are (batch, sequence, heads * dim) seen as (batch, sequence, heads, dim) and
   transposed to (batch, heads, sequence, dim).
2. The result is used once, transposed back and merged to (batch, sequence, heads * dim).
"""

from edgeformer.converters.plan.graph import Graph, Node, ValueType, rewrite, scalar_of
from edgeformer.runtime.plan import Size

_HEADS_FIRST = (0, 2, 1, 3)


def spelled_out(graph: Graph) -> Graph:
    """Replace attention written with matmul and softmax."""
    makers, uses = graph.makers(), graph.uses()
    replacements: dict[str, list[Node]] = {}
    types: dict[str, ValueType] = {}
    for node in graph.nodes:
        softmax = makers.get(str(node.inputs[0])) if node.op == "matmul" else None
        if softmax is None or softmax.op != "softmax" or uses[softmax.output] != 1:
            continue
        rank = len(graph.types[softmax.output].shape)
        if rank != 4 or softmax.attributes["axis"] not in (-1, 3):
            continue
        found = _scores(graph, makers, uses, str(softmax.inputs[0]))
        if found is None:
            continue
        product, scale, masks = found
        nodes: list[Node] = []
        k = _transposed_back(graph, makers, str(product.inputs[1]), nodes, types, node.output)
        mask = _added(graph, masks, nodes, types, node.output)
        if (
            mask is not None
            and len(graph.type_of(mask).shape if mask not in types else types[mask].shape) != 4
        ):
            continue
        q, v = product.inputs[0], node.inputs[1]
        nodes.append(
            Node("attention_heads", (q, k, v, mask), node.output, {"scale": scale}, node.where)
        )
        replacements[node.output] = nodes
    return rewrite(graph, replacements, types)


def _scores(
    graph: Graph, makers: dict[str, Node], uses: dict[str, int], name: str
) -> tuple[Node, float, list[str]] | None:
    """Follow the softmax's operand down to the product of q and k (rule 2)."""
    scale, masks = 1.0, list[str]()
    while (node := makers.get(name)) is not None and uses[name] == 1:
        if node.op == "matmul":
            return node, scale, masks
        if node.op != "binary":
            return None
        left, right = str(node.inputs[0]), str(node.inputs[1])
        number, fn = scalar_of(graph, right), node.attributes["fn"]
        if fn in ("multiply", "divide") and number is not None and number != 0:
            scale *= number if fn == "multiply" else 1 / number
            name = left
        elif fn == "add" and scale == 1.0:
            if makers.get(left) is None or not _leads_to_product(graph, makers, left):
                left, right = right, left
            masks.append(right)
            name = left
        else:
            return None
    return None


def _leads_to_product(graph: Graph, makers: dict[str, Node], name: str) -> bool:
    while (node := makers.get(name)) is not None:
        if node.op == "matmul":
            return True
        if node.op != "binary":
            return False
        name = str(node.inputs[0])
    return False


def _transposed_back(
    graph: Graph,
    makers: dict[str, Node],
    name: str,
    nodes: list[Node],
    types: dict[str, ValueType],
    stem: str,
) -> str:
    """k as (batch, heads, keys, dim), from its (batch, heads, dim, keys)."""
    maker, axes, source = makers.get(name), (0, 1, 3, 2), name
    if maker is not None and maker.op == "transpose":
        before = maker.attributes["axes"]
        axes, source = (*before[:2], before[3], before[2]), str(maker.inputs[0])
    if axes == (0, 1, 2, 3):
        return source
    kind = graph.type_of(source)
    output = f"{stem}_k"
    nodes.append(Node("transpose", (source,), output, {"axes": tuple(axes)}))
    types[output] = ValueType(tuple(kind.shape[axis] for axis in axes), kind.dtype)
    return output


def _added(
    graph: Graph, masks: list[str], nodes: list[Node], types: dict[str, ValueType], stem: str
) -> str | None:
    """The sum of several masks, None for none."""
    total: str | None = None
    for k, name in enumerate(reversed(masks)):
        if total is None:
            total = name
            continue
        shapes = [types[n].shape if n in types else graph.type_of(n).shape for n in (total, name)]
        output = f"{stem}_mask{k}"
        nodes.append(Node("binary", (total, name), output, {"fn": "add"}))
        types[output] = ValueType(_broadcast(*shapes), "float32")
        total = output
    return total


def _broadcast(left: tuple[Size, ...], right: tuple[Size, ...]) -> tuple[Size, ...]:
    rank = max(len(left), len(right))
    left, right = ((*((1,) * (rank - len(s))), *s) for s in (left, right))
    return tuple(b if a == 1 else a for a, b in zip(left, right, strict=True))


def rows(graph: Graph) -> Graph:
    """Let attention read and write rows instead of heads."""
    makers, uses = graph.makers(), graph.uses()
    users = {name: node for node in graph.nodes for name in node.inputs if name is not None}
    replacements: dict[str, list[Node]] = {}
    types: dict[str, ValueType] = {}
    for node in graph.nodes:
        if node.op != "attention_heads":
            continue
        operands = [_rows_of(graph, makers, str(name)) for name in node.inputs[:3]]
        merged = _merged(graph, users, uses, node.output)
        if None in operands or merged is None:
            continue
        heads = graph.types[node.output].shape[1]
        attributes = {"heads": heads, "scale": node.attributes["scale"]}
        replacements[merged] = [
            Node("attention_dense", (*operands, node.inputs[3]), merged, attributes, node.where)
        ]
    return rewrite(graph, replacements, types)


def _rows_of(graph: Graph, makers: dict[str, Node], name: str) -> str | None:
    """The (batch, sequence, heads * dim) value that ``name`` is a view of (rule 1)."""
    transpose = makers.get(name)
    if transpose is None or transpose.op != "transpose":
        return None
    split = makers.get(str(transpose.inputs[0]))
    if transpose.attributes["axes"] != _HEADS_FIRST or split is None or split.op != "reshape":
        return None
    source = str(split.inputs[0])
    before, after = graph.type_of(source).shape, graph.types[split.output].shape
    if len(before) != 3 or before[:2] != after[:2] or not isinstance(after[2], int):
        return None
    return source


def _merged(graph: Graph, users: dict[str, Node], uses: dict[str, int], name: str) -> str | None:
    """The (batch, sequence, heads * dim) value that the result becomes (rule 2)."""
    node = users.get(name)
    if node is None or uses[name] != 1 or node.op != "transpose":
        return None
    if node.attributes["axes"] != _HEADS_FIRST:
        return None
    wide, name = graph.types[node.output].shape, node.output
    node = users.get(name)
    # Before the heads are merged they are copied into order; a single head is in order already.
    if node is not None and node.op == "copy" and uses[name] == 1:
        name = node.output
        node = users.get(name)
    if node is None or node.op != "reshape" or uses[name] != 1:
        return None
    name = node.output
    shape = graph.types[name].shape
    return name if len(shape) == 3 and shape[:2] == wide[:2] else None
