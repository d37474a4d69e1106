"""Reweighted proximal pruning: weights shrink to exactly zero, the small ones fastest.

Guo et al., "Reweighted Proximal Pruning for Large-Scale Language Representation", arXiv 1909.12486,
algorithm 1. The penalty never enters the optimiser's moments:

    alphas = [reweighting(weight, epsilon) for weight in weights]       # now and then
    optimiser.step()                                                    # on the loss alone
    proximal_step(weights, alphas, learning_rate * gamma)               # after each step

Then ``masks.add_masks(model, "fixed")`` keeps the zeros while a task is trained.
"""

from collections.abc import Iterable

import torch


def soft_threshold(values: torch.Tensor, thresholds: torch.Tensor | float) -> torch.Tensor:
    """``sign(v) * max(|v| - t, 0)``: the proximal operator of a weighted l1 norm.

    Args:
        values: float, any shape.
        thresholds: at least 0, of the same shape or one number.
    """
    return values.sign() * (values.abs() - thresholds).clamp(min=0)


def reweighting(weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """``1 / (|w| + epsilon)``: how hard each weight is pulled to zero; shaped as ``weight``."""
    return 1 / (weight.detach().abs() + epsilon)


@torch.no_grad()
def proximal_step(
    weights: Iterable[torch.Tensor], alphas: Iterable[torch.Tensor], strength: float
) -> None:
    """Shrink weights in place by ``strength * alpha`` each, to 0 at most.

    Args:
        weights: parameters after the optimiser's step.
        alphas: of ``reweighting``, one for each.
        strength: learning rate times gamma, the weight of the penalty.
    """
    for weight, alpha in zip(weights, alphas, strict=True):
        weight.copy_(soft_threshold(weight, strength * alpha))
