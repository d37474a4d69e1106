"""report.md: the tables of reports as Markdown, for a repository or a pull request."""

import re
from collections.abc import Sequence

from edgeformer.report import exit_tables, tables
from edgeformer.report.choices import shown_profiles
from edgeformer.report.exit_records import ExitRun
from edgeformer.report.layer_times import Profile
from edgeformer.report.schema import Report
from edgeformer.report.tables import Table, labelled

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#!|~])")


def markdown_page(reports: Sequence[Report]) -> str:
    """The page of one report, or of several beside each other."""
    title = ", ".join(dict.fromkeys(report.bundle.name for report in reports))
    parts = [f"# {plain(title)}", *_warnings(reports), *_times(reports), *_problems(reports)]
    for label, report, profile in shown_profiles(reports):
        parts += _profile(label, report, profile)
    parts += _answers(reports)
    for report, name in zip(reports, tables.report_names(reports), strict=True):
        parts.append(f"## Machine{f': {plain(name)}' if len(reports) > 1 else ''}")
        parts.append(as_table(tables.machine_table(report)))
        parts.append(as_table(tables.state_table(report)))
    return "\n\n".join(parts) + "\n"


def _times(reports: Sequence[Report]) -> list[str]:
    rows = labelled(reports)
    if not rows:
        return []
    parts = ["## Latency", as_table(tables.result_table(rows, tables.LATENCY))]
    if staged := tables.staged(rows):
        parts += ["## From text to answer", as_table(tables.result_table(staged, tables.STAGES))]
    parts += ["## Cold start", as_table(tables.result_table(rows, tables.START))]
    return [*parts, "## Memory", as_table(tables.result_table(rows, tables.MEMORY))]


def _profile(label: str, report: Report, profile: Profile) -> list[str]:
    head = f"## Layer by layer: {plain(label)}"
    if profile.state != "measured":
        return [head, plain(f"{profile.error} {profile.hint}")]
    return [
        head,
        f"By {plain(profile.source)}. {plain(profile.note)}".strip(),
        as_table(tables.layer_table(profile)),
        as_table(tables.operation_table(profile, tables.roofline_of(report, profile.threads))),
    ]


def _answers(reports: Sequence[Report]) -> list[str]:
    """What is known of the answers' quality."""
    parts: list[str] = []
    if any(report.accuracy for report in reports):
        parts += ["## Accuracy", as_table(tables.accuracy_table(reports))]
    near = tables.fidelity_table(labelled(reports))
    if near.rows:
        parts += ["## Nearness to PyTorch", as_table(near)]
    for name, run in exit_tables.exit_runs(reports):
        parts += [f"## Early exits: {plain(name)}", *_exits(run)]
    for name, found in exit_tables.calibrations(reports):
        parts += [f"## Calibration of exits: {plain(name)}"]
        parts += [plain(exit_tables.calibration_text(found)) + "."]
    return parts


def _exits(run: ExitRun) -> list[str]:
    if run.error:
        return [plain(f"{run.error} {run.hint}")]
    parts = [as_table(exit_tables.exit_table(run))]
    if run.times:
        parts.append(as_table(exit_tables.exit_time_table(run.times)))
    if run.accuracy is not None:
        parts.append(f"Accuracy {100 * run.accuracy:.2f} %; over the range of thresholds:")
        parts.append(as_table(exit_tables.exit_curve_table(run)))
    return parts


def _warnings(reports: Sequence[Report]) -> list[str]:
    """Void first, then the notes."""
    found = []
    for report, name in zip(reports, tables.report_names(reports), strict=True):
        of = f" ({plain(name)})" if len(reports) > 1 else ""
        if report.void:
            reasons = "; ".join(plain(reason) for reason in report.void_reasons)
            found.append(f"**VOID{of}: do not quote these figures.** {reasons}.")
        if report.notes:
            found.append("\n".join(f"- note{of}: {plain(note)}" for note in report.notes))
    return found


def _problems(reports: Sequence[Report]) -> list[str]:
    lines = [
        f"- {plain(result.variant)}: {plain(result.error)} {plain(result.hint)}".rstrip()
        for report in reports
        for result in report.results
        if not result.measured
    ]
    return ["## Not measured", "\n".join(dict.fromkeys(lines))] if lines else []


def plain(text: str) -> str:
    """Any text on one line of Markdown, with no markup in it."""
    joined = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return _MARKUP.sub(r"\\\1", joined)


def as_table(table: Table) -> str:
    """A table of Markdown."""
    head = "| " + " | ".join(plain(name) for name in table.headers) + " |"
    rule = "|" + "|".join("---" if n == 0 else "---:" for n in range(len(table.headers))) + "|"
    rows = []
    for n, row in enumerate(table.rows):
        cells = [plain(cell) for cell in row]
        if n in table.marks:
            cells[0] += " (void)"
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join((head, rule, *rows))
