"""The position-wise feed-forward block: widen, activate, narrow.

Vaswani et al., arXiv 1706.03762, equation 2, with the activation of the checkpoint.
"""

import torch
from torch import nn

from edgeformer.models.config import ACTIVATIONS


class FeedForward(nn.Module):
    """``down(activation(up(x)))``.

    Args:
        hidden_size: width of the hidden states.
        intermediate_size: width between the two linear maps.
        activation: a key of ``ACTIVATIONS``.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size)
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float (batch, sequence, hidden) to the same shape."""
        narrowed: torch.Tensor = self.down(self.activation(self.up(hidden)))
        return narrowed
