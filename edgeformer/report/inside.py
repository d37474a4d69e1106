"""The sections of report.html about the model inside: its layers and its answers."""

from collections.abc import Sequence

from edgeformer.report import charts, tables
from edgeformer.report.blocks import beside, figure, table_html
from edgeformer.report.choices import MAX_PROFILES, reference, shown_profiles
from edgeformer.report.layer_times import Profile, Roofline
from edgeformer.report.schema import Report
from edgeformer.report.svg import engine_class, escape
from edgeformer.report.tables import Labelled, labelled, number

_OPERATIONS = (
    "linear",
    "attention",
    "recurrent",
    "norm",
    "activation",
    "embedding",
    "elementwise",
    "layout",
    "quantize",
    "around",
)


def layers(reports: Sequence[Report]) -> str:
    """Where the time of the engine's call goes."""
    shown = shown_profiles(reports)
    if not shown:
        return ""
    parts = [
        "<h2>Layer by layer</h2>",
        '<p class="hint">The engine\'s call only, without tokenizing. What no step accounts for is'
        " listed as not attributed.</p>",
    ]
    parts += [_profile(label, report, profile) for label, report, profile in shown]
    left_out = sum(len(report.profiles) for report in reports) - len(shown)
    if left_out > 0:
        parts.append(
            f'<p class="hint">{left_out} more are in report.json; a page shows {MAX_PROFILES}.</p>'
        )
    return "\n".join(parts)


def _profile(label: str, report: Report, profile: Profile) -> str:
    head = f"<h3>{escape(label)}</h3>"
    if profile.state != "measured":
        return f'{head}<p class="hint">{escape(profile.error)}<br>{escape(profile.hint)}</p>'
    roofline = tables.roofline_of(report, profile.threads)
    names = list(dict.fromkeys(row.layer for row in profile.rows))
    rows = []
    for name in names:
        parts = [
            (operation_class(row.operation), row.operation, row.time_ms)
            for row in profile.rows
            if row.layer == name
        ]
        order = {css: n for n, css in enumerate((*_OPERATIONS, "other"))}
        rows.append(charts.Bar(name, tuple(sorted(parts, key=lambda part: order[part[0]]))))
    if profile.not_attributed_ms > 0:
        rows.append(
            charts.Bar("not attributed", (("rest", "not attributed", profile.not_attributed_ms),))
        )
    caption = f"Timed by {profile.source}; whole call {number(profile.whole_ms)} ms"
    drawn = figure(charts.bars(rows, "ms", compact=True), caption)
    note = f'<p class="hint">{escape(profile.note)}</p>' if profile.note else ""
    return (
        f"{head}{note}{beside(drawn, table_html(tables.layer_table(profile)))}"
        f"{table_html(tables.operation_table(profile, roofline))}"
        f"{_roofline_hint(roofline)}"
    )


def _roofline_hint(roofline: Roofline | None) -> str:
    if roofline is None:
        return ""
    text = (
        f"Roofline: {number(roofline.gflops)} GFLOP/s of float32 products and"
        f" {number(roofline.gb_per_second)} GB/s of copying, measured here. Above 100\u00a0%: data"
        " that stays in the cache, or int8 arithmetic, whose peak is not known."
    )
    return f'<p class="hint">{escape(text)}</p>'


def operation_class(operation: str) -> str:
    """The CSS class of an operation's colour."""
    return operation if operation in _OPERATIONS else "other"


def accuracy(reports: Sequence[Report]) -> str:
    """Accuracy, or nearness to PyTorch where none was evaluated, against speed."""
    rows = reference(labelled(reports))
    near = _nearness(rows)
    figures = _evaluations(reports, rows) if any(report.accuracy for report in reports) else near
    found = [tables.accuracy_table(reports), tables.fidelity_table(rows)]
    listed = "".join(table_html(table) for table in found if table.rows)
    if not figures and not listed:
        return ""
    hint = "A dashed line joins what nothing else beats in both."
    head = f'<h2>Accuracy against speed</h2><p class="hint">{hint}</p>'
    return head + beside("".join(figures), f"<div>{listed}</div>")


def _nearness(rows: Sequence[Labelled]) -> list[str]:
    """Against the nearness to PyTorch that the conversion measured."""
    points = [
        charts.Point(
            row.label,
            engine_class(row.result.engine),
            row.result.p50_ms,
            row.result.fidelity.mean_cosine,
        )
        for row in rows
        if row.result.fidelity
    ]
    if len(points) < 2:
        return []
    drawn = charts.scatter(points, "median ms a call", "mean cosine to PyTorch")
    return [figure(drawn, "Nearness to the PyTorch model's answers")]


def _evaluations(reports: Sequence[Report], rows: Sequence[Labelled]) -> list[str]:
    """A figure for each data set and metric."""
    names = tables.report_names(reports)
    pairs = dict.fromkeys((a.dataset, a.metric) for report in reports for a in report.accuracy)
    figures = []
    for dataset, metric in pairs:
        points = _accuracy_points(reports, names, rows, dataset, metric)
        if points:
            level = _pytorch_level(reports, dataset, metric)
            drawn = charts.scatter(points, "median ms a call", metric, level)
            figures.append(figure(drawn, f"{metric} on {dataset}"))
    return figures


def _pytorch_level(
    reports: Sequence[Report], dataset: str, metric: str
) -> tuple[str, float] | None:
    """What the model scored before it was converted; None where that was not evaluated, or
    where several models are shown."""
    found = [
        item.value
        for report in reports
        for item in report.accuracy
        if (item.variant, item.dataset, item.metric) == ("pytorch", dataset, metric)
    ]
    return ("PyTorch", found[0]) if len(found) == 1 else None


def _accuracy_points(
    reports: Sequence[Report],
    names: Sequence[str],
    rows: Sequence[Labelled],
    dataset: str,
    metric: str,
) -> list[charts.Point]:
    by_label = {row.label: row for row in rows}
    points = []
    for name, report in zip(names, reports, strict=True):
        for found in report.accuracy:
            label = f"{name}: {found.variant}" if len(reports) > 1 else found.variant
            row = by_label.get(label)
            if row and (found.dataset, found.metric) == (dataset, metric):
                css = engine_class(row.result.engine)
                place = (row.result.p50_ms, found.value, found.low, found.high)
                points.append(charts.Point(label, css, *place))
    return points
