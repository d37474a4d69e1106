"""How an evaluation looks on a terminal: pure functions from results to text."""

from typing import TYPE_CHECKING

from edgeformer.cli.text import table
from edgeformer.report.exit_tables import exit_time_lines, left_text

if TYPE_CHECKING:
    from edgeformer.evaluation.evaluate import EvaluationReport
    from edgeformer.evaluation.exits import ExitFigures
    from edgeformer.evaluation.scores import ClassScore, Paired
    from edgeformer.uncertainty import Interval


def evaluation_text(report: "EvaluationReport") -> str:
    """The figures with their intervals, each class, the comparison, and what to know."""
    rows = [(m.name, f"{m.value:.4f}", interval_text(m.interval), m.method) for m in report.metrics]
    lines = [
        f"{report.model} ({report.variant}): {report.name} on {report.texts} rows of {report.data}",
        "",
        table(("figure", "value", "95 % interval", "method"), rows),
    ]
    if report.classes:
        headers = ("class", "precision", "recall", "f1", "true", "answered")
        lines += ["", table(headers, [_class_row(row) for row in report.classes])]
    if report.against:
        lines += ["", paired_text(report.against)]
    if report.minimums:
        lines.append("")
    for minimum in report.minimums:
        state = "reached" if minimum.reached else "MISSED"
        lines.append(f"{minimum.metric} at least {minimum.least:g}: {state}")
    if report.exits:
        lines += ["", exits_text(report.exits)]
    lines += ["", f"{report.texts_per_second:.1f} texts/s in this run (no latency: see benchmark)"]
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)


def exits_text(exits: "ExitFigures") -> str:
    """Where texts left, what it saved, and the curve."""
    rows = [
        (f"{point.threshold:.3f}", f"{point.mean_layers:.2f}", f"{point.accuracy:.4f}")
        for point in exits.curve
    ]
    return "\n".join(
        [
            f"exit {exits.rule}: {exits.mean_layers:.2f} of {exits.layers[-1]} layers on average",
            f"  {left_text(exits.layers, exits.texts)}",
            *(f"  {line}" for line in exit_time_lines(exits.times)),
            "",
            table(("threshold", "mean layers", "accuracy"), rows),
        ]
    )


def _class_row(row: "ClassScore") -> tuple[str, ...]:
    shares = (f"{value:.4f}" for value in (row.precision, row.recall, row.f1))
    return (row.label, *shares, str(row.support), str(row.answered))


def interval_text(interval: "Interval") -> str:
    """Both ends to four digits."""
    return f"{interval.low:.4f} to {interval.high:.4f}"


def paired_text(paired: "Paired") -> str:
    """What the paired comparison says, in two or three lines."""
    lines = [
        f"against {paired.against}: {paired.metric} {paired.value:.4f}, difference"
        f" {paired.difference:+.4f} ({paired.interval.low:+.4f} to {paired.interval.high:+.4f})"
    ]
    if paired.same_answers is not None:
        lines.append(f"  {paired.same_answers:.2%} of the answers are the same")
    if paired.test is not None:
        test = paired.test
        lines.append(
            f"  right only here {test.only_first}, only there {test.only_second}:"
            f" McNemar p {test.p_exact:.4f}, mid-p {test.p_mid:.4f}"
        )
    return "\n".join(lines)
