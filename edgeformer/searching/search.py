"""checkpoint -> the bundle that holds a budget: of accuracy, of time, or of both.

    found = edgeformer.search(
        "./my-classifier", profile="rpi4", output="small.edge",
        max_drop=0.5, max_latency_ms=30, data="test.tsv",
    )
    found.check()      # raises ThresholdError if nothing holds the budget

Candidates are tried from the least change to the most (searching/candidates.py). Each becomes a
bundle in a hidden folder beside the output, is evaluated on the data against the original model,
and measured at the data's own length. Only the bundle that is taken stays; docs/search.md.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.benchmarking.benchmark import benchmark
from edgeformer.compression.examples import Columns
from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import EngineError, ModelError, ThresholdError
from edgeformer.evaluation.data import USUAL_COLUMNS, Cases
from edgeformer.plain_json import finite
from edgeformer.searching.candidates import Sizes
from edgeformer.searching.making import sizes_of
from edgeformer.searching.measuring import Measure, Tell
from edgeformer.searching.request import (
    Request,
    check_options,
    exits_left_out,
    path_of,
    read_data,
    shared_rows,
)
from edgeformer.searching.text import (
    exits_text,
    failure_text,
    page_text,
    sentence,
    untried_exits_text,
)
from edgeformer.searching.trials import Budget, Trial, choose, concessions, pareto, settled
from edgeformer.searching.walk import Start, Walk

if TYPE_CHECKING:
    from edgeformer.models.checkpoint import LoadedModel

SEARCH_FILE = "search.json"


@dataclass(frozen=True)
class SearchReport:
    """What was tried, and what was taken.

    Attributes:
        path: of the bundle; None where nothing holds the budget.
        profile: name of the device profile.
        budget: what was asked for.
        data: that candidates were evaluated on; empty without.
        rows: of the data.
        metric: its main figure; empty without data.
        original: that figure of the model that was given.
        tokens: of the text that was timed; None for the benchmark's own.
        machine: the CPU that was measured.
        trials: in the order in which they were made.
        chosen: place of the one that was taken; None if none holds the budget.
        front: places of those that no other beats in both figures.
        seconds: how long it all took.
        notes: what to know when reading the figures.
    """

    path: Path | None
    profile: str
    budget: Budget
    data: str
    rows: int
    metric: str
    original: float | None
    tokens: int | None
    machine: str
    trials: tuple[Trial, ...]
    chosen: int | None
    front: tuple[int, ...]
    seconds: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        data["path"] = None if self.path is None else str(self.path)
        for i, (row, trial) in enumerate(zip(data["trials"], self.trials, strict=True)):
            row |= {
                "name": trial.candidate.name,
                "within_budget": self.budget.holds(trial),
                "pareto": i in self.front,
                "chosen": i == self.chosen,
            }
        return data

    def check(self) -> None:
        """Raise if nothing was taken.

        Raises:
            ThresholdError: nothing holds the budget; says how near it came, and what would do.
            EngineError: nothing could be made and measured at all.
        """
        if self.chosen is None:
            if not any(trial.works for trial in self.trials):
                raise EngineError(
                    f"no candidate could be made and measured: {self.trials[0].problem}",
                    hint="edgeformer doctor tests the engines; --engines chooses among them",
                )
            raise ThresholdError(
                failure_text(self), hint="; ".join(concessions(self.trials, self.budget))
            )


def search(
    model: str | os.PathLike[str] | None = None,
    *,
    profile: str,
    output: str | os.PathLike[str],
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    data: str | os.PathLike[str] | None = None,
    train: str | os.PathLike[str] | None = None,
    exits: str | os.PathLike[str] | None = None,
    columns: Columns = USUAL_COLUMNS,
    labels_map: Mapping[str, str] | None = None,
    engines: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    max_length: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    golden: str | os.PathLike[str] | None = None,
    zip_file: bool = False,
    force: bool = False,
    measure: Measure | None = None,
    progress: Tell | None = None,
) -> SearchReport:
    """Convert a model to the bundle that holds a budget, trying the smallest changes first.

    Args:
        model: Hugging Face folder; None for the embedded default.
        profile: name of a device profile, or path of a TOML file.
        output: path of the bundle. Nothing is written where nothing holds the budget.
        max_drop: points (hundredths) that the main figure of the data may be below the original's.
        max_latency_ms: largest median time of one text of the data's usual length.
        data: labelled rows to evaluate on (docs/eval.md); needed for ``max_drop``, and to try
            smaller models.
        train: labelled texts on which smaller models learn; None cuts them without training.
        exits: labelled texts on which the exits of a model are calibrated, as for ``convert``; None
            lets no text leave early.
        columns: of ``data`` and ``train``.
        labels_map: the model's label for each label that ``data`` names otherwise.
        engines, precisions: to try; None for the profile's engines, in fp32 and the precision that
            the profile names.
        max_length, calibration, golden, zip_file, force: as for ``convert``.
        measure: what benchmarks a bundle: ``benchmark`` of a board (docs/ssh.md); None for that of
            this machine.
        progress: called with what is being done.

    Returns:
        Everything that was tried. ``check`` raises where nothing was taken.

    Raises:
        UsageError: no budget, or one that is none; an output that exists; data that is also what
            the smaller models would be trained on, or exits calibrated on.
        ModelError, DataError: a checkpoint or texts that cannot be read.
        EngineError: a package that converting needs is missing.
    """
    request = Request(
        model=path_of(model),
        profile=profile,
        output=Path(output),
        budget=Budget(max_drop, max_latency_ms),
        data=path_of(data),
        train=path_of(train),
        exits=path_of(exits),
        columns=columns,
        labels_map=labels_map or {},
        engines=tuple(engines or ()),
        precisions=tuple(precisions or ()),
        max_length=max_length,
        calibration=path_of(calibration),
        golden=path_of(golden),
        zip_file=zip_file,
        force=force,
    )
    return run_search(request, measure or benchmark, progress or (lambda what: None))


def run_search(request: Request, measure: Measure, tell: Tell) -> SearchReport:
    """``search``, its arguments as one record."""
    from edgeformer.pipeline import check_engines, need_extra

    began = time.monotonic()
    need_extra()
    profile = load_profile(request.profile)
    check_engines(profile, request.engines)
    check_options(request)
    from edgeformer.converters.bundle_writer import refuse_overwrite, staging
    from edgeformer.models.checkpoint import load_checkpoint

    refuse_overwrite(request.output, request.force)
    tell("reading the model")
    loaded = load_checkpoint(request.folder)
    cases = read_data(request, loaded)
    shared = shared_rows(request, loaded, cases)
    notes = (*loaded.notices, *shared, *exits_left_out(request, loaded))
    walk_from = Start(request, profile, cases, _sizes(loaded, cases))
    del loaded
    with staging(request.output) as folder:
        walk = Walk(walk_from, folder, measure, tell)
        walk.run()
        report = _report(walk, walk_from, notes, time.monotonic() - began)
        if report.chosen is not None:
            tell("writing the bundle")
            _publish(report, walk.bundle(report.chosen), request)
            report = replace(report, path=request.output)
    return report


def _sizes(loaded: "LoadedModel", cases: Cases | None) -> Sizes | str:
    """What can be cut, or why nothing is."""
    if cases is None:
        return "without data (--eval) no smaller models are tried: nothing would tell if they work"
    try:
        return sizes_of(loaded)
    except ModelError as error:
        return f"no smaller models are tried: {error.message}"


def _report(walk: Walk, start: Start, notes: tuple[str, ...], seconds: float) -> SearchReport:
    request, cases = start.request, start.cases
    trials = tuple(walk.trials)
    name, value = walk.original or ("", None)
    return SearchReport(
        path=None,
        profile=start.profile.name,
        budget=request.budget,
        data="" if request.data is None else str(request.data),
        rows=len(cases.rows) if cases else 0,
        metric=name,
        original=value,
        tokens=walk.tokens,
        machine=walk.machine,
        trials=trials,
        chosen=choose(trials, request.budget),
        front=pareto(trials),
        seconds=seconds,
        notes=(*notes, *_notes(walk, start)),
    )


def _notes(walk: Walk, start: Start) -> Iterator[str]:
    """What to know when reading the figures."""
    budget, trials = start.request.budget, walk.trials
    there = start.profile.cpu.architecture
    if walk.architecture not in ("", there):
        yield (
            f"times are of a machine of {walk.architecture}, and {start.profile.name} is {there}:"
            " they say nothing of that device; --ssh USER@HOST measures on one"
        )
    if start.cases is None:
        yield "no accuracy was measured: --eval DATA does"
    if isinstance(start.sizes, str) and not settled(trials, budget):
        yield start.sizes
    if start.request.train is None and any(trial.candidate.cut for trial in trials):
        yield "smaller models were not trained: with --train DATA they would answer better"
    if start.request.exits is not None and not settled(trials, budget):
        yield from untried_exits_text(trials)
    yield from exits_text(trials)
    chosen = choose(trials, budget)
    if chosen is None:
        return
    taken = trials[chosen]
    if taken.void:
        yield f"the time of {taken.candidate.name} is void: {taken.void}"
    if budget.max_drop is not None and taken.interval and taken.interval.high > budget.max_drop:
        yield (
            f"on {len(start.cases.rows) if start.cases else 0} rows the drop may also be"
            f" {taken.interval.high:.2f} points (95 % interval): more rows would tell"
        )


def _publish(report: SearchReport, bundle: Path, request: Request) -> None:
    """Say in the bundle how it was chosen, and move it to its place."""
    from edgeformer.converters.bundle_writer import file_records, publish, write_manifest
    from edgeformer.runtime.bundle import open_bundle

    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    table = json.dumps(finite(report.as_dict()), indent=1) + "\n"
    (bundle / SEARCH_FILE).write_text(table, encoding="utf-8")
    with (bundle / "README.md").open("a", encoding="utf-8") as page:
        page.write(page_text(report))
    manifest = replace(manifest, chosen=sentence(report), files=file_records(bundle))
    write_manifest(bundle, manifest)
    publish(bundle, request.output, request.zip_file)
