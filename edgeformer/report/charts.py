"""The drawings of a report: pure functions from figures to SVG with a legend.

Nothing here knows reports: the page chooses what to draw (report/html.py), these draw it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from edgeformer.report.statistics import percentile
from edgeformer.report.svg import (
    DASHES,
    WIDTH,
    Scale,
    bounds,
    legend,
    line,
    rect,
    shorten,
    svg,
    text,
    tick_text,
    x_axis,
    y_axis,
)
from edgeformer.report.tables import number

_LEFT, _RIGHT = 46.0, WIDTH - 12


@dataclass(frozen=True)
class Sampled:
    """A name, its colour (a CSS class) and samples in ms."""

    name: str
    css: str
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """A line: (x, y, upper end of a whisker) from left to right."""

    name: str
    css: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Bar:
    """A stacked bar: (CSS class, name, value) from left to right."""

    name: str
    parts: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Point:
    """A place with a name."""

    name: str
    css: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def distribution(row: Sampled, bins: int = 48) -> str:
    """A histogram of the samples from the fastest to the slowest, with p50, p90 and p99."""
    marks = [percentile(row.samples_ms, percent) for percent in (50, 90, 99)]
    low, high = min(row.samples_ms), max(row.samples_ms)
    if low == high:
        margin = 0.05 * high or 0.5
        low, high = low - margin, high + margin
    scale, base = Scale(low, high, 0, WIDTH), 62.0
    counts = [0] * bins
    for value in row.samples_ms:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    figures = " · ".join(number(value) for value in marks)
    body = [
        f'<g class="{row.css}">',
        text(0, 12, shorten(row.name, 34), "strong"),
        text(WIDTH, 12, f"{figures} ms", "end"),
    ]
    for n, count in enumerate(counts):
        if count:
            x, size = n * WIDTH / bins, 38 * count / max(counts)
            title = f"{count} calls of about {number(low + (n + 0.5) * (high - low) / bins)} ms"
            body.append(rect(x, base - size, WIDTH / bins - 1, size, "pale", title))
    body.append(line(0, base, WIDTH, base, "axis"))
    body += [line(scale(value), base - 42, scale(value), base + 3, "whisker") for value in marks]
    body += [*_mark_names(scale, base, marks), "</g>"]
    return svg(80, body, f"distribution of the timed calls of {row.name}")


def _mark_names(scale: Scale, base: float, marks: Sequence[float]) -> list[str]:
    """The ends of the axis, and the percentiles where they do not run into each other."""
    low, high = f"{number(scale.low)} ms", f"{number(scale.high)} ms"
    parts = [text(0, base + 15, low, "soft"), text(WIDTH, base + 15, high, "soft end")]
    taken = [(0.0, 6.5 * len(low)), (WIDTH - 6.5 * len(high), WIDTH)]
    for name, value in zip(("p50", "p90", "p99"), marks, strict=True):
        x, half = scale(value), 14.0
        if all(x + half < start or x - half > stop for start, stop in taken):
            parts.append(text(x, base + 15, name, "soft middle"))
            taken.append((x - half, x + half))
    return parts


def lines(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Lines through points with whiskers; the y axis is logarithmic where values differ much."""
    xs = sorted({x for one in series for x, _, _ in one.points})
    ys = [value for one in series for _, y, upper in one.points for value in (y, upper)]
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > 12
    low, high = (min(ys) * 0.8, max(ys) * 1.2) if logarithmic else (0.0, max(ys) * 1.08 or 1.0)
    top, bottom = 26.0, 236.0
    across = Scale(*bounds(xs, 0.03), _LEFT, _RIGHT)
    up = Scale(low, high, bottom, top, logarithmic)
    body = y_axis(up, _LEFT, _RIGHT, y_label)
    body.append(line(_LEFT, bottom, _RIGHT, bottom, "axis"))
    last = -1e9
    for x in xs:
        if across(x) - last > 26:
            body.append(text(across(x), bottom + 15, tick_text(x), "soft middle"))
            last = across(x)
    body.append(text((_LEFT + _RIGHT) / 2, bottom + 31, x_label, "soft middle"))
    names = []
    for one, dash in zip(series, _dashes(series), strict=True):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in one.points)
        pattern = f' stroke-dasharray="{dash}"' if dash else ""
        body.append(f'<g class="{one.css}"><polyline points="{path}" class="stroke"{pattern}/>')
        for x, y, upper in one.points:
            body.append(line(across(x), up(y), across(x), up(upper), "whisker"))
            title = f"{one.name}: {number(y)} at {tick_text(x)}"
            body.append(_dot(across(x), up(y), title))
        body.append("</g>")
        names.append((one.css, dash, one.name))
    return svg(bottom + 36, body, f"{y_label} against {x_label}") + legend(names)


def _dashes(series: Sequence[Series]) -> list[str]:
    """A pattern for each line, different for lines of one colour."""
    seen: dict[str, int] = {}
    found = []
    for one in series:
        place = seen.get(one.css, 0)
        seen[one.css] = place + 1
        found.append(DASHES[place % len(DASHES)])
    return found


def bars(rows: Sequence[Bar], unit: str, compact: bool = False) -> str:
    """Stacked bars on one axis, each under its name; ``compact``: beside it."""
    largest = max((sum(max(v, 0.0) for _, _, v in row.parts) for row in rows), default=0.0) or 1.0
    step, thick = (21.0, 15.0) if compact else (40.0, 16.0)
    left = 92.0 if compact else 0.0
    scale = Scale(0.0, largest, left, WIDTH - 62)
    body = []
    for k, row in enumerate(rows):
        top = k * step
        y = top + (2.0 if compact else 18.0)
        if compact:
            body.append(text(left - 8, y + 12, shorten(row.name, 15), "end"))
        else:
            body.append(text(0, top + 12, shorten(row.name, 58)))
        x, total = left, sum(value for _, _, value in row.parts)
        for css, name, value in row.parts:
            width = scale(max(value, 0.0)) - left
            if width > 0:
                title = f"{row.name}, {name}: {number(value)} {unit}"
                body.append(f'<g class="{css}">{rect(x, y, width, thick, "fill", title)}</g>')
                x += width
        body.append(text(x + 6, y + 12, f"{number(total)} {unit}", "soft"))
    names = dict.fromkeys((css, "block", name) for row in rows for css, name, _ in row.parts)
    return svg(len(rows) * step, body, f"bars in {unit}") + (
        legend(names) if len(names) > 1 else ""
    )


def scatter(
    points: Sequence[Point], x_label: str, y_label: str, level: tuple[str, float] | None = None
) -> str:
    """Named points; a dashed line joins those that no other beats in both (less x, more y).

    ``level`` is a name and a y to compare with, drawn across.
    """
    xs = [point.x for point in points]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    ys += [level[1]] if level else []
    logarithmic = min(xs) > 0 and max(xs) / min(xs) > 12
    left, right = (min(xs) * 0.7, max(xs) * 1.4) if logarithmic else (0.0, max(xs) * 1.1)
    top, bottom = 26.0, 246.0
    across = Scale(left, right or 1.0, _LEFT, _RIGHT, logarithmic)
    up = Scale(*bounds(ys, 0.12), bottom, top)
    body = y_axis(up, _LEFT, _RIGHT, y_label) + x_axis(across, bottom, top, x_label)
    if level:
        body.append(line(_LEFT, up(level[1]), _RIGHT, up(level[1]), "axis"))
        body.append(text(_RIGHT, up(level[1]) - 5, shorten(level[0], 40), "soft end"))
    front = pareto(points)
    corners = [f"{across(point.x):.1f},{up(point.y):.1f}" for point in front]
    if len(front) > 1:
        body.append(f'<polyline points="{" ".join(corners)}" class="front"/>')
    for n, point in enumerate(points, 1):
        x, y = across(point.x), up(point.y)
        body.append(f'<g class="{point.css}">')
        if point.low is not None and point.high is not None:
            body.append(line(x, up(point.low), x, up(point.high), "whisker"))
        body.append(_dot(x, y, f"{point.name}: {number(point.x)}, {point.y:.4f}", 5))
        body.append(text(x + 8, y - 6, str(n), "strong"))
        body.append("</g>")
    names = [(p.css, "block", f"{n}  {p.name}") for n, p in enumerate(points, 1)]
    return svg(bottom + 36, body, f"{y_label} against {x_label}") + legend(names)


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both, from left to right."""
    found: list[Point] = []
    for _, same in itertools.groupby(sorted(points, key=lambda p: p.x), key=lambda p: p.x):
        best = max(same, key=lambda p: p.y)
        if not found or best.y > found[-1].y:
            found.append(best)
    return found


def columns(names: Sequence[str], values: Sequence[float], label: str, css: str) -> str:
    """Upright bars with their values above them."""
    top, bottom = 34.0, 190.0
    up = Scale(0.0, max(values, default=0.0) or 1.0, bottom, top)
    width = (WIDTH - _LEFT) / max(1, len(values))
    body = [text(0, 12, label, "soft"), f'<g class="{css}">']
    for k, (name, value) in enumerate(zip(names, values, strict=True)):
        x = _LEFT / 2 + k * width
        size = min(width * 0.7, 64.0)
        body.append(rect(x + (width - size) / 2, up(value), size, bottom - up(value), "fill", name))
        body.append(text(x + width / 2, up(value) - 5, number(value), "soft middle"))
        body.append(text(x + width / 2, bottom + 15, shorten(name, 14), "soft middle"))
    body.append("</g>")
    body.append(line(_LEFT / 2, bottom, WIDTH - _LEFT / 2, bottom, "axis"))
    return svg(bottom + 22, body, label)


def _dot(x: float, y: float, title: str, radius: float = 3.5) -> str:
    from edgeformer.report.svg import escape

    inside = f"<title>{escape(title)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="dot">{inside}</circle>'
