"""Multi-head self-attention, and the additive mask that keeps padding out of it.

Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, equation 1 and section 3.2.2.

The order of operations is part of the contract with the converters, which look for it in the
exported graph: linear, view to (batch, sequence, heads, head_dim), transpose(1, 2) for each of
query, key and value; one scaled_dot_product_attention; transpose(1, 2), reshape, linear.
"""

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.models.low_rank import make_linear

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
        query_size: width of what query and key read.
        value_size: width of what the value reads.
        output_size: width of the result.
        num_heads: heads of this layer.
        head_dim: width of one head; num_heads * head_dim may be smaller than the widths.
        qkv_bias: query, key and value have biases.
        ranks: of query, key, value and output; 0 for one matrix.
    """

    def __init__(
        self,
        query_size: int,
        value_size: int,
        output_size: int,
        num_heads: int,
        head_dim: int,
        qkv_bias: bool = True,
        ranks: tuple[int, ...] = (0, 0, 0, 0),
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        inner = num_heads * head_dim
        self.query = make_linear(query_size, inner, qkv_bias, ranks[0])
        self.key = make_linear(query_size, inner, qkv_bias, ranks[1])
        self.value = make_linear(value_size, inner, qkv_bias, ranks[2])
        self.output = make_linear(inner, output_size, rank=ranks[3])

    def forward(
        self, queries: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Mix the values of all tokens by how well query and key agree.

        Args:
            queries: float (batch, sequence, query_size), read by query and key.
            values: float (batch, sequence, value_size); the same tensor but in a bottleneck.
            mask: added to the scores, (batch or 1, heads or 1, query or 1, key); None without
                padding.

        Returns:
            float (batch, sequence, output_size).
        """
        batch, length, _ = queries.shape
        split = (batch, length, self.num_heads, self.head_dim)
        query = self.query(queries).view(split).transpose(1, 2)
        key = self.key(queries).view(split).transpose(1, 2)
        value = self.value(values).view(split).transpose(1, 2)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        merged = context.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim)
        output: torch.Tensor = self.output(merged)
        return output
