"""The section of report.html about early exits: where texts leave, what that saves and costs."""

from collections.abc import Sequence

from edgeformer.report import charts, exit_tables
from edgeformer.report.blocks import beside, figure, table_html
from edgeformer.report.curves import Chosen, Curve, tradeoff
from edgeformer.report.exit_records import Calibration, ExitRun, ExitTimes
from edgeformer.report.schema import Report
from edgeformer.report.svg import engine_class, escape
from edgeformer.report.tables import count

_ZOOM = 5.0  # budgets: the rest of a calibration's curve would press what matters to the floor


def exits(reports: Sequence[Report]) -> str:
    """Every run with exits, then what the conversions calibrated."""
    parts = [_run(name, run) for name, run in exit_tables.exit_runs(reports)]
    parts += [_calibration(name, found) for name, found in exit_tables.calibrations(reports)]
    if not parts:
        return ""
    hint = "What exits save depends on the texts: easy ones leave after a layer or two."
    return f'<h2>Early exits</h2><p class="hint">{hint}</p>{"".join(parts)}'


def _run(name: str, run: ExitRun) -> str:
    head = f"<h3>{escape(name)}</h3>"
    if run.error:
        return f'{head}<p class="hint">{escape(run.error)}<br>{escape(run.hint)}</p>'
    css = engine_class(run.variant.partition("-")[0])
    left = beside(figure(_histogram(run, css), ""), table_html(exit_tables.exit_table(run)))
    drawn = [_curve(run, css)] if run.curve else []
    drawn += [_times(run.times, css)] if run.times else []
    return f'{head}{left}<div class="pair">{"".join(drawn)}</div>' if drawn else head + left


def _histogram(run: ExitRun, css: str) -> str:
    total = sum(run.texts)
    return charts.columns(
        [f"layer {layer}" for layer in run.layers],
        [100 * texts / (total or 1) for texts in run.texts],
        f"% of {total} texts that left after",
        css,
    )


def _curve(run: ExitRun, css: str) -> str:
    """Accuracy against mean layers, with the rule that was used."""
    points = tuple((point.mean_layers, 100 * point.accuracy) for point in run.curve)
    chosen = None
    if run.accuracy is not None:
        percent = 100 * run.accuracy
        name = f"{run.mean_layers:.2f} layers, {percent:.1f} %"
        chosen = Chosen(name, run.mean_layers, percent)
    drawn = tradeoff(
        [Curve("measured", css, points)],
        "mean layers of a text",
        "accuracy in %",
        chosen,
        (f"all layers, {points[0][1]:.1f} %", points[0][1]),  # the strictest: nobody leaves
    )
    return figure(drawn, f"Accuracy against mean layers on {run.dataset}; ringed: {run.threshold}")


def _times(times: ExitTimes, css: str) -> str:
    table = exit_tables.exit_time_table(times)
    values = (times.mean_ms, times.mean_ms_without, times.mean_ms_worst)
    rows = [
        charts.Bar(f"{name} ({share})", ((css, "mean", value),))
        for (name, _, share, *_), value in zip(table.rows, values, strict=True)
    ]
    caption = f"Mean time of a text over {times.timed_texts}, {count(times.threads, 'thread')}"
    note = ""
    if times.meter:
        note = f'<p class="hint">Energy by {escape(times.meter)}, whatever else it feeds.</p>'
    return f"<div>{figure(charts.bars(rows, 'ms'), caption)}{table_html(table)}{note}</div>"


def _calibration(name: str, found: Calibration) -> str:
    """What the budget allows, as the conversion measured it."""
    head = f"<h3>{escape(name)}: the calibration</h3>"
    said = f'<p class="hint">{escape(exit_tables.calibration_text(found))}</p>'
    kept = list(found.curve[:2])
    for looser in found.curve[2:]:
        if looser.bound > _ZOOM * found.max_drop:
            break
        kept.append(looser)
    css, point = engine_class(found.variant.partition("-")[0]), found.chosen
    bound = tuple((p.mean_layers, p.bound) for p in kept)
    chosen = None
    if point is not None:
        words = f"auto: {point.mean_layers:.2f} layers, at most {point.bound:.2f}"
        chosen = Chosen(words, point.mean_layers, point.bound)
    what = "points of accuracy lost" if found.labelled else "% of answers changed"
    drawn = tradeoff(
        [
            Curve("upper end of the 95 % interval", css, bound, "6 3"),
            Curve("measured", css, tuple((p.mean_layers, p.drop) for p in kept)),
        ],
        "mean layers of a text",
        what,
        chosen,
        (f"allowed, {found.max_drop:g}", found.max_drop),
    )
    rest = len(found.curve) - len(kept)
    more = f"; {rest} looser thresholds are in report.json" if rest else ""
    caption = f"Mean layers against {what}, thresholds of {found.criterion}{more}"
    return f'{head}{said}<div class="pair">{figure(drawn, caption)}</div>'
