"""The timing of a tuning: processes that open variants, and rounds in which each has its turn.

Only one process computes at a time, and each round gives every one of them every work, so that
whatever disturbs the machine for longer than a round disturbs all alike.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeformer.errors import EngineError
from edgeformer.isolation import Outcome, Worker
from edgeformer.tuning.choice import (
    MIN_ROUNDS,
    SEVERAL_MARGIN,
    Work,
    clearly_faster,
    round_scores,
    speedup,
)

if TYPE_CHECKING:
    from edgeformer.runtime.tuned import Choice, Table

MAX_ROUNDS = 15
HOPELESS = 2.0  # a choice so many times slower than another for every work is timed no more
PROOF_ROUNDS = 7
PROOF_SHARE = 0.3  # of the time is kept for tables of several engines
_WORK_MS = 20.0  # short calls are repeated for about so long in each round
_MAX_CALLS = 9
_STUCK_SECONDS = 600.0
_MODULE = "edgeformer.tuning.worker"


@dataclass(frozen=True)
class Measured:
    """One variant on one number of threads.

    Attributes:
        variant, threads: which.
        state: ``timed``; ``slow``: ``HOPELESS`` for every work, so called once only; ``failed``;
            ``missing``: the engine is not installed.
        error: why there are no times.
        median_ms: of each work.
        peak_rss_mb: of its process, in MB (1e6 bytes).
    """

    variant: str
    threads: int
    state: str
    error: str = ""
    median_ms: tuple[float, ...] = ()
    peak_rss_mb: float = 0.0


@dataclass(frozen=True)
class Proof:
    """A table of several engines in one process, against its main choice alone in another.

    Attributes:
        threads: the limit of the table.
        speedup: how many times as fast the table was, over all works.
        kept: True if that was clearly faster, by ``SEVERAL_MARGIN``, and fits the memory budget.
        peak_rss_mb, alone_peak_rss_mb: of the two processes.
    """

    threads: int
    speedup: float
    kept: bool
    peak_rss_mb: float
    alone_peak_rss_mb: float


@dataclass
class Race:
    """Who takes part, and what was timed. A context manager: it ends the processes.

    Attributes:
        path: absolute, of the bundle.
        works: what to time.
        workers: the processes still in the race.
        first_ms: of every choice that opened, each work's second call.
        rounds: of those in the race, for each round the median of each work's calls.
        memory_mb: peak of each process.
        errors: of those that did not open, or failed in the middle.
        missing: why an engine is not installed.
    """

    path: Path
    works: list[Work]
    workers: "dict[Choice, Worker]" = field(default_factory=dict)
    first_ms: "dict[Choice, list[float]]" = field(default_factory=dict)
    rounds: "dict[Choice, list[list[float]]]" = field(default_factory=dict)
    memory_mb: "dict[Choice, float]" = field(default_factory=dict)
    errors: "dict[Choice, str]" = field(default_factory=dict)
    missing: "dict[Choice, str]" = field(default_factory=dict)
    _kept: list[int] = field(default_factory=list)  # numbers of ``works`` in the processes

    def __enter__(self) -> "Race":
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def enter(self, choice: "Choice") -> None:
        """Open ``choice`` in a process of its own and call every work twice."""
        self.workers[choice] = worker = Worker(_MODULE)
        opened = _open(worker, self.path, self.works, choice.threads, variant=choice.variant)
        if opened.answer is not None:
            twice = [w for w in range(len(self.works)) for _ in range(2)]
            opened = worker.ask({"time": twice}, _STUCK_SECONDS)
        if opened.answer is None:
            self._leave(choice)
            self.errors[choice] = opened.failure
            return
        self.first_ms[choice] = opened.answer["ms"][1::2]
        self.memory_mb[choice] = opened.answer["peak_rss_mb"]
        self._drop_hopeless()

    def _drop_hopeless(self) -> None:
        """None stays that is much slower for every work than one on as few threads or fewer."""
        for choice in list(self.workers):
            for rival in self.workers:
                pairs = zip(self.first_ms[choice], self.first_ms[rival], strict=True)
                if rival.threads <= choice.threads and all(a > HOPELESS * b for a, b in pairs):
                    self._leave(choice)
                    break

    def _leave(self, choice: "Choice") -> None:
        self.workers.pop(choice).close()

    def fit(self, seconds: float) -> list[Work]:
        """Leave out the longest works until ``MIN_ROUNDS`` rounds fit; what was left out.

        Raises:
            EngineError: not even one single text fits.
        """
        costs = [
            sum(self._calls(c, w) * self.first_ms[c][w] for c in self.workers) / 1000
            for w in range(len(self.works))
        ]
        kept = sorted(range(len(costs)), key=lambda w: costs[w])
        while kept and MIN_ROUNDS * sum(costs[w] for w in kept) > seconds:
            kept.pop()
        kept.sort()
        if not any(self.works[w].texts == 1 for w in kept):
            raise EngineError(
                "the time does not do for this model on this machine",
                hint=f"pass a larger --seconds: {MIN_ROUNDS} rounds of all calls take"
                f" {MIN_ROUNDS * sum(costs):.0f} s here, and opening the engines comes on top",
            )
        out = [work for w, work in enumerate(self.works) if w not in kept]
        self.works = [self.works[w] for w in kept]
        self.first_ms = {c: [ms[w] for w in kept] for c, ms in self.first_ms.items()}
        self._kept = kept
        return out

    def run(self, deadline: float, tell: Callable[[str], None]) -> int:
        """Rounds until ``deadline`` (``time.monotonic``), at least ``MIN_ROUNDS``; how many."""
        self.rounds = {choice: [] for choice in self.workers}
        order = list(self.workers)
        for number in range(MAX_ROUNDS):
            if number >= MIN_ROUNDS and time.monotonic() > deadline:
                return number
            tell(f"round {number + 1} of at most {MAX_ROUNDS}")
            order.append(order.pop(0))
            for choice in [c for c in order if c in self.workers]:
                self._turn(choice)
        return MAX_ROUNDS

    def _turn(self, choice: "Choice") -> None:
        """Every work: one call to warm up where it is short, then its timed ones."""
        counts = [self._calls(choice, w) for w in range(len(self.works))]
        sequence = [w for w, n in enumerate(counts) for _ in range(n + (n > 1))]
        outcome = self.workers[choice].ask(
            {"time": [self._kept[w] for w in sequence]}, _STUCK_SECONDS
        )
        if outcome.answer is None:
            self.errors[choice] = outcome.failure
            self._leave(choice)
            del self.rounds[choice]
            return
        times = iter(outcome.answer["ms"])
        medians = []
        for count in counts:
            if count > 1:
                next(times)
            medians.append(statistics.median(next(times) for _ in range(count)))
        self.rounds[choice].append(medians)
        self.memory_mb[choice] = outcome.answer["peak_rss_mb"]

    def _calls(self, choice: "Choice", work: int) -> int:
        return max(1, min(_MAX_CALLS, round(_WORK_MS / max(self.first_ms[choice][work], 1e-3))))

    def result(self, choice: "Choice") -> Measured:
        """What became of ``choice``."""
        head = (choice.variant, choice.threads)
        if choice in self.missing:
            return Measured(*head, "missing", self.missing[choice])
        if choice in self.errors:
            return Measured(*head, "failed", self.errors[choice])
        rounds = self.rounds.get(choice)
        times = [statistics.median(t) for t in zip(*rounds, strict=True)] if rounds else None
        state = "timed" if rounds else "slow"
        medians = tuple(times or self.first_ms[choice])
        return Measured(*head, state, "", medians, self.memory_mb[choice])


def prove(path: Path, table: "Table", file: Path, works: Sequence[Work], budget_mb: float) -> Proof:
    """Run a table of several engines in one process, and its main choice alone in another.

    Calls come in random order, so that the engines meet in every way they may: cold caches, and
    threads of one that still spin when the other begins.

    Args:
        path: of the bundle.
        table: what is to be proved.
        file: where it lies for ``load``.
        works: what to time.
        budget_mb: most memory the process may take.
    """
    main, shuffled = table.main, random.Random(0)
    every = range(len(works))
    with Worker(_MODULE) as together, Worker(_MODULE) as alone:
        both = (together, alone)
        opened = (
            _open(together, path, works, table.threads, table=str(file)),
            _open(alone, path, works, main.threads, variant=main.variant),
        )
        sequence = [*every, *every]
        memory_mb = [0.0, 0.0]
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(1 + PROOF_ROUNDS):  # the first warms up
            shuffled.shuffle(sequence)
            for place, worker in enumerate(both):
                outcome = worker.ask({"time": sequence}, _STUCK_SECONDS)
                if opened[place].answer is None or outcome.answer is None:
                    return Proof(table.threads, 0.0, False, 0.0, 0.0)
                memory_mb[place] = outcome.answer["peak_rss_mb"]
                if number:
                    called = list(zip(sequence, outcome.answer["ms"], strict=True))
                    means = [statistics.fmean(ms for w, ms in called if w == v) for v in every]
                    times[place].append(round_scores([means], every)[0])
    kept = clearly_faster(*times, margin=SEVERAL_MARGIN) and memory_mb[0] <= budget_mb
    return Proof(table.threads, speedup(*times), kept, *memory_mb)


def _open(
    worker: Worker,
    path: Path,
    works: Sequence[Work],
    threads: int,
    variant: str = "",
    table: str | None = None,
) -> Outcome:
    request = {
        "path": str(path),
        "variant": variant,
        "threads": threads,
        "table": table,
        "works": [work.ids for work in works],
    }
    return worker.ask({"open": request}, _STUCK_SECONDS)
