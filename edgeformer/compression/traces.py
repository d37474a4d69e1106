"""What an encoder computes on its way, for losses and scores that look inside.

    with traced(student) as inside, torch.no_grad():
        student(**batch)
    inside.hidden[0]                     # the embeddings' output, float (batch, sequence, hidden)
    attention_probabilities(inside, 0)   # of the first layer, float (batch, heads, query, key)

Everything is read by forward hooks: the encoder itself knows nothing of it. Hooks run in the order
in which they were made, so enter what changes a forward (gates, dropout) first, or the trace shows
states as they were before the change.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from edgeformer.compression.rows import masked_log_softmax
from edgeformer.compression.units import encoder_of
from edgeformer.models.attention import Attention
from edgeformer.models.encoder import Encoder


@dataclass
class Trace:
    """States of the last forward; each forward clears and fills it again.

    Layers stand in the order in which they ran, so layers that share weights have an entry each.
    The tensors belong to the graph of the forward: losses on them reach its parameters.

    Attributes:
        hidden: float (batch, sequence, hidden): the embeddings' output, then that of each layer.
        queries: float (batch, heads, sequence, head_dim), one for each layer; not yet scaled.
        keys: the same of the keys.
        values: the same of the values.
        final: float (batch, sequence, hidden), what the head reads: the last of ``hidden``, or in a
            pre-norm encoder its norm.
        mask: bool (batch, sequence), True for a token and False for padding.
        relative_bias: float (1, heads, sequence, sequence), added to the scores of every layer
            (MPNet); None without one.
    """

    hidden: list[torch.Tensor] = field(default_factory=list)
    queries: list[torch.Tensor] = field(default_factory=list)
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    final: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    mask: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    relative_bias: torch.Tensor | None = None

    def clear(self) -> None:
        """Forget the last forward."""
        for states in (self.hidden, self.queries, self.keys, self.values):
            states.clear()
        self.relative_bias = None


@contextmanager
def traced(model: nn.Module, hidden: bool = True, attention: bool = True) -> Iterator[Trace]:
    """Observe every forward of ``model`` inside the ``with`` block.

    Args:
        model: an ``Encoder``, or a model with one as its ``encoder``.
        hidden: fill ``hidden`` and ``final``.
        attention: fill ``queries``, ``keys``, ``values`` and ``relative_bias``.

    Yields:
        A trace, empty before the first forward. Its last states stay after the block.

    Raises:
        ModelError: the model has no encoder of ours.
    """
    encoder, trace = encoder_of(model), Trace()
    handles = _observe_start(encoder, trace)
    try:
        if hidden:
            handles += _observe_hidden(encoder, trace)
        if attention:
            handles += _observe_attention(encoder, trace)
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def attention_scores(trace: Trace, layer: int) -> torch.Tensor:
    """Scores of one layer before the softmax: query times key over sqrt(head_dim), plus any bias.

    Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, equation 1. Padding is not
    masked: rows and columns of padding hold numbers without meaning.

    Args:
        trace: filled by a forward, with ``attention``.
        layer: 0 for the first; negative numbers count from the last.

    Returns:
        float (batch, heads, query, key).
    """
    query, key = trace.queries[layer], trace.keys[layer]
    scores = (query @ key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    return scores if trace.relative_bias is None else scores + trace.relative_bias


def attention_probabilities(trace: Trace, layer: int) -> torch.Tensor:
    """What each token of one layer attends to.

    Args:
        trace: filled by a forward, with ``attention``.
        layer: 0 for the first; negative numbers count from the last.

    Returns:
        float (batch, heads, query, key); keys of padding get 0, rows of padding hold numbers
        without meaning.
    """
    return masked_log_softmax(attention_scores(trace, layer), trace.mask[:, None, None]).exp()


def _observe_start(encoder: Encoder, trace: Trace) -> list[RemovableHandle]:
    """A forward starts with the embeddings, whether it reads a text or an image."""
    reads_images = encoder.config.image_size > 0

    def start(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        trace.clear()
        if reads_images:
            trace.mask = torch.ones(output.shape[:2], dtype=torch.bool, device=output.device)
        else:
            trace.mask = args[1] != 0

    return [encoder.embeddings.register_forward_hook(start)]


def _observe_hidden(encoder: Encoder, trace: Trace) -> list[RemovableHandle]:
    def add(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        trace.hidden.append(output)
        trace.final = output

    def finish(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        trace.final = output

    handles = [part.register_forward_hook(add) for part in (encoder.embeddings, *encoder.layers)]
    if encoder.final_norm is not None:
        handles.append(encoder.final_norm.register_forward_hook(finish))
    return handles


def _observe_attention(encoder: Encoder, trace: Trace) -> list[RemovableHandle]:
    def keep_bias(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        trace.relative_bias = output

    handles = []
    if encoder.relative_positions is not None:
        handles.append(encoder.relative_positions.register_forward_hook(keep_bias))
    for layer in encoder.layers:
        attention = layer.get_submodule("attention")
        assert isinstance(attention, Attention)
        heads, head_dim = attention.num_heads, attention.head_dim
        places = (
            (attention.query, trace.queries),
            (attention.key, trace.keys),
            (attention.value, trace.values),
        )
        for linear, states in places:
            handles.append(linear.register_forward_hook(_splitter(states, heads, head_dim)))
    return handles


def _splitter(states: list[torch.Tensor], heads: int, head_dim: int) -> Callable[..., None]:
    """A hook that adds the output, (batch, sequence, heads * head_dim), head by head."""

    def add(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        batch, length, _width = output.shape
        states.append(output.view(batch, length, heads, head_dim).transpose(1, 2))

    return add
