"""Bundles timed in turns, each in a process of its own.

Every round gives each bundle its turn, in rotating order, and only one process computes at a time:
whatever disturbs the machine for longer than a round disturbs all alike. What is compared is the
ratio within each round.
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

from edgeformer.comparison_answers import TEXT_TASKS
from edgeformer.errors import EngineError, UsageError
from edgeformer.isolation import Worker
from edgeformer.machine import describe_machine, disturbances, read_state
from edgeformer.metrics import Floats
from edgeformer.report.statistics import percentile
from edgeformer.uncertainty import Ratio, ratio_of_rounds
from edgeformer.workload import DEFAULT_TOKENS, Workload, make_workload

ROUNDS, MIN_ROUNDS = 20, 5
_WARM_ROUNDS = 2
_TURN_MS = 100.0  # short calls are repeated for about so long in each turn
_MOST_CALLS = 50
_STUCK_SECONDS = 600.0
_MODULE = "edgeformer.comparison_worker"


@dataclass(frozen=True)
class Timing:
    """One bundle's times.

    Attributes:
        bundle: number of the bundle, from 0.
        variant: that answered; ``threads``: that it used.
        rounds_ms: for each round its calls, text to answer, in ms.
        figures: by the names of ``conditions.METRICS``: percentiles of all calls; ``load`` and
            ``cold`` of its one process; ``rss``, the peak at the end.
        ratio: of the round's medians to the first bundle's; None for the first.
    """

    bundle: int
    variant: str
    threads: int
    rounds_ms: tuple[tuple[float, ...], ...]
    figures: dict[str, float]
    ratio: Ratio | None = None


def race(
    paths: Sequence[str | os.PathLike[str]],
    engine: str,
    threads: int | None,
    tokens: int | None,
    rounds: int | None,
    tell: Callable[[str], None],
) -> tuple[tuple[Timing, ...], tuple[str, ...]]:
    """Time bundles in turns; their times, and what makes these less than trustworthy.

    Arguments are those of ``comparison.compare_bundles``.

    Raises:
        UsageError: too few rounds, or a bundle that takes no texts of that length.
        EngineError: a bundle that does not open or dies.
    """
    count = ROUNDS if rounds is None else rounds
    if count < MIN_ROUNDS:
        raise UsageError(f"{count} rounds are too few to compare", hint=f"at least {MIN_ROUNDS}")
    workload = _workload(paths, tokens)
    machine, start = describe_machine(), read_state()
    with contextlib.ExitStack() as stack:
        runners = []
        for path in paths:
            tell(f"opening {path}")
            runners.append(_Runner(str(path), time.perf_counter(), Worker(_MODULE)))
            stack.callback(runners[-1].worker.close)
            runners[-1].open(engine, threads, workload)
        _take_turns(runners, count, tell)
    timings = tuple(_timing(i, runner, runners[0]) for i, runner in enumerate(runners))
    return timings, disturbances(machine, start, read_state())


@dataclass
class _Runner:
    """A bundle in its process.

    Attributes:
        path: of the bundle.
        began: ``time.perf_counter()`` just before the process was started.
        worker: the process.
        opened: what it said of opening; ``peak_rss_mb`` of its last turn.
        rounds: the calls of each round, in ms.
    """

    path: str
    began: float
    worker: Worker
    opened: dict[str, Any] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    rounds: list[tuple[float, ...]] = field(default_factory=list)

    def open(self, engine: str, threads: int | None, workload: Workload) -> None:
        """Load the bundle and call it once. Raises EngineError if it does not."""
        path = str(Path(self.path).absolute())
        request = {"path": path, "engine": engine, "threads": threads}
        self.opened = self._ask({"open": {**request, "workload": asdict(workload)}})

    def turn(self) -> None:
        """Its calls of one round. Raises EngineError if the process dies."""
        calls = round(_TURN_MS / max(self.opened["first_ms"], 1e-3))
        if self.rounds:
            calls = round(_TURN_MS / statistics.median(self.rounds[-1]))
        answer = self._ask({"calls": max(1, min(_MOST_CALLS, calls))})
        self.rounds.append(tuple(answer["ms"]))
        self.peak_rss_mb = answer["peak_rss_mb"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        outcome = self.worker.ask(request, _STUCK_SECONDS)
        if outcome.answer is None:
            raise EngineError(
                f"{self.path} could not be measured: {outcome.failure}",
                hint=outcome.hint or "edgeformer doctor",
            )
        return outcome.answer


def _take_turns(runners: Sequence[_Runner], count: int, tell: Callable[[str], None]) -> None:
    """``count`` rounds, after some that warm up and are forgotten."""
    order = list(runners)
    for number in range(1 - _WARM_ROUNDS, count + 1):
        tell(f"round {number} of {count}" if number > 0 else "warming up")
        order.append(order.pop(0))
        for runner in order:
            runner.turn()
    for runner in runners:
        del runner.rounds[:_WARM_ROUNDS]


def _timing(number: int, runner: _Runner, first: _Runner) -> Timing:
    calls = [ms for turn in runner.rounds for ms in turn]
    figures = {f"p{percent}": percentile(calls, percent) for percent in (50, 90, 95, 99)}
    figures |= {
        "mean": statistics.fmean(calls),
        "load": runner.opened["load_ms"],
        "cold": (runner.opened["first_answer_clock"] - runner.began) * 1000,
        "rss": runner.peak_rss_mb,
    }
    return Timing(
        bundle=number,
        variant=runner.opened["variant"],
        threads=runner.opened["threads"],
        rounds_ms=tuple(runner.rounds),
        figures=figures,
        ratio=ratio_of_rounds(_medians(runner), _medians(first)) if number else None,
    )


def _medians(runner: _Runner) -> Floats:
    return np.array([statistics.median(turn) for turn in runner.rounds])


def _workload(paths: Sequence[str | os.PathLike[str]], tokens: int | None) -> Workload:
    """The text of every call, made with the first bundle's tokenizer; all files are read once, so
    that they lie in the page cache for all alike."""
    from edgeformer.runtime.bundle import open_bundle

    with contextlib.ExitStack() as stack:
        bundles = [stack.enter_context(open_bundle(path)) for path in paths]
        cards = [bundle.manifest.model for bundle in bundles]
        for path, card in zip(paths, cards, strict=True):
            if card.task not in TEXT_TASKS or card.task != cards[0].task:
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
