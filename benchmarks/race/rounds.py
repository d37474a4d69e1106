"""Run the race at one thread count: accuracy, interleaved rounds, cold starts.

Every contender lives in a process of its own, stopped (SIGSTOP) but in its turn. Within a round the
order is drawn anew, so that no contender always runs after the same one.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import CONTENDERS, REFERENCE, Contender
from benchmarks.race.environments import ContenderError, files_of, python_of
from benchmarks.race.process import Worker
from benchmarks.race.statistics import cosines
from benchmarks.race.workloads import BATCH_TEXTS, Workload

Progress = Callable[[str], None]
_OPEN_SECONDS = 300
_IDLE_SECONDS = 0.5
_COLD_TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: interleaved rounds of every workload.
        warm: calls before the timed ones of each turn.
        cold_runs: fresh processes of each contender.
        seed: of the order within rounds.
    """

    rounds: int = 15
    warm: int = 2
    cold_runs: int = 7
    seed: int = 0


@dataclass(frozen=True)
class Entrant:
    """A contender whose environment and files are there."""

    contender: Contender
    python: Path
    module: str
    folder: Path


@dataclass
class Row:
    """What was measured of one contender at one thread count; filled in as it goes.

    Attributes:
        samples_ms: for each workload, the wall times of each round's calls.
        cpu_ms: the CPU times of the same calls, all threads together.
        cold_ms, cold_rss_bytes: of each fresh process, to its first embedding.
        cosines: with the reference, of each accuracy text by itself.
        batch_cosines: of each such text by itself with the same in a batch.
        idle_cpu: CPUs it kept busy while nobody asked anything.
        stopped_cpu_s: CPU seconds it used between its turns; above 0 it disturbed the others.
        peak_rss_bytes: at the end.
        about: libraries and thread pools, as the process itself lists them.
        failure: why it left the race; empty if it did not.
    """

    samples_ms: dict[str, list[list[float]]] = field(default_factory=dict)
    cpu_ms: dict[str, list[list[float]]] = field(default_factory=dict)
    cold_ms: list[float] = field(default_factory=list)
    cold_rss_bytes: list[int] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    batch_cosines: list[float] = field(default_factory=list)
    idle_cpu: float = 0.0
    stopped_cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass
class Live:
    """A contender's process; ``cpu_at_stop_s`` is what it had used when it was last stopped."""

    worker: Worker
    cpu_at_stop_s: float = 0.0

    def stop(self) -> None:
        """Stop it until its next turn."""
        self.worker.suspend()
        self.cpu_at_stop_s = self.worker.cpu_seconds()


def enter(
    names: Sequence[str], checkpoint: Path, pip_options: tuple[str, ...], progress: Progress
) -> tuple[list[Entrant], dict[str, str]]:
    """Install and make what is missing; those who can start, and why others cannot."""
    entrants, missing = [], {}
    for chosen in CONTENDERS:
        if chosen.name not in names:
            continue
        progress(f"preparing {chosen.name}")
        try:
            folder = files_of(chosen, checkpoint, pip_options)
            python = python_of(chosen.environment, pip_options)
        except ContenderError as error:
            missing[chosen.name] = str(error)
            continue
        entrants.append(Entrant(chosen, python, f"benchmarks.peers.{chosen.name}", folder))
    return entrants, missing


def run_field(
    entrants: Sequence[Entrant],
    threads: int,
    workloads: Sequence[Workload],
    texts: list[str],
    settings: Settings,
    progress: Progress,
) -> dict[str, Row]:
    """Everything at one thread count. A contender that fails leaves, and its row says why."""
    rows = {entrant.contender.name: Row() for entrant in entrants}
    field_: dict[str, Live] = {}
    try:
        _open(entrants, threads, field_, rows, texts, progress)
        order = random.Random(settings.seed)
        for k in range(settings.rounds):
            progress(f"{threads} threads: round {k + 1} of {settings.rounds}")
            for workload in workloads:
                for name in order.sample(sorted(field_), len(field_)):
                    with _leaving(name, field_, rows):
                        _turn(field_[name], rows[name], workload, k, settings.warm)
        for name in list(field_):
            with _leaving(name, field_, rows):
                _finish(field_[name], rows[name])
    finally:
        for live in field_.values():
            live.worker.close()
    _cold_starts(entrants, threads, rows, settings.cold_runs, progress)
    return rows


@contextmanager
def _leaving(name: str, field_: dict[str, Live], rows: dict[str, Row]) -> Iterator[None]:
    """Whoever fails inside leaves the field; the row keeps the reason."""
    try:
        yield
    except ContenderError as error:
        rows[name].failure = str(error)
        field_.pop(name).worker.close()


def _open(
    entrants: Sequence[Entrant],
    threads: int,
    field_: dict[str, Live],
    rows: dict[str, Row],
    texts: list[str],
    progress: Progress,
) -> None:
    """Start every worker, check its answers, see what it does when idle, and stop it."""
    answers: dict[str, NDArray[np.float32]] = {}
    for entrant in entrants:
        name = entrant.contender.name
        progress(f"{threads} threads: opening {name}")
        worker = Worker(entrant.python, entrant.module, entrant.folder, threads)
        field_[name] = Live(worker)
        with _leaving(name, field_, rows):
            worker.ask({"command": "encode", "texts": [_COLD_TEXT]}, _OPEN_SECONDS)
            answers[name] = np.concatenate([worker.encode([text]) for text in texts])
            batches = [texts[i : i + BATCH_TEXTS] for i in range(0, len(texts), BATCH_TEXTS)]
            together = np.concatenate([worker.encode(batch) for batch in batches])
            rows[name].batch_cosines = cosines(answers[name], together).tolist()
            before = worker.cpu_seconds()
            time.sleep(_IDLE_SECONDS)
            rows[name].idle_cpu = (worker.cpu_seconds() - before) / _IDLE_SECONDS
            field_[name].stop()
    for name in field_:
        if REFERENCE in field_:
            rows[name].cosines = cosines(answers[name], answers[REFERENCE]).tolist()


def _turn(live: Live, row: Row, workload: Workload, k: int, warm: int) -> None:
    """Calls of one workload in round ``k``; the inputs go on from round to round."""
    count = len(workload.inputs)
    first = k * workload.calls - warm
    inputs = [workload.inputs[i % count] for i in range(first, first + warm + workload.calls)]
    row.stopped_cpu_s += live.worker.cpu_seconds() - live.cpu_at_stop_s
    live.worker.resume()
    answer = live.worker.ask({"command": "time", "inputs": inputs, "warm": warm})
    live.stop()
    row.samples_ms.setdefault(workload.name, []).append(answer["ms"])
    row.cpu_ms.setdefault(workload.name, []).append(answer["cpu_ms"])


def _finish(live: Live, row: Row) -> None:
    live.worker.resume()
    row.about = live.worker.ask({"command": "describe"})
    row.peak_rss_bytes = row.about.pop("peak_rss_bytes")


def _cold_starts(
    entrants: Sequence[Entrant],
    threads: int,
    rows: dict[str, Row],
    runs: int,
    progress: Progress,
) -> None:
    """From starting Python to the first embedding, in fresh processes, contenders in turn."""
    for run in range(runs + 1):
        progress(f"{threads} threads: cold start {run} of {runs}")
        for entrant in entrants:
            row = rows[entrant.contender.name]
            if row.failure:
                continue
            try:
                milliseconds, rss = cold_start(entrant, threads)
            except ContenderError as error:
                row.failure = str(error)
                continue
            if run:  # the first compiles bytecode and fills the page cache
                row.cold_ms.append(milliseconds)
                row.cold_rss_bytes.append(rss)


def empty_process(entrant: Entrant, runs: int) -> dict[str, list[float]]:
    """``ms`` and ``rss_bytes`` of processes like the entrant's that compute nothing."""
    empty = replace(entrant, module="benchmarks.race.nothing")
    found = [cold_start(empty, 1) for _ in range(runs + 1)][1:]
    return {"ms": [ms for ms, _ in found], "rss_bytes": [rss for _, rss in found]}


def cold_start(entrant: Entrant, threads: int) -> tuple[float, int]:
    """Milliseconds to the first embedding of a fresh process, and its peak RSS in bytes then.

    Raises:
        ContenderError: it gave none.
    """
    with Worker(entrant.python, entrant.module, entrant.folder, threads) as worker:
        worker.ask({"command": "encode", "texts": [_COLD_TEXT]}, _OPEN_SECONDS)
        milliseconds = (time.perf_counter() - worker.started) * 1e3
        return milliseconds, worker.ask({"command": "describe"})["peak_rss_bytes"]
