"""Is one run better than another? On the same texts, over all seeds that both have."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.compress.result import Result, flags
from edgeformer.uncertainty import Interval, bootstrap, mcnemar

Rights = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """How many points one run is above another, on the same texts.

    Attributes:
        points: difference of the accuracies, in percent.
        interval: of it, from a paired bootstrap over the texts, seeds averaged.
        p_mid: of McNemar's test (mid-p) with the first seed.
        seeds: that went in.
    """

    points: float
    interval: Interval
    p_mid: float
    seeds: int

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval does not hold 0, else ``no difference``."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "no difference shown"


def difference(ours: Rights, theirs: Rights) -> Difference:
    """Compare runs by the answers that each seed has right.

    Args:
        ours: for each seed 1 or 0 for each text, float64 (texts,).
        theirs: the same; one run for all seeds, or as many.
    """
    each = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    interval = bootstrap(lambda rows: float(each[rows].mean()), len(each))
    test = mcnemar(ours[0] > 0, theirs[0] > 0)
    return Difference(
        points=100 * float(each.mean()),
        interval=Interval(100 * interval.low, 100 * interval.high),
        p_mid=test.p_mid,
        seeds=len(ours),
    )


def against_teacher(runs: Sequence[Result], teacher: Result) -> Difference:
    """The int8 answers of the chosen engine against the teacher's in float32; PyTorch's answers
    where no seed passed the conversion."""
    int8 = [flags(r.int8_right) for r in runs if r.int8_right]
    return difference(int8 or [flags(r.right) for r in runs], [flags(teacher.right)])


def against_control(runs: Sequence[Result], controls: Sequence[Result]) -> Difference | None:
    """Both in PyTorch; None where they have no seed in common."""
    found = {control.seed: control for control in controls}
    pairs = [(run, found[run.seed]) for run in runs if run.seed in found]
    if not pairs:
        return None
    return difference([flags(r.right) for r, _ in pairs], [flags(c.right) for _, c in pairs])
