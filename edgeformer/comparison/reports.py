"""Benchmark reports side by side: what got faster, slower, larger, and how sure that is.

    comparison = compare_reports(["before.json", "after.json"], parse_conditions(("p50>+10%",)))
    comparison.points[0].rows[1].ratio.value        # 1.12: 12 % slower than before

Results are matched by variant, threads, length and batch; the first report is the reference. NumPy
and the standard library only.
"""

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeformer.comparison.conditions import Condition, Entry, Verdict, check_judged, fail, judge
from edgeformer.report.files import read_report
from edgeformer.report.results import Result
from edgeformer.report.schema import Report
from edgeformer.uncertainty import Ratio, mann_whitney, ratio_of_medians


@dataclass(frozen=True)
class Point:
    """What a result is matched by."""

    variant: str
    threads: int
    tokens: int
    batch: int


@dataclass(frozen=True)
class Row:
    """One report's result at a point.

    Attributes:
        report: number of the report, from 0.
        variant: that was measured.
        figures: by the names of ``conditions.METRICS``, ms and MB; empty without samples.
        runs: number of samples.
        failure: why there are none.
        ratio: of the medians, to the first report's; None for the first and without both.
        p_value: of Mann and Whitney's test that the times differ; None likewise.
        void: why the figures must not be quoted; empty if they may.
    """

    report: int
    variant: str
    figures: dict[str, float]
    runs: int = 0
    failure: str = ""
    ratio: Ratio | None = None
    p_value: float | None = None
    void: tuple[str, ...] = ()


@dataclass(frozen=True)
class PointRows:
    """The reports that have a result at one point, in their order."""

    point: Point
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ReportComparison:
    """What ``compare_reports`` found; ``as_dict`` is the JSON.

    Attributes:
        reports: paths, in the order given.
        names: model, profile and machine of each.
        points: every point that some report has.
        notes: what to know when reading the figures.
        broken: conditions that hold, one sentence each.
    """

    reports: tuple[str, ...]
    names: tuple[str, ...]
    points: tuple[PointRows, ...]
    notes: tuple[str, ...]
    broken: tuple[str, ...] = ()
    schema_version: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def check(self) -> None:
        """Raises ThresholdError if a condition holds."""
        fail(self.broken)


def compare_reports(
    paths: Sequence[str | os.PathLike[str]], conditions: Sequence[Condition] = ()
) -> ReportComparison:
    """Compare reports with the first of them.

    Args:
        paths: two or more report.json.
        conditions: of ``--fail-if``, tried on every report but the first.

    Raises:
        UsageError: no such file, or a condition that nothing can be judged by.
        DataError: not a report, or of another schema.
    """
    reports = [read_report(path) for path in paths]
    groups = _matched(reports)
    points = tuple(PointRows(point, _rows(found)) for point, found in groups.items())
    verdict = Verdict()
    for group in points:
        verdict = verdict.plus(_judge(conditions, group, [str(path) for path in paths]))
    check_judged(conditions, verdict)
    return ReportComparison(
        reports=tuple(str(path) for path in paths),
        names=tuple(_name(report) for report in reports),
        points=points,
        notes=(*_notes(reports, groups), *verdict.unjudged),
        broken=verdict.broken,
    )


def figures(result: Result) -> dict[str, float]:
    """The figures that conditions know; empty where nothing was measured but the size."""
    found = {"size": result.file_mb}
    if result.measured:
        found |= {
            "p50": result.p50_ms,
            "p90": result.p90_ms,
            "p95": result.p95_ms,
            "p99": result.p99_ms,
            "mean": statistics.fmean(result.samples_ms),
            "cold": result.cold_start_ms,
            "load": result.load_ms,
            "rss": result.peak_rss_mb,
        }
    return found


def _matched(reports: Sequence[Report]) -> dict[Point, dict[int, Result]]:
    """For each point the results by number of their report.

    Where every report has a single result, these are compared whatever they are.
    """
    alone = all(len(report.results) == 1 for report in reports)
    groups: dict[Point, dict[int, Result]] = {}
    for number, report in enumerate(reports):
        for result in report.results:
            point = Point(result.variant, result.threads, result.tokens, result.batch)
            if alone and groups:
                point = next(iter(groups))
            groups.setdefault(point, {})[number] = result
    return groups


def _rows(found: dict[int, Result]) -> tuple[Row, ...]:
    first = found.get(0)
    return tuple(_row(number, result, first) for number, result in found.items())


def _row(number: int, result: Result, first: Result | None) -> Row:
    ratio = p_value = None
    if number and first and first.measured and result.measured:
        mine, theirs = np.array(result.samples_ms), np.array(first.samples_ms)
        p_value = mann_whitney(mine, theirs)
        ratio = ratio_of_medians(mine, theirs) if min(*mine, *theirs) > 0 else None
    return Row(
        report=number,
        variant=result.variant,
        figures=figures(result),
        runs=len(result.samples_ms),
        failure="" if result.measured else f"{result.state}: {result.error}",
        ratio=ratio,
        p_value=p_value,
        void=result.void_reasons,
    )


def _judge(conditions: Sequence[Condition], group: PointRows, paths: Sequence[str]) -> Verdict:
    entries = {
        row.report: Entry(f"{row.variant} in {paths[row.report]}", row.figures, row.failure)
        for row in group.rows
    }
    first = entries.pop(0, None)
    return judge(conditions, first, list(entries.values()))


def _name(report: Report) -> str:
    bundle, machine = report.bundle, report.machine
    recipe = f", {bundle.recipe}" if bundle.recipe else ""
    return f"{bundle.name} for {bundle.profile}{recipe}, on {machine.board or machine.cpu_model}"


def _notes(reports: Sequence[Report], groups: dict[Point, dict[int, Result]]) -> tuple[str, ...]:
    notes = [
        "the runs were made one after the other: the interval and p know the scatter within a run,"
        " not what changed between them (compare BUNDLES --measure takes turns)"
    ]
    different = [what for what, values in _conditions(reports) if len(set(values)) > 1]
    if different:
        notes.append(f"the reports differ in: {', '.join(different)}")
    for point, found in groups.items():
        works = {(r.threads, r.tokens, r.batch) for r in found.values()}
        if len(works) > 1:
            notes.append(f"{point.variant}: threads, tokens or batch differ: not the same work")
    void = [str(i + 1) for i, report in enumerate(reports) if report.void_reasons]
    if void:
        notes.append(f"void, not to be quoted: report {', '.join(void)}")
    return tuple(notes)


def _conditions(reports: Sequence[Report]) -> list[tuple[str, list[Any]]]:
    """What should be the same where only the bundle is to be compared."""
    return [
        ("CPU", [(r.machine.cpu_model, r.machine.architecture) for r in reports]),
        ("CPUs that may be used", [(r.machine.affinity, r.machine.cgroup_cpus) for r in reports]),
        ("versions", [tuple(sorted(r.versions.items())) for r in reports]),
        ("environment", [tuple(sorted(r.environment.items())) for r in reports]),
        ("kind of workload", [r.workload for r in reports]),
    ]
