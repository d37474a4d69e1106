"""How a comparison looks: tables for a terminal or as Markdown. Pure functions to text."""

import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeformer.cli.text import table
from edgeformer.report.markdown import as_table, plain
from edgeformer.report.tables import Table, number

if TYPE_CHECKING:
    from edgeformer.comparison.answers import Agreement
    from edgeformer.comparison.compare import BundleComparison, BundleFacts, VariantFacts
    from edgeformer.comparison.race import Timing
    from edgeformer.comparison.reports import PointRows, ReportComparison, Row
    from edgeformer.uncertainty import Ratio

LETTERS = string.ascii_uppercase  # the contenders' names in the tables
Cells = Sequence[str]


def report_text(comparison: "ReportComparison", markdown: bool = False) -> str:
    """Reports side by side."""
    lines = [
        f"{LETTERS[i]}  {path}: {comparison.names[i]}" for i, path in enumerate(comparison.reports)
    ]
    shown = [(point, row) for point in comparison.points for row in point.rows]
    measured = [(point, row) for point, row in shown if not row.failure]
    work, cells = _work(comparison.points)
    headers = ("variant", *work, "in", "runs", *_LATENCY, "p50 / A", "95 % interval", "p", "")
    times = [(row.variant, *cells(point), *_time_cells(row)) for point, row in measured]
    costs = [
        (row.variant, *cells(point), LETTERS[row.report], *_cost(row.figures))
        for point, row in measured
    ]
    failures = [f"{LETTERS[r.report]}, {r.variant}: {r.failure}" for _, r in shown if r.failure]
    blocks = [
        _list(lines, markdown),
        _table(headers, times, markdown),
        _table(("variant", *work, "in", *_COST), costs, markdown),
        _list(failures, markdown),
    ]
    return _page(blocks, comparison.notes, comparison.broken, markdown)


def bundle_text(comparison: "BundleComparison", markdown: bool = False) -> str:
    """Bundles side by side."""
    lines = [_bundle_line(LETTERS[i], fact) for i, fact in enumerate(comparison.bundles)]
    variants = [
        _variant_row(LETTERS[i], variant)
        for i, fact in enumerate(comparison.bundles)
        for variant in fact.variants
    ]
    headers = ("variant", "in", "MB", "max abs", "min cos", "mean cos", "top-1", "ok")
    answers = [_agreement_row(comparison, found) for found in comparison.agreements]
    blocks = [
        _list(lines, markdown),
        "to the model that each was made from:",
        _table(headers, variants, markdown),
        f"answers to {comparison.agreements[0].texts} texts, against A"
        f" ({comparison.answered[0] or 'none'}):",
        _table(("", "variant", *_AGREEMENT), answers, markdown),
    ]
    if comparison.timings:
        blocks += [
            f"timed in turns, {len(comparison.timings[0].starts)} processes of each:",
            _table(_TIMING, [_timing_row(timing) for timing in comparison.timings], markdown),
            _table(
                ("", *_COST[1:]),
                [(LETTERS[t.bundle], *_cost(t.figures)[1:]) for t in comparison.timings],
                markdown,
            ),
        ]
    return _page(blocks, comparison.notes, comparison.broken, markdown)


_LATENCY = ("p50 ms", "p90 ms", "p99 ms")
_COST = ("MB", "peak MB", "cold ms", "load ms")
_AGREEMENT = ("min cos", "mean cos", "same answer", "max difference", "")
_TIMING = ("", "variant", "threads", "calls", *_LATENCY, "p50 / A", "95 % interval", "")


def _time_cells(row: "Row") -> Cells:
    p_value = "-" if row.p_value is None else _p(row.p_value)
    head = (LETTERS[row.report], str(row.runs), *_latency(row.figures))
    return (*head, *_ratio(row.ratio), p_value, _verdict(row))


def _latency(figures: dict[str, float]) -> Cells:
    return [number(figures[name]) for name in ("p50", "p90", "p99")]


def _cost(figures: dict[str, float]) -> Cells:
    size = number(figures["size"]) if "size" in figures else "-"
    return [size, *(f"{figures[name]:.0f}" for name in ("rss", "cold", "load"))]


def _ratio(ratio: "Ratio | None") -> Cells:
    if ratio is None:
        return ["-", "-"]
    return [f"{ratio.value:.3f}", f"{ratio.interval.low:.3f} to {ratio.interval.high:.3f}"]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _direction(ratio: "Ratio | None") -> str:
    """Which way the interval lies, nothing where it holds 1."""
    if ratio is None or not ratio.significant:
        return "" if ratio is None else "same"
    return "slower" if ratio.value > 1 else "faster"


def _verdict(row: "Row") -> str:
    return f"{_direction(row.ratio)}{' VOID' if row.void else ''}".strip()


def _work(points: "Sequence[PointRows]") -> tuple[Cells, "Callable[[PointRows], Cells]"]:
    """Headers and cells of threads, tokens and batch, those that differ between the points."""
    names = [
        name
        for name in ("threads", "tokens", "batch")
        if len({getattr(point.point, name) for point in points}) > 1
    ]
    return names, lambda point: [str(getattr(point.point, name)) for name in names]


def _bundle_line(letter: str, fact: "BundleFacts") -> str:
    recipe = f", {fact.recipe}" if fact.recipe else ""
    forced = "; FORCED: it missed a tolerance" if fact.forced else ""
    return (
        f"{letter}  {fact.path}: {fact.name} ({fact.family}), {fact.task},"
        f" for {fact.profile}{recipe}; {fact.parameters:,} parameters,"
        f" {number(fact.total_mb)} MB{forced}"
    )


def _variant_row(letter: str, variant: "VariantFacts") -> Cells:
    head = (variant.id, letter, number(variant.file_mb))
    parity = variant.parity
    if parity is None:
        return (*head, *["-"] * 5)
    return (
        *head,
        f"{parity.max_abs:.1e}",
        f"{parity.min_cosine:.5f}",
        f"{parity.mean_cosine:.5f}",
        "-" if parity.top1 is None else f"{parity.top1:.2%}",
        "yes" if parity.passed else "NO",
    )


def _agreement_row(comparison: "BundleComparison", found: "Agreement") -> Cells:
    return (
        LETTERS[found.bundle],
        comparison.answered[found.bundle] or "none",
        "-" if found.min_cosine is None else f"{found.min_cosine:.5f}",
        "-" if found.mean_cosine is None else f"{found.mean_cosine:.5f}",
        "-" if found.top1 is None else f"{found.top1:.2%}",
        "-" if found.max_difference is None else f"{found.max_difference:.4f}",
        found.note,
    )


def _timing_row(timing: "Timing") -> Cells:
    return (
        LETTERS[timing.bundle],
        timing.variant,
        str(timing.threads),
        str(sum(len(turn) for start in timing.starts for turn in start.rounds_ms)),
        *_latency(timing.figures),
        *_ratio(timing.ratio),
        _direction(timing.ratio),
    )


def _table(headers: Cells, rows: Sequence[Cells], markdown: bool) -> str:
    """A table for a terminal, or as Markdown; nothing without rows."""
    if not rows:
        return ""
    if markdown:
        return as_table(Table(tuple(headers), tuple(tuple(row) for row in rows)))
    return table(headers, rows)


def _list(lines: Sequence[str], markdown: bool) -> str:
    return "\n".join(f"- {plain(line)}" if markdown else line for line in lines)


def _page(blocks: Sequence[str], notes: Cells, broken: Cells, markdown: bool) -> str:
    ends = [
        _list([f"note: {note}" for note in notes], markdown),
        _list([f"fails: {sentence}" for sentence in broken], markdown),
    ]
    return "\n\n".join(block for block in (*blocks, *ends) if block)
