"""What a bundle costs on this machine: one fresh process per figure, raw samples kept.

    report = benchmark("model.edge", tokens=(16, 128), threads=(1, 2))
    report.results[0].p50_ms, report.results[0].cold_start_ms

What is timed is what a user calls: text in, answer out, tokenizing included (a plain module: its
first golden input through ``run``). docs/benchmark.md defines every figure. Engines never share a
process: two thread pools that spin in one ruin each other (benchmarking/worker.py is what runs
there). The machine's state is taken before and after, so that a figure from a hot or busy machine
is void by name. NumPy and the standard library only.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from edgeformer.benchmarking.exits import (
    ExitCell,
    check_exit_options,
    exit_cells,
    joined_exits,
    measure_exits,
)
from edgeformer.benchmarking.matrix import (
    Cell,
    Counts,
    cell_name,
    chosen_variants,
    counts_of,
    make_cells,
    worker_request,
)
from edgeformer.benchmarking.rounds import ROUNDS, disagreements, joined
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
from edgeformer.report.exit_records import Calibration, ExitRun
from edgeformer.report.layer_times import Profile, Roofline
from edgeformer.report.results import Fidelity, Result
from edgeformer.report.schema import BundleFacts, Report

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Variant

Part = TypeVar("Part", Result, ExitRun)
Progress = Callable[[str], None]


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
    exit: str | None = None,
    texts: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
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
        exit: also time single texts with exits beside the same without, as of ``Model.classify``'s
            ``exit``; here ``iterations`` are calls of each text.
        texts: file of texts for that, as ``--calibration`` takes it; None for ``text`` or, where
            that is None, EdgeFormer's own.
        progress: called with a name of each point before it is measured.

    Raises:
        UsageError: an engine the bundle has not, or figures that do not fit the model.
        InputError: ``exit`` where no variant has exits, or none can follow that rule.
        BundleError: the bundle is damaged.
    """
    from edgeformer.runtime.bundle import open_bundle

    asked = (("tokens", tokens), ("batch", batch), ("threads", threads))
    lists = [counts_of(name, value) for name, value in asked]
    counts_of("iterations", iterations)
    counts_of("rounds", rounds)
    rounds = rounds or (1 if iterations else ROUNDS)
    if text is not None and tokens is not None:
        raise UsageError("a text of your own has its own length", hint="leave out --tokens")
    check_exit_options(exit, texts)
    tell = progress or (lambda name: None)
    machine, start = describe_machine(), read_state()
    with open_bundle(path) as bundle:
        cells, notes = make_cells(bundle, engines, text, *lists)
        early: list[ExitCell] = []
        if exit is not None:
            early, more = exit_cells(bundle, cells, exit, texts, text)
            notes += more
        results, exits = _in_rounds(bundle, cells, early, (iterations, rounds), machine, tell)
        profiles: list[Profile] = []
        rooflines: list[Roofline] = []
        if per_layer:
            from edgeformer.profiling.profiles import measure_profiles, measure_rooflines

            profiles = measure_profiles(bundle, cells, results, machine, tell)
            rooflines = measure_rooflines(profiles, tell)
        facts = _facts(path, bundle)
        calibrations = tuple(_calibrations(chosen_variants(bundle, engines)))
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
        exits=tuple(exits),
        calibrations=calibrations,
        notes=(*notes, *doubts(machine, start), *_unstable(results), *disagreements(results)),
        void_reasons=_void_reasons(machine, start, end, [*results, *exits]),
    )


def _in_rounds(
    bundle: "Bundle",
    cells: Sequence[Cell],
    early: Sequence[ExitCell],
    settings: tuple[int | None, int],
    machine: Machine,
    tell: Progress,
) -> tuple[list[Result], list[ExitRun]]:
    """Every point once, then every point again, as often as ``settings`` (calls, rounds) say."""
    iterations, rounds = settings
    parts: list[list[Result]] = [[] for _ in cells]
    runs: list[list[ExitRun]] = [[] for _ in early]
    for number in range(rounds):
        again = f", again ({number + 1})" if number else ""
        for part, cell in zip(parts, cells, strict=True):
            if _goes_on(part, cell_name(cell, cells) + again, tell):
                part.append(_measure(bundle, cell, iterations, rounds, machine))
        for run, point in zip(runs, early, strict=True):
            if _goes_on(run, point.name + again, tell):
                run.append(measure_exits(bundle, point, iterations, rounds, machine))
    return [joined(part) for part in parts], [joined_exits(run) for run in runs]


def _goes_on(parts: "list[Part]", name: str, tell: Progress) -> bool:
    """Says what is measured next; False for what failed, and would again."""
    if parts and not parts[-1].measured:
        return False
    tell(name)
    return True


_SPEED_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def _versions() -> dict[str, str]:
    from edgeformer import __version__
    from edgeformer.runtime.engine import installed_versions

    return {**installed_versions(), "edgeformer": __version__}


def _measure(
    bundle: "Bundle", cell: Cell, iterations: int | None, rounds: int, machine: Machine
) -> Result:
    from edgeformer.runtime.engine import missing_engine

    files = cell.variant.files
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
    machine: Machine, start: MachineState, end: MachineState, results: Sequence[Result | ExitRun]
) -> tuple[str, ...]:
    reasons = interference(machine, start, end)
    void = sum(1 for result in results if result.void_reasons)
    if void:
        reasons += (f"{void} of {len(results)} results were disturbed",)
    return reasons
