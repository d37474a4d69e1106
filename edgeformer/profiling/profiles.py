"""Per-layer profiles of measured results, each engine in a fresh process of its own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeformer.benchmarking.matrix import Cell, worker_request
from edgeformer.isolation import run_worker
from edgeformer.machine import Machine, interference, read_state
from edgeformer.report.layer_times import OperationTime, Profile, Roofline
from edgeformer.report.results import Result

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle

Progress = Callable[[str], None]


def measure_profiles(
    bundle: "Bundle",
    cells: Sequence[Cell],
    results: Sequence[Result],
    machine: Machine,
    progress: Progress,
) -> list[Profile]:
    """A profile for each cell that could be measured."""
    found = []
    for cell, result in zip(cells, results, strict=True):
        if result.measured:
            progress(f"{result.variant}, per layer")
            found.append(_profile(bundle, cell, result, machine))
    return found


def _profile(bundle: "Bundle", cell: Cell, result: Result, machine: Machine) -> Profile:
    blank = Profile(
        variant=result.variant,
        engine=result.engine,
        precision=result.precision,
        tokens=result.tokens,
        batch=result.batch,
        threads=result.threads,
    )
    before = read_state()
    request = worker_request(bundle, cell)
    outcome = run_worker("edgeformer.profiling.profile_worker", request)
    if outcome.answer is None:
        return replace(blank, state="missing", error=outcome.failure, hint=outcome.hint)
    answer = dict(outcome.answer)
    rows = tuple(OperationTime(**row) for row in answer.pop("rows"))
    reasons = interference(machine, before, read_state())
    return replace(blank, rows=rows, void_reasons=reasons, **answer)


def measure_rooflines(profiles: Sequence[Profile], progress: Progress) -> list[Roofline]:
    """What the machine can do at best, for each number of threads among the profiles."""
    found = []
    for threads in sorted({profile.threads for profile in profiles if profile.rows}):
        progress(f"roofline, {threads} threads")
        outcome = run_worker("edgeformer.profiling.roofline", {"threads": threads})
        if outcome.answer is not None:
            found.append(Roofline(**outcome.answer))
    return found
