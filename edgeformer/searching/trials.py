"""What a search to a budget tried, and which of it is taken: pure functions over results.

A trial is one candidate, evaluated and measured. ``Budget`` says what it may cost; drops are in
points, hundredths of the main figure of the data, and positive where a candidate is worse than the
original.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeformer.errors import UsageError
from edgeformer.searching.candidates import Candidate
from edgeformer.uncertainty import Interval


@dataclass(frozen=True)
class Trial:
    """One candidate and what became of it.

    Attributes:
        candidate: what was made.
        size_mb: of the model files, in MB (1e6 bytes).
        metric: main figure of the data; None where it was not evaluated.
        drop: points that it is below the original's.
        interval: that holds the drop with 95 % confidence.
        p_value: McNemar's mid-p that both are equally good; None where answers are not right or
            wrong.
        p50_ms: median time of one text to its answer, a mean where ``mean_time`` is set; None
            where it was not measured.
        void: what disturbed the measurement; empty if nothing did.
        note: what a user should know of it.
        problem: why there is no bundle or no figure; empty if there is.
        mean_time: ``p50_ms`` is the mean time of a text that may leave early.
    """

    candidate: Candidate
    size_mb: float = 0.0
    metric: float | None = None
    drop: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    p50_ms: float | None = None
    void: str = ""
    note: str = ""
    problem: str = ""
    mean_time: bool = False

    @property
    def works(self) -> bool:
        """True if it was made and measured."""
        return not self.problem and self.p50_ms is not None


@dataclass(frozen=True)
class Budget:
    """What a bundle may cost; at least one of the two.

    Attributes:
        max_drop: points that the main figure may be below the original's.
        max_latency_ms: largest p50 of one text.
    """

    max_drop: float | None
    max_latency_ms: float | None

    def __post_init__(self) -> None:
        """Raises UsageError for no limit at all, or one that is no limit."""
        if self.max_drop is None and self.max_latency_ms is None:
            raise UsageError(
                "a search needs a budget", hint="set --max-drop, --max-latency-ms, or both"
            )
        if self.max_drop is not None and not 0 <= self.max_drop < math.inf:
            raise UsageError(
                f"--max-drop {self.max_drop:g} is not a number of points from 0 up",
                hint="--max-drop 0.5 allows half a point, 0.005 of an accuracy",
            )
        if self.max_latency_ms is not None and not 0 < self.max_latency_ms < math.inf:
            raise UsageError(
                f"--max-latency-ms {self.max_latency_ms:g} is not a time above 0",
                hint="--max-latency-ms 30 allows 30 ms for the median text",
            )

    def holds_drop(self, trial: Trial) -> bool:
        """True if the drop is within the budget, or was not asked for."""
        if self.max_drop is None:
            return trial.works
        return trial.works and trial.drop is not None and trial.drop <= self.max_drop + 1e-9

    def holds_latency(self, trial: Trial) -> bool:
        """True if the time is within the budget, or was not asked for."""
        if self.max_latency_ms is None:
            return trial.works
        return trial.p50_ms is not None and trial.p50_ms <= self.max_latency_ms

    def holds(self, trial: Trial) -> bool:
        """True if both are."""
        return self.holds_drop(trial) and self.holds_latency(trial)


def settled(trials: Sequence[Trial], budget: Budget) -> bool:
    """True if nothing that could still be tried would be taken instead.

    With both limits the first trial that holds them ends the search. With a time alone, the first
    that holds it does if it answers as the original (fp32, nothing cut), or if no data can tell a
    better one. With a drop alone the fastest is wanted, so everything is tried.
    """
    if not trials or budget.max_latency_ms is None or not budget.holds(trials[-1]):
        return False
    last = trials[-1]
    return budget.max_drop is not None or last.metric is None or last.candidate.exact


def choose(trials: Sequence[Trial], budget: Budget) -> int | None:
    """Place of the trial that is taken; None if none holds the budget.

    Both limits: the first that holds them. A drop alone: the fastest. A time alone: the one with
    the smallest drop, the first of equal ones.
    """
    held = [i for i, trial in enumerate(trials) if budget.holds(trial)]
    if not held:
        return None
    if budget.max_latency_ms is None:
        return min(held, key=lambda i: trials[i].p50_ms or 0.0)
    if budget.max_drop is None:
        return min(held, key=lambda i: trials[i].drop or 0.0)
    return held[0]


def pareto(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Places of the trials that no other beats: none is as fast with a smaller drop.

    Without drops, that is the fastest alone.
    """
    points = [
        (trial.p50_ms, trial.drop or 0.0, place)
        for place, trial in enumerate(trials)
        if trial.works and trial.p50_ms is not None
    ]
    front, least = [], math.inf
    for _, drop, place in sorted(points):
        if drop < least:
            front.append(place)
            least = drop
    return tuple(sorted(front))


def nearest(trials: Sequence[Trial], budget: Budget) -> int | None:
    """Place of the trial that misses the budget by the least; None if none was measured.

    The miss is the larger of two shares: of the time, over its limit; of the drop, over its limit
    (over one point where the limit is below).
    """
    misses = [(_miss(trial, budget), i) for i, trial in enumerate(trials) if trial.works]
    return min(misses)[1] if misses else None


def _miss(trial: Trial, budget: Budget) -> float:
    late = worse = 0.0
    if budget.max_latency_ms is not None and trial.p50_ms is not None:
        late = trial.p50_ms / budget.max_latency_ms - 1
    if budget.max_drop is not None and trial.drop is not None:
        worse = (trial.drop - budget.max_drop) / max(1.0, budget.max_drop)
    return max(late, worse)


def concessions(trials: Sequence[Trial], budget: Budget) -> tuple[str, ...]:
    """Budgets that would have been held, each with what holds it: one limit given up a little."""
    found = []
    fast = [t for t in trials if t.works and budget.holds_latency(t) and t.drop is not None]
    if fast and budget.max_drop is not None:
        best = min(fast, key=lambda t: t.drop or 0.0)
        points = math.ceil((best.drop or 0.0) * 100 - 1e-6) / 100
        found.append(f"--max-drop {points:g} would take {best.candidate.name}")
    right = [t for t in trials if budget.holds_drop(t)]
    if right and budget.max_latency_ms is not None:
        best = min(right, key=lambda t: t.p50_ms or 0.0)
        limit = math.ceil((best.p50_ms or 0.0) * 10) / 10
        found.append(f"--max-latency-ms {limit:g} would take {best.candidate.name}")
    return tuple(found)
