"""How a number, a sparsity say, changes over the steps of training.

    schedule = make_schedule({"kind": "cubic", "start": 0.0, "end": 0.8, "last_step": 1000})
    schedule(500)                              # 0.7

Each schedule is a frozen dataclass that is called with the step, counting from 0.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from edgeformer.errors import UsageError


@dataclass(frozen=True)
class Constant:
    """``value`` at every step."""

    value: float

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """``start`` up to ``first_step``, ``end`` from ``last_step`` on, a straight line between."""

    start: float
    end: float
    last_step: int
    first_step: int = 0

    def __post_init__(self) -> None:
        _check_order(self.first_step, self.last_step)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        left = _left(self, step)
        return self.start * left + self.end * (1 - left)


@dataclass(frozen=True)
class Cubic:
    """``start`` up to ``first_step``, ``end`` from ``last_step`` on, fast at first between them.

    Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, equation 1:
    ``end + (start - end) * (1 - (step - first_step) / (last_step - first_step)) ** 3``.
    """

    start: float
    end: float
    last_step: int
    first_step: int = 0

    def __post_init__(self) -> None:
        _check_order(self.first_step, self.last_step)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        left = _left(self, step) ** 3
        return self.start * left + self.end * (1 - left)


@dataclass(frozen=True)
class Staged:
    """A value from each of some steps on.

    Attributes:
        stages: (first step, value), steps rising from 0.
    """

    stages: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.stages]
        if steps[:1] != [0] or steps != sorted(set(steps)):
            raise UsageError(f"the stages of a schedule start at step 0 and rise, not at {steps}")

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return next(value for first, value in reversed(self.stages) if step >= first)


Schedule = Constant | Linear | Cubic | Staged
SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "cubic": Cubic,
    "staged": Staged,
}


def make_schedule(settings: Mapping[str, Any], steps: int | None = None) -> Schedule:
    """The schedule of a table in a recipe.

    Args:
        settings: ``kind``, of ``SCHEDULES``, and the fields of that class. A step is a whole
            number, or a number from 0.0 to 1.0 with a point: a share of the training. Stages are a
            list of [step, value].
        steps: how many steps the training has; needed for shares.

    Raises:
        UsageError: an unknown kind, a key that is unknown or missing, a value of the wrong type.
    """
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in SCHEDULES:
        raise UsageError(f"no schedule {kind!r}", hint=f"kind is one of: {', '.join(SCHEDULES)}")
    known = fields(SCHEDULES[kind])
    names = [field.name for field in known]
    unknown = sorted(set(settings) - {"kind", *names})
    missing = [f.name for f in known if f.default is MISSING and f.name not in settings]
    if unknown or missing:
        raise UsageError(
            f"a {kind} schedule does not take {', '.join(unknown)}"
            if unknown
            else f"a {kind} schedule needs {', '.join(missing)}",
            hint=f"its keys are: {', '.join(names)}",
        )
    values = {n: _value(n, v, steps) for n, v in settings.items() if n != "kind"}
    return SCHEDULES[kind](**values)


def _value(name: str, value: Any, steps: int | None) -> Any:
    if name.endswith("_step"):
        return _step(name, value, steps)
    if name != "stages":
        return _number(name, value)
    if not isinstance(value, list | tuple) or not all(
        isinstance(stage, list | tuple) and len(stage) == 2 for stage in value
    ):
        raise UsageError("the stages of a schedule are a list of [step, value]")
    return tuple((_step("a stage", s, steps), _number("a stage", v)) for s, v in value)


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise UsageError(f"{name} of a schedule is a number, not {value!r}")
    return float(value)


def _step(name: str, value: Any, steps: int | None) -> int:
    if type(value) is int and value >= 0:
        return value
    if type(value) is not float or not 0 <= value <= 1:
        raise UsageError(
            f"{name} of a schedule is a step, not {value!r}",
            hint="write a whole number, or a share of the training from 0.0 to 1.0",
        )
    if steps is None:
        raise UsageError(f"{name} of a schedule is a share, and the training's length is not known")
    return round(value * steps)


def _check_order(first: int, last: int) -> None:
    if not 0 <= first <= last:
        raise UsageError(
            f"a schedule goes from first_step to last_step, not from {first} to {last}"
        )


def _left(schedule: Linear | Cubic, step: int) -> float:
    """The share of the way that is left: 1 before the first step, 0 from the last one on."""
    if step >= schedule.last_step:
        return 0.0
    if step <= schedule.first_step:
        return 1.0
    return (schedule.last_step - step) / (schedule.last_step - schedule.first_step)
