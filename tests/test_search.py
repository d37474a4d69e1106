"""The rules of a search to a budget, on made-up trials: what is tried, what is taken, what is said
where nothing fits. tests/test_searching.py makes real bundles."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import UsageError
from edgeformer.searching.candidates import Candidate, Cut, Sizes, cuts, mixtures, precisions
from edgeformer.searching.trials import (
    Budget,
    Trial,
    choose,
    concessions,
    nearest,
    pareto,
    settled,
)
from edgeformer.uncertainty import PairedTest, paired_interval

FP32, INT8 = Candidate("onnx", "fp32"), Candidate("onnx", "int8")
NUMPY_FP32, NUMPY_INT8 = Candidate("numpy", "fp32"), Candidate("numpy", "int8")
PROFILE = load_profile("rpi4")
SIZES = Sizes(12, (3072,) * 12, (12,) * 12)
BOTH = Budget(max_drop=0.5, max_latency_ms=30)
DROP, TIME = Budget(0.5, None), Budget(None, 30)


def trial(candidate: Candidate, drop: float | None, p50_ms: float) -> Trial:
    metric = None if drop is None else 0.9 - drop / 100
    return Trial(candidate, size_mb=1.0, metric=metric, drop=drop, p50_ms=p50_ms)


def walked(
    candidates: "Callable[[list[Trial]], Iterator[Candidate]]",
    trials: list[Trial],
    outcome: Callable[[Candidate], Trial],
) -> list[Candidate]:
    """What a generator asks for, if each candidate turns out as ``outcome`` says."""
    asked = []
    for candidate in candidates(trials):
        asked.append(candidate)
        trials.append(outcome(candidate))
    return asked


# ---- what is taken


def test_with_both_limits_the_first_that_holds_them_ends_the_search() -> None:
    trials = [trial(FP32, 0.0, 40), trial(INT8, 0.4, 29)]
    assert [settled(trials[:n], BOTH) for n in range(3)] == [False, False, True]
    assert choose(trials, BOTH) == 1
    assert choose([*trials, trial(NUMPY_INT8, 0.1, 5)], BOTH) == 1


def test_with_a_drop_alone_the_fastest_is_taken_and_everything_is_tried() -> None:
    trials = [trial(FP32, 0.0, 40), trial(INT8, 0.4, 29), trial(NUMPY_INT8, 0.6, 5)]
    assert not any(settled(trials[: n + 1], DROP) for n in range(3))
    assert choose(trials, DROP) == 1


def test_with_a_time_alone_the_most_accurate_is_taken() -> None:
    trials = [trial(FP32, 0.0, 40), trial(INT8, 0.4, 29), trial(NUMPY_INT8, 0.2, 28)]
    assert choose(trials, TIME) == 2
    assert not settled(trials[:2], TIME)  # another one may be more accurate
    assert settled([trial(FP32, 0.0, 20)], TIME)  # nothing answers more as the original does
    assert settled([trial(INT8, None, 20)], TIME)  # nothing tells which is more accurate


def test_a_candidate_that_failed_or_was_not_evaluated_holds_no_budget() -> None:
    broken = Trial(INT8, problem="the converter is missing")
    for budget in (BOTH, DROP, TIME):
        assert choose([broken], budget) is None
        assert nearest([broken], budget) is None
        assert concessions([broken], budget) == ()
    assert choose([trial(INT8, None, 1)], BOTH) is None


def test_a_limit_that_is_met_exactly_is_held() -> None:
    """0.3 points as the data gives them are 0.30000000000000004."""
    assert BOTH.holds(trial(INT8, 0.5, 30.0))
    assert Budget(0.3, None).holds(trial(INT8, 100 * (0.9 - 0.897), 1))
    assert not BOTH.holds(trial(INT8, 0.51, 30.0))
    assert not BOTH.holds(trial(INT8, 0.5, 30.01))


@pytest.mark.parametrize("drop", [-0.1, math.nan, math.inf])
def test_a_drop_that_is_none_is_refused(drop: float) -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        Budget(drop, None)


@pytest.mark.parametrize("time", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(time: float) -> None:
    with pytest.raises(UsageError, match="--max-latency-ms"):
        Budget(None, time)


def test_no_limit_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="a search needs a budget"):
        Budget(None, None)


# ---- the Pareto front, and what would have done

POINTS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(-3, 9)).map(
        lambda point: trial(INT8, float(point[1]), float(point[0]))
    ),
    min_size=1,
    max_size=12,
)


@given(POINTS)
def test_the_front_has_what_no_other_beats(trials: list[Trial]) -> None:
    front = pareto(trials)

    def beats(a: Trial, b: Trial) -> bool:
        assert a.p50_ms and b.p50_ms and a.drop is not None and b.drop is not None
        better = a.p50_ms < b.p50_ms or a.drop < b.drop
        return a.p50_ms <= b.p50_ms and a.drop <= b.drop and better

    for place, one in enumerate(trials):
        beaten = any(beats(other, one) for other in trials)
        twin = any((trials[i].p50_ms, trials[i].drop) == (one.p50_ms, one.drop) for i in front)
        assert (place in front) <= (not beaten)
        assert beaten or twin  # of two that are alike, one stands for both


@given(POINTS, st.integers(0, 9), st.integers(1, 9))
def test_what_is_said_to_do_would_do(trials: list[Trial], drop: int, time: int) -> None:
    """A user types the concession and gets a bundle."""
    budget = Budget(float(drop), float(time))
    if choose(trials, budget) is not None:
        return
    for said in concessions(trials, budget):
        option, value, *_ = said.split()
        name = option[2:].replace("-", "_")
        assert choose(trials, replace(budget, **{name: float(value)})) is not None, said
    assert nearest(trials, budget) is not None
    fast = [t for t in trials if budget.holds_latency(t)]
    right = [t for t in trials if budget.holds_drop(t)]
    assert len(concessions(trials, budget)) == bool(fast) + bool(right)


def test_the_nearest_misses_by_the_least() -> None:
    trials = [trial(FP32, 0.0, 60), trial(INT8, 0.9, 20), trial(NUMPY_INT8, 0.5, 40)]
    assert nearest(trials, BOTH) == 2  # a third too slow; INT8 is 0.4 points off


# ---- what is tried


def test_precisions_go_from_exact_to_int8_in_the_order_of_engines() -> None:
    found = precisions(PROFILE, ("onnx", "numpy"), ())
    assert found == (FP32, NUMPY_FP32, INT8, NUMPY_INT8)
    assert precisions(PROFILE, ("onnx", "numpy"), ("int8",)) == (INT8, NUMPY_INT8)
    half = replace(PROFILE, quantization=replace(PROFILE.quantization, onnx="fp16"))
    assert precisions(half, ("onnx",), ()) == (FP32, Candidate("onnx", "fp16"))
    assert precisions(half, ("numpy",), ("fp16",)) == ()


def test_int8_that_drops_too_far_is_mixed_with_float32_until_it_does_not() -> None:
    trials = [trial(FP32, 0.0, 40), trial(INT8, 2.0, 20), trial(NUMPY_INT8, 2.0, 20)]
    drops = {0.0625: 1.0, 0.125: 0.4}

    def outcome(candidate: Candidate) -> Trial:
        return trial(candidate, drops[candidate.fp32_share], 25)

    asked = walked(lambda seen: mixtures(seen, BOTH, PROFILE), trials, outcome)
    assert [c.fp32_share for c in asked] == [0.0625, 0.125]
    assert {c.engine for c in asked} == {"onnx"}  # a plan of numpy holds one precision


@pytest.mark.parametrize(
    ("drop", "p50_ms", "budget"),
    [(0.4, 20.0, BOTH), (2.0, 31.0, BOTH), (0.5, 20.0, DROP), (0.0, 20.0, TIME)],
)
def test_int8_that_is_right_or_too_slow_is_not_mixed(
    drop: float, p50_ms: float, budget: Budget
) -> None:
    assert list(mixtures([trial(INT8, drop, p50_ms)], budget, PROFILE)) == []


def test_a_mixture_that_fails_does_not_end_the_others() -> None:
    trials = [trial(INT8, 2.0, 20)]
    asked = walked(
        lambda seen: mixtures(seen, BOTH, PROFILE), trials, lambda c: Trial(c, problem="missed")
    )
    assert [c.fp32_share for c in asked] == [0.0625, 0.125, 0.25]


def test_cuts_take_what_was_fastest_and_stop_where_the_answers_break() -> None:
    trials = [trial(FP32, 0.0, 90), trial(NUMPY_FP32, 0.0, 80), trial(INT8, 2.0, 40)]

    def outcome(candidate: Candidate) -> Trial:
        assert candidate.cut is not None
        left = candidate.cut.layers * candidate.cut.neurons * candidate.cut.heads
        return trial(candidate, 0.1 if left > 0.7 else 3.0, 80 * left)

    asked = walked(lambda seen: cuts(seen, BOTH, SIZES), trials, outcome)
    assert {(c.engine, c.precision) for c in asked} == {("numpy", "fp32")}
    layers = [c.cut.layers for c in asked if c.cut and c.cut.neurons == c.cut.heads == 1]
    assert layers == [5 / 6, 2 / 3]  # two thirds broke them: no half is tried


def test_cuts_are_not_made_where_they_cannot_help() -> None:
    wrong = [trial(FP32, 0.9, 20)]
    assert list(cuts(wrong, BOTH, SIZES)) == []  # the whole model drops too far already
    assert list(cuts([trial(FP32, 0.0, 20)], TIME, SIZES)) == []  # fast enough as it is


def test_with_a_drop_alone_cuts_go_on_while_they_keep_the_answers() -> None:
    trials = [trial(FP32, 0.0, 20)]
    asked = walked(lambda seen: cuts(seen, DROP, SIZES), trials, lambda c: trial(c, 0.1, 10))
    assert len(asked) == 12
    assert len({SIZES.after(c.cut) for c in asked if c.cut}) == 12


def test_cuts_that_change_nothing_are_left_out() -> None:
    tiny = Sizes(1, (1,), (1,))
    assert list(cuts([trial(FP32, 0.0, 40)], BOTH, tiny)) == []
    assert Sizes(2, (64, 64), (4, 4)).after(Cut(0.1, 0.5, 0.1)) == Sizes(1, (32, 32), (1, 1))


# ---- the interval of a drop


@pytest.mark.parametrize("chances", [(0.05, 0.05), (0.1, 0.02), (0.01, 0.01), (0.3, 0.1)])
def test_the_paired_interval_covers_the_true_difference(chances: tuple[float, float]) -> None:
    """Exactly, over all outcomes of 40 texts: never far below the 95 % that it promises."""
    total, (first, second) = 40, chances
    covered = 0.0
    for a, b in itertools.product(range(total + 1), repeat=2):
        if a + b > total:
            continue
        chance = stats.multinomial.pmf((a, b, total - a - b), total, (*chances, 1 - sum(chances)))
        if chance > 1e-12:
            interval = paired_interval(PairedTest(a, b, 1.0, 1.0), total)
            covered += chance * interval.holds(first - second)
    assert covered > 0.935


def test_the_paired_interval_nears_the_usual_one_and_is_never_a_point() -> None:
    """For many texts it is Wald's; for models that never differ it still has a width."""
    total, a, b = 100_000, 5_000, 4_000
    interval = paired_interval(PairedTest(a, b, 0.0, 0.0), total)
    middle = (a - b) / total
    spread = np.sqrt(((a + b) / total - middle**2) / total)
    half = float(stats.norm.ppf(0.975) * spread)
    assert interval.low == pytest.approx(middle - half, abs=1e-6)
    assert interval.high == pytest.approx(middle + half, abs=1e-6)
    same = paired_interval(PairedTest(0, 0, 1.0, 1.0), 100)
    assert same.low < -0.01 < 0.01 < same.high
    assert math.isnan(paired_interval(PairedTest(0, 0, 1.0, 1.0), 0).low)
