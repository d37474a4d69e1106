"""What a report says of early exits as text: the same on a terminal, in Markdown and in HTML."""

from collections.abc import Iterator, Sequence

from edgeformer.report.exit_records import Calibration, ExitRun, ExitTimes
from edgeformer.report.schema import Report
from edgeformer.report.tables import Table, count, number, report_names


def exit_runs(reports: Sequence[Report]) -> Iterator[tuple[str, ExitRun]]:
    """Every run with exits and its name, with the threads only where they tell runs apart."""
    for name, report in zip(report_names(reports), reports, strict=True):
        of = f"{name}: " if len(reports) > 1 else ""
        several = len({run.times.threads for run in report.exits if run.times}) > 1
        for run in report.exits:
            rule = f", exit {run.threshold}" if run.threshold else ""
            threads = f", {count(run.times.threads, 'thread')}" if several and run.times else ""
            void = " (void)" if run.void_reasons else ""
            yield f"{of}{run.variant} on {run.dataset}{rule}{threads}{void}", run


def calibrations(reports: Sequence[Report]) -> Iterator[tuple[str, Calibration]]:
    """Every calibration and its name."""
    for name, report in zip(report_names(reports), reports, strict=True):
        of = f"{name}: " if len(reports) > 1 else ""
        for found in report.calibrations:
            yield f"{of}{found.variant}", found


def exit_table(run: ExitRun) -> Table:
    """Texts that left after each layer, and the mean number of layers."""
    total = sum(run.texts) or 1
    pairs = zip(run.layers, run.texts, strict=True)
    rows = [(f"layer {layer}", str(left), f"{left / total:.1%}") for layer, left in pairs]
    whole = (f"mean {run.mean_layers:.2f}", str(sum(run.texts)), "")
    return Table(("left after", "texts", "share"), (*rows, whole))


def exit_time_table(times: ExitTimes) -> Table:
    """A text with exits, without, and at worst; energy only where a meter was read."""
    ways = (
        ("with exits", times.mean_ms, times.ratio, times.with_mj),
        ("without", times.mean_ms_without, 1.0, times.without_mj),
        ("worst case: all layers", times.mean_ms_worst, times.worst_ratio, times.worst_mj),
    )
    metered = any(energy is not None for *_, energy in ways)
    rows = []
    for name, mean_ms, ratio, energy in ways:
        row = (name, number(mean_ms), f"{ratio:.2f}x")
        rows.append((*row, "-" if energy is None else number(energy)) if metered else row)
    headers = ("a text", "mean ms", "of without")
    return Table((*headers, "mJ") if metered else headers, tuple(rows))


def exit_time_lines(times: ExitTimes) -> list[str]:
    """The same in sentences."""
    lines = [
        f"{number(times.mean_ms)} ms a text with exits, {number(times.mean_ms_without)} ms without"
        f" ({times.ratio:.2f}x), the mean of {times.timed_texts} texts",
        f"{number(times.mean_ms_worst)} ms where none leaves early ({times.worst_ratio:.2f}x)",
    ]
    energies = (times.with_mj, times.without_mj, times.worst_mj)
    known = [f"{number(value)} mJ" for value in energies if value is not None]
    if len(known) == len(energies):
        lines.append(f"energy ({times.meter}): {', '.join(known)}, in this order")
    return lines


def left_text(layers: Sequence[int], texts: Sequence[int]) -> str:
    """Where texts left, as one line."""
    total = sum(texts) or 1
    pairs = zip(layers, texts, strict=True)
    return "left after layer: " + ", ".join(f"{n / total:.1%} at {layer}" for layer, n in pairs)


def exit_curve_table(run: ExitRun) -> Table:
    """Accuracy against mean layers."""
    rows = tuple(
        (f"{point.threshold:.4g}", f"{point.mean_layers:.2f}", f"{100 * point.accuracy:.2f}")
        for point in run.curve
    )
    return Table(("threshold", "mean layers", "accuracy %"), rows)


def calibration_text(found: Calibration) -> str:
    """What the conversion chose, and what it promised."""
    texts = f"{found.texts} {'labelled ' if found.labelled else ''}texts"
    what = "points of accuracy lost" if found.labelled else "% of answers changed"
    point = found.chosen
    if point is None:
        return f"no threshold kept {found.max_drop:g} {what} on {texts}"
    return (
        f"auto is {found.criterion} {point.threshold:.4g}: {point.mean_layers:.2f} of"
        f" {found.layers} layers on average, {point.drop:.2f} {what} (with 95 % confidence at most"
        f" {point.bound:.2f}, allowed {found.max_drop:g}) on the {texts} of the calibration"
    )
