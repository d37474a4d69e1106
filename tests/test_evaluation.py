"""`edgeformer eval`: figures are those of transformers and scikit-learn, data that does not fit is
named by line, and what is compared is the same text by text."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from edgeformer.checkpoint_model import open_checkpoint
from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import DataError, ThresholdError, UsageError
from edgeformer.evaluation.answer_metrics import exact_match, word_f1
from edgeformer.evaluation.answers import word_tags
from edgeformer.evaluation.data import LabelReader
from edgeformer.evaluation.evaluate import evaluate, make_columns
from edgeformer.report.files import read_report, write_reports
from edgeformer.report.schema import Accuracy
from edgeformer.runtime.answers import Word, group_words
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.command_line import ROOT, Edgeformer, is_error
from tests.labelled_bundles import (
    BIO,
    SENTIMENT,
    TEXTS,
    bundle,
    checkpoint,
    reference,
    tokenizer,
    torch_answers,
)
from tests.reports import small_report
from tests.tiny_bundles import bundle as tiny_bundle
from tests.tiny_bundles import checkpoint as tiny_checkpoint
from tests.tiny_models import tiny_tokenizer_json

MULTI = ("classification", ("a", "b", "c"), "multi_label_classification")
REGRESSION = ("classification", ("score",), "regression")
TRUTH = [SENTIMENT[(i * i + i // 5) % 3] for i in range(len(TEXTS))]


@pytest.fixture
def edgeformer_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sentiment(path: Path) -> Path:
    """A file of labelled texts."""
    rows = [{"text": t, "label": label} for t, label in zip(TEXTS, TRUTH, strict=True)]
    return write(path / "data.jsonl", rows)


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def values(report: Any) -> dict[str, float]:
    return {metric.name: metric.value for metric in report.metrics}


# ---- figures, against transformers and scikit-learn


def test_classification_figures_are_those_of_the_original(tmp_path: Path) -> None:
    report = evaluate(bundle(), sentiment(tmp_path), engine="numpy-fp32")
    answers = [SENTIMENT[int(a.argmax())] for a in torch_answers(reference(), *TEXTS)]
    assert values(report) == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(TRUTH, answers),
            "macro_f1": sklearn_metrics.f1_score(TRUTH, answers, average="macro"),
            "matthews": sklearn_metrics.matthews_corrcoef(TRUTH, answers),
        }
    )
    hits = sum(a == b for a, b in zip(TRUTH, answers, strict=True))
    wilson = stats.binomtest(hits, len(TEXTS)).proportion_ci(method="wilson")
    assert (report.metrics[0].interval.low, report.metrics[0].interval.high) == pytest.approx(
        (wilson.low, wilson.high)
    )
    for metric in report.metrics:
        assert metric.interval.low < metric.value < metric.interval.high
    table = sklearn_metrics.classification_report(TRUTH, answers, output_dict=True, digits=9)
    for row in report.classes:
        wanted = table[row.label]
        assert (row.precision, row.recall, row.f1, row.support) == pytest.approx(
            (wanted["precision"], wanted["recall"], wanted["f1-score"], wanted["support"])
        )
    assert (report.texts, report.kind, report.truncated_texts) == (64, "single_label", 0)
    assert report.variant == "numpy-fp32"
    assert report.digest == json.loads((bundle() / "manifest.json").read_text())["digest"]


def test_pairs_are_read_together(tmp_path: Path) -> None:
    pairs = list(zip(TEXTS, TEXTS[7:], strict=False))
    rows = [{"premise": a, "hypothesis": b, "label": "neutral"} for a, b in pairs]
    report = evaluate(bundle(), write(tmp_path / "a.jsonl", rows), engine="numpy-fp32")
    answers = [SENTIMENT[int(a.argmax())] for a in torch_answers(reference(), *pairs)]
    assert values(report)["accuracy"] == pytest.approx(answers.count("neutral") / len(pairs))
    # With the column of the second text set aside, the same rows are single texts.
    alone = evaluate(
        bundle(),
        tmp_path / "a.jsonl",
        engine="numpy-fp32",
        columns=make_columns({"text": "premise", "pair": ""}),
    )
    single = [SENTIMENT[int(a.argmax())] for a in torch_answers(reference(), *TEXTS[: len(pairs)])]
    assert values(alone)["accuracy"] == pytest.approx(single.count("neutral") / len(pairs))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_several_labels_are_counted_one_by_one(tmp_path: Path, name: str) -> None:
    sets = [[c for i, c in enumerate("abc") if (n >> i) % 2] for n in range(len(TEXTS))]
    if name == "a.jsonl":
        write(
            tmp_path / name,
            [{"text": t, "labels": s} for t, s in zip(TEXTS, sets, strict=True)],
        )
    else:
        gap = "\t" if name == "a.tsv" else ","
        texts = [t if gap == "\t" else f'"{t}"' for t in TEXTS]
        lines = [f"{t}{gap}{'|'.join(s)}" for t, s in zip(texts, sets, strict=True)]
        (tmp_path / name).write_text(f"text{gap}labels\n" + "\n".join(lines), encoding="utf-8")
    report = evaluate(bundle(*MULTI), tmp_path / name, engine="numpy-fp32")
    answers = torch.stack(torch_answers(reference(*MULTI), *TEXTS)).sigmoid().numpy() >= 0.5
    truth = np.array([[c in s for c in "abc"] for s in sets])
    assert values(report) == pytest.approx(
        {
            "micro_f1": sklearn_metrics.f1_score(truth, answers, average="micro"),
            "macro_f1": sklearn_metrics.f1_score(truth, answers, average="macro"),
            "exact_match": sklearn_metrics.accuracy_score(truth, answers),
        }
    )


def test_regression_figures(tmp_path: Path) -> None:
    truth = [float(len(text)) for text in TEXTS]
    rows = [{"text": t, "score": str(v)} for t, v in zip(TEXTS, truth, strict=True)]
    report = evaluate(bundle(*REGRESSION), write(tmp_path / "a.jsonl", rows), engine="numpy-fp32")
    answers = torch.cat(torch_answers(reference(*REGRESSION), *TEXTS)).numpy()
    found = values(report)
    assert found["pearson"] == pytest.approx(stats.pearsonr(truth, answers).statistic, abs=1e-4)
    assert found["spearman"] == pytest.approx(stats.spearmanr(truth, answers).statistic, abs=1e-3)
    wanted = sklearn_metrics.mean_absolute_error(truth, answers)
    assert found["mean_absolute_error"] == pytest.approx(wanted, rel=1e-5)
    assert report.classes == ()


def test_similarity_is_the_cosine_against_what_people_said(tmp_path: Path) -> None:
    pairs = list(zip(TEXTS, TEXTS[5:], strict=False))
    truth = [float(len(set(a.split()) & set(b.split()))) for a, b in pairs]
    rows = [{"text1": a, "text2": b, "score": v} for (a, b), v in zip(pairs, truth, strict=True)]
    data = write(tmp_path / "a.jsonl", rows)
    report = evaluate(bundle("embedding"), data, engine="numpy-fp32")
    vectors = torch.stack([a.mean(0) for a in torch_answers(reference("embedding"), *TEXTS)])
    cosines = [
        float(torch.cosine_similarity(vectors[i], vectors[i + 5], dim=0)) for i in range(len(pairs))
    ]
    found = values(report)
    assert list(found) == ["spearman", "pearson"]
    assert found["pearson"] == pytest.approx(stats.pearsonr(truth, cosines).statistic, abs=1e-4)
    assert found["spearman"] == pytest.approx(stats.spearmanr(truth, cosines).statistic, abs=1e-3)


def _sentences() -> list[tuple[list[str], list[str]]]:
    """Words, some with punctuation inside, and tags that follow the rules of BIO."""
    generator = np.random.default_rng(4)
    found = []
    for text in TEXTS:
        words = [*text.split(), "it's", "x-y"]
        tags: list[str] = []
        for _ in words:
            before = tags[-1] if tags else "O"
            options = ["O", "B-PER", "B-LOC"] + ([f"I{before[1:]}"] if before != "O" else [])
            tags.append(str(generator.choice(options)))
        found.append((words, tags))
    return found


def _tags_of_transformers(words: list[str]) -> list[str]:
    """As Hugging Face's examples do it: the first piece of each word counts."""
    encoding = tokenizer().encode(words, is_pretokenized=True)
    model = reference("token-classification", BIO)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([encoding.ids])).logits[0]
    firsts = [encoding.word_ids.index(word) for word in range(len(words))]
    return [BIO[int(logits[i].argmax())] for i in firsts]


def test_tags_are_scored_by_spans(tmp_path: Path) -> None:
    sentences = _sentences()
    rows = [{"tokens": words, "ner_tags": tags} for words, tags in sentences]
    data = write(tmp_path / "a.jsonl", rows)
    report = evaluate(
        bundle("token-classification", BIO),
        data,
        engine="numpy-fp32",
        save_predictions=tmp_path / "p.jsonl",
    )
    answers = [_tags_of_transformers(words) for words, _ in sentences]
    assert [line["answer"] for line in lines_of(tmp_path / "p.jsonl")] == answers
    found = values(report)
    flat_truth = [tag for _, tags in sentences for tag in tags]
    flat_answers = [tag for tags in answers for tag in tags]
    wanted = sklearn_metrics.accuracy_score(flat_truth, flat_answers)
    assert found["word_accuracy"] == pytest.approx(wanted)
    assert [row.label for row in report.classes] == ["PER", "LOC"]
    hits = sum(round(row.precision * row.answered) for row in report.classes)
    answered = sum(row.answered for row in report.classes)
    true = sum(row.support for row in report.classes)
    assert true == sum(tag.startswith("B-") for tag in flat_truth)
    assert found["span_precision"] == pytest.approx(hits / answered)
    assert found["span_recall"] == pytest.approx(hits / true)
    assert found["span_f1"] == pytest.approx(2 * hits / (answered + true))


def test_labels_that_mark_no_spans_are_scored_by_words(tmp_path: Path) -> None:
    labels = ("NOUN", "VERB", "ADJ", "ADV", "X")
    rows = [{"words": t.split(), "pos_tags": ["NOUN"] * len(t.split())} for t in TEXTS]
    path = bundle("token-classification", labels)
    report = evaluate(path, write(tmp_path / "a.jsonl", rows), engine="numpy-fp32")
    found = values(report)
    assert list(found) == ["word_accuracy", "macro_f1"]
    noun = report.classes[0]
    assert found["word_accuracy"] == pytest.approx(noun.recall)
    assert 0 < noun.recall < 1


WORDS = st.text("ab1,.'-", min_size=1, max_size=6)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=8))
def test_a_word_has_the_tag_of_its_first_piece(words: list[str]) -> None:
    """Hugging Face's tokenizers say which piece that is; each piece has a tag of its own here."""
    encoding = tokenizer().encode(words, is_pretokenized=True)
    wanted = [f"piece {encoding.word_ids.index(i)}" for i in range(len(words))]
    ours = load_tokenizer(tiny_tokenizer_json()).encoding(" ".join(words), offsets=True)
    assert ours.offsets is not None and ours.word_ids is not None
    names = tuple(f"piece {i}" for i in range(len(ours.ids)))
    found = group_words(np.eye(len(ours.ids)), names, ours.offsets, ours.word_ids)
    assert word_tags(words, found) == wanted


def test_words_that_did_not_fit_have_no_answer(tmp_path: Path) -> None:
    words = ["film"] * 60  # the model takes 48 tokens
    rows = [{"tokens": words, "tags": ["B-PER"] * 60}]
    report = evaluate(bundle("token-classification", BIO), write(tmp_path / "a.jsonl", rows))
    assert report.truncated_texts == 1
    assert any("14 words had no answer" in note for note in report.notes)
    windows = evaluate(bundle("token-classification", BIO), tmp_path / "a.jsonl", on_long="window")
    assert windows.truncated_texts == 0
    assert not any("no answer" in note for note in windows.notes)
    assert word_tags(["a", "b"], [Word(0, 1, "O", 1.0)]) == ["O", None]


# ---- labels


@pytest.mark.parametrize("label", [0, "0", 1.0, True])
def test_numbers_stand_for_labels_in_the_models_order(tmp_path: Path, label: Any) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": "a film", "label": label}] * 3)
    if label is True:
        with pytest.raises(DataError, match="no label 'true'"):
            evaluate(bundle(), data)
        return
    report = evaluate(bundle(), data)
    wanted = SENTIMENT[int(label)]
    assert {row.label: row.support for row in report.classes}[wanted] == 3
    assert any(f"{int(label)} as {wanted}" in note for note in report.notes)


def test_labels_of_the_data_are_renamed(tmp_path: Path) -> None:
    rows = [{"text": t, "label": i % 2} for i, t in enumerate(TEXTS)]
    data = write(tmp_path / "a.jsonl", rows)
    report = evaluate(bundle(), data, labels_map={"0": "negative", "1": "positive"})
    assert [row.support for row in report.classes] == [32, 0, 32]
    assert report.notes == ()
    with pytest.raises(UsageError, match="no label 'positiv'") as error:
        evaluate(bundle(), data, labels_map={"1": "positiv"})
    assert error.value.hint == "did you mean 'positive'?"
    with pytest.raises(UsageError, match="answers are none"):
        evaluate(bundle(*REGRESSION), data, labels_map={"1": "2"})


def test_labels_that_are_numbers_themselves_are_names(tmp_path: Path) -> None:
    """A model of star ratings 1 to 5: its label 1 is not its class 1."""
    reader = LabelReader(("1", "2", "3"))
    assert reader.read(1, "") == "1"
    with pytest.raises(DataError):
        reader.read(0, "line 1")


@pytest.mark.parametrize(
    ("model", "row", "message", "hint"),
    [
        ((), {"text": "a", "label": "Positive"}, "line 2: the model has no label", "'positive'"),
        ((), {"text": "a", "label": "spam"}, "line 2: the model has no label", "negative, neutral"),
        ((), {"text": "a", "label": 3}, "line 2: the model has no label '3'", "--labels-map"),
        ((), {"text": "a", "label": ""}, "line 2: the label is missing", ""),
        ((), {"text": "a", "label": None}, "line 2: the label is missing", ""),
        ((), {"text": "a", "label": 0.5}, "line 2: the label 0.5", "regression"),
        ((), {"text": "a", "lable": "positive"}, "line 2: no column of label", "label, labels"),
        ((), {"text": 3, "label": "positive"}, "line 2: text is not a text", ""),
        ((), {"text": "a", "pair": "b", "label": "neutral"}, "line 2: a second text", ""),
        (MULTI, {"text": "a", "label": ["a", "z"]}, "line 2: the model has no label 'z'", ""),
        (MULTI, {"text": "a", "label": 3}, "line 2: 3 is not a list", "a|b"),
        (REGRESSION, {"text": "a", "label": "good"}, "line 2: the label 'good' is not a", ""),
        (REGRESSION, {"text": "a", "label": "nan"}, "line 2: the label 'nan' is not a", ""),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    tmp_path: Path, model: Any, row: Any, message: str, hint: str
) -> None:
    good = {(): "positive", MULTI: ["a"], REGRESSION: 0.5}[model]
    data = write(tmp_path / "a.jsonl", [{"text": "a", "label": good}, row])
    with pytest.raises(DataError, match=message) as error:
        evaluate(bundle(*model), data)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words but 1 tags"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "expected a list of words"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "expected a list of words"),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, "no label 'B-ORG'"),
        ({"text": "a", "tags": ["O"]}, "no column of words"),
        ({"tokens": ["a"]}, "no column of tags"),
    ],
)
def test_a_sentence_that_does_not_fit_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"line 1: .*{message}"):
        evaluate(bundle("token-classification", BIO), write(tmp_path / "a.jsonl", [row]))


def test_sentences_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("tokens\ttags\nthe film\tO B-PER\n", encoding="utf-8")
    report = evaluate(bundle("token-classification", BIO), tmp_path / "a.tsv")
    assert [row.support for row in report.classes] == [1, 0]


def test_a_bundle_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes no texts"):
        evaluate(TINY_BUNDLE, sentiment(tmp_path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        evaluate(bundle(), tmp_path / "none.jsonl")
    (tmp_path / "a.txt").write_text("text\n")
    with pytest.raises(UsageError, match="not a table"):
        evaluate(bundle(), tmp_path / "a.txt")
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no row"):
        evaluate(bundle(), tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="pairs of texts"):
        evaluate(bundle("embedding"), write(tmp_path / "b.jsonl", [{"text": "a", "score": 1.0}]))


def test_a_figure_that_is_not_defined_is_null(tmp_path: Path, edgeformer_command: Any) -> None:
    """All truths are equal: no correlation, and no interval that pretends to hold it."""
    data = write(tmp_path / "a.jsonl", [{"text": t, "label": 1} for t in TEXTS])
    path = bundle(*REGRESSION)
    code, out, _ = edgeformer_command("eval", path, data, "--json", "--min", "-1")
    assert code == 3
    pearson = json.loads(out)["metrics"][0]
    assert (pearson["value"], pearson["interval"]["low"]) == (None, None)


# ---- comparisons


def test_predictions_are_compared_text_by_text(tmp_path: Path) -> None:
    """int8 against fp32 of the same bundle, by name and by the file that fp32 wrote."""
    data, file = sentiment(tmp_path), tmp_path / "fp32.jsonl"
    fp32 = evaluate(bundle(), data, engine="numpy-fp32", save_predictions=file)
    by_file = evaluate(bundle(), data, engine="numpy-int8", against=file).against
    by_name = evaluate(bundle(), data, engine="numpy-int8", against="numpy-fp32").against
    assert by_file is not None and by_name is not None
    assert by_file.test == by_name.test
    assert (by_file.difference, by_file.interval) == (by_name.difference, by_name.interval)
    assert by_file.value == values(fp32)["accuracy"]
    lines = lines_of(file)
    int8 = evaluate(bundle(), data, engine="numpy-int8", save_predictions=tmp_path / "int8.jsonl")
    others = [line["answer"] for line in lines_of(tmp_path / "int8.jsonl")]
    mine = [line["answer"] for line in lines]
    assert by_file.same_answers == pytest.approx(np.mean(np.array(mine) == np.array(others)))
    only_int8 = sum(o == t != m for m, o, t in zip(mine, others, TRUTH, strict=True))
    only_fp32 = sum(m == t != o for m, o, t in zip(mine, others, TRUTH, strict=True))
    assert by_file.test is not None
    assert (by_file.test.only_first, by_file.test.only_second) == (only_int8, only_fp32)
    difference = values(int8)["accuracy"] - values(fp32)["accuracy"]
    assert by_file.difference == pytest.approx(difference)
    assert by_file.interval.low <= difference <= by_file.interval.high
    assert max(lines[0]["scores"], key=lines[0]["scores"].get) == lines[0]["answer"]
    assert sum(lines[0]["scores"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("against", ["checkpoint", "bundle"])
def test_the_original_model_is_something_to_compare_with(tmp_path: Path, against: str) -> None:
    """PyTorch's answers are transformers'; the fp32 bundle answers the same."""
    other = checkpoint() if against == "checkpoint" else bundle()
    report = evaluate(bundle(), sentiment(tmp_path), engine="numpy-fp32", against=other)
    assert report.against is not None and report.against.test is not None
    assert report.against.same_answers == 1.0
    assert (report.against.difference, report.against.test.p_exact) == (0.0, 1.0)
    assert ("(pytorch)" in report.against.against) == (against == "checkpoint")


@pytest.mark.parametrize(
    "model", [(), MULTI, REGRESSION, ("token-classification", BIO), ("embedding",)]
)
def test_a_checkpoint_is_evaluated_on_the_host(tmp_path: Path, model: Any) -> None:
    """To rounding as the bundle made of it: on every task, with the same predictions file."""
    rows = {
        (): [{"text": t, "label": label} for t, label in zip(TEXTS, TRUTH, strict=True)],
        MULTI: [{"text": t, "label": ["a"]} for t in TEXTS],
        REGRESSION: [{"text": t, "label": len(t)} for t in TEXTS],
        ("embedding",): [
            {"text1": a, "text2": b, "score": len(a) / len(b)} for a, b in itertools.pairwise(TEXTS)
        ],
    }.get(model) or [{"tokens": w, "tags": t} for w, t in _sentences()]
    data, file = write(tmp_path / "a.jsonl", rows), tmp_path / "p.jsonl"
    host = evaluate(checkpoint(*model), data, save_predictions=file)
    device = evaluate(bundle(*model), data, engine="numpy-fp32", against=file)
    assert (host.variant, host.digest) == ("pytorch", "")
    assert values(device) == pytest.approx(values(host), abs=1e-4)
    assert device.against is not None
    assert device.against.difference == pytest.approx(0.0, abs=1e-4)


def test_predictions_of_others_need_answers_only(tmp_path: Path) -> None:
    data = sentiment(tmp_path)
    rows = [{"label": {"negative": "NEG", "neutral": 1, "positive": "POS"}[t]} for t in TRUTH]
    file = write(tmp_path / "p.jsonl", rows)
    names = {"NEG": "negative", "POS": "positive"}
    report = evaluate(bundle(), data, against=file, labels_map=names)
    assert report.against is not None
    assert report.against.value == 1.0


def test_saved_predictions_keep_the_models_names(tmp_path: Path) -> None:
    """The data calls positive what the model calls negative: its predictions are not turned."""
    swapped = {"positive": "negative", "negative": "positive"}
    rows = [{"text": t, "label": swapped.get(s, s)} for t, s in zip(TEXTS, TRUTH, strict=True)]
    data, file = write(tmp_path / "a.jsonl", rows), tmp_path / "p.jsonl"
    saved = evaluate(bundle(), data, labels_map=swapped, save_predictions=file)
    again = evaluate(bundle(), data, labels_map=swapped, against=file)
    assert again.against is not None
    assert (again.against.same_answers, again.against.value) == (1.0, values(saved)["accuracy"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "63 predictions, the data has 64 rows"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "line 1 is about another text than"),
        (lambda rows: [{"answer": "good"}, *rows[1:]], "line 1: the model has no label 'good'"),
        (lambda rows: [{"text": "x"}, *rows[1:]], "line 1: no answer"),
    ],
)
def test_predictions_of_other_data_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    data, file = sentiment(tmp_path), tmp_path / "p.jsonl"
    evaluate(bundle(), data, save_predictions=file)
    other = write(tmp_path / "q.jsonl", change(lines_of(file)))
    with pytest.raises(DataError, match=message):
        evaluate(bundle(), data, against=other)


def test_only_models_of_the_same_kind_are_compared(tmp_path: Path) -> None:
    data = sentiment(tmp_path)
    with pytest.raises(UsageError, match="for multi_label, not single_label"):
        evaluate(bundle(), data, against=bundle(*MULTI))
    with pytest.raises(UsageError, match="other labels"):
        evaluate(bundle(), data, against=bundle("classification", ("x", "y", "z")))
    with pytest.raises(UsageError, match="nor a variant") as error:
        evaluate(bundle(), data, against="numpy-fp16")
    assert "numpy-fp32, numpy-int8" in error.value.hint


# ---- the command


def test_a_missed_minimum_exits_3_and_the_figures_are_shown(
    tmp_path: Path, edgeformer_command: Any
) -> None:
    data = sentiment(tmp_path)
    code, out, err = edgeformer_command(
        "eval", bundle(), data, "--min", "0.99", "--min", "macro_f1=0"
    )
    assert code == 3
    assert "accuracy at least 0.99: MISSED" in out
    assert "macro_f1 at least 0: reached" in out
    assert err.startswith("error: accuracy 0.")
    code, out, err = edgeformer_command("eval", bundle(), data, "--min", "accuracy=0.01", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["minimums"][0]["reached"] is True
    assert found["metrics"][0]["name"] == "accuracy"
    with pytest.raises(ThresholdError):
        evaluate(bundle(), data, minimums={"": 0.99}).check()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--min", "accuracy=high"], "not a number"),
        (["--min", "accuracy=nan"], "not a number"),
        (["--min", "=0.5"], "not a number"),
        (["--min", "acuracy=0.5"], "choose of: accuracy, macro_f1, matthews"),
        (["--labels-map", "a"], "write a=b,c=d"),
        (["--labels-map", "a=positive,a=neutral"], "write a=b,c=d"),
        (["--columns", "txt=a"], "choose of: text, pair, label"),
        (["--against", "none.jsonl"], "no such file"),
        (["--save-predictions", "DATA"], "--force"),
        (["--save-predictions", "no/such/folder.jsonl"], "cannot write"),
        (["--engine", "onnx"], "choose one of"),
        (["--on-long", "cut"], "--on-long"),
    ],
)
def test_wrong_options_exit_2(
    tmp_path: Path, edgeformer_command: Any, options: list[str], says: str
) -> None:
    data = sentiment(tmp_path)
    options = [str(data) if option == "DATA" else option for option in options]
    assert is_error(*edgeformer_command("eval", bundle(), data, *options), exit_code=2, says=says)


def test_errors_are_never_a_minimum(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": t, "label": 1} for t in TEXTS])
    with pytest.raises(UsageError, match="better when smaller"):
        evaluate(bundle(*REGRESSION), data, minimums={"mean_absolute_error": 0.1})


def test_predictions_are_overwritten_with_force_only(
    tmp_path: Path, edgeformer_command: Any
) -> None:
    data, file = sentiment(tmp_path), tmp_path / "p.jsonl"
    file.write_text("mine")
    command = ("eval", bundle(), data, "--save-predictions", file)
    assert is_error(*edgeformer_command(*command), exit_code=2, says="exists")
    assert file.read_text() == "mine"
    code, _, _ = edgeformer_command(*command, "--force")
    assert code == 0
    assert len(file.read_text().splitlines()) == len(TEXTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl", "p.jsonl"]
    assert not any(text in file.read_text() for text in TEXTS)  # no text of the user's


def test_columns_are_named(tmp_path: Path, edgeformer_command: Any) -> None:
    rows = [{"review": t, "text": "x", "stars": s} for t, s in zip(TEXTS, TRUTH, strict=True)]
    data = write(tmp_path / "a.jsonl", rows)
    code, out, _ = edgeformer_command(
        "eval",
        bundle(),
        data,
        "--columns",
        "text=review,label=stars",
        "--json",
        "--engine",
        "numpy-fp32",
    )
    assert code == 0
    wanted = evaluate(bundle(), sentiment(tmp_path), engine="numpy-fp32")
    assert json.loads(out)["metrics"][0]["value"] == values(wanted)["accuracy"]
    code, _, err = edgeformer_command("eval", bundle(), data, "--columns", "label=star")
    assert (code, "did you mean 'stars'?" in err) == (1, True)


def test_an_evaluation_is_the_same_every_time(tmp_path: Path) -> None:
    data = sentiment(tmp_path)
    first, second = (evaluate(bundle(), data, against="numpy-fp32") for _ in range(2))
    assert (first.metrics, first.against) == (second.metrics, second.against)


def test_a_device_needs_numpy_alone(tmp_path: Path) -> None:
    """Neither PyTorch nor scikit-learn is imported by an evaluation and a comparison."""
    code = f"""
import sys
from edgeformer.evaluation.evaluate import evaluate, make_columns
from edgeformer.evaluation.text import evaluation_text
from edgeformer.comparison.compare import compare_bundles
from edgeformer.comparison.text import bundle_text
evaluation_text(evaluate({str(bundle())!r}, {str(sentiment(tmp_path))!r}, against="numpy-fp32"))
bundle_text(compare_bundles([{str(bundle())!r}] * 2))
print("\\n".join(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    heavy = {"torch", "onnx", "transformers", "tokenizers", "scipy", "sklearn", "click", "tomllib"}
    assert not loaded & heavy


def test_the_main_figure_joins_the_report_of_a_benchmark(
    tmp_path: Path, edgeformer_command: Any
) -> None:
    """As its accuracy section, once for each variant and data; never a report of other files."""
    data, file = sentiment(tmp_path), tmp_path / "report.json"
    digest = json.loads((bundle() / "manifest.json").read_text())["digest"]
    benchmark = small_report()
    benchmark = replace(benchmark, bundle=replace(benchmark.bundle, digest=digest))
    write_reports([benchmark], file)
    command = ("eval", bundle(), data, "--engine", "numpy-fp32", "--add-to", file)
    for _ in range(2):
        assert edgeformer_command(*command)[0] == 0
    assert edgeformer_command("eval", checkpoint(), data, "--add-to", file)[0] == 0
    added = read_report(file)
    main = evaluate(bundle(), data, engine="numpy-fp32").metrics[0]
    figures = (main.value, 64, main.interval.low, main.interval.high)
    assert added.accuracy == (
        Accuracy("numpy-fp32", "data.jsonl", "accuracy", *figures),
        Accuracy("pytorch", "data.jsonl", "accuracy", *figures),
    )
    assert replace(added, accuracy=()) == benchmark
    other = ("eval", bundle("embedding"), data, "--add-to", file)
    assert is_error(*edgeformer_command(*other), exit_code=2, says="another bundle")
    assert read_report(file) == added


# ---- answers to questions

QUESTIONS = ("was the film good?", "what was boring?", "is it lovely?", "who?")
CONTEXTS = (
    "The film was very good.",
    "It was a boring film, and not a lovely one!",
    "a very lovely film " * 12,  # more than the model takes at once
    "x 7",
)
ACCEPTED: tuple[Any, ...] = (
    ["very good", "good"],
    {"text": ["a boring film"], "answer_start": [7]},
    "lovely",
    [],
)


def _questions(path: Path, count: int) -> Path:
    rows = zip(QUESTIONS, CONTEXTS, ACCEPTED, strict=True)
    found = [{"question": q, "context": c, "answers": a} for q, c, a in list(rows)[:count]]
    return write(path / "qa.jsonl", found)


@pytest.mark.parametrize("count", [3, 4])
def test_answers_are_scored_as_squad_does(tmp_path: Path, count: int) -> None:
    """Where every question of the data has an answer, "no answer" is none."""
    folder = tiny_checkpoint("question-answering")
    data, file = _questions(tmp_path, count), tmp_path / "p.jsonl"
    host = evaluate(folder, data, save_predictions=file)
    device = evaluate(tiny_bundle("question-answering", ("fp32",)), data, against=file)
    answers = [line["answer"] for line in lines_of(file)]
    with open_checkpoint(folder) as model:
        found = model.answer(list(QUESTIONS[:count]), list(CONTEXTS[:count]), no_answer=count == 4)
    assert answers == [answer.text for answer in found]
    assert all(answers) or count == 4
    accepted = [("very good", "good"), ("a boring film",), ("lovely",), ()][:count]
    pairs = list(zip(answers, accepted, strict=True))
    assert (
        values(host)
        == values(device)
        == pytest.approx(
            {
                "word_f1": np.mean([word_f1(*pair) for pair in pairs]),
                "exact_match": np.mean([exact_match(*pair) for pair in pairs]),
            }
        )
    )
    assert device.against is not None and device.against.test is not None
    assert (device.against.same_answers, device.against.test.p_exact) == (1.0, 1.0)
    assert host.truncated_texts == 0  # a long context is read in windows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "context": "b", "answers": [3]}, "expected the texts of the answers"),
        ({"question": "a", "context": "b", "answers": 3}, "expected the texts of the answers"),
        ({"question": "a", "context": "b"}, "no column of answers"),
        ({"question": "a", "answers": ["b"]}, "there is no second one"),
    ],
)
def test_a_question_that_does_not_fit_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"line 1: .*{message}"):
        evaluate(tiny_checkpoint("question-answering"), write(tmp_path / "a.jsonl", [row]))
