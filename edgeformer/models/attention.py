"""Multi-head self-attention, and the additive mask that keeps padding out of it.

Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, equation 1 and section 3.2.2.

The order of operations is part of the contract with the converters, which look for it in the
exported graph: linear, view to (batch, sequence, heads, head_dim), transpose(1, 2) for each of
query, key and value; one scaled_dot_product_attention; transpose(1, 2), reshape, linear.
"""

import torch
import torch.nn.functional as F
from torch import nn

PADDING_SCORE = -10000.0
"""Added to the score of a padded key. Far below any trained score, so that its softmax weight is
exactly 0 in float32, and inside the range of float16, which the smallest float32 is not."""


def additive_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask to add to attention scores.

    Args:
        attention_mask: integers (batch, sequence), 1 for a token and 0 for padding.
        dtype: type of the scores.

    Returns:
        ``dtype`` (batch, 1, 1, sequence): 0 for a token, ``PADDING_SCORE`` for padding.
    """
    keys = attention_mask.unsqueeze(1).unsqueeze(2).to(dtype)
    return (1.0 - keys) * PADDING_SCORE


class Attention(nn.Module):
    """Self-attention of one layer.

    Args:
        hidden_size: width of the hidden states.
        num_heads: heads of this layer.
        head_dim: width of one head; num_heads * head_dim may be smaller than hidden_size.
    """

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.query = nn.Linear(hidden_size, num_heads * head_dim)
        self.key = nn.Linear(hidden_size, num_heads * head_dim)
        self.value = nn.Linear(hidden_size, num_heads * head_dim)
        self.output = nn.Linear(num_heads * head_dim, hidden_size)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Float (batch, sequence, hidden) and the additive mask to (batch, sequence, hidden)."""
        batch, length, _ = hidden.shape
        split = (batch, length, self.num_heads, self.head_dim)
        query = self.query(hidden).view(split).transpose(1, 2)
        key = self.key(hidden).view(split).transpose(1, 2)
        value = self.value(hidden).view(split).transpose(1, 2)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        merged = context.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim)
        output: torch.Tensor = self.output(merged)
        return output
