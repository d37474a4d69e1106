"""What a bundle costs on this machine: one fresh process per figure, raw samples kept.

    report = benchmark("model.edge", tokens=(16, 128), threads=(1, 2))
    report.results[0].p50_ms, report.results[0].cold_start_ms

What is timed is what a user calls: text in, answer out, tokenizing included (a plain module: its
first golden input through ``run``). docs/benchmark.md defines every figure. Engines never share a
process: two thread pools that spin in one ruin each other (benchmarking/worker.py is what runs
there). The machine's state is taken before and after, so that a figure from a hot or busy machine
is void by name. NumPy and the standard library only.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeformer.benchmarking.rounds import ROUNDS, disagreements, joined
from edgeformer.benchmarking.workload import Workload, make_workload
from edgeformer.errors import UsageError
from edgeformer.isolation import run_worker
from edgeformer.machine import (
    Machine,
    MachineState,
    describe_machine,
    doubts,
    interference,
    read_state,
)
from edgeformer.report.exit_records import Calibration
from edgeformer.report.layer_times import Profile, Roofline
from edgeformer.report.results import Fidelity, Result
from edgeformer.report.schema import BundleFacts, Report
from edgeformer.report.tables import count

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Variant

Counts = int | Sequence[int] | None


@dataclass(frozen=True)
class Cell:
    """One point of the matrix: what runs, on how many threads, on what."""

    variant: "Variant"
    threads: int | None
    workload: Workload


def benchmark(
    path: str | os.PathLike[str],
    *,
    engines: Sequence[str] = (),
    text: str | None = None,
    tokens: Counts = None,
    batch: Counts = None,
    iterations: int | None = None,
    rounds: int | None = None,
    threads: Counts = None,
    per_layer: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure every variant of a bundle, or those named, each point in a fresh process.

    Several ``tokens``, ``batch`` and ``threads`` make a matrix.

    Args:
        path: bundle folder or zip.
        engines: engine names or variant ids; empty for every variant of the bundle.
        text: the text of each call; None for sentences of ours cut to ``tokens``.
        tokens: length of each text, special tokens included; None for 128 or what the model takes.
        batch: texts of one call; None for 1.
        iterations: timed calls; None for what fits into 3 seconds, between 20 and 300.
        rounds: processes that make them, one after the other with the other points in between, so
            that the report can say whether a repetition would agree; None for 3, or 1 where
            ``iterations`` says how many calls.
        threads: most threads; None for the profile's.
        per_layer: also find where the time goes, in one more process each.
        progress: called with a name of each point before it is measured.

    Raises:
        UsageError: an engine the bundle has not, or figures that do not fit the model.
        BundleError: the bundle is damaged.
    """
    from edgeformer.runtime.bundle import open_bundle

    lists = [_counts(n, v) for n, v in (("tokens", tokens), ("batch", batch), ("threads", threads))]
    _counts("iterations", iterations)
    _counts("rounds", rounds)
    rounds = rounds or (1 if iterations else ROUNDS)
    if text is not None and tokens is not None:
        raise UsageError("a text of your own has its own length", hint="leave out --tokens")
    machine, start = describe_machine(), read_state()
    with open_bundle(path) as bundle:
        cells, notes = _cells(bundle, engines, text, *lists)
        profiles: list[Profile] = []
        rooflines: list[Roofline] = []
        parts: list[list[Result]] = [[] for _ in cells]
        for number, (part, cell) in itertools.product(
            range(rounds), list(zip(parts, cells, strict=True))
        ):
            if part and not part[-1].measured:
                continue  # it failed, and would again
            if progress:
                progress(_cell_name(cell, cells) + (f", again ({number + 1})" if number else ""))
            part.append(_measure(bundle, cell, iterations, rounds, machine))
        results = [joined(part) for part in parts]
        if per_layer:
            from edgeformer.profiling.profiles import measure_profiles, measure_rooflines

            profiles = measure_profiles(bundle, cells, results, machine, progress)
            rooflines = measure_rooflines(profiles, progress)
        facts = _facts(path, bundle)
        calibrations = tuple(_calibrations(_chosen(bundle, engines)))
    end = read_state()
    return Report(
        bundle=facts,
        workload=cells[0].workload.kind,
        results=tuple(results),
        versions=_versions(),
        environment={k: v for k, v in os.environ.items() if k in _SPEED_VARIABLES},
        machine=machine,
        start=start,
        end=end,
        profiles=tuple(profiles),
        roofline=tuple(rooflines),
        calibrations=calibrations,
        notes=(*notes, *doubts(machine, start), *_unstable(results), *disagreements(results)),
        void_reasons=_void_reasons(machine, start, end, results),
    )


_SPEED_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def _counts(name: str, value: Counts) -> tuple[int | None, ...]:
    """The numbers asked for, once each; (None,) where none were."""
    numbers = (value,) if value is None or isinstance(value, int) else tuple(value)
    for number in numbers:
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1, not {number}")
    return tuple(dict.fromkeys(numbers)) or (None,)


def _versions() -> dict[str, str]:
    from edgeformer import __version__
    from edgeformer.runtime.engine import installed_versions

    return {**installed_versions(), "edgeformer": __version__}


def _cells(
    bundle: "Bundle",
    engines: Sequence[str],
    text: str | None,
    tokens: tuple[int | None, ...],
    batches: tuple[int | None, ...],
    threads: tuple[int | None, ...],
) -> tuple[list[Cell], list[str]]:
    """Every point of the matrix, and what was left out of it."""
    from edgeformer.runtime.threads import available_threads

    variants = _chosen(bundle, engines)
    shapes = itertools.product(tokens, batches)
    workloads = [make_workload(bundle, text, length, batch) for length, batch in shapes]
    usable = [number if number is None else available_threads(number) for number in threads]
    notes = [
        f"{asked} threads were asked for, {used} can be used here"
        for asked, used in zip(threads, usable, strict=True)
        if asked != used
    ]
    points = itertools.product(variants, dict.fromkeys(usable), dict.fromkeys(workloads))
    return [Cell(*point) for point in points], notes


def _chosen(bundle: "Bundle", engines: Sequence[str]) -> "list[Variant]":
    variants = bundle.manifest.variants
    known = {name for v in variants for name in (v.engine, v.id)}
    for name in engines:
        if name not in known:
            raise UsageError(
                f"the bundle has no engine or variant {name!r}",
                hint=f"choose of: {', '.join(sorted(known))}",
            )
    return [v for v in variants if not engines or v.engine in engines or v.id in engines]


def _cell_name(cell: Cell, cells: Sequence[Cell]) -> str:
    """The variant, and what else tells this point from the others."""
    name = cell.variant.id
    if cell.threads and len({c.threads for c in cells}) > 1:
        name += f", {count(cell.threads, 'thread')}"
    if len({c.workload.tokens for c in cells}) > 1:
        name += f", {count(cell.workload.tokens, 'token')}"
    if len({c.workload.batch for c in cells}) > 1:
        name += f", {count(cell.workload.batch, 'text')}"
    return name


def _measure(
    bundle: "Bundle", cell: Cell, iterations: int | None, rounds: int, machine: Machine
) -> Result:
    from edgeformer.runtime.engine import missing_engine

    files = variant_files(cell.variant)
    blank = _blank(bundle, cell, sum(bundle.size(name) for name in files) / 1e6)
    missing = missing_engine(cell.variant.engine)
    if missing:
        return replace(blank, state="missing", error=missing.message, hint=missing.hint)
    bundle.check(files)  # also brings the files into the page cache, for all engines alike
    request = {**worker_request(bundle, cell), "iterations": iterations, "rounds": rounds}
    before = read_state()
    outcome = run_worker("edgeformer.benchmarking.worker", request)
    reasons = interference(machine, before, read_state())
    if outcome.answer is None:
        return replace(blank, state="failed", error=outcome.failure, hint=outcome.hint)
    answer = dict(outcome.answer)
    cold_start_ms = (answer.pop("first_answer_clock") - outcome.started) * 1000
    for name in ("samples_ms", "tokenize_ms", "model_ms"):
        answer[name] = tuple(answer[name])
    return replace(blank, cold_start_ms=cold_start_ms, void_reasons=reasons, **answer)


def variant_files(variant: "Variant") -> list[str]:
    """Paths of the variant's model files."""
    return list(variant.files)


def worker_request(bundle: "Bundle", cell: Cell) -> dict[str, Any]:
    """What a worker must know to make the calls of ``cell``."""
    return {
        "path": str(bundle.path.absolute()),
        "variant": cell.variant.id,
        "threads": cell.threads,
        "workload": asdict(cell.workload),
    }


def _blank(bundle: "Bundle", cell: Cell, file_mb: float) -> Result:
    """The row of ``cell`` without figures."""
    variant, parity = cell.variant, cell.variant.parity
    fidelity = None
    if parity is not None:
        fidelity = Fidelity(
            parity.texts, parity.max_abs, parity.min_cosine, parity.mean_cosine, parity.top1
        )
    return Result(
        variant=variant.id,
        engine=variant.engine,
        precision=variant.precision,
        layout=variant.layout,
        file_mb=file_mb,
        tokens=cell.workload.tokens,
        batch=cell.workload.batch,
        threads=cell.threads or bundle.manifest.threads,
        fidelity=fidelity,
    )


def _facts(path: str | os.PathLike[str], bundle: "Bundle") -> BundleFacts:
    from edgeformer.runtime.manifest_json import manifest_digest

    manifest = bundle.manifest
    return BundleFacts(
        path=os.fspath(path),
        name=manifest.model.name,
        family=manifest.model.family,
        task=manifest.model.task,
        profile=str(manifest.profile.get("name", "")),
        recipe=manifest.recipe,
        parameters=manifest.model.parameters,
        max_length=manifest.model.max_length,
        digest=manifest_digest(manifest),
        forced=manifest.forced,
    )


def _calibrations(variants: "Sequence[Variant]") -> Iterator[Calibration]:
    """What the manifest says of exits that were calibrated."""
    for variant in variants:
        table = variant.exits
        if table is not None and table.curve:
            yield Calibration(
                variant=variant.id,
                criterion=table.criterion,
                threshold=table.threshold,
                max_drop=table.max_drop,
                texts=table.texts,
                labelled=table.labelled,
                layers=table.layers[-1],
                curve=table.curve,
            )


def _unstable(results: Sequence[Result]) -> tuple[str, ...]:
    found = list(dict.fromkeys(r.variant for r in results if not r.stable))
    if not found:
        return ()
    return (f"times had not settled when the samples began: {', '.join(found)}",)


def _void_reasons(
    machine: Machine, start: MachineState, end: MachineState, results: Sequence[Result]
) -> tuple[str, ...]:
    reasons = interference(machine, start, end)
    void = sum(1 for result in results if result.void_reasons)
    if void:
        reasons += (f"{void} of {len(results)} results were disturbed",)
    return reasons
