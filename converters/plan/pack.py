"""The packing proof: may the padding of a batch be left out altogether?

1. Every value gets a kind (``kinds``), from the inputs on, by the rules listed here. A packed
   graph is written along the way; where no rule applies, the whole proof fails and says where.
2. An operation within rows keeps Tokens, whatever the padding rows hold.
3. Elementwise operations on Masks are evaluated for 1 and for 0. On Tokens a Mask is its value
   for tokens; multiplied by 1 / 0 it also proves that padding rows would be zero.
4. Attention is allowed if its mask adds 0 for tokens and at most -10000 for padding (a condition:
   True and False); what depends on positions only may be added. An LSTM is allowed if its mask is
   the attention mask: it stops where a text does.
5. A sum over the sequence needs padding rows of zero and becomes one sum per text; the sum of the
   mask is the text's length; the first column is each text's first row.
6. What depends on positions only is computed once for the longest text and looked up by token.
"""

from collections.abc import Callable

from edgeformer.converters.plan.graph import Graph, Node
from edgeformer.converters.plan.kinds import Kind, NotPackable
from edgeformer.converters.plan.pack_across import attention, lstm, reduce, select
from edgeformer.converters.plan.pack_elementwise import elementwise
from edgeformer.converters.plan.pack_rows import (
    along_axis,
    concatenate,
    expand,
    last_axis,
    look_up,
    positional,
    reshape,
    transpose,
)
from edgeformer.converters.plan.packer import Packer
from edgeformer.runtime.manifest import Port

_RULES: dict[str, Callable[[Packer, Node], Kind | None]] = {
    **dict.fromkeys(("binary", "unary", "activate", "where", "copy"), elementwise),
    **dict.fromkeys(("linear", "layer_norm", "embedding"), last_axis),
    **dict.fromkeys(("take", "gather"), look_up),
    **dict.fromkeys(("slice", "softmax"), along_axis),
    "reshape": reshape,
    "expand": expand,
    "transpose": transpose,
    "concatenate": concatenate,
    "select": select,
    "reduce": reduce,
    "attention_dense": attention,
    "lstm_dense": lstm,
}


def pack(graph: Graph, ports: tuple[Port, ...]) -> Graph:
    """The packed form of a token model's graph.

    Args:
        graph: dense, after the passes on attention.
        ports: inputs of the program.

    Raises:
        NotPackable: naming the operation at which the proof fails.
    """
    names = {port.name for port in ports}
    if "attention_mask" not in names or "input_ids" not in names:
        raise NotPackable("the model does not take input_ids and attention_mask")
    for port in ports:
        if port.shape != ("batch", "sequence"):
            raise NotPackable(f"input {port.name} is not (batch, sequence)")
    packer = Packer(graph)
    for node in graph.nodes:
        kind = positional(packer, node)
        if kind is None and node.op in _RULES:
            kind = _RULES[node.op](packer, node)
        if kind is None:
            raise packer.refuse(node, "may mix tokens with other tokens or padding")
        packer.kinds[node.output] = kind
    return packer.finish()
