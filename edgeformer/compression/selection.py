"""From scores to what stays: masks of the form ``Values``, bool, for gates and for ``slim``."""

import math
from collections.abc import Sequence

import torch

from edgeformer.compression.units import Values
from edgeformer.errors import UsageError


def keep_best(
    scores: Values,
    *,
    fraction: float | None = None,
    count: int | None = None,
    per: str = "model",
    minimum: int = 1,
) -> Values:
    """Keep the units with the highest scores.

    Args:
        scores: float (units,) for each place. Of equal scores, the first stays.
        fraction: share of the units that stays, above 0 up to 1, rounded to whole units.
        count: how many stay, instead of ``fraction``.
        per: ``model``: fraction or count are of all units, which are ranked together; ``place``:
            of each place, which are ranked alone, so that all of one size keep as many
            (FastFormers, arXiv 2010.13382).
        minimum: units that stay of each place however low they score.

    Returns:
        bool (units,) for each place.

    Raises:
        UsageError: neither or both of fraction and count, or a target that no mask can meet: it
            keeps nothing, fewer than the minimum of each place, or more than there is.
    """
    if per not in ("model", "place"):
        raise UsageError(f"no ranking per {per!r}", hint="choose from: model, place")
    if any(values.isnan().any() for values in scores):
        raise UsageError("scores that are not numbers (NaN) cannot be ranked")
    if per == "place":
        return tuple(
            _best((values,), _target((values,), fraction, count, minimum), minimum)[0]
            for values in scores
        )
    return _best(scores, _target(scores, fraction, count, minimum), minimum)


def _target(scores: Values, fraction: float | None, count: int | None, minimum: int) -> int:
    """How many units stay of the places of ``scores`` together."""
    if (fraction is None) == (count is None):
        raise UsageError("say how much to keep: either fraction or count")
    sizes = [len(values) for values in scores]
    asked = math.floor(fraction * sum(sizes) + 0.5) if fraction is not None else count or 0
    least = sum(min(size, minimum) for size in sizes)
    said = f"fraction={fraction}" if fraction is not None else f"count={count}"
    if asked < 1 or minimum < 1:
        raise UsageError(
            f"{said} with minimum={minimum} would remove all of {sum(sizes)} units",
            hint="keep at least one of each place",
        )
    if not least <= asked <= sum(sizes):
        raise UsageError(
            f"{said} asks to keep {asked} of {sum(sizes)} units, and at least {minimum} of each of"
            f" {len(sizes)} places stay",
            hint=f"keep between {least} and {sum(sizes)}",
        )
    return asked


def _best(scores: Values, count: int, minimum: int) -> Values:
    masks = [_top(values, min(minimum, len(values))) for values in scores]
    joined = torch.cat(masks)
    # What the minimum keeps goes first, then the rest by rank.
    ranked = torch.where(joined, torch.inf, torch.cat(scores).float())
    return torch.split(_top(ranked, count), [len(values) for values in scores])


def _top(values: torch.Tensor, count: int) -> torch.Tensor:
    """Bool: true for the ``count`` highest; of equal ones the first."""
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.sort(descending=True, stable=True).indices[:count]] = True
    return mask


def keep_above(scores: Values, threshold: float) -> Values:
    """Keep the units that score above a threshold, and the best of each place anyway.

    With scores by ``cosine``, and 1 - threshold for the cosine, this is contribution-based dropping
    of layers (Sajjad et al., arXiv 2004.03844).
    """
    return tuple((values > threshold) | _top(values, 1) for values in scores)


def normalized_by_place(scores: Values) -> Values:
    """Scores divided by the Euclidean norm of their place's.

    Michel et al., arXiv 1905.10650, section 4.1, following Molchanov et al. It changes nothing
    within a place, so nothing where places are ranked alone.
    """
    tiny = torch.finfo(torch.float32).tiny
    return tuple(values / values.norm().clamp(min=tiny) for values in scores)


def keep_listed(units: int, stay: Sequence[int]) -> Values:
    """The mask of one place of which the listed units stay (DistilBERT's layers, say).

    Raises:
        UsageError: a number that is not below ``units``, twice there, or none.
    """
    if not stay or len(set(stay)) < len(stay) or min(stay) < 0 or max(stay) >= units:
        raise UsageError(f"{list(stay)} does not list some of the numbers 0 to {units - 1} once")
    mask = torch.zeros(units, dtype=torch.bool)
    mask[list(stay)] = True
    return (mask,)
