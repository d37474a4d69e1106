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


class ResidualScale(nn.Module):
    """What is left of a NoNorm after a residual sum, once its linear map has its scale and shift
    (folding.py).

    Args:
        weight: the NoNorm's, (size,).
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, added: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """``added + residual * weight``, float (..., size) each."""
        return added + residual * self.weight


def add_and_norm(norm: nn.Module, added: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """``norm(added + residual)``, float (..., size) each."""
    folded = isinstance(norm, ResidualScale)
    result: torch.Tensor = norm(added, residual) if folded else norm(added + residual)
    return result


def make_norm(kind: str, size: int, eps: float) -> nn.Module:
    """The normalisation ``kind`` (of ``config.NORMS``) over the last axis of width ``size``."""
    if kind == "no_norm":
        return NoNorm(size)
    if kind == "rms_norm":
        return nn.RMSNorm(size, eps=eps)
    return nn.LayerNorm(size, eps=eps)
