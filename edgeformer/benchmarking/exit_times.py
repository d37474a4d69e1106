"""Times of single texts with exits, without them, and in the worst case, taken in turns.

    times = time_exits(model, texts, None, "auto")
    times.ratio                               # below 1: exits save time on these texts

NumPy and the standard library only.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeformer.energy import find_meter
from edgeformer.errors import InputError
from edgeformer.report.exit_records import ExitTimes

if TYPE_CHECKING:
    from edgeformer.energy import Meter
    from edgeformer.runtime.manifest import Variant
    from edgeformer.runtime.model import Model

TIMED_TEXTS = 64
ROUNDS = 3
NOBODY = 0.0  # no entropy is below: all layers, whatever the criterion
_METER_SECONDS = 1.0
_DIGITS = 5  # of a time in ms: 10 ns

Ask = Callable[[int, "str | float | None"], object]
"""(number of a text, exit) -> the answer to it."""


def spread(count: int, most: int = TIMED_TEXTS) -> list[int]:
    """``most`` numbers below ``count``, or all, evenly spread: files are often sorted."""
    kept = min(count, most)
    return [n * count // kept for n in range(kept)]


def rule_text(variant: "Variant", rule: str) -> str:
    """A rule in words: as it was set, and what that means for ``variant``.

    Raises:
        InputError: the variant has no exits, or cannot follow the rule; or the rule is none.
    """
    from edgeformer.runtime.exit_request import make_request

    request = make_request(rule, None)
    chosen = request.rule_for(variant) if request else None
    if chosen is None:
        raise InputError(
            f"there is nothing to measure where exit is {rule!r}",
            hint="auto, an entropy such as 0.2, probability:0.9 or patience:2; or leave it out",
        )
    return f"{rule} ({chosen.criterion} {chosen.threshold:.4g})"


def time_exits(
    model: "Model",
    texts: list[str],
    pairs: list[str] | None,
    rule: str,
    on_long: str = "truncate",
    more: Callable[[int], bool] = lambda done: done < ROUNDS,
) -> ExitTimes:
    """Call each text by itself, by each way once, then the next text; a first round warms up.

    Which way is first changes from text to text and from round to round.

    Args:
        model: open, with exits.
        texts: to time, and ``pairs``, their second texts.
        rule: as of ``Model.classify``'s ``exit``.
        on_long: likewise.
        more: whether there should be another round after so many.

    Raises:
        InputError: what ``Model.classify`` says of the rule and the texts.
    """

    def ask(n: int, way: str | float | None) -> object:
        return model.classify([texts[n]], pairs and [pairs[n]], exit=way, on_long=on_long)

    ways: tuple[str | float | None, ...] = (rule, None, NOBODY)
    samples: list[list[float]] = [[] for _ in ways]
    rounds = -1  # the first warms up
    while rounds < 1 or more(rounds):
        for n in range(len(texts)):
            for k in range(len(ways)):
                way = (k + n + rounds) % len(ways)
                begun = time.perf_counter()
                ask(n, ways[way])
                taken = time.perf_counter() - begun
                if rounds >= 0:
                    samples[way].append(round(1000 * taken, _DIGITS))
        rounds += 1
    meter = find_meter()
    energy = [_energy_mj(meter, ask, len(texts), way) if meter else None for way in ways]
    return ExitTimes(
        timed_texts=len(texts),
        threads=model.threads,
        with_ms=tuple(samples[0]),
        without_ms=tuple(samples[1]),
        worst_ms=tuple(samples[2]),
        with_mj=energy[0],
        without_mj=energy[1],
        worst_mj=energy[2],
        meter=meter.name if meter else "",
    )


def _energy_mj(meter: "Meter", ask: Ask, texts: int, way: str | float | None) -> float | None:
    """Of one text, the mean of whole rounds that take a second at least; None where the meter
    fails. Counters tick every millisecond or so: a single text would be lost in that."""
    before, begun, rounds = meter.read(), time.perf_counter(), 0
    while not rounds or time.perf_counter() - begun < _METER_SECONDS:
        for n in range(texts):
            ask(n, way)
        rounds += 1
    used = meter.used_mj(before, meter.read())
    return None if used is None else used / (rounds * texts)
