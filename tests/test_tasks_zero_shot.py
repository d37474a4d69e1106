"""Labels made up later: the scores are those of transformers' zero-shot pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgeformer.errors import InputError
from edgeformer.pipeline import convert
from edgeformer.runtime import Label, load
from edgeformer.runtime.tasks.classification import candidate_scores, inference_classes
from tests.tiny_bundles import bundle, texts_file
from tests.tiny_models import TEXTS, edit_config, tiny_bert_folder

CANDIDATES = ["good", "not a film", "very boring"]
LABELS = ("entailment", "neutral", "contradiction")


def inference_folder(path: Path, labels: tuple[str, ...]) -> Path:
    folder = tiny_bert_folder(path, "classification", num_labels=len(labels))
    names = {str(i): label for i, label in enumerate(labels)}
    edit_config(folder, id2label=names, label2id={label: int(i) for i, label in names.items()})
    return folder


@pytest.fixture(scope="module", params=[LABELS, tuple(reversed(LABELS))], ids=["first", "last"])
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A tiny inference model and its bundle, entailment the first class or the last."""
    folder = tmp_path_factory.mktemp("nli")
    source = inference_folder(folder / "model", request.param)
    report = convert(
        source,
        profile="x86",
        output=folder / "nli.edge",
        engines=("numpy",),
        precisions=("fp32",),
        calibration=texts_file(),
    )
    return source, report.path


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("hypothesis", [None, "the {} one"])
@pytest.mark.parametrize("candidates", [CANDIDATES, CANDIDATES[:1]], ids=["three", "one"])
def test_scores_are_those_of_transformers(
    converted: tuple[Path, Path], multi_label: bool, hypothesis: str | None, candidates: list[str]
) -> None:
    source, path = converted
    oracle = transformers.pipeline("zero-shot-classification", model=str(source))
    # What tokenizer_config.json of a real BERT says by its class: segments of a pair count.
    oracle.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    keywords: Any = {"hypothesis_template": hypothesis} if hypothesis else {}
    with load(path) as model:
        found = model.classify(
            list(TEXTS),
            candidates=candidates,
            hypothesis=hypothesis,
            multi_label=multi_label,
            top_k=None,
        )
        assert model.last_call.texts == len(TEXTS) * len(candidates)
        for text, labels in zip(TEXTS, found, strict=True):
            wanted = oracle(text, candidates, multi_label=multi_label, **keywords)
            assert {label.name: label.score for label in labels} == pytest.approx(
                dict(zip(wanted["labels"], wanted["scores"], strict=True)), abs=1e-5
            )
            scores = [label.score for label in labels]
            assert scores == sorted(scores, reverse=True)
        one = model.classify(TEXTS[0], candidates=candidates, multi_label=multi_label)
        assert [type(label) for label in one] == [Label]
        assert model.classify([], candidates=candidates) == []


def test_the_formula_by_hand() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    exponents = np.exp(logits[:, :, 3].astype(np.float64))
    expected = exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(candidate_scores(logits, 3, 1, False), expected, atol=1e-12)
    pairs = np.exp(logits[:, :, [1, 3]].astype(np.float64))
    expected = pairs[:, :, 1] / pairs.sum(axis=2)
    np.testing.assert_allclose(candidate_scores(logits, 3, 1, True), expected, atol=1e-12)
    alone = candidate_scores(logits[:, :1], 3, 1, False)  # softmax of one would always be 1
    np.testing.assert_allclose(alone, expected[:, :1], atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS, (0, 2)),
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), (2, 0)),
        (("not_entailment", "entailment"), (1, 0)),
        (("entailment", "not_entailment"), (0, 1)),
    ],
)
def test_classes_are_found_by_their_names(
    labels: tuple[str, ...], expected: tuple[int, int]
) -> None:
    assert inference_classes(labels) == expected


@pytest.mark.parametrize(
    "labels", [("positive", "negative"), ("entailment", "neutral", "other"), ("entailment",) * 2]
)
def test_other_models_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="natural language inference") as caught:
        inference_classes(labels)
    assert ", ".join(labels) in caught.value.message
    assert "MNLI" in caught.value.hint


def test_wrong_calls_say_what_to_do(converted: tuple[Path, Path]) -> None:
    with load(converted[1]) as model:
        for keywords, message in [
            ({"candidates": "good"}, "not str"),
            ({"candidates": []}, "one or more labels"),
            ({"candidates": ["good", " "]}, "one or more labels"),
            ({"candidates": ["good", 3]}, "one or more labels"),
            ({"candidates": 3}, "not int"),
            ({"candidates": ["good"], "hypothesis": "no place"}, "no place for the label"),
            ({"hypothesis": "a {}"}, "go with candidates"),
            ({"multi_label": True}, "go with candidates"),
            ({"candidates": ["good"], "pair": "b"}, "second text goes neither with candidates"),
            ({"candidates": ["good"], "on_long": "window"}, "single texts, not pairs"),
        ]:
            with pytest.raises(InputError, match=message):
                model.classify("text", **keywords)  # type: ignore[call-overload]
    with load(bundle()) as model, pytest.raises(InputError, match="class 0, class 1, class 2"):
        model.classify("text", candidates=CANDIDATES)


def test_a_long_premise_keeps_its_hypothesis(converted: tuple[Path, Path]) -> None:
    """What is cut is the text, not the label: else all labels would get one score."""
    source, path = converted
    text = "the film was very good and lovely " * 12
    oracle = transformers.AutoModelForSequenceClassification.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    hypotheses = [f"This example is {name}." for name in CANDIDATES]
    inputs = tokenizer(
        [text] * 3,
        hypotheses,
        truncation="only_first",
        max_length=48,
        padding=True,
        return_tensors="pt",
        return_token_type_ids=True,
    )
    with load(path) as model:
        with torch.no_grad():
            logits = oracle(**inputs).logits[:, model.manifest.model.labels.index("entailment")]
        labels = model.classify(text, candidates=CANDIDATES, top_k=None)
        assert model.last_call.truncated_texts == 3
    found = {label.name: label.score for label in labels}
    wanted = dict(zip(CANDIDATES, logits.softmax(0).tolist(), strict=True))
    assert found == pytest.approx(wanted, abs=1e-5)
