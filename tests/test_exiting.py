"""When a text leaves: the entropies of EdgeBERT's release say when it should."""

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.exiting import (
    Controller,
    Deadline,
    ExitRule,
    Lookup,
    best_probability,
    check_rule,
    entropy,
    parse_rule,
    replay,
)

LN2 = math.log(2)
EDGEBERT = os.environ.get("EDGEFORMER_EDGEBERT", "")
needs_release = pytest.mark.skipif(
    not (Path(EDGEBERT) / "sst2_dev_entropies.txt").is_file() or not EDGEBERT,
    reason="EDGEFORMER_EDGEBERT names no folder with EdgeBERT's sst2_dev_entropies.txt",
)

logits_of_rows = arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(2, 6)),
    elements=st.floats(-1e4, 1e4, allow_nan=False),
)


@given(logits_of_rows)
def test_entropy_is_that_of_scipy(logits: NDArray[np.float64]) -> None:
    wanted = scipy.stats.entropy(scipy.special.softmax(logits, axis=1), axis=1)
    found = entropy(logits)
    assert np.abs(found - wanted).max() <= 1e-6
    assert (found >= 0).all() and (found <= math.log(logits.shape[1]) + 1e-12).all()


@given(logits_of_rows)
def test_probability_is_that_of_scipy(logits: NDArray[np.float64]) -> None:
    wanted = scipy.special.softmax(logits, axis=1).max(axis=1)
    assert np.abs(best_probability(logits) - wanted).max() <= 1e-9


def test_entropy_of_large_float32_logits_is_no_nan() -> None:
    """EdgeBERT's own formula overflows from 89 on."""
    assert entropy(np.array([[3e38, -3e38], [100, 100]], np.float32)).tolist() == [0.0, LN2]


def logits_with(entropies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two logits each whose softmax has these entropies, by bisection."""
    low, high = np.zeros_like(entropies), np.full_like(entropies, 60.0)
    for _ in range(80):
        middle = (low + high) / 2
        more = entropy(np.stack([middle, np.zeros_like(middle)], -1)) > entropies
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return np.stack([high, np.zeros_like(high)], -1)


def released(name: str) -> NDArray[np.float64]:
    return np.loadtxt(Path(EDGEBERT) / name, delimiter=",")


@needs_release
def test_exit_layers_of_the_released_entropies() -> None:
    """PAPERS: mean exit layer of SST-2's 872 dev sentences at each threshold of the scripts."""
    found = released("sst2_dev_entropies.txt").T
    logits = logits_with(np.clip(found, 0, LN2))
    means = {0.09: 5.88, 0.16: 4.93, 0.23: 4.30, 0.28: 3.94, 0.46: 2.70}
    for threshold, mean in means.items():
        exits = replay(logits, ExitRule("entropy", threshold))
        assert round(float(exits.mean()), 2) == mean


@needs_release
def test_exit_layers_with_the_released_predictor() -> None:
    table = released("sst2_exit_lookup_table.csv")
    assert np.allclose(table[:, 0], np.arange(100) * 0.01)
    lookup = Lookup(0.01, table[:, 1:])
    entropies = released("sst2_dev_entropies.txt")
    logits = logits_with(np.clip(entropies.T, 0, LN2))
    for threshold, predicted, actual in ((0.16, 4.91, 3.90), (0.28, 3.65, 3.05)):
        caps = lookup.caps(entropies[:, 0], threshold)
        capped = np.where(entropies[:, 0] < threshold, 1, caps)
        assert round(float(capped.mean()), 2) == predicted
        exits = replay(logits, ExitRule("entropy", threshold), lookup)
        assert round(float(exits.mean()), 2) == actual
        assert (exits <= capped).all()


@given(arrays(np.float64, (5, 7, 3), elements=st.floats(-20, 20)), st.floats(0, math.log(3)))
def test_replay_is_the_first_segment_that_is_sure(
    logits: NDArray[np.float64], threshold: float
) -> None:
    sure = entropy(logits) < threshold
    sure[-1] = True
    exits = replay(logits, ExitRule("entropy", threshold))
    assert exits.tolist() == (sure.argmax(axis=0) + 1).tolist()


def test_no_rule_means_all_layers() -> None:
    assert replay(np.zeros((3, 2, 2)), None).tolist() == [3, 3]


def test_probability_leaves_above_its_threshold() -> None:
    logits = np.log(np.array([[[0.8, 0.2], [0.95, 0.05]]] * 2))
    assert replay(logits, ExitRule("probability", 0.9)).tolist() == [2, 1]


def test_patience_counts_equal_answers_of_each_text() -> None:
    """Zhou et al.: with patience 2 a text leaves when two exits repeat the one before."""
    answers = np.array([[0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0]])
    logits = np.eye(2)[answers] * 5
    assert replay(logits, ExitRule("patience", 2)).tolist() == [3, 4, 5]


def test_texts_keep_their_own_state_while_others_leave() -> None:
    controller = Controller(ExitRule("patience", 1), segments=4, texts=3)
    zero, one = [5.0, 0.0], [0.0, 5.0]
    assert not controller.leave(1, np.array([0, 1, 2]), np.array([zero, one, zero])).any()
    left = controller.leave(2, np.array([0, 1, 2]), np.array([zero, zero, one]))
    assert left.tolist() == [True, False, False]
    assert controller.leave(3, np.array([1, 2]), np.array([one, one])).tolist() == [False, True]


def test_the_predictor_caps_what_never_gets_sure() -> None:
    rows = np.array([[0.0, 0.0], [0.5, 0.1], [0.6, 0.6]])  # of four segments
    lookup = Lookup(0.2, rows)
    assert lookup.caps(np.array([0.05, 0.2, 0.69]), 0.3).tolist() == [2, 3, 4]
    unsure = np.zeros((4, 1, 2))
    assert replay(unsure, ExitRule("entropy", 0.65), lookup).tolist() == [2]
    assert replay(unsure, ExitRule("entropy", 0.5), lookup).tolist() == [4]


def test_a_deadline_stops_before_what_would_end_too_late() -> None:
    soon = Deadline(time.perf_counter() + 100, (1.0, 1.0, 1000.0))
    controller = Controller(None, 3, 1, deadline=soon)
    logits = np.zeros((1, 2))
    assert controller.leave(1, np.array([0]), logits).tolist() == [False]
    assert controller.leave(2, np.array([0]), logits).tolist() == [True]
    past = Controller(None, 3, 1, deadline=Deadline(time.perf_counter(), (0.0, 0.1, 0.1)))
    assert past.leave(1, np.array([0]), logits).tolist() == [True]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (ExitRule("entropy", -0.1), "from 0 to ln(2)"),
        (ExitRule("entropy", 0.7), "from 0 to ln(2)"),
        (ExitRule("entropy", math.nan), "from 0 to ln(2)"),
        (ExitRule("probability", 0.4), "from 0.5 to 1"),
        (ExitRule("patience", 0), "a whole number from 1 to 3"),
        (ExitRule("patience", 1.5), "a whole number from 1 to 3"),
        (ExitRule("patience", 4), "a whole number from 1 to 3"),
        (ExitRule("luck", 1), "no exit criterion 'luck'"),
    ],
)
def test_a_threshold_outside_its_range_is_refused(rule: ExitRule, said: str) -> None:
    with pytest.raises(InputError) as error:
        check_rule(rule, segments=4, classes=2)
    assert said in error.value.message and error.value.hint


def test_thresholds_at_both_ends_are_fine() -> None:
    for rule in (ExitRule("entropy", 0), ExitRule("entropy", LN2), ExitRule("patience", 3)):
        check_rule(rule, segments=4, classes=2)


def test_rules_as_text() -> None:
    assert parse_rule("0.2") == ExitRule("entropy", 0.2)
    assert parse_rule("probability:0.9") == ExitRule("probability", 0.9)
    assert parse_rule("patience:2") == ExitRule("patience", 2)
    with pytest.raises(InputError, match="soon"):
        parse_rule("soon")
