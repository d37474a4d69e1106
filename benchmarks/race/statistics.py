"""Medians, paired ratios and their intervals.

Contenders take turns within a round, so that whatever else the machine does hits all alike. What
is compared is therefore the ratio within each round; rounds are what the bootstrap draws from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rounds = Sequence[Sequence[float]]  # samples of each round
_DRAWS = 2000


@dataclass(frozen=True)
class Ratio:
    """Median over the rounds of a ratio, and the interval that holds it in 95 % of resamples."""

    median: float
    low: float
    high: float


def round_medians(rounds: Rounds) -> NDArray[np.float64]:
    """float64 (rounds,): the median sample of each round."""
    return np.array([np.median(samples) for samples in rounds])


def median(rounds: Rounds) -> float:
    """Median over the rounds of their medians, in the samples' unit."""
    return float(np.median(round_medians(rounds)))


def speedup(rounds: Rounds, baseline: Rounds, seed: int = 0) -> Ratio:
    """How many times faster than ``baseline``: above 1 is faster.

    A percentile bootstrap (Efron 1979) over paired rounds.

    Raises:
        ValueError: unequal or no rounds.
    """
    if not rounds or len(rounds) != len(baseline):
        raise ValueError(f"{len(rounds)} rounds cannot be paired with {len(baseline)}")
    ratios = round_medians(baseline) / round_medians(rounds)
    picks = np.random.default_rng(seed).integers(0, len(ratios), (_DRAWS, len(ratios)))
    low, high = np.quantile(np.median(ratios[picks], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 (texts,): cosine between the rows of two (texts, hidden); 0 where one is not finite.

    Raises:
        ValueError: unequal shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} cannot be compared")
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    with np.errstate(all="ignore"):
        found: NDArray[np.float64] = np.nan_to_num(
            (x * y).sum(axis=1) / norms, nan=0.0, posinf=0.0, neginf=0.0
        )
    return found
