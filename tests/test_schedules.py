"""Schedules: the papers' formulas, and settings that say what is wrong with them."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeformer.compression.schedules import (
    Constant,
    Cubic,
    Linear,
    Schedule,
    Staged,
    make_schedule,
)
from edgeformer.errors import UsageError

SHARES = st.floats(0, 1)
STEPS = st.integers(0, 10_000)


@given(SHARES, SHARES, STEPS, st.integers(1, 10_000), STEPS)
def test_the_cubic_ramp_of_zhu_and_gupta(
    start: float, end: float, first: int, length: int, step: int
) -> None:
    """s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3 between t_0 and t_1."""
    value = Cubic(start, end, first + length, first)(step)
    t = min(max(step, first), first + length)
    assert value == pytest.approx(end + (start - end) * (1 - (t - first) / length) ** 3, abs=1e-9)


@given(SHARES, SHARES, STEPS, st.integers(1, 10_000), STEPS)
def test_the_straight_line(start: float, end: float, first: int, length: int, step: int) -> None:
    value = Linear(start, end, first + length, first)(step)
    t = min(max(step, first), first + length)
    assert value == pytest.approx(start + (end - start) * (t - first) / length, abs=1e-9)


@pytest.mark.parametrize("kind", [Linear, Cubic])
def test_a_ramp_keeps_to_its_ends(kind: type[Linear] | type[Cubic]) -> None:
    ramp = kind(0.1, 0.8, last_step=30, first_step=10)
    assert [ramp(step) for step in (0, 10, 30, 31, 10**9)] == [0.1, 0.1, 0.8, 0.8, 0.8]
    values = [ramp(step) for step in range(41)]
    assert values == sorted(values)
    at_once = kind(0.0, 0.5, last_step=7, first_step=7)
    assert [at_once(step) for step in (6, 7)] == [0.0, 0.5]


def test_half_of_the_way() -> None:
    assert Linear(0.0, 0.8, 1000)(500) == pytest.approx(0.4)
    assert Cubic(0.0, 0.8, 1000)(500) == pytest.approx(0.7)


def test_stages() -> None:
    staged = Staged(((0, 0.0), (10, 0.5), (20, 0.8)))
    assert [staged(step) for step in (0, 9, 10, 19, 20, 99)] == [0.0, 0.0, 0.5, 0.5, 0.8, 0.8]
    for steps in ((), (1,), (0, 5, 5), (0, 9, 3)):
        with pytest.raises(UsageError, match="step 0"):
            Staged(tuple((step, 0.1) for step in steps))


def test_a_schedule_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Constant(0.5).value = 0.6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "constant", "value": 1}, Constant(1.0)),
        ({"kind": "linear", "start": 0, "end": 0.5, "last_step": 9}, Linear(0.0, 0.5, 9, 0)),
        (
            {"kind": "cubic", "start": 0.0, "end": 0.8, "first_step": 0.1, "last_step": 0.75},
            Cubic(0.0, 0.8, last_step=150, first_step=20),
        ),
        (
            {"kind": "cubic", "start": 0.0, "end": 0.8, "first_step": 1, "last_step": 1.0},
            Cubic(0.0, 0.8, last_step=200, first_step=1),
        ),
        ({"kind": "staged", "stages": [[0, 0], [0.5, 0.9]]}, Staged(((0, 0.0), (100, 0.9)))),
    ],
)
def test_a_schedule_from_a_recipe(settings: dict[str, Any], expected: Schedule) -> None:
    assert make_schedule(settings, steps=200) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no schedule None"),
        ({"kind": "quartic"}, "quartic"),
        ({"kind": ["cubic"]}, "cubic"),
        ({"kind": "constant"}, "needs value"),
        ({"kind": "constant", "value": 0.5, "end": 1}, "does not take end"),
        ({"kind": "cubic", "start": 0.0, "end": 0.8}, "needs last_step"),
        ({"kind": "linear", "start": 0, "end": "0.8", "last_step": 9}, "end of a schedule"),
        ({"kind": "linear", "start": True, "end": 0.8, "last_step": 9}, "start of a schedule"),
        ({"kind": "linear", "start": 0, "end": 0.8, "last_step": -1}, "last_step"),
        ({"kind": "linear", "start": 0, "end": 0.8, "last_step": 1.5}, "last_step"),
        ({"kind": "linear", "start": 0, "end": 0.8, "last_step": 0.5}, "length is not known"),
        ({"kind": "linear", "start": 0, "end": 1, "first_step": 9, "last_step": 3}, "from 9 to 3"),
        ({"kind": "staged", "stages": 3}, "list of"),
        ({"kind": "staged", "stages": [[0, 0.1, 2]]}, "list of"),
        ({"kind": "staged", "stages": [[5, 0.1]]}, "step 0"),
    ],
)
def test_settings_that_make_no_schedule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_schedule(settings)


def test_the_error_names_the_keys() -> None:
    with pytest.raises(UsageError) as caught:
        make_schedule({"kind": "cubic", "begin": 3})
    assert "start, end, last_step, first_step" in caught.value.hint
