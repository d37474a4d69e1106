"""Drawings say what the figures say: places, sizes and counts, for any figures."""

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeformer.report import charts
from edgeformer.report.charts import Bar, Point, Sampled, Series
from edgeformer.report.curves import Chosen, Curve, tradeoff
from edgeformer.report.svg import Scale, escape, log_ticks, shorten, ticks

times = st.floats(0, 1e7)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_ticks_are_round_and_inside(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    assert 2 <= len(found) <= 2 * most + 1
    step = found[1] - found[0]
    for value in found:
        assert low - 1e-6 * span <= value <= low + span * (1 + 1e-6)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 5, 10)) < 1e-3 * mantissa


@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e6))
def test_logarithmic_ticks_are_few_and_inside(low: float, ratio: float) -> None:
    found = log_ticks(low, low * ratio)
    assert 1 <= len(found) <= 14
    assert all(low * 0.99 <= value <= low * ratio * 1.01 for value in found)


def numbers(drawing: str) -> list[float]:
    """Every number in an attribute that places something."""
    return [
        float(v) for v in re.findall(r' (?:x|y|x1|y1|x2|y2|cx|cy|width|height)="([^"]*)"', drawing)
    ]


@given(st.lists(times, min_size=1, max_size=60))
def test_every_sample_is_counted_once(samples: list[float]) -> None:
    drawing = charts.distribution(Sampled("x", "onnx", tuple(samples)))
    assert sum(int(n) for n in re.findall(r"(\d+) calls of about", drawing)) == len(samples)
    assert all(math.isfinite(value) for value in numbers(drawing))
    marks = [float(x) for x in re.findall(r'x1="([^"]*)"[^>]*class="whisker"', drawing)]
    assert len(marks) == 3
    assert marks == sorted(marks)
    assert marks[0] >= 0
    assert marks[2] <= 420


@given(st.lists(st.lists(times, min_size=2, max_size=2), min_size=1, max_size=5))
def test_bars_are_as_long_as_their_values(rows: list[list[float]]) -> None:
    bars = [Bar(f"r{k}", (("linear", "a", a), ("norm", "b", b))) for k, (a, b) in enumerate(rows)]
    drawing = charts.bars(bars, "ms")
    widths = [float(w) for w in re.findall(r'<rect [^>]*width="([^"]*)" height="16.0"', drawing)]
    largest = max(a + b for a, b in rows) or 1.0
    wanted = [value / largest * (420 - 62) for row in rows for value in row if value > 0]
    assert widths == pytest.approx([w for w in wanted if w > 0], abs=0.06)


@given(
    st.lists(
        st.tuples(st.integers(1, 512), times, times),
        min_size=2,
        max_size=6,
        unique_by=lambda p: p[0],
    )
)
def test_lines_go_through_their_points(points: list[tuple[int, float, float]]) -> None:
    ordered = tuple((float(x), y, max(y, upper)) for x, y, upper in sorted(points))
    drawing = charts.lines([Series("s", "onnx", ordered)], "tokens", "ms")
    assert all(math.isfinite(value) for value in numbers(drawing))
    path = re.search(r'points="([^"]*)"', drawing)
    assert path is not None
    places = [tuple(map(float, pair.split(","))) for pair in path[1].split()]
    assert len(places) == len(ordered)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    for (_, first), (_, second), a, b in zip(
        places, places[1:], ordered, ordered[1:], strict=False
    ):
        if abs(first - second) > 0.2:
            assert (first > second) == (a[1] < b[1])  # down is more


def test_lines_of_one_colour_differ_in_their_dashes() -> None:
    points = ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    series = [Series(f"s{k}", css, points) for k, css in enumerate(("onnx", "onnx", "numpy"))]
    drawing = charts.lines(series, "tokens", "ms").partition("<ul")[0]
    assert drawing.count("stroke-dasharray") == 1


places = st.builds(
    lambda x, y: Point("p", "onnx", x, y),
    st.integers(0, 9).map(float),
    st.integers(0, 9).map(float),
)


@given(st.lists(places, min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[Point]) -> None:
    """By the definition, point against point."""

    def beaten(p: Point) -> bool:
        return any(q.x <= p.x and q.y >= p.y and (q.x, q.y) != (p.x, p.y) for q in points)

    front = charts.pareto(points)
    assert {(p.x, p.y) for p in front} == {(p.x, p.y) for p in points if not beaten(p)}
    assert [p.x for p in front] == sorted(p.x for p in front)
    assert all(math.isfinite(v) for v in numbers(charts.scatter(points, "ms", "accuracy")))


def test_nothing_at_all_is_still_a_drawing() -> None:
    for drawing in (charts.bars([], "ms"), charts.columns([], [], "texts", "onnx")):
        assert drawing.startswith("<svg")
        assert all(math.isfinite(value) for value in numbers(drawing))


@given(st.text(max_size=40))
@example("\u202e\u200b\x00\x7f<&")
def test_escaped_text_has_no_markup_and_nothing_invisible(text: str) -> None:
    shown = escape(text)
    assert not set(shown) & set("<>\"'")
    assert not re.search(r"&(?!amp;|lt;|gt;|quot;|#x27;)", shown)
    shown.encode("utf-8")
    assert not any(ord(c) < 32 or c in "\x7f\u200b\u202e" for c in shown)


@given(st.text(max_size=80), st.integers(3, 40))
def test_shortened_text_keeps_its_ends(text: str, most: int) -> None:
    found = shorten(text, most)
    assert len(found) <= most
    if len(text) <= most:
        assert found == text
    else:
        first, _, last = found.partition("…") if "…" not in text else (found, "", "")
        assert text.startswith(first) or "…" in text
        assert text.endswith(last)


def test_a_logarithmic_scale_spaces_powers_evenly() -> None:
    scale = Scale(1, 100, 0, 200, logarithmic=True)
    assert [scale(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])


@given(
    st.lists(st.tuples(st.floats(1, 12), st.floats(0, 100)), min_size=1, max_size=101),
    st.integers(0, 100),
    st.floats(0, 100),
)
@example([(6.0, 92.0)], 0, 92.0)  # one exit, one answer: no span at all
def test_a_chosen_place_lies_on_its_curve_and_its_name_inside(
    points: list[tuple[float, float]], number: int, level: float
) -> None:
    x, y = points[number % len(points)]
    drawing = tradeoff(
        [Curve("measured", "onnx", tuple(points))],
        "mean layers of a text",
        "accuracy in %",
        Chosen("auto: 4.68 layers, 92.1 %", x, y),
        ("all layers", level),
    )
    assert all(math.isfinite(value) for value in numbers(drawing))
    path = re.search(r'points="([^"]*)"', drawing)
    ring = re.search(r'<circle cx="([^"]*)" cy="([^"]*)" r="6.5" class="ring"', drawing)
    name = re.search(r'<text x="([^"]*)" y="([^"]*)" class="strong halo">auto', drawing)
    assert path and ring and name
    assert f"{ring[1]},{ring[2]}" in path[1].split()
    assert 0 <= float(name[1]) < float(name[1]) + 25 * 6 <= 420
    assert 0 < float(name[2]) < 236
    said = re.search(r'aria-label="([^"]*)"', drawing)
    assert said and "accuracy in % against mean layers of a text" in said[1]
    assert said[1].endswith("chosen: auto: 4.68 layers, 92.1 %")
