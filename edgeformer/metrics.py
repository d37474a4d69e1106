"""How right answers are: accuracy, F1, Matthews, correlations, F1 of tagged spans.

Pure functions over numpy arrays, equal to scikit-learn, scipy and seqeval (docs/eval.md names the
functions). Of no data there is no figure: NaN. How sure a figure is, uncertainty.py says.

A tally is int64 (classes, 3): for each class its hits (answered and true), how often it was the
answer, and how often it is the truth. Every F1 is made from one; tallies of texts add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Tally = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Precision, recall and F1 of one class, or of all counted as one.

    Attributes:
        hits: answered and true.
        answered: how often it was the answer.
        true: how often it is the truth (the support).
    """

    hits: int
    answered: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the answers that are true; 0 without an answer."""
        return self.hits / self.answered if self.answered else 0.0

    @property
    def recall(self) -> float:
        """Share of the true ones that were answered; 0 if there are none."""
        return self.hits / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; 0 where nothing was right."""
        return 2 * self.hits / (self.answered + self.true) if self.hits else 0.0


def class_scores(tally: Tally) -> tuple[Scores, ...]:
    """The scores of each class."""
    return tuple(Scores(*map(int, row)) for row in tally)


def micro(tally: Tally) -> Scores:
    """All classes counted as one: micro-averaged precision, recall and F1."""
    return Scores(*map(int, tally.sum(axis=0)))


def macro_f1(tally: Tally) -> float:
    """Mean F1 of the classes that occur, in the data or in the answers."""
    sizes = tally[:, 1] + tally[:, 2]
    seen = sizes > 0
    return float(np.mean(2 * tally[seen, 0] / sizes[seen])) if seen.any() else float("nan")


def accuracy(truth: NDArray[Any], answers: NDArray[Any]) -> float:
    """Share of equal entries; of two-dimensional arrays, of rows that are equal as a whole."""
    equal = truth == answers
    if equal.ndim > 1:
        equal = equal.all(axis=1)
    return float(equal.mean()) if len(equal) else float("nan")


def confusion(truth: Ints, answers: Ints, classes: int) -> NDArray[np.int64]:
    """Counts, int64 (classes, classes): row the true class, column the answer.

    Args:
        truth, answers: class numbers (texts,), from 0 to ``classes - 1``.
        classes: number of classes.
    """
    pairs = np.bincount(truth * classes + answers, minlength=classes * classes)
    return np.asarray(pairs.reshape(classes, classes), np.int64)


def class_tally(counts: NDArray[np.int64]) -> Tally:
    """The tally of a confusion matrix."""
    return np.stack([np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)], axis=1)


def matthews(counts: NDArray[np.int64]) -> float:
    """Matthews' correlation coefficient of a confusion matrix, for two classes or more.

    Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient",
    Computational Biology and Chemistry 28 (2004), eq. 8. 0 where data or answers are of one class.
    """
    counts = counts.astype(np.float64)
    texts, answered, true = counts.sum(), counts.sum(axis=0), counts.sum(axis=1)
    if texts == 0:
        return float("nan")
    size = (texts**2 - answered @ answered) * (texts**2 - true @ true)
    return float((np.trace(counts) * texts - true @ answered) / np.sqrt(size)) if size else 0.0


def label_tallies(truth: Bools, answers: Bools) -> NDArray[np.int64]:
    """A tally of each text of a multi-label problem, int64 (texts, labels, 3).

    Args:
        truth, answers: bool (texts, labels).
    """
    return np.stack([truth & answers, answers, truth], axis=2).astype(np.int64)


def ranks(values: Floats) -> Floats:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place.reshape(-1)])


def pearson(a: Floats, b: Floats) -> float:
    """Pearson's correlation; NaN for fewer than two values or where one side is constant."""
    if len(a) < 2 or np.all(a == a[0]) or np.all(b == b[0]):
        return float("nan")
    product = float(_unit(a) @ _unit(b))
    return max(-1.0, min(1.0, product))


def _unit(values: Floats) -> Floats:
    """Centred, of length 1; scaled first, so that squares neither overflow nor vanish."""
    centred = values - values.mean()
    centred = centred / np.abs(centred).max()
    return np.asarray(centred / np.linalg.norm(centred))


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, ties by mean ranks; NaN where Pearson's is."""
    return pearson(ranks(a), ranks(b))


def mean_absolute_error(truth: Floats, answers: Floats) -> float:
    """Mean distance between truth and answer, in their unit."""
    return float(np.abs(truth - answers).mean()) if len(truth) else float("nan")


def row_cosines(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Cosine between the rows of two (texts, size), float64 (texts,); 0 beside a zero vector."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.einsum("ij,ij->i", a, b) / np.where(sizes == 0.0, 1.0, sizes))


def is_bio(labels: Sequence[str]) -> bool:
    """True if the labels mark spans: every one is ``O``, ``B-...`` or ``I-...``."""
    return any(label != "O" for label in labels) and all(
        label == "O" or label.startswith(("B-", "I-")) for label in labels
    )


def tagged_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, first word, word after the last) of every span in a sentence's BIO tags.

    The rule of conlleval (Tjong Kim Sang and De Meulder 2003), which seqeval follows by default:
    a span begins at B-, and at an I- that follows O or another kind; it ends before O, B- or
    another kind.
    """
    spans = set()
    kind, start = "", 0
    for i, tag in enumerate((*tags, "O")):
        here = "" if tag == "O" else tag[2:]
        begins = bool(here) and (tag.startswith("B-") or here != kind)
        if kind and (begins or here != kind):
            spans.add((kind, start, i))
        if begins:
            start = i
        kind = here
    return spans


def span_tallies(
    truth: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], kinds: Sequence[str]
) -> NDArray[np.int64]:
    """A tally of each sentence's spans, int64 (sentences, kinds, 3).

    A span is a hit if kind, first and last word are right.
    """
    tallies = np.zeros((len(truth), len(kinds), 3), np.int64)
    place = {kind: i for i, kind in enumerate(kinds)}
    for tally, true_tags, answer_tags in zip(tallies, truth, answers, strict=True):
        true, answered = tagged_spans(true_tags), tagged_spans(answer_tags)
        for column, found in enumerate((true & answered, answered, true)):
            for kind, _, _ in found:
                tally[place[kind], column] += 1
    return tallies


def word_tallies(
    truth: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], labels: Sequence[str]
) -> NDArray[np.int64]:
    """A tally of each sentence's words, int64 (sentences, labels, 3).

    An answer that is none of ``labels`` is no answer.
    """
    tallies = np.zeros((len(truth), len(labels), 3), np.int64)
    place = {label: i for i, label in enumerate(labels)}
    for tally, true_tags, answer_tags in zip(tallies, truth, answers, strict=True):
        for true, answered in zip(true_tags, answer_tags, strict=True):
            tally[place[true], 2] += 1
            if answered in place:  # else the model gave no answer to this word
                tally[place[answered], 1] += 1
            if true == answered:
                tally[place[true], 0] += 1
    return tallies
