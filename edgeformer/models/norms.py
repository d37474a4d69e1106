"""The normalisations that an encoder may use, by name.

LayerNorm: Ba et al., arXiv 1607.06450. NoNorm: Sun et al., "MobileBERT", arXiv 2004.02984, section
3.3: no statistics of the token, so nothing to compute but a scale and a shift. RMSNorm: Zhang and
Sennrich, arXiv 1910.07467.
"""

import torch
from torch import nn


class NoNorm(nn.Module):
    """``x * weight + bias``.

    Args:
        size: width of the hidden states.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float (..., size) to the same shape."""
        return hidden * self.weight + self.bias


def make_norm(kind: str, size: int, eps: float) -> nn.Module:
    """The normalisation ``kind`` (of ``config.NORMS``) over the last axis of width ``size``."""
    if kind == "no_norm":
        return NoNorm(size)
    if kind == "rms_norm":
        return nn.RMSNorm(size, eps=eps)
    return nn.LayerNorm(size, eps=eps)
