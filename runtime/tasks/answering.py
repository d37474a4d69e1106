"""``Model.answer``: the piece of a context that answers a question.

Devlin et al., "BERT", arXiv 1810.04805, sections 4.2 and 4.3: a span's probability is that of its
first token times that of its last. A context longer than the model is read in overlapping windows,
each behind the question, and the best span of any window wins. Where a window holds no answer, the
model points to its first token, so that token's score is that of "no answer" (SQuAD 2).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.answers import Answer, probabilities
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.calls import Call
from edgeformer.runtime.text import CHUNK_TEXTS, ON_LONG, TextRows
from edgeformer.runtime.tokenizer import Encoding

STRIDE = 128  # tokens that two windows share, as the models were trained (run_squad of BERT)
MAX_ANSWER_TOKENS = 30


@dataclass(frozen=True)
class AnswerSettings:
    """How to search.

    Attributes:
        top_k: most answers of one question.
        stride: tokens of the context that neighbouring windows share; None for 128, or half a
            window where that is less.
        max_answer_tokens: longest answer.
        no_answer: "no answer" may win.
        on_long: ``window``, ``truncate`` (the first window only) or ``error``.

    Raises:
        InputError: a number below its least, or an unknown ``on_long``.
    """

    top_k: int = 1
    stride: int | None = None
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    no_answer: bool = True
    on_long: str = "window"

    def __post_init__(self) -> None:
        for name, least in (("top_k", 1), ("max_answer_tokens", 1), ("stride", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(
                    f"{name} must be at least {least}, not {value}", hint="leave it out"
                )
        if self.on_long not in ON_LONG:
            raise InputError(
                f"on_long is {self.on_long!r}", hint=f"choose of: {', '.join(ON_LONG)}"
            )


@dataclass(frozen=True)
class Window:
    """A piece of a context behind its question, as the model reads it.

    Attributes:
        ids, type_ids: the row.
        first: place in the row of the piece's first token.
        spans: characters of the context for each token of the piece, whole words.
        has_null: the row starts with a special token, which can say that there is no answer.
    """

    ids: list[int]
    type_ids: list[int]
    first: int
    spans: list[tuple[int, int]]
    has_null: bool


def answer_questions(
    call: Call, questions: list[str], contexts: list[str], settings: AnswerSettings
) -> list[list[Answer]]:
    """The best answers to each question, best first; at least one each.

    Raises:
        InputError: unequal lists, a question that leaves no room for its context, a ``stride``
            as long as a window, or a long context under ``on_long="error"``.
    """
    if len(questions) != len(contexts):
        raise InputError(
            f"{len(questions)} questions but {len(contexts)} contexts",
            hint="pass one context for each question",
        )
    answers: list[list[Answer]] = []
    for start in range(0, len(questions), CHUNK_TEXTS):
        chunk = slice(start, start + CHUNK_TEXTS)
        answers += _answer_chunk(call, questions[chunk], contexts[chunk], settings, start)
    return answers


def _answer_chunk(
    call: Call, questions: list[str], contexts: list[str], settings: AnswerSettings, start: int
) -> list[list[Answer]]:
    begun, longest = time.perf_counter(), call.card.max_length
    found: list[tuple[int, Window]] = []
    cut: list[int] = []
    for i, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        encoding = call.tokenizer.encoding(question, context, offsets=True)
        parts = windows(encoding, longest, settings.stride, f"question {start + i}")
        if len(parts) > 1 and settings.on_long == "error":
            raise InputError(
                f"question {start + i} and its context have {len(encoding.ids)} tokens, the model"
                f" takes {longest}",
                hint="pass on_long='window' or on_long='truncate', or shorten the context",
            )
        if settings.on_long == "truncate":
            cut.append(len(encoding.ids) - len(parts[0].ids))
            parts = parts[:1]
        found += [(i, part) for part in parts]
    rows = _rows(found, len(questions), cut)
    call.count(rows, begun)
    logits = call.run(rows.batch, "logits")
    bounds = rows.batch.offsets
    by_question: list[list[tuple[Window, NDArray[Any]]]] = [[] for _ in questions]
    for row, (i, window) in enumerate(found):
        by_question[i].append((window, logits[bounds[row] : bounds[row + 1]]))
    return [
        best_answers(context, scored, settings)
        for context, scored in zip(contexts, by_question, strict=True)
    ]


def _rows(found: list[tuple[int, Window]], texts: int, cut: list[int]) -> TextRows:
    batch = RaggedBatch.from_lists([w.ids for _, w in found], [w.type_ids for _, w in found])
    owners = np.array([i for i, _ in found], np.intp)
    return TextRows(batch, owners, texts, sum(1 for n in cut if n), sum(cut), [], [])


def windows(encoding: Encoding, longest: int, stride: int | None, which: str) -> list[Window]:
    """Cut the context of an encoded pair so that each piece fits behind the question.

    The pieces are those of the Hugging Face tokenizers: tokens 0 to n, then from n - stride on,
    and so forth until one holds the last token.

    Args:
        encoding: of (question, context), whole, with offsets.
        longest: most tokens of a row.
        stride: see ``AnswerSettings``.
        which: the question, for error messages.
    """
    assert encoding.sequence_ids is not None
    places = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    begin, end = (places[0], places[-1] + 1) if places else (len(encoding.ids),) * 2
    room = longest - (len(encoding.ids) - (end - begin))
    if room < 1:
        raise InputError(
            f"{which} leaves no room for its context: the model takes {longest} tokens in all",
            hint="shorten the question",
        )
    shared = min(STRIDE, room // 2) if stride is None else stride
    if shared >= room:
        raise InputError(
            f"stride={shared} is not below the {room} tokens of context that fit behind {which}",
            hint="pass a smaller one, or leave it out",
        )
    spans = _whole_words(encoding, begin, end)
    pieces = []
    for start in range(0, max(1, end - begin - shared), room - shared):
        a, b = begin + start, min(begin + start + room, end)
        ids = [*encoding.ids[:begin], *encoding.ids[a:b], *encoding.ids[end:]]
        types = [*encoding.type_ids[:begin], *encoding.type_ids[a:b], *encoding.type_ids[end:]]
        null = encoding.sequence_ids[0] is None
        pieces.append(Window(ids, types, begin, spans[a - begin : b - begin], null))
    return pieces


def _whole_words(encoding: Encoding, begin: int, end: int) -> list[tuple[int, int]]:
    """Characters of each token of the context, from the start to the end of its word."""
    assert encoding.offsets is not None and encoding.word_ids is not None
    tokens = list(zip(encoding.offsets[begin:end], encoding.word_ids[begin:end], strict=True))
    words: dict[int | None, tuple[int, int]] = {}
    for (first, last), word in tokens:
        known = words.get(word, (first, last))
        words[word] = (min(known[0], first), max(known[1], last))
    return [words[word] if word is not None else span for span, word in tokens]


def best_answers(
    context: str, scored: list[tuple[Window, NDArray[Any]]], settings: AnswerSettings
) -> list[Answer]:
    """The best distinct spans over all windows of a context.

    Args:
        context: the text.
        scored: its windows, each with its logits (tokens, 2): start and end.
        settings: how many, and how long.
    """
    best: dict[tuple[int, int], float] = {}
    nulls = []
    for window, logits in scored:
        start, end, null = span_probabilities(logits, window)
        if window.has_null:
            nulls.append(null)
        new: set[tuple[int, int]] = set()
        for score, a, b in best_spans(start, end, settings.max_answer_tokens):
            span = (window.spans[a][0], window.spans[b][1])
            best[span] = max(best.get(span, 0.0), score)
            new.add(span)
            if len(new) == settings.top_k:
                break
    null_score = min(nulls, default=0.0)
    answers = [Answer(context[a:b], score, a, b, null_score) for (a, b), score in best.items()]
    if (settings.no_answer and nulls) or not answers:
        answers.append(Answer("", null_score, 0, 0, null_score))
    return sorted(answers, key=lambda answer: -answer.score)[: settings.top_k]


def span_probabilities(
    logits: NDArray[Any], window: Window
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Probability of each token of the piece to start and to end the answer, and of no answer.

    Softmax over the piece and the first token; question and other special tokens cannot answer.
    """
    piece = logits[window.first : window.first + len(window.spans)]
    if not window.has_null:
        shares = probabilities(piece.T, "single_label").T if len(piece) else piece
        return shares[:, 0], shares[:, 1], 0.0
    shares = probabilities(np.concatenate([logits[:1], piece]).T, "single_label").T
    return shares[1:, 0], shares[1:, 1], float(shares[0, 0] * shares[0, 1])


def best_spans(
    start: NDArray[np.float64], end: NDArray[np.float64], longest: int
) -> Iterator[tuple[float, int, int]]:
    """(score, first token, last token) of spans of at most ``longest`` tokens, best first."""
    tokens = len(start)
    width = min(longest, tokens)
    table = np.zeros((tokens, width))  # row: first token; column: tokens after it
    for extra in range(width):
        table[: tokens - extra, extra] = start[: tokens - extra] * end[extra:]
    for place in np.argsort(-table, axis=None, kind="stable").tolist():
        first, extra = divmod(place, width)
        if first + extra < tokens:
            yield float(table[first, extra]), first, first + extra
