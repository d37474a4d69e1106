"""What a report holds, and its JSON.

    report == parse_report(dump_report(report))          # for every report
    report.results[0].p50_ms, report.void_reasons

Schema 2; docs/report_schema.md describes every field. report.json is the source: the terminal's
table, Markdown and HTML are made from it and from nothing else. Fields may be added within a
schema: a reader ignores what it does not know, and gives what is absent its default. Times are in
ms, memory in MB (1e6 bytes). NumPy and the standard library only.

The records are in modules by what they describe: results.py (times and memory), layer_times.py
(where the time goes), exit_records.py (early exits).
"""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from edgeformer.errors import DataError
from edgeformer.machine import Machine, MachineState
from edgeformer.report.exit_records import Calibration, ExitRun, check_exit_run, derived_exits
from edgeformer.report.layer_times import Profile, Roofline
from edgeformer.report.results import Result, check_result, derived_figures
from edgeformer.runtime.records import build

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class BundleFacts:
    """Which bundle was measured.

    Attributes:
        path: as it was given.
        name, family, task, profile, recipe, parameters, max_length: of its manifest.
        digest: of its manifest, which holds the hash of every file.
        forced: True if it missed a tolerance and ``--force`` wrote it all the same.
    """

    path: str
    name: str
    family: str = ""
    task: str = ""
    profile: str = ""
    recipe: str = ""
    parameters: int = 0
    max_length: int = 0
    digest: str = ""
    forced: bool = False


@dataclass(frozen=True)
class Accuracy:
    """How well a variant does a task; what ``edgeformer eval`` finds.

    Attributes:
        variant: id, or ``pytorch`` for the model it was made from.
        dataset, metric: names; the metric is one where more is better.
        value: of the metric.
        low, high: its 95 % interval, None where unknown.
        examples: number of them.
    """

    variant: str
    dataset: str
    metric: str
    value: float
    examples: int = 0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything that was measured of one bundle on one machine.

    Attributes:
        bundle: what was measured.
        workload: what a call was: ``text`` (the task's verb, tokenizing included) or ``arrays``
            (``run`` on a golden input).
        results: every variant, number of threads, length and batch.
        versions: of EdgeFormer and the engines.
        environment: variables that change speed.
        machine, start, end: what it is, and its state before and after.
        profiles, roofline: with ``--per-layer``.
        accuracy: from evaluations.
        exits: what early exits did, in evaluations and with ``--exit``.
        calibrations: of early exits, by the conversion.
        notes: what makes the figures less than trustworthy.
        void_reasons: what makes them void: throttling, or other work on the CPUs.
        host: name of the board and how it was reached, where it was measured over ssh; else empty.
    """

    bundle: BundleFacts
    workload: str
    results: tuple[Result, ...]
    machine: Machine
    start: MachineState
    end: MachineState
    versions: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()
    roofline: tuple[Roofline, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    exits: tuple[ExitRun, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    notes: tuple[str, ...] = ()
    void_reasons: tuple[str, ...] = ()
    host: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def void(self) -> bool:
        """True if the figures must not be quoted."""
        return bool(self.void_reasons)

    @property
    def measured(self) -> tuple[Result, ...]:
        """The results that have samples."""
        return tuple(result for result in self.results if result.measured)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the derived figures beside the samples."""
        data = asdict(self)
        data["void"] = self.void
        for row, result in zip(data["results"], self.results, strict=True):
            row["void"] = bool(result.void_reasons)
            if result.measured:
                row.update(derived_figures(result))
        for row, profile in zip(data["profiles"], self.profiles, strict=True):
            row["not_attributed_ms"] = profile.not_attributed_ms
            row["void"] = bool(profile.void_reasons)
        for row, run in zip(data["exits"], self.exits, strict=True):
            row.update(derived_exits(run))
        return data


def dump_report(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n"


def parse_report(text: str | bytes, name: str = "the report") -> Report:
    """Read report.json.

    Args:
        text: of the file.
        name: of the file, for messages.

    Raises:
        DataError: not a report, another schema, or a field that cannot be.
    """

    def refuse(what: str) -> NoReturn:
        raise DataError(
            f"{name} is not a report: {what}",
            hint="give a file that `edgeformer benchmark BUNDLE --report FILE.json` wrote",
        )

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse(f"a number is {text[:20]}")
        return value

    try:
        data = json.loads(text, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        refuse(f"it is not JSON ({error})")
    if not isinstance(data, dict) or type(data.get("schema_version")) is not int:
        refuse("it has no schema_version")
    if data["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"{name} has schema {data['schema_version']}, this EdgeFormer reads {SCHEMA_VERSION}",
            hint="measure again with this version, or read it with the version that wrote it",
        )
    try:
        report: Report = build(Report, data, "report", refuse, open_fields=True)
    except OverflowError:
        refuse("a number is too large")
    for result in report.results:
        check_result(result, refuse)
    for run in report.exits:
        check_exit_run(run, refuse)
    return report
