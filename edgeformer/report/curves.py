"""A drawing of what is gained against what it costs: curves, the chosen place, and a level."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeformer.report.svg import (
    WIDTH,
    Scale,
    bounds,
    escape,
    legend,
    line,
    svg,
    text,
    x_axis,
    y_axis,
)
from edgeformer.report.tables import number

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12, 26.0, 236.0
_MOST_DOTS = 30
_LETTER = 7.0  # width of a bold one, on average and a little more
_LEVEL_DASH, _LEVEL_CSS = "3 3", "around"


@dataclass(frozen=True)
class Curve:
    """A line through (x, y) in the order of ``points``; ``dash`` is a pattern of SVG."""

    name: str
    css: str
    points: tuple[tuple[float, float], ...]
    dash: str = ""


@dataclass(frozen=True)
class Chosen:
    """The place on a curve that is used, ringed and named."""

    name: str
    x: float
    y: float


def tradeoff(
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    chosen: Chosen | None = None,
    level: tuple[str, float] | None = None,
) -> str:
    """Curves with their chosen place.

    Args:
        curves: one at least, of one point at least.
        x_label, y_label: names of the axes, with their units.
        chosen: the place that is used, if any.
        level: a name and a y to compare with, drawn across.
    """
    places = [point for curve in curves for point in curve.points]
    places += [(chosen.x, chosen.y)] if chosen else []
    xs, ys = [x for x, _ in places], [y for _, y in places]
    ys += [level[1]] if level else []
    across = Scale(*bounds(xs), _LEFT, _RIGHT)
    up = Scale(*bounds(ys, 0.08), _BOTTOM, _TOP)
    body = y_axis(up, _LEFT, _RIGHT, y_label) + x_axis(across, _BOTTOM, _TOP, x_label)
    level_y = up(level[1]) if level else None
    if level_y is not None:
        body.append(f'<g class="{_LEVEL_CSS}">{_dashed(level_y)}</g>')
    for curve in curves:
        body.append(_drawn(curve, across, up))
    if chosen:
        body.append(_ringed(chosen, across(chosen.x), up(chosen.y), level_y))
    names = [(curve.css, curve.dash, curve.name) for curve in curves]
    names += [(_LEVEL_CSS, _LEVEL_DASH, level[0])] if level else []
    label = _in_words(curves[0], x_label, y_label, chosen)
    return svg(_BOTTOM + 36, body, label) + legend(names)


def _dashed(y: float) -> str:
    ends = f'x1="{_LEFT:.1f}" y1="{y:.1f}" x2="{_RIGHT:.1f}" y2="{y:.1f}"'
    return f'<line {ends} class="stroke" stroke-dasharray="{_LEVEL_DASH}"/>'


def _drawn(curve: Curve, across: Scale, up: Scale) -> str:
    path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points)
    pattern = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
    dots = "".join(
        f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.5" class="dot">'
        f"<title>{escape(f'{curve.name}: {number(y)} at {number(x)}')}</title></circle>"
        for x, y in curve.points
        if len(curve.points) <= _MOST_DOTS
    )
    return f'<g class="{curve.css}"><polyline points="{path}" class="stroke"{pattern}/>{dots}</g>'


def _ringed(chosen: Chosen, x: float, y: float, level: float | None) -> str:
    """The ring; its name is to the right of it, as far as there is room, and on the other side of a
    level that is just above it."""
    below = y < (_TOP + _BOTTOM) / 2
    above = y - 13 if level is None or not y - 32 < level < y else level - 9
    start = max(_LEFT, min(x + 9, _RIGHT - _LETTER * len(chosen.name)))
    name = text(start, y + 22 if below else above, chosen.name, "strong halo")
    tick = line(x, y + 7, x, _BOTTOM, "grid")
    return f'{tick}<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" class="ring"/>{name}'


def _in_words(curve: Curve, x_label: str, y_label: str, chosen: Chosen | None) -> str:
    """What a screen reader says: the axes, the ends of the first curve, and the choice."""
    (x1, y1), (x2, y2) = curve.points[0], curve.points[-1]
    said = (
        f"{y_label} against {x_label}, {curve.name}: from {number(y1)} at {number(x1)}"
        f" to {number(y2)} at {number(x2)}"
    )
    return f"{said}; chosen: {chosen.name}" if chosen else said
