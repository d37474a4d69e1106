"""Bundles timed in turns, each in a process of its own, and in several such processes.

All processes are started anew ``STARTS`` times: where a process happens to lie in memory changes
its speed by a percent or so, and no number of calls in one process can tell that from the bundle's
own speed. Within a start every round gives each bundle its turn, in rotating order, and only one
process computes at a time: whatever disturbs the machine for longer than a round disturbs all
alike. What is compared is the ratio within each round; each start gives one ratio.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeformer.benchmarking.workload import DEFAULT_TOKENS, Workload, make_workload
from edgeformer.comparison.answers import TEXT_TASKS
from edgeformer.errors import EngineError, UsageError
from edgeformer.isolation import Worker
from edgeformer.machine import describe_machine, disturbances, read_state
from edgeformer.report.statistics import percentile
from edgeformer.uncertainty import Ratio, median_interval

STARTS = MIN_STARTS = 6  # fewer values have no 95 % interval of their median
_ROUNDS, _WARM_ROUNDS = 4, 2
_TURN_MS = 100.0  # short calls are repeated for about so long in each turn
_MOST_CALLS = 50
_STUCK_SECONDS = 600.0
_MODULE = "edgeformer.comparison.worker"


@dataclass(frozen=True)
class Start:
    """One process of a bundle.

    Attributes:
        cold_ms: from its start to its first answer; model files in the page cache.
        load_ms: of ``load(...)``, NumPy's import included.
        peak_rss_mb: largest resident memory, in MB (1e6 bytes).
        rounds_ms: for each round its calls, text to answer.
    """

    cold_ms: float
    load_ms: float
    peak_rss_mb: float
    rounds_ms: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Timing:
    """One bundle's times.

    Attributes:
        bundle: number of the bundle, from 0.
        variant: that answered; ``threads``: that it used.
        starts: its processes.
        figures: by the names of ``conditions.METRICS``: percentiles of all calls, medians of
            ``cold`` and ``load``, the largest ``rss``.
        ratio: to the first bundle, median over the starts; None for the first itself.
    """

    bundle: int
    variant: str
    threads: int
    starts: tuple[Start, ...]
    figures: dict[str, float]
    ratio: Ratio | None = None


def race(
    paths: Sequence[str | os.PathLike[str]],
    engine: str,
    threads: int | None,
    tokens: int | None,
    starts: int | None,
    tell: Callable[[str], None],
) -> tuple[tuple[Timing, ...], tuple[str, ...]]:
    """Time bundles in turns; their times, and what makes these less than trustworthy.

    Arguments are those of ``comparison.compare_bundles``.

    Raises:
        UsageError: too few starts, or a bundle that takes no texts of that length.
        EngineError: a bundle that does not open or dies.
    """
    count = STARTS if starts is None else starts
    if count < MIN_STARTS:
        raise UsageError(f"{count} starts are too few to compare", hint=f"at least {MIN_STARTS}")
    request = {"engine": engine, "threads": threads, "workload": asdict(_workload(paths, tokens))}
    machine, before = describe_machine(), read_state()
    order = list(range(len(paths)))
    found: list[list[_Runner]] = [[] for _ in paths]
    for number in range(count):
        tell(f"start {number + 1} of {count}")
        with contextlib.ExitStack() as stack:
            for place in order:
                runner = _Runner(str(paths[place]), time.perf_counter(), Worker(_MODULE))
                stack.callback(runner.worker.close)
                runner.open(request)
                found[place].append(runner)
            _take_turns([found[place][-1] for place in order])
        order.append(order.pop(0))
    timings = tuple(_timing(i, runners, found[0]) for i, runners in enumerate(found))
    return timings, disturbances(machine, before, read_state())


@dataclass
class _Runner:
    """A bundle in one process.

    Attributes:
        path: of the bundle.
        began: ``time.perf_counter()`` just before the process was started.
        worker: the process.
        opened: what it said of opening.
        peak_rss_mb: after its last turn.
        rounds: the calls of each round, in ms.
    """

    path: str
    began: float
    worker: Worker
    opened: dict[str, Any] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    rounds: list[tuple[float, ...]] = field(default_factory=list)

    def open(self, request: dict[str, Any]) -> None:
        """Load the bundle and call it once. Raises EngineError if it does not."""
        path = str(Path(self.path).absolute())
        self.opened = self._ask({"open": {"path": path, **request}})

    def turn(self) -> None:
        """Its calls of one round. Raises EngineError if the process dies."""
        took_ms = statistics.median(self.rounds[-1]) if self.rounds else self.opened["first_ms"]
        calls = max(1, min(_MOST_CALLS, round(_TURN_MS / max(took_ms, 1e-3))))
        answer = self._ask({"calls": calls})
        self.rounds.append(tuple(answer["ms"]))
        self.peak_rss_mb = answer["peak_rss_mb"]

    def result(self) -> Start:
        """What was timed."""
        cold_ms = (self.opened["first_answer_clock"] - self.began) * 1000
        return Start(cold_ms, self.opened["load_ms"], self.peak_rss_mb, tuple(self.rounds))

    def ratio(self, first: "_Runner") -> float:
        """Median over the rounds of the ratio of the calls' medians."""
        rounds = zip(self.rounds, first.rounds, strict=True)
        return statistics.median(statistics.median(a) / statistics.median(b) for a, b in rounds)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        outcome = self.worker.ask(request, _STUCK_SECONDS)
        if outcome.answer is None:
            raise EngineError(
                f"{self.path} could not be measured: {outcome.failure}",
                hint=outcome.hint or "edgeformer doctor",
            )
        return outcome.answer


def _take_turns(runners: Sequence[_Runner]) -> None:
    """The rounds of one start, after some that warm up and are forgotten."""
    order = list(runners)
    for _ in range(_WARM_ROUNDS + _ROUNDS):
        for runner in order:
            runner.turn()
        order.append(order.pop(0))
    for runner in runners:
        del runner.rounds[:_WARM_ROUNDS]


def _timing(number: int, runners: Sequence[_Runner], first: Sequence[_Runner]) -> Timing:
    starts = tuple(runner.result() for runner in runners)
    calls = [ms for start in starts for turn in start.rounds_ms for ms in turn]
    figures = {f"p{percent}": percentile(calls, percent) for percent in (50, 90, 95, 99)}
    figures |= {
        "mean": statistics.fmean(calls),
        "load": statistics.median(start.load_ms for start in starts),
        "cold": statistics.median(start.cold_ms for start in starts),
        "rss": max(start.peak_rss_mb for start in starts),
    }
    ratio = None
    if number:
        ratios = np.array([a.ratio(b) for a, b in zip(runners, first, strict=True)])
        ratio = Ratio(float(np.median(ratios)), median_interval(ratios))
    last = runners[-1].opened
    return Timing(number, last["variant"], last["threads"], starts, figures, ratio)


def _workload(paths: Sequence[str | os.PathLike[str]], tokens: int | None) -> Workload:
    """The text of every call, made with the first bundle's tokenizer; all files are read once, so
    that they lie in the page cache for all alike."""
    from edgeformer.runtime.bundle import open_bundle

    with contextlib.ExitStack() as stack:
        bundles = [stack.enter_context(open_bundle(path)) for path in paths]
        cards = [bundle.manifest.model for bundle in bundles]
        for path, card in zip(paths, cards, strict=True):
            texts = card.task in TEXT_TASKS and card.max_length > 0
            if not texts or card.task != cards[0].task:
                raise UsageError(
                    f"{path} is for {card.task}, the first bundle for {cards[0].task}: they cannot"
                    " be timed on the same texts",
                    hint="edgeformer benchmark measures each by itself",
                )
        longest = min(card.max_length for card in cards)
        if tokens is not None and tokens > longest:
            raise UsageError(
                f"--tokens {tokens} is above {longest}, what all of the models take",
                hint=f"--tokens {longest}",
            )
        for bundle in bundles:
            bundle.check(bundle.manifest.files)
        return make_workload(bundles[0], None, tokens or min(DEFAULT_TOKENS, longest), 1)
