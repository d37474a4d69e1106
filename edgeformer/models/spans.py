"""How far each head looks: keys further away than its span are left out of its attention.

Sukhbaatar et al., "Adaptive Attention Span in Transformers", arXiv 1905.07799, for encoders as in
EdgeBERT (arXiv 2011.14203, section III-C), with spans that are learned already
(compression/soft_spans.py): a query at place i sees keys at places j with |i - j| <= span, and
always the first token, which stands for the text.
"""

import torch
from torch import nn

from edgeformer.models.attention import PADDING_SCORE


class AttentionSpans(nn.Module):
    """What the heads of a layer add to their attention scores.

    The mask depends on places in the text alone, so that texts can still be packed one after the
    other without padding (converters/plan/pack.py).

    Args:
        spans: for each head the furthest distance at which it sees a key, in tokens.
    """

    spans: torch.Tensor

    def __init__(self, spans: tuple[int, ...]) -> None:
        super().__init__()
        # On the CPU by name: a model built on the meta device has no other values than its weights.
        numbers = torch.tensor(spans, dtype=torch.float32, device="cpu").view(1, -1, 1, 1)
        self.register_buffer("spans", numbers, persistent=False)

    def forward(self, length: int, mask: torch.Tensor) -> torch.Tensor:
        """``mask``, float (batch, heads or 1, query or 1, key), and what is too far away.

        Args:
            length: of the texts, in tokens.
            mask: what all heads add already.

        Returns:
            float (batch, heads, query, key).
        """
        distance = distances(length, mask.device)
        # Whole numbers: at most 0 for a key in sight, 1 or more beyond.
        beyond = (distance - self.spans).clamp(min=0.0, max=1.0)
        return beyond * not_first(length, mask.device) * PADDING_SCORE + mask


def distances(length: int, device: torch.device) -> torch.Tensor:
    """Float (1, 1, query, key): how far apart two places are, in tokens."""
    places = torch.arange(length, device=device).float()
    return (places[None, :] - places[:, None]).abs()[None, None]


def not_first(length: int, device: torch.device) -> torch.Tensor:
    """Float (1, 1, 1, key): 0 for the first key, 1 for the others."""
    return torch.arange(length, device=device).float().clamp(max=1.0)[None, None, None]
