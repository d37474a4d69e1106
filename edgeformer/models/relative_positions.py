"""A bias on attention scores by the distance between query and key.

Raffel et al., "T5", arXiv 1910.10683, section 2.1; used by MPNet (Song et al., arXiv 2004.09297).
Near distances have a row of the table each, far ones share rows on a logarithmic scale.
"""

import math

import torch
from torch import nn

MAX_DISTANCE = 128
"""From this distance on there is one row for each direction."""


class RelativePositions(nn.Module):
    """One table for all layers.

    Args:
        num_buckets: rows of the table, half for keys before the query and half for those behind.
        num_heads: heads of each layer.
        max_positions: longest input in tokens.
    """

    buckets: torch.Tensor

    def __init__(self, num_buckets: int, num_heads: int, max_positions: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_buckets, num_heads)
        self.longest = max_positions
        # The bucket of each distance is looked up, so that the exported graph has no logarithms.
        # On the CPU by name: a model built on the meta device has no other values than its weights.
        distances = torch.arange(1 - max_positions, max_positions, device="cpu")
        self.register_buffer("buckets", bucket(distances, num_buckets), persistent=False)

    def forward(self, length: int, device: torch.device) -> torch.Tensor:
        """The bias of a text of ``length`` tokens: float (1, heads, query, key)."""
        places = torch.arange(length, device=device)
        distances = places[None, :] - places[:, None] + (self.longest - 1)
        bias: torch.Tensor = self.table(self.buckets[distances])
        return bias.permute(2, 0, 1).unsqueeze(0)


def bucket(distance: torch.Tensor, num_buckets: int) -> torch.Tensor:
    """Row of the table for each distance (key position minus query position), int64."""
    half = num_buckets // 2
    near = half // 2
    far = distance.abs()
    scale = (half - near) / math.log(MAX_DISTANCE / near)
    logarithmic = near + (torch.log(far.clamp(min=1).float() / near) * scale).long()
    row = torch.where(far < near, far, logarithmic.clamp(max=half - 1))
    return row + (distance > 0).long() * half
