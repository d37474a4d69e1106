"""Pieces of SVG: escaped text, axes with round ticks, and a legend.

Drawings are 420 units wide, about the width of a phone, so that their text stays readable there.
Colours are CSS classes: the page decides what they look like in the light and in the dark.
"""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH = 420.0
ENGINES = ("onnx", "tflite", "numpy")
DASHES = ("", "6 3", "2 3", "9 3 2 3")


def escape(text: str) -> str:
    """Any text for HTML: nothing in it is markup, and nothing in it is invisible.

    Control characters, lone surrogates and marks that turn the reading direction are shown as
    their numbers.
    """
    shown = "".join(c if _harmless(c) else f"\\u{ord(c):04x}" for c in text)
    return html.escape(shown, quote=True)


def _harmless(c: str) -> bool:
    number = ord(c)
    if number < 32 or 127 <= number < 160 or 0xD800 <= number < 0xE000:
        return False
    return not (
        0x200B <= number <= 0x200F or 0x2028 <= number <= 0x202E or 0x2060 <= number <= 0x206F
    )


def engine_class(engine: str) -> str:
    """The CSS class of an engine's colour."""
    return engine if engine in ENGINES else "other"


def svg(height: float, body: Iterable[str], label: str) -> str:
    """A drawing of that height; ``label`` is what a screen reader says of it."""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{''.join(body)}</svg>"
    )


def text(x: float, y: float, content: str, css: str = "") -> str:
    """Escaped text at a place."""
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


def rect(x: float, y: float, width: float, height: float, css: str, title: str = "") -> str:
    """A filled rectangle; ``title`` appears under the pointer."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{height:.1f}"'
        f' class="{css}">{inside}</rect>'
    )


def shorten(content: str, most: int) -> str:
    """``content``, its middle left out where it is too long."""
    if len(content) <= most:
        return content
    half = (most - 1) // 2
    return f"{content[:half]}…{content[len(content) - (most - 1 - half) :]}"


@dataclass(frozen=True)
class Scale:
    """From values to places: ``low`` is drawn at ``start``, ``high`` at ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where ``value`` is drawn."""
        return self.start + (self.stop - self.start) * self._share(value)

    def _share(self, value: float) -> float:
        if self.logarithmic:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(max(value, 1e-12)) - low) / ((high - low) or 1.0)
        return (value - self.low) / ((self.high - self.low) or 1.0)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values to write beside the axis."""
        return (
            log_ticks(self.low, self.high) if self.logarithmic else ticks(self.low, self.high, most)
        )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between ``low`` and ``high``; at least two."""
    span = high - low
    if not span > 0:
        return [low]
    fair = span / most
    steps = [10 ** math.floor(math.log10(fair)) * factor for factor in (10, 5, 2, 1, 0.5, 0.2)]
    wide = [step for step in steps if step >= fair * 0.999]
    found: list[float] = []
    for step in steps[len(wide) - 1 :]:  # the smallest that is wide enough, then smaller ones
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        found = [n * step for n in range(first, last + 1)]
        if len(found) > 1:
            break
    return found


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, or the powers alone where those are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        found = [f * 10.0**p for p in powers for f in factors]
        inside = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(inside) <= 7:
            return inside or [low]
    return inside


def tick_text(value: float) -> str:
    """A tick without superfluous digits."""
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.0e}"


def legend(items: Iterable[tuple[str, str, str]]) -> str:
    """A list of (CSS class, dash pattern or ``block``, name) under a drawing."""
    entries = []
    for css, dash, name in items:
        if dash == "block":
            mark = '<rect width="22" height="10" class="fill"/>'
        else:
            pattern = f' stroke-dasharray="{dash}"' if dash else ""
            mark = f'<line x1="0" y1="5" x2="22" y2="5" class="stroke"{pattern}/>'
        swatch = f'<svg viewBox="0 0 22 10" class="{css}" aria-hidden="true">{mark}</svg>'
        entries.append(f"<li>{swatch}{escape(name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


def x_axis(
    scale: Scale, y: float, top: float, label: str, form: Callable[[float], str] = tick_text
) -> list[str]:
    """Ticks with grid lines, and the axis' name."""
    parts = [line(scale.start, y, scale.stop, y, "axis")]
    for value in scale.ticks():
        x = scale(value)
        parts.append(line(x, top, x, y, "grid"))
        parts.append(text(x, y + 15, form(value), "soft middle"))
    parts.append(text((scale.start + scale.stop) / 2, y + 31, label, "soft middle"))
    return parts


def y_axis(scale: Scale, x: float, right: float, label: str) -> list[str]:
    """Ticks with grid lines; the axis' name stands above it."""
    parts = [text(0, scale.stop - 10, label, "soft")]
    for value in scale.ticks():
        y = scale(value)
        parts.append(line(x, y, right, y, "grid"))
        parts.append(text(x - 6, y + 4, tick_text(value), "soft end"))
    return parts


def bounds(values: Sequence[float], room: float = 0.05) -> tuple[float, float]:
    """Smallest and largest value with some room around them; never the same."""
    low, high = min(values), max(values)
    margin = (high - low) * room or abs(high) * room or 1.0
    return low - margin, high + margin
