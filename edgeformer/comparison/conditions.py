"""Conditions of ``--fail-if``: what must not be, of one figure of a comparison.

    condition = parse_condition("p50>+10%")
    condition.holds(12.0, 10.0)      # True: 12 is more than 10 % above 10

A condition names a figure, ``>`` or ``<``, and either a signed percentage of the first contender's
figure or a value with its unit. Standard library only.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgeformer.errors import ThresholdError, UsageError

_TIMES = ("p50", "p90", "p95", "p99", "mean", "cold", "load")
_MEMORY = ("size", "rss")
METRICS = (*_TIMES, *_MEMORY)
_TIME_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # in ms
_MEMORY_UNITS = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}  # in MB of 1e6 bytes
_FORM = re.compile(r"([A-Za-z]\w*)\s*([<>])\s*([+-]?)(\d+(?:\.\d+)?|\.\d+)\s*(%|[A-Za-z]*)")
_EXAMPLES = "write for example 'p50>+10%', 'p99>25ms' or 'size<-5%'"


@dataclass(frozen=True)
class Condition:
    """One ``--fail-if``.

    Attributes:
        text: as it was written.
        metric: one of ``METRICS``.
        above: True for ``>``, False for ``<``.
        limit: in ms or MB; of a relative condition, what the reference is multiplied by.
        relative: compared with the first contender's figure.
    """

    text: str
    metric: str
    above: bool
    limit: float
    relative: bool

    def holds(self, value: float, reference: float) -> bool:
        """True if what must not be is so; ``reference`` counts for relative conditions only."""
        limit = self.limit * reference if self.relative else self.limit
        return value > limit if self.above else value < limit


def parse_condition(text: str) -> Condition:
    """Read one condition.

    Raises:
        UsageError: an unknown figure or unit, a missing sign or unit, or anything else that is
            not exactly of the form.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--fail-if {text!r} is not a condition", hint=_EXAMPLES)
    metric, comparison, sign, number, unit = found.groups()
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        known = f"the figures are: {', '.join(METRICS)}"
        hint = f"did you mean {near[0]!r}?" if near else known
        raise UsageError(f"--fail-if {text!r}: no figure {metric!r}", hint=hint)
    limit = float(number)
    if unit == "%":
        limit = 1 + float(f"{sign}{number}") / 100
    else:
        limit *= _unit(text, metric, unit)
    _check_sign(text, sign, unit, limit)
    return Condition(text.strip(), metric, comparison == ">", limit, unit == "%")


def _unit(text: str, metric: str, unit: str) -> float:
    units = _TIME_UNITS if metric in _TIMES else _MEMORY_UNITS
    if unit not in units:
        what = f"{metric} is not in {unit}" if unit else "there is no unit"
        raise UsageError(
            f"--fail-if {text!r}: {what}", hint=f"{metric} is in {', '.join(units)}, or +N% or -N%"
        )
    return units[unit]


def _check_sign(text: str, sign: str, unit: str, limit: float) -> None:
    """A percentage is a change, so it has a sign; a value with a unit has none."""
    if unit == "%" and not sign:
        raise UsageError(
            f"--fail-if {text!r}: a percentage is a change from the first, and needs a sign",
            hint=_EXAMPLES,
        )
    if unit != "%" and sign:
        raise UsageError(
            f"--fail-if {text!r}: a sign goes with a percentage; {unit} are a value by themselves",
            hint=_EXAMPLES,
        )
    if limit < 0:
        raise UsageError(f"--fail-if {text!r}: nothing can lose more than 100 %", hint=_EXAMPLES)


def parse_conditions(texts: tuple[str, ...]) -> tuple[Condition, ...]:
    """Read all; see ``parse_condition``."""
    return tuple(parse_condition(text) for text in texts)


@dataclass(frozen=True)
class Entry:
    """One contender at one point of a comparison: what was found of it.

    Attributes:
        name: of the contender and of what ran.
        figures: by the names of ``METRICS``; times in ms, sizes in MB. Absent where unknown.
        failure: why there are no figures, empty if there are.
    """

    name: str
    figures: dict[str, float]
    failure: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of the conditions.

    Attributes:
        broken: one sentence for each that holds.
        unjudged: one sentence for each that could not be judged, for want of a figure in the
            first contender or in both.
        judged: conditions judged at least once.
    """

    broken: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    judged: frozenset[str] = frozenset()

    def plus(self, other: "Verdict") -> "Verdict":
        """Both together."""
        return Verdict(
            self.broken + other.broken, self.unjudged + other.unjudged, self.judged | other.judged
        )


def judge(conditions: Sequence[Condition], first: Entry | None, others: Sequence[Entry]) -> Verdict:
    """Try every condition on every contender but the first, which is the reference.

    A contender that could not be measured where the first could breaks every condition on what
    was not measured: a check that nobody made is not a check that passed.
    """
    verdict = Verdict()
    for condition in conditions:
        for entry in others:
            verdict = verdict.plus(_judge(condition, first, entry))
    return verdict


def _judge(condition: Condition, first: Entry | None, entry: Entry) -> Verdict:
    judged = frozenset({condition.text})
    value = entry.figures.get(condition.metric)
    reference = first.figures.get(condition.metric) if first else None
    if value is None and reference is not None:
        sentence = f"{entry.name}: {condition.metric} was not measured ({entry.failure})"
        return Verdict(broken=(f"{condition.text}: {sentence}",), judged=judged)
    if value is None or (condition.relative and reference is None):
        return Verdict(unjudged=(f"{condition.text}: nothing to judge {entry.name} by",))
    if not condition.holds(value, reference or 0.0):
        return Verdict(judged=judged)
    unit = "ms" if condition.metric in _TIMES else "MB"
    sentence = f"{entry.name}: {condition.metric} is {value:.4g} {unit}"
    if condition.relative and reference:
        sentence += f", {value / reference - 1:+.1%} against {reference:.4g} {unit}"
    return Verdict(broken=(f"{condition.text}: {sentence}",), judged=judged)


def check_judged(conditions: Sequence[Condition], verdict: Verdict) -> None:
    """Raises UsageError if a condition was judged nowhere: it would never fail."""
    for condition in conditions:
        if condition.text not in verdict.judged:
            raise UsageError(
                f"--fail-if {condition.text!r}: nothing here has such a figure in both",
                hint="sizes are always known, the others need --measure or reports of one workload",
            )


def fail(broken: Sequence[str]) -> None:
    """Raises ThresholdError for conditions that hold."""
    if broken:
        raise ThresholdError(
            "\n  ".join(broken), hint="the tables above have the figures, and how sure they are"
        )
