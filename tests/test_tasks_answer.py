"""Question answering: the spans that transformers' logic finds, in long contexts too, or none.

transformers 5 has no pipeline for it any more, so the oracle is its algorithm written out in NumPy
over the logits of its model and the overlapping windows of its tokenizer.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.errors import InputError
from edgeformer.pipeline import convert
from edgeformer.runtime import Answer, load
from edgeformer.runtime.tasks.answering import (
    AnswerSettings,
    Window,
    best_answers,
    best_spans,
    windows,
)
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.tiny_bundles import bundle, checkpoint, texts_file
from tests.tiny_models import TEXTS, tiny_family_folder, tiny_tokenizer_json

PROFILE = 'extends = "rpi4"\n[length]\nmax_tokens = 32\nbucket_tokens = [32]\n'
LONGEST = 32
TASK = "question-answering"
QUESTION = "was the film good?"
LONG = "It was not a bad film, and the other one was very lovely. Boring? Not the lovely one! " * 3


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model for every engine in fp32."""
    folder = tmp_path_factory.mktemp("answer")
    (folder / "tiny.toml").write_text(PROFILE)
    return convert(
        checkpoint(TASK),
        profile=str(folder / "tiny.toml"),
        output=folder / "qa.edge",
        precisions=("fp32",),
        calibration=texts_file(),
    ).path


@functools.cache
def oracle(
    question: str, context: str, stride: int, folder: Path | None = None, longest: int = 15
) -> list[Answer]:
    """Every span of the context with its score, best first, and "no answer" at the end."""
    folder = folder or checkpoint(TASK)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=LONGEST,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    best: dict[tuple[int, int], float] = {}
    null_score = 1.0
    for i, ids in enumerate(encoded["input_ids"]):
        segments = {"token_type_ids": torch.tensor([encoded["token_type_ids"][i]])}
        with torch.no_grad():  # a model with one segment is called without any
            knows = getattr(model.config, "type_vocab_size", 0) > 1
            output = model(torch.tensor([ids]), **(segments if knows else {}))
        impossible = np.array([sequence != 1 for sequence in encoded.sequence_ids(i)])
        impossible[0] = False  # the class token: no answer
        start, end = (
            softmax(np.where(impossible, -10000.0, logits[0].numpy().astype(np.float64)))
            for logits in (output.start_logits, output.end_logits)
        )
        null_score = min(null_score, start[0] * end[0])
        start[0] = end[0] = 0.0
        table = np.tril(np.triu(np.outer(start, end)), longest - 1)
        for a, b in zip(*np.nonzero(table), strict=True):
            if not impossible[a] and not impossible[b]:
                span = (whole_word(encoded, i, a)[0], whole_word(encoded, i, b)[1])
                best[span] = max(best.get(span, 0.0), float(table[a, b]))
    spans = sorted(best.items(), key=lambda item: -item[1])
    answers = [Answer(context[a:b], score, a, b, null_score) for (a, b), score in spans]
    return [*answers, Answer("", null_score, 0, 0, null_score)]


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    return shares / shares.sum()


def whole_word(encoded: Any, window: int, token: int) -> tuple[int, int]:
    word = encoded.token_to_word(window, int(token))
    span = encoded.word_to_chars(window, word, sequence_index=1)
    return span.start, span.end


def check(found: list[Answer], expected: list[Answer]) -> None:
    assert [(a.text, a.start, a.end) for a in found] == [(a.text, a.start, a.end) for a in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.score == pytest.approx(theirs.score, rel=1e-4)
        assert mine.null_score == pytest.approx(theirs.null_score, rel=1e-4)


@pytest.mark.parametrize("engine", ["onnx", "tflite", "numpy"])
@pytest.mark.parametrize(("context", "stride"), [(TEXTS[2], 8), (LONG, 8), (LONG, 0), (LONG, 20)])
def test_answers_are_those_of_transformers(
    converted: Path, engine: str, context: str, stride: int
) -> None:
    expected = oracle(QUESTION, context, stride)[:-1]
    with load(converted, engine=engine) as model:
        found = model.answer(
            QUESTION, context, top_k=5, stride=stride, max_answer_tokens=15, no_answer=False
        )
        check(found, expected[:5])
        assert (model.last_call.windows > 3) == (context == LONG)
        assert all(a.text == context[a.start : a.end] for a in found)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["deberta-v2", "modernbert", "distilbert", "mpnet", "albert"])
def test_other_families_answer_like_transformers(family: str, tmp_path: Path) -> None:
    """Rectangular plans, and TFLite files of fixed lengths, give a row for each token too."""
    folder = tiny_family_folder(tmp_path / family, family, TASK)
    (tmp_path / "tiny.toml").write_text(PROFILE)
    report = convert(
        folder,
        profile=str(tmp_path / "tiny.toml"),
        output=tmp_path / "qa.edge",
        precisions=("fp32",),
        calibration=texts_file(),
    )
    expected = oracle(QUESTION, LONG, 8, folder)[:-1]
    for variant in report.manifest.variants:
        with load(report.path, engine=variant.id) as model:
            keywords: Any = {"stride": 8, "max_answer_tokens": 15, "no_answer": False}
            check(model.answer(QUESTION, LONG, top_k=3, **keywords), expected[:3])


def test_no_answer_competes_unless_told_not_to(converted: Path) -> None:
    *spans, nothing = oracle(QUESTION, LONG, 8)
    with load(converted, engine="numpy") as model:
        keywords: Any = {"stride": 8, "max_answer_tokens": 15}
        ranked = sorted([*spans, nothing], key=lambda answer: -answer.score)
        check(model.answer(QUESTION, LONG, top_k=9, **keywords), ranked[:9])
        check([model.answer(QUESTION, LONG, **keywords)], ranked[:1])
        check([model.answer(QUESTION, LONG, no_answer=False, **keywords)], spans[:1])


def test_one_in_one_out_and_a_list_in_a_list_out(converted: Path) -> None:
    with load(converted, engine="numpy") as model:
        one = model.answer(QUESTION, LONG)
        assert isinstance(one, Answer)
        questions, contexts = [QUESTION, "a film?", ""], [LONG, TEXTS[0], TEXTS[2]]
        many = model.answer(questions, contexts)
        assert model.last_call.texts == 3
        assert model.last_call.windows > 3
        assert model.last_call.variants == ("numpy-fp32",)
        assert [a.text for a in many] == [
            model.answer(q, c).text for q, c in zip(questions, contexts, strict=True)
        ]
        assert many[0].score == pytest.approx(one.score, abs=1e-6)
        ranked = model.answer(questions, contexts, top_k=2)
        assert [best[0].text for best in ranked] == [a.text for a in many]
        assert {len(best) for best in ranked} == {2}
        assert model.answer([], []) == []


def test_an_empty_context_has_no_answer(converted: Path) -> None:
    for engine in ("onnx", "tflite", "numpy"):
        with load(converted, engine=engine) as model:
            for context in ("", "   "):
                for no_answer in (True, False):
                    answer = model.answer(QUESTION, context, no_answer=no_answer)
                    assert answer == Answer("", 1.0, 0, 0, 1.0)


def test_what_does_not_fit(converted: Path) -> None:
    with load(converted, engine="numpy") as model:
        first = model.answer(QUESTION, LONG, on_long="truncate", no_answer=False)
        assert model.last_call.windows == 1
        assert model.last_call.truncated_texts == 1
        tokens = len(model.tokenizer.encode(QUESTION, LONG))
        assert model.last_call.truncated_tokens == tokens - LONGEST
        assert first.end <= len(LONG) // 3
        with pytest.raises(InputError, match=f"{tokens} tokens, the model takes 32") as caught:
            model.answer(QUESTION, LONG, on_long="error")
        assert "on_long='window'" in caught.value.hint
        assert model.answer("a?", TEXTS[1], on_long="error").end <= len(TEXTS[1])
        with pytest.raises(InputError, match="question 1 leaves no room") as caught:
            model.answer([QUESTION, "good film " * 20], [LONG, LONG])
        assert "shorten the question" in caught.value.hint


def test_wrong_calls_say_what_to_do(converted: Path) -> None:
    with load(converted, engine="numpy") as model:
        for arguments, keywords, message in [
            ((QUESTION, 3), {}, "not int"),
            (([QUESTION], ["a", "b"]), {}, "1 questions but 2 contexts"),
            ((QUESTION, LONG), {"top_k": 0}, "top_k must be at least 1"),
            ((QUESTION, LONG), {"max_answer_tokens": 0}, "max_answer_tokens"),
            ((QUESTION, LONG), {"stride": -1}, "stride must be at least 0"),
            ((QUESTION, LONG), {"stride": 31}, "stride=31 is not below"),
            ((QUESTION, LONG), {"on_long": "crop"}, "on_long is 'crop'"),
        ]:
            with pytest.raises(InputError, match=message):
                model.answer(*arguments, **keywords)  # type: ignore[call-overload]
        with pytest.raises(InputError, match="task is question-answering") as caught:
            model.classify("text")
        assert "model.answer(...)" in caught.value.hint
    with load(bundle("embedding")) as other, pytest.raises(InputError, match="not question-"):
        other.answer(QUESTION, LONG)


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from(["film", "good", "xyzzy", "a,b", "é"]), max_size=40),
    question=st.lists(st.sampled_from(["what", "film"]), max_size=3),
    longest=st.integers(12, 40),
    data=st.data(),
)
def test_windows_are_those_of_the_tokenizers_package(
    words: list[str], question: list[str], longest: int, data: st.DataObject
) -> None:
    from tokenizers import Tokenizer

    text, context = " ".join(question), " ".join(words)
    tokenizer = load_tokenizer(tiny_tokenizer_json())
    encoding = tokenizer.encoding(text, context, offsets=True)
    room = longest - tokenizer.num_special_tokens(pair=True) - len(tokenizer.encode(text)) + 2
    if room < 2:
        with pytest.raises(InputError):
            windows(encoding, longest, 1, "question 0")
        return
    stride = data.draw(st.integers(0, room - 1))
    theirs = Tokenizer.from_str(tiny_tokenizer_json().decode())
    theirs.no_padding()
    theirs.enable_truncation(longest, stride=stride, strategy="only_second")
    first = theirs.encode(text, context)
    expected = [first, *first.overflowing]
    found = windows(encoding, longest, stride, "question 0")
    assert [w.ids for w in found] == [e.ids for e in expected]
    assert [w.type_ids for w in found] == [e.type_ids for e in expected]
    for window, other in zip(found, expected, strict=True):
        places = [i for i, sequence in enumerate(other.sequence_ids) if sequence == 1]
        assert len(window.spans) == len(places)
        if places:
            assert window.first == places[0]
        for (start, end), place in zip(window.spans, places, strict=True):
            assert start <= other.offsets[place][0] <= other.offsets[place][1] <= end
            assert " " not in context[start:end]


WINDOW = Window([2, 9, 3, 5, 6, 7, 3], [0] * 7, 3, [(0, 4), (5, 9), (10, 14)], True)


def logits(start: dict[int, float], end: dict[int, float]) -> np.ndarray:
    """(7, 2), low but at the given tokens."""
    values = np.full((7, 2), -8.0, np.float32)
    for column, ends in enumerate((start, end)):
        for token, value in ends.items():
            values[token, column] = value
    return values


def test_question_and_special_tokens_cannot_answer() -> None:
    high = logits({1: 50.0, 2: 60.0, 4: 3.0}, {1: 50.0, 6: 60.0, 5: 3.0})
    (best,) = best_answers("aaaa bbbb cccc", [(WINDOW, high)], AnswerSettings())
    assert best.text == "bbbb cccc"
    assert best.score == pytest.approx(1.0, abs=1e-3)


def test_an_answer_never_ends_before_it_starts_and_keeps_to_the_limit() -> None:
    backwards = logits({5: 9.0, 3: 4.0}, {3: 9.0, 5: 4.0})
    scored = [(WINDOW, backwards)]
    found = best_answers("aaaa bbbb cccc", scored, AnswerSettings(top_k=9, no_answer=False))
    assert all(answer.end > answer.start for answer in found)
    assert len(found) == 6  # every span once
    short = best_answers("aaaa bbbb cccc", scored, AnswerSettings(9, max_answer_tokens=1))
    assert {a.text for a in short} == {"aaaa", "bbbb", "cccc", ""}


def test_no_answer_wins_by_the_first_token_of_every_window() -> None:
    """SQuAD 2: one window without an answer is not enough, an answer may be in the next one."""
    nothing, something = logits({0: 9.0}, {0: 9.0}), logits({4: 9.0}, {4: 9.0})
    (best,) = best_answers("aaaa bbbb cccc", [(WINDOW, nothing)], AnswerSettings())
    assert (best.text, best.start, best.end) == ("", 0, 0)
    assert best.score == best.null_score > 0.99
    (kept,) = best_answers("aaaa bbbb cccc", [(WINDOW, nothing)], AnswerSettings(no_answer=False))
    assert kept.text and kept.null_score == best.null_score
    both = [(WINDOW, nothing), (WINDOW, something)]
    (best,) = best_answers("aaaa bbbb cccc", both, AnswerSettings())
    assert best.text == "bbbb"
    assert best.null_score < 1e-6


def test_a_template_without_a_first_special_token_has_no_null() -> None:
    bare = replace(WINDOW, has_null=False)
    (best,) = best_answers("aaaa bbbb cccc", [(bare, logits({0: 9.0}, {0: 9.0}))], AnswerSettings())
    assert best.text
    assert best.null_score == 0.0


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 10**6))
def test_best_spans_are_all_spans_in_order(tokens: int, longest: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    start, end = generator.random(tokens), generator.random(tokens)
    expected = [
        (float(start[a] * end[b]), a, b)
        for a in range(tokens)
        for b in range(a, min(tokens, a + longest))
    ]
    assert list(best_spans(start, end, longest)) == sorted(expected, reverse=True)
