"""One encoder layer: attention, then feed-forward, each around a residual sum.

``PostNormLayer`` normalises the sum (Vaswani et al., arXiv 1706.03762, section 3.1; BERT), with
MobileBERT's bottleneck and stacked feed-forward blocks where the settings ask for them.
``PreNormLayer`` normalises what a block reads (ViT, arXiv 2010.11929, equations 2 and 3), with the
layer scale of DINOv2 (Touvron et al., "CaiT", arXiv 2103.17239, section 2).
"""

import torch
from torch import nn

from edgeformer.models.attention import Attention
from edgeformer.models.bottleneck import Bottleneck
from edgeformer.models.config import EncoderConfig
from edgeformer.models.feed_forward import FeedForward
from edgeformer.models.norms import add_and_norm, make_norm


class FeedForwardBlock(nn.Module):
    """``norm(feed_forward(x) + x)``: one of several in a layer.

    Args:
        config: settings of the whole encoder.
        intermediate_size: width between the two linear maps.
    """

    def __init__(self, config: EncoderConfig, intermediate_size: int) -> None:
        super().__init__()
        size = config.inner_size
        self.feed_forward = FeedForward(size, intermediate_size, config.activation)
        self.norm = make_norm(config.norm, size, config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float (batch, sequence, inner) to the same shape."""
        return add_and_norm(self.norm, self.feed_forward(hidden), hidden)


class PostNormLayer(nn.Module):
    """Attention, then feed-forward, each followed by norm(input + output).

    Args:
        config: settings of the whole encoder.
        index: which layer this is; its heads and intermediate sizes are taken from there.
    """

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        size, eps = config.inner_size, config.layer_norm_eps
        num_heads, (*stacked, last) = config.layer_sizes(index)
        ranks = config.layer_ranks(index)
        self.bottleneck = Bottleneck(config) if config.bottleneck_size else None
        reads = self.bottleneck
        sizes = (reads.query_size, reads.value_size) if reads is not None else (size, size)
        self.attention = Attention(
            *sizes, size, num_heads, config.head_dim, config.qkv_bias, ranks[:4]
        )
        self.attention_norm = make_norm(config.norm, size, eps)
        self.stacked = nn.ModuleList(FeedForwardBlock(config, width) for width in stacked)
        self.feed_forward = FeedForward(size, last, config.activation, ranks[4:])
        self.feed_forward_norm = make_norm(config.norm, size, eps)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Float (batch, sequence, hidden) and the additive mask to (batch, sequence, hidden)."""
        queries = values = hidden
        inner: torch.Tensor = hidden
        if self.bottleneck is not None:
            queries, values, inner = self.bottleneck(hidden)
        attended = self.attention(queries, values, mask)
        inner = add_and_norm(self.attention_norm, attended, inner)
        for block in self.stacked:
            inner = block(inner)
        inner = add_and_norm(self.feed_forward_norm, self.feed_forward(inner), inner)
        if self.bottleneck is not None:
            inner = self.bottleneck.widen(inner, hidden)
        return inner


class PreNormLayer(nn.Module):
    """norm, attention, scale, sum; then norm, feed-forward, scale, sum.

    Args:
        config: settings of the whole encoder.
        index: which layer this is; its heads and intermediate size are taken from there.
    """

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        num_heads, (width,) = config.layer_sizes(index)
        ranks = config.layer_ranks(index)
        self.attention_norm = make_norm(config.norm, size, eps)
        self.attention = Attention(
            size, size, size, num_heads, config.head_dim, config.qkv_bias, ranks[:4]
        )
        self.feed_forward_norm = make_norm(config.norm, size, eps)
        self.feed_forward = FeedForward(size, width, config.activation, ranks[4:])
        self.attention_scale = nn.Parameter(torch.ones(size)) if config.layer_scale else None
        self.feed_forward_scale = nn.Parameter(torch.ones(size)) if config.layer_scale else None

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Float (batch, sequence, hidden) and the additive mask to (batch, sequence, hidden)."""
        normalized = self.attention_norm(hidden)
        added = self.attention(normalized, normalized, mask)
        hidden = hidden + _scaled(added, self.attention_scale)
        added = self.feed_forward(self.feed_forward_norm(hidden))
        return hidden + _scaled(added, self.feed_forward_scale)


def _scaled(added: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return added if scale is None else added * scale
