"""What the answers of an evaluation are worth: figures with intervals, classes, paired tests.

Every figure is a function of which rows are looked at; the bootstrap calls it with rows drawn
again, and a comparison of two models draws the same rows for both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeformer import metrics
from edgeformer.evaluation import answer_metrics
from edgeformer.evaluation.data import Cases, Truth
from edgeformer.metrics import Ints
from edgeformer.uncertainty import Interval, PairedTest, bootstrap, mcnemar, wilson

Figure = Callable[[Ints], float]

# The figures of each kind; the first is the main one.
FIGURES = {
    "single_label": ("accuracy", "macro_f1", "matthews"),
    "multi_label": ("micro_f1", "macro_f1", "exact_match"),
    "regression": ("pearson", "spearman", "mean_absolute_error"),
    "similarity": ("spearman", "pearson"),
    "spans": ("span_f1", "span_precision", "span_recall", "word_accuracy"),
    "tags": ("word_accuracy", "macro_f1"),
    "answers": ("word_f1", "exact_match"),
}
LESS_IS_BETTER = ("mean_absolute_error",)


@dataclass(frozen=True)
class Metric:
    """One figure and the interval that holds it with 95 % confidence.

    Attributes:
        name: one of ``FIGURES``.
        value: NaN where it is not defined, as a correlation with a constant.
        interval: ``method`` says how: ``wilson`` (shares of texts) or ``bootstrap`` (over texts,
            or sentences).
    """

    name: str
    value: float
    interval: Interval
    method: str


@dataclass(frozen=True)
class ClassScore:
    """How well one class, label or kind of span is found."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    answered: int


@dataclass(frozen=True)
class Paired:
    """Two models on the same rows.

    Attributes:
        against: the other one.
        metric: the main figure.
        value: of the other one.
        difference: this model's figure less the other's.
        interval: of the difference, from a paired bootstrap; the models differ if it does not
            hold 0.
        same_answers: share of equal answers, None for numbers.
        test: McNemar's on which rows are right (this model is the first), None for numbers and
            tags.
    """

    against: str
    metric: str
    value: float
    difference: float
    interval: Interval
    same_answers: float | None
    test: PairedTest | None


def scheme(cases: Cases) -> str:
    """The key of ``FIGURES``: the kind, or ``spans`` where tags mark spans."""
    return "spans" if cases.kind == "tags" and metrics.is_bio(cases.labels) else cases.kind


def score(cases: Cases, values: Sequence[Truth]) -> tuple[Metric, ...]:
    """All figures of the answers, the main one first."""
    return tuple(
        _metric(name, figure, len(cases.rows)) for name, figure in figures(cases, values).items()
    )


def _metric(name: str, figure: Figure, size: int) -> Metric:
    value = figure(np.arange(size))
    if name in ("accuracy", "exact_match"):
        return Metric(name, value, wilson(round(value * size), size), "wilson")
    return Metric(name, value, bootstrap(figure, size), "bootstrap")


def figures(cases: Cases, values: Sequence[Truth]) -> dict[str, Figure]:
    """The figures of ``FIGURES``, each a function of row numbers, intp (rows,)."""
    truth = [row.truth for row in cases.rows]
    kind = scheme(cases)
    if kind == "single_label":
        found = _class_figures(_numbers(cases, truth), _numbers(cases, values), len(cases.labels))
    elif kind == "multi_label":
        found = _label_figures(_sets(cases, truth), _sets(cases, values))
    elif kind in ("spans", "tags"):
        found = _word_figures(cases, _tags(truth), _tags(values))
    elif kind == "answers":
        found = _answer_figures(_tags(truth), [str(value) for value in values])
    else:
        a, b = np.array(truth, np.float64), np.array(values, np.float64)
        found = {
            "pearson": lambda rows: metrics.pearson(a[rows], b[rows]),
            "spearman": lambda rows: metrics.spearman(a[rows], b[rows]),
            "mean_absolute_error": lambda rows: metrics.mean_absolute_error(a[rows], b[rows]),
        }
    return {name: found[name] for name in FIGURES[kind]}


def _numbers(cases: Cases, values: Sequence[Truth]) -> Ints:
    place = {label: i for i, label in enumerate(cases.labels)}
    return np.array([place[str(value)] for value in values], np.intp)


def _sets(cases: Cases, values: Sequence[Truth]) -> NDArray[np.bool_]:
    rows = [[label in value for label in cases.labels] for value in _tags(values)]
    return np.array(rows, np.bool_)


def _tags(values: Sequence[Truth]) -> list[tuple[str, ...]]:
    return [value for value in values if isinstance(value, tuple)]


def _class_figures(truth: Ints, answers: Ints, classes: int) -> dict[str, Figure]:
    def counts(rows: Ints) -> NDArray[np.int64]:
        return metrics.confusion(truth[rows], answers[rows], classes)

    return {
        "accuracy": lambda rows: metrics.accuracy(truth[rows], answers[rows]),
        "macro_f1": lambda rows: metrics.macro_f1(metrics.class_tally(counts(rows))),
        "matthews": lambda rows: metrics.matthews(counts(rows)),
    }


def _label_figures(truth: NDArray[np.bool_], answers: NDArray[np.bool_]) -> dict[str, Figure]:
    tallies = metrics.label_tallies(truth, answers)
    return {
        "micro_f1": lambda rows: metrics.micro(tallies[rows].sum(axis=0)).f1,
        "macro_f1": lambda rows: metrics.macro_f1(tallies[rows].sum(axis=0)),
        "exact_match": lambda rows: metrics.accuracy(truth[rows], answers[rows]),
    }


def _word_figures(
    cases: Cases, truth: Sequence[tuple[str, ...]], answers: Sequence[tuple[str, ...]]
) -> dict[str, Figure]:
    words = metrics.word_tallies(truth, answers, cases.labels)
    tallies = words
    if scheme(cases) == "spans":
        tallies = metrics.span_tallies(truth, answers, span_kinds(cases.labels))
    sizes = np.array([len(tags) for tags in truth])

    def word_accuracy(rows: Ints) -> float:
        total = int(sizes[rows].sum())
        return int(words[rows, :, 0].sum()) / total if total else float("nan")

    return {
        "span_f1": lambda rows: metrics.micro(tallies[rows].sum(axis=0)).f1,
        "span_precision": lambda rows: metrics.micro(tallies[rows].sum(axis=0)).precision,
        "span_recall": lambda rows: metrics.micro(tallies[rows].sum(axis=0)).recall,
        "word_accuracy": word_accuracy,
        "macro_f1": lambda rows: metrics.macro_f1(tallies[rows].sum(axis=0)),
    }


def _answer_figures(
    accepted: Sequence[tuple[str, ...]], answers: Sequence[str]
) -> dict[str, Figure]:
    pairs = list(zip(answers, accepted, strict=True))
    f1 = np.array([answer_metrics.word_f1(*pair) for pair in pairs])
    exact = np.array([answer_metrics.exact_match(*pair) for pair in pairs])
    return {
        "word_f1": lambda rows: float(f1[rows].mean()),
        "exact_match": lambda rows: float(exact[rows].mean()),
    }


def span_kinds(labels: Sequence[str]) -> tuple[str, ...]:
    """What BIO labels mark, in their order."""
    return tuple(dict.fromkeys(label[2:] for label in labels if label != "O"))


def class_table(cases: Cases, values: Sequence[Truth]) -> tuple[ClassScore, ...]:
    """One row for each class, label or kind of span; empty where answers are numbers."""
    truth, kind, names = [row.truth for row in cases.rows], scheme(cases), cases.labels
    if kind == "single_label":
        numbers = _numbers(cases, truth), _numbers(cases, values)
        tally = metrics.class_tally(metrics.confusion(*numbers, len(names)))
    elif kind == "multi_label":
        tally = metrics.label_tallies(_sets(cases, truth), _sets(cases, values)).sum(axis=0)
    elif kind == "spans":
        names = span_kinds(names)
        tally = metrics.span_tallies(_tags(truth), _tags(values), names).sum(axis=0)
    elif kind == "tags":
        tally = metrics.word_tallies(_tags(truth), _tags(values), names).sum(axis=0)
    else:
        return ()
    return tuple(
        ClassScore(name, s.precision, s.recall, s.f1, s.true, s.answered)
        for name, s in zip(names, metrics.class_scores(tally), strict=True)
    )


def compare_answers(
    cases: Cases, values: Sequence[Truth], others: Sequence[Truth], against: str
) -> Paired:
    """The main figure of two models on the same rows, and whether they differ."""
    name = FIGURES[scheme(cases)][0]
    mine, theirs = figures(cases, values)[name], figures(cases, others)[name]
    every = np.arange(len(cases.rows))
    interval = bootstrap(lambda rows: mine(rows) - theirs(rows), len(every))
    numbers = cases.kind in ("regression", "similarity")
    same = None if numbers else _share_equal(cases, values, others)
    test = None
    if not numbers and cases.kind != "tags":
        test = mcnemar(_right(cases, values), _right(cases, others))
    value = theirs(every)
    return Paired(against, name, value, mine(every) - value, interval, same, test)


def _right(cases: Cases, values: Sequence[Truth]) -> NDArray[np.bool_]:
    if cases.kind == "answers":
        truth = _tags([row.truth for row in cases.rows])
        pairs = zip(values, truth, strict=True)
        return np.array([answer_metrics.exact_match(str(a), t) > 0 for a, t in pairs], np.bool_)
    return np.array([a == row.truth for a, row in zip(values, cases.rows, strict=True)], np.bool_)


def _share_equal(cases: Cases, values: Sequence[Truth], others: Sequence[Truth]) -> float:
    """Share of equal answers: of texts, or of words where each has a tag."""
    if cases.kind == "tags":
        values, others = ([tag for t in _tags(side) for tag in t] for side in (values, others))
    return sum(a == b for a, b in zip(values, others, strict=True)) / len(values)
