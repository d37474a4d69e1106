"""Answers: logits become the probabilities, labels and spans a user reads."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeformer.runtime.answers import (
    Label,
    Span,
    Word,
    group_words,
    merge_windows,
    probabilities,
    spans,
    top_labels,
)

LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 5)),
    elements=st.floats(-1e4, 1e4, width=32),
)


@given(LOGITS)
def test_single_label_is_softmax(logits: NDArray[np.float32]) -> None:
    expected = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    np.testing.assert_allclose(probabilities(logits, "single_label"), expected, atol=1e-12)


@given(LOGITS)
def test_multi_label_is_sigmoid(logits: NDArray[np.float32]) -> None:
    expected = scipy.special.expit(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities(logits, "multi_label"), expected, atol=1e-12)


def test_regression_is_the_value() -> None:
    assert probabilities(np.float32([[2.5]]), "regression").tolist() == [[2.5]]


def test_top_labels_are_sorted_and_cut() -> None:
    scores = np.array([0.2, 0.5, 0.3])
    assert top_labels(scores, ("a", "b", "c"), 2) == [Label("b", 0.5), Label("c", 0.3)]
    assert [label.name for label in top_labels(scores, ("a", "b", "c"), None)] == ["b", "c", "a"]


def test_windows_merge_by_their_tokens() -> None:
    rows = np.float32([[1, 0], [3, 4], [5, 5]])
    merged = merge_windows(rows, np.array([0, 0, 1]), np.array([3, 1, 7]), 2)
    np.testing.assert_allclose(merged, [[1.5, 1.0], [5, 5]])


def test_word_takes_the_label_of_its_first_piece() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6], [1, 0]])
    words = group_words(
        scores, ("O", "B-X"), [(0, 0), (0, 3), (3, 5), (6, 9), (0, 0)], [None, 0, 0, 1, None]
    )
    assert words == [Word(0, 5, "B-X", 0.8), Word(6, 9, "B-X", 0.6)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["B-PER", "I-PER", "O", "B-LOC"], [("PER", 0, 3), ("LOC", 6, 7)]),
        (["B-PER", "B-PER", "O", "O"], [("PER", 0, 1), ("PER", 2, 3)]),
        (["I-PER", "I-LOC", "O", "I-LOC"], [("PER", 0, 1), ("LOC", 2, 3), ("LOC", 6, 7)]),
        (["X-Y", "X-Y", "O", "Z"], [("X-Y", 0, 3), ("Z", 6, 7)]),
        (["O", "O", "O", "O"], []),
    ],
)
def test_spans_follow_the_prefixes(labels: list[str], expected: list[tuple[str, int, int]]) -> None:
    words = [Word(2 * i, 2 * i + 1, label, 0.5) for i, label in enumerate(labels)]
    found = spans("a b c d", words)
    assert [(s.label, s.start, s.end) for s in found] == expected
    assert found == [Span(s.label, 0.5, s.start, s.end, "a b c d"[s.start : s.end]) for s in found]
