"""Figures from raw samples: percentiles, and a mean with an interval.

Nothing is smoothed or trimmed. NumPy is imported only where it is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000
CONFIDENCE = 0.95
_SEED = 2026


@dataclass(frozen=True)
class Interval:
    """A mean, and between which values it lies with 95 % confidence."""

    mean: float
    low: float
    high: float


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear interpolation between the ordered samples (NumPy's default); 0 <= percent <= 100."""
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(samples: Sequence[float]) -> float:
    """The middle of the samples; 0 of none."""
    return percentile(samples, 50) if samples else 0.0


def mean_interval(samples: Sequence[float]) -> Interval:
    """The mean with its percentile bootstrap interval (Efron 1979), from a fixed seed.

    2000 resamples. The interval says how well this run knows its own mean; samples that follow
    each other are not independent, and another run on another day differs by more.

    Args:
        samples: at least one.
    """
    import numpy as np

    values = np.asarray(samples, np.float64)
    choices = np.random.default_rng(_SEED).integers(0, len(values), (RESAMPLES, len(values)))
    means = values[choices].mean(axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high))
