"""What `edgeformer benchmark` prints: pure functions from a report to text."""

from edgeformer.cli.text import cpu_line, table
from edgeformer.report import tables
from edgeformer.report.exit_records import ExitRun
from edgeformer.report.exit_tables import exit_runs, exit_time_lines, left_text
from edgeformer.report.layer_times import Profile
from edgeformer.report.results import Result
from edgeformer.report.schema import Report


def benchmark_text(report: Report) -> str:
    """The tables of a benchmark, what it was measured on, and what to doubt."""
    rows = tables.labelled([report])
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    machine, host = report.machine, f"{report.host}: " if report.host else ""
    lines = [
        f"{report.bundle.name} for {report.bundle.profile}: {_work_line(report)}",
        f"on {host}{cpu_line(machine)}; {machine.system}; {machine.python}",
        versions,
    ]
    if rows:
        lines += ["", _marked(tables.result_table(rows, tables.TERMINAL))]
    if staged := tables.staged(rows):
        lines += ["", _marked(tables.result_table(staged, tables.STAGES))]
    for name, run in exit_runs([report]):
        lines += ["", *_exit_lines(name, run)]
    for profile in report.profiles:
        lines += ["", *_profile_lines(report, profile)]
    if problems := [r for r in report.results if not r.measured]:
        lines += ["", *dict.fromkeys(f"{r.variant}: {_reason(r)}" for r in problems)]
    lines += ["", *(f"note: {note}" for note in report.notes)] if report.notes else []
    if report.void:
        lines += ["", *(f"VOID: {reason}" for reason in report.void_reasons)]
        lines += ["  -> these figures say nothing: measure again on a quiet, cool machine"]
    return "\n".join(lines)


def _work_line(report: Report) -> str:
    unit = "text" if report.workload == "text" else "row"
    batches = sorted({result.batch for result in report.results})
    lengths = sorted({result.tokens for result in report.results if result.tokens})
    plural = "" if batches == [1] else "s"
    what = f"{', '.join(map(str, batches))} {unit}{plural} a call"
    return what + (f", {', '.join(map(str, lengths))} tokens" if lengths else "")


def _marked(data: tables.Table) -> str:
    """The table, void rows with a mark."""
    rows = [
        (f"{row[0]} (void)" if i in data.marks else row[0], *row[1:])
        for i, row in enumerate(data.rows)
    ]
    return table(data.headers, rows)


def _profile_lines(report: Report, profile: Profile) -> list[str]:
    name = tables.profile_name(profile, report.profiles)
    if profile.state != "measured":
        return [f"{name}, per layer: {_reason(profile)}"]
    roofline = tables.roofline_of(report, profile.threads)
    lines = [
        f"{name}, per layer, by {profile.source}:",
        _marked(tables.layer_table(profile)),
        "",
        _marked(tables.operation_table(profile, roofline)),
    ]
    return lines + ([f"note: {profile.note}"] if profile.note else [])


def _exit_lines(name: str, run: ExitRun) -> list[str]:
    if not run.measured:
        return [f"{name}: {_reason(run)}"]
    lines = [left_text(run.layers, run.texts), *(exit_time_lines(run.times) if run.times else [])]
    head = f"{name}: {run.mean_layers:.2f} of {run.layers[-1]} layers on average"
    return [head, *(f"  {line}" for line in lines)]


def _reason(found: Result | Profile | ExitRun) -> str:
    return f"{found.error}\n  -> {found.hint}" if found.hint else found.error
