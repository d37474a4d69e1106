"""Records of a report: what early exits save, and what that costs.

An ``ExitRun`` is what exits did with some texts, in an evaluation or a benchmark; a
``Calibration`` what the conversion promised of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeformer.report.statistics import median
from edgeformer.runtime.manifest import ExitPoint


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy (0 to 1) and mean layers of a text at a threshold."""

    threshold: float
    mean_layers: float
    accuracy: float


@dataclass(frozen=True)
class ExitTimes:
    """Times of single texts in three ways, taken in turns: the n-th call of each was of the same
    text.

    Attributes:
        timed_texts: how many different ones; a round of calls goes through all of them in order.
        threads: that the engine used.
        with_ms: every call with exits.
        without_ms: without them: all layers as one program.
        worst_ms: with exits, and none of them taken: all layers, one segment after the other.
        with_mj, without_mj, worst_mj: energy of one text in mJ, the mean of such rounds; None where
            no meter can be read.
        meter: what was read.
    """

    timed_texts: int
    threads: int
    with_ms: tuple[float, ...]
    without_ms: tuple[float, ...]
    worst_ms: tuple[float, ...]
    with_mj: float | None = None
    without_mj: float | None = None
    worst_mj: float | None = None
    meter: str = ""

    @property
    def mean_ms(self) -> float:
        """Of a text with exits: the mean over texts of the median of a text's calls."""
        return self._mean(self.with_ms)

    @property
    def mean_ms_without(self) -> float:
        """The same without exits."""
        return self._mean(self.without_ms)

    @property
    def mean_ms_worst(self) -> float:
        """The same of texts that leave nowhere."""
        return self._mean(self.worst_ms)

    @property
    def ratio(self) -> float:
        """``mean_ms`` over ``mean_ms_without``: below 1 exits save time."""
        return self.mean_ms / self.mean_ms_without if self.mean_ms_without else 0.0

    @property
    def worst_ratio(self) -> float:
        """``mean_ms_worst`` over ``mean_ms_without``: what exits cost where nothing leaves."""
        return self.mean_ms_worst / self.mean_ms_without if self.mean_ms_without else 0.0

    def _mean(self, samples: tuple[float, ...]) -> float:
        count = self.timed_texts
        return sum(median(samples[n::count]) for n in range(count)) / count


@dataclass(frozen=True)
class ExitRun:
    """What early exits did with some texts.

    Attributes:
        variant: that ran.
        dataset: whose texts.
        layers: ascending, the last is the whole model.
        texts: that left after each.
        threshold: of the exit rule, as it was set; ``auto`` with the threshold it stands for.
        accuracy: of the answers under that rule, None without labels.
        curve: over the range of the criterion, from the strictest threshold on; empty without
            labels.
        times: None where none were taken.
        error: why there are no figures, empty if there are; ``hint``: what to do about it.
        void_reasons: what took the CPU away while this was measured; empty if nothing did.
    """

    variant: str
    dataset: str
    layers: tuple[int, ...]
    texts: tuple[int, ...]
    threshold: str = ""
    accuracy: float | None = None
    curve: tuple[CurvePoint, ...] = ()
    times: ExitTimes | None = None
    error: str = ""
    hint: str = ""
    void_reasons: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """True if there are figures."""
        return not self.error

    @property
    def mean_layers(self) -> float:
        """That a text went through."""
        pairs = zip(self.layers, self.texts, strict=True)
        return sum(layer * count for layer, count in pairs) / (sum(self.texts) or 1)


@dataclass(frozen=True)
class Calibration:
    """The exits of a variant on the texts that conversion chose their threshold by, from the
    manifest.

    Attributes:
        variant: id.
        criterion: ``entropy``, ``probability`` or ``patience``.
        threshold: what ``exit="auto"`` means; None where none kept the budget.
        max_drop: the budget, in points.
        texts: calibration texts.
        labelled: they had labels, so that a point's ``drop`` is of accuracy; else it is of answers
            that change.
        layers: of the whole model.
        curve: from the strictest threshold on: ``threshold``, ``mean_layers``, ``drop`` in points,
            and ``bound``, the upper end of its one-sided 95 % interval.
    """

    variant: str
    criterion: str
    threshold: float | None
    max_drop: float
    texts: int
    labelled: bool
    layers: int
    curve: tuple[ExitPoint, ...]

    @property
    def chosen(self) -> ExitPoint | None:
        """The point of ``threshold``."""
        return next((point for point in self.curve if point.threshold == self.threshold), None)


def derived_times(times: ExitTimes) -> dict[str, float]:
    """What follows from the record, for its JSON."""
    return {
        "mean_ms": times.mean_ms,
        "mean_ms_without": times.mean_ms_without,
        "mean_ms_worst": times.mean_ms_worst,
        "ratio": times.ratio,
        "worst_ratio": times.worst_ratio,
    }


def derived_exits(run: ExitRun) -> dict[str, Any]:
    """Likewise of a run."""
    figures = derived_times(run.times) if run.times else {}
    return {"mean_layers": run.mean_layers, "void": bool(run.void_reasons), **figures}


def check_exit_run(run: ExitRun, refuse: Callable[[str], Any]) -> None:
    """Call ``refuse`` with what no exits can have done."""
    where = f"the exits of {run.variant!r}"
    if len(run.layers) != len(run.texts) or min(run.texts, default=0) < 0:
        refuse(f"{where} do not fit their layers")
    if run.times is None:
        return
    lists = (run.times.with_ms, run.times.without_ms, run.times.worst_ms)
    count = len(lists[0])
    whole = run.times.timed_texts > 0 and count > 0 and count % run.times.timed_texts == 0
    if not whole or any(len(samples) != count for samples in lists):
        refuse(f"{where} have times of other texts than each other's")
    if min(min(samples) for samples in lists) < 0:
        refuse(f"{where} have a negative time")
