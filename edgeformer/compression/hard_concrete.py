"""Gates that learn whether to be open: random in training, and exactly 0 or 1 more often than not.

Louizos, Welling and Kingma, "Learning Sparse Neural Networks through L0 Regularization", arXiv
1712.01312, section 3; used on heads and neurons by McCarley et al. (arXiv 1910.06360) and on rank-1
components by FLOP (Wang et al., arXiv 1910.04732). With u uniform in (0, 1):

    s = sigmoid((ln u - ln(1 - u) + logit) / temperature)
    gate = clip(s * (high - low) + low, 0, 1)
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class HardConcrete:
    """Settings of the distribution; the logits of the gates, float of any shape, are trained.

    Attributes:
        temperature: beta; FLOP has 1.0.
        low: gamma, below 0.
        high: zeta, above 1.
    """

    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1

    def sample(
        self, logits: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Random gates in [0, 1], shaped as ``logits``; gradients flow to the logits."""
        uniform = torch.rand(
            logits.shape, generator=generator, device=logits.device, dtype=logits.dtype
        )
        noise = uniform.clamp(1e-6, 1 - 1e-6).logit()
        return self._stretched(torch.sigmoid((noise + logits) / self.temperature))

    def settled(self, logits: torch.Tensor) -> torch.Tensor:
        """The gates without noise, in [0, 1], for evaluation and for cutting."""
        return self._stretched(torch.sigmoid(logits))

    def open_probability(self, logits: torch.Tensor) -> torch.Tensor:
        """The probability that a gate is not 0. Its sum is the expected number of open gates, the
        L0 penalty."""
        return torch.sigmoid(logits - self.temperature * math.log(-self.low / self.high))

    def _stretched(self, concrete: torch.Tensor) -> torch.Tensor:
        return (concrete * (self.high - self.low) + self.low).clamp(0, 1)
