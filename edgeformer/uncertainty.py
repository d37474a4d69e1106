"""How sure a figure is: confidence intervals and tests of whether two figures differ.

Everything random has a seed, so that a report can be made again to the last digit. NumPy and the
standard library only; equal to scipy.stats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.metrics import Floats, Ints, ranks

CONFIDENCE = 0.95
DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """Two ends; both NaN where the figure itself is not defined."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """True if ``value`` lies within, ends included."""
        return self.low <= value <= self.high


def wilson(hits: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a share, such as an accuracy.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    Unlike the usual normal interval it stays within 0 and 1 and holds for shares near them.
    """
    if not total:
        return Interval(float("nan"), float("nan"))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = hits / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / total / 4)
    return Interval(
        0.0 if hits == 0 else middle - half,
        1.0 if hits == total else middle + half,
    )


def bootstrap(
    statistic: Callable[[Ints], float],
    size: int,
    *,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3. What is drawn
    with replacement are rows of the data: texts, sentences, or rounds of a measurement. Resamples
    for which the statistic is not defined (NaN) are left out.

    Args:
        statistic: the figure of the rows with the given numbers, intp (size,). For a difference
            between two models it takes the same rows of both: the test is then paired.
        size: number of rows.
        confidence: share of the resamples within the interval.
        draws: number of resamples.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(0, size, size)) for _ in range(draws if size else 0)]
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Interval(float("nan"), float("nan"))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(known, [tail, 100 - tail])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class PairedTest:
    """McNemar's test: is one of two models right more often, on the same texts?

    Attributes:
        only_first, only_second: texts that only one of the two has right; the others say nothing
            about the difference.
        p_exact: probability, if both were equally good, that the two counts differ so much.
        p_mid: the same with the observed outcome counted half; less conservative.
    """

    only_first: int
    only_second: int
    p_exact: float
    p_mid: float


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> PairedTest:
    """The exact binomial test, two-sided, and its mid-p variant.

    Fagerland, Lydersen and Laake, "The McNemar test for binary matched-pairs data: mid-p and
    asymptotic are better than exact conditional", BMC Med Res Methodol 13:91 (2013).

    Args:
        first_right, second_right: bool (texts,): which answers of each model are right.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    # Integers, however large: 2 P(X <= fewer) = 2 below / 2**total.
    term = below = 1
    for k in range(1, fewer + 1):
        term = term * (total - k + 1) // k
        below += term
    exact, mid = min(2 * below, 2**total), 2 * below - term
    return PairedTest(only_first, only_second, exact / 2**total, mid / 2**total)


def paired_interval(test: PairedTest, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the difference between two accuracies on the same texts, first less second.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24:729 (2005): the usual interval after half a text was added to each of
    the four counts, so that two models that never differ have one of more than a point.

    Args:
        test: of the two models.
        total: texts, those on which both agree included.
    """
    if not total:
        return Interval(float("nan"), float("nan"))
    size = total + 2
    first, second = test.only_first + 0.5, test.only_second + 0.5
    middle = (first - second) / size
    spread = math.sqrt((first + second) / size - middle * middle) / math.sqrt(size)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * spread
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def mann_whitney(a: Floats, b: Floats) -> float:
    """Two-sided p-value that one group tends to have larger values than the other.

    Mann and Whitney, "On a test of whether one of two random variables is stochastically larger
    than the other", Annals of Mathematical Statistics 18 (1947): normal approximation with
    corrections for ties and continuity, good from about 8 values a side.
    """
    size_a, size_b = len(a), len(b)
    if not size_a or not size_b:
        return float("nan")
    both = np.concatenate([a, b])
    rank_sum = float(ranks(both)[:size_a].sum())
    u = rank_sum - size_a * (size_a + 1) / 2
    total = size_a + size_b
    ties = np.unique(both, return_counts=True)[1].astype(np.float64)
    lost = float((ties**3 - ties).sum()) / (total * (total - 1))
    deviation = math.sqrt(max(0.0, size_a * size_b / 12 * (total + 1 - lost)))
    distance = max(u, size_a * size_b - u) - size_a * size_b / 2 - 0.5
    if deviation == 0.0:
        return 1.0  # all values are equal
    return min(1.0, math.erfc(distance / deviation / math.sqrt(2)))


@dataclass(frozen=True)
class Ratio:
    """How many times as large: above 1 is larger than the reference."""

    value: float
    interval: Interval

    @property
    def significant(self) -> bool:
        """True if the interval does not hold 1; False where there is none."""
        return self.interval.low > 1.0 or self.interval.high < 1.0


def ratio_of_medians(samples: NDArray[Any], reference: NDArray[Any], seed: int = 0) -> Ratio:
    """Median of ``samples`` over that of ``reference``, two groups taken apart from each other."""
    generator = np.random.default_rng(seed)

    def medians(values: NDArray[Any]) -> Floats:
        picks = generator.integers(0, len(values), (DRAWS, len(values)))
        return np.asarray(np.median(values[picks], axis=1))

    found = medians(samples) / medians(reference)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(found, [tail, 100 - tail])
    value = float(np.median(samples) / np.median(reference))
    return Ratio(value, Interval(float(low), float(high)))


def median_interval(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the median of what the values are drawn from, whatever its distribution.

    The sign test turned around (David and Nagaraja, "Order Statistics", 3rd edition, section 7.1):
    two of the values themselves, the innermost that hold the median with that confidence. Fewer
    than 6 values have none for 95 %.
    """
    size = len(values)
    chances = np.cumsum([2 * math.comb(size, k) / 2**size for k in range(size // 2)])
    inner = int((chances <= 1 - confidence).sum())  # so many values from each end, the last kept
    if not inner:
        return Interval(float("nan"), float("nan"))
    ordered = np.sort(values)
    return Interval(float(ordered[inner - 1]), float(ordered[size - inner]))
