"""What a person asked for: labels, spans, answers, filled masks; and arithmetic that verbs share.

Pure functions over numpy arrays; models, engines and tokenizers are not known here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Label:
    """One class and its score: a probability, or the value itself for a regression.

    ``exit_layer`` is the number of layers after which a text left early, None where it could not.
    """

    name: str
    score: float
    exit_layer: int | None = None


@dataclass(frozen=True)
class Span:
    """A tagged piece of the text: ``text[start:end]`` in characters, score the mean over words."""

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Answer:
    """A piece of the context that answers a question: ``context[start:end]`` in characters.

    Attributes:
        text: the piece; empty where the best answer is that the context holds none.
        score: probability of its first token times that of its last, within their window.
        start, end: characters of the context; both 0 for no answer.
        null_score: the same score of "no answer", the lowest over the context's windows.
    """

    text: str
    score: float
    start: int
    end: int
    null_score: float


@dataclass(frozen=True)
class Fill:
    """One token for a mask.

    Attributes:
        token: the token as it reads, ``##ly`` where it continues a word.
        score: its probability, over the whole vocabulary.
        text: the text with this mask filled; other masks stay.
    """

    token: str
    score: float
    text: str


def probabilities(logits: NDArray[Any], problem_type: str) -> NDArray[np.float64]:
    """Softmax, sigmoid or the value itself, along the last axis; float64, same shape."""
    values = logits.astype(np.float64)
    if problem_type == "regression":
        return values
    if problem_type == "multi_label":
        return np.asarray(np.exp(-np.logaddexp(0.0, -values)))
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def top_labels(
    scores: NDArray[np.float64], names: tuple[str, ...], top_k: int | None
) -> list[Label]:
    """The ``top_k`` best of ``scores`` (classes,), best first; all for None."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Label(names[i], float(scores[i])) for i in order]


def merge_windows(
    rows: NDArray[Any], owners: NDArray[np.intp], weights: NDArray[Any], texts: int
) -> NDArray[Any]:
    """Weighted mean of the rows of each text: (windows, n) to (texts, n) in the rows' dtype.

    ``owners`` (windows,) says which text a window is of, ``weights`` its tokens.
    """
    total = np.zeros((texts, rows.shape[1]), np.float64)
    np.add.at(total, owners, rows * weights[:, None])
    share = np.zeros(texts, np.float64)
    np.add.at(share, owners, weights)
    return np.asarray((total / share[:, None]).astype(rows.dtype))


@dataclass(frozen=True)
class Word:
    """A word of the text with its best label, as ``spans`` groups them."""

    start: int
    end: int
    label: str
    score: float


def group_words(
    scores: NDArray[np.float64],
    names: tuple[str, ...],
    offsets: list[tuple[int, int]],
    word_ids: list[int | None],
) -> list[Word]:
    """One Word for each word of the text; a word takes the label of its first piece.

    Args:
        scores: (tokens, classes).
        offsets: characters of each token.
        word_ids: word of each token, None for special tokens.
    """
    words: list[Word] = []
    previous: int | None = None
    for row, (start, end), word in zip(scores, offsets, word_ids, strict=True):
        if word is None:
            previous = None
        elif word == previous:
            last = words[-1]
            words[-1] = Word(last.start, end, last.label, last.score)
        else:
            best = int(row.argmax())
            words.append(Word(start, end, names[best], float(row[best])))
            previous = word
    return words


def spans(text: str, words: list[Word]) -> list[Span]:
    """Join neighbouring words into spans by their B-/I- prefixes (or equal plain labels).

    ``O`` and its like end a span; an I- without a matching B- before it opens one.
    """
    groups: list[list[Word]] = []
    last = ""
    for word in words:
        if word.label == "O":
            last = ""
            continue
        kind = _kind(word.label)
        if word.label.startswith("B-") or kind != last:
            groups.append([])
        groups[-1].append(word)
        last = kind
    return [_span(text, group) for group in groups]


def _span(text: str, group: list[Word]) -> Span:
    start, end = group[0].start, group[-1].end
    score = sum(word.score for word in group) / len(group)
    return Span(_kind(group[0].label), score, start, end, text[start:end])


def _kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label
