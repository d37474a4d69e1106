"""One encoder layer, normalised after each residual sum as in BERT."""

import torch
from torch import nn

from edgeformer.models.attention import Attention
from edgeformer.models.config import EncoderConfig
from edgeformer.models.feed_forward import FeedForward


class EncoderLayer(nn.Module):
    """Attention, then feed-forward, each followed by LayerNorm(input + output).

    Args:
        config: settings of the whole encoder.
        index: which layer this is; its heads and its intermediate size are taken from there.
    """

    def __init__(self, config: EncoderConfig, index: int) -> None:
        super().__init__()
        hidden_size, eps = config.hidden_size, config.layer_norm_eps
        self.attention = Attention(hidden_size, config.num_heads[index], config.head_dim)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.feed_forward = FeedForward(
            hidden_size, config.intermediate_sizes[index], config.activation
        )
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Float (batch, sequence, hidden) and the additive mask to (batch, sequence, hidden)."""
        hidden = self.attention_norm(self.attention(hidden, mask) + hidden)
        hidden = self.feed_forward_norm(self.feed_forward(hidden) + hidden)
        return hidden
