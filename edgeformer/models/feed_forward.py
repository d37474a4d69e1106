"""The position-wise feed-forward block: widen, activate, narrow.

Vaswani et al., arXiv 1706.03762, equation 2, with the activation of the checkpoint.
"""

import torch
from torch import nn

from edgeformer.models.config import ACTIVATIONS
from edgeformer.models.low_rank import make_linear


class FeedForward(nn.Module):
    """``down(activation(up(x)))``.

    Args:
        hidden_size: width of the hidden states.
        intermediate_size: width between the two linear maps.
        activation: a key of ``ACTIVATIONS``.
        ranks: of both linear maps; 0 for one matrix.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        ranks: tuple[int, ...] = (0, 0),
    ) -> None:
        super().__init__()
        self.up = make_linear(hidden_size, intermediate_size, rank=ranks[0])
        self.down = make_linear(intermediate_size, hidden_size, rank=ranks[1])
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float (batch, sequence, hidden) to the same shape."""
        narrowed: torch.Tensor = self.down(self.activation(self.up(hidden)))
        return narrowed
