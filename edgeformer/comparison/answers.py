"""How alike the answers of two bundles are to the same texts.

    agreement(a, b)      # a, b: from ``answers_to``

Vectors by their cosines, classes by top-1 agreement, tags word by word. NumPy and the standard
library only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.metrics import row_cosines

if TYPE_CHECKING:
    from edgeformer.data import Text
    from edgeformer.runtime.manifest import ModelCard
    from edgeformer.runtime.model import Model


@dataclass(frozen=True)
class TextAnswers:
    """What one bundle answers to all texts.

    Attributes:
        card: of its model.
        variants: that answered.
        threads: that the main one used.
        vectors: embeddings float32 (texts, hidden), or probabilities (values of a regression)
            float64 (texts, labels) in the order of ``card.labels``; None for tags.
        tags: for each text the label of each word by its first character; empty but for tags.
    """

    card: "ModelCard"
    variants: tuple[str, ...]
    threads: int
    vectors: NDArray[Any] | None
    tags: tuple[dict[int, str], ...] = ()


@dataclass(frozen=True)
class Agreement:
    """How near a bundle's answers are to the first one's.

    Attributes:
        bundle: number of the bundle, from 1.
        texts: compared.
        min_cosine, mean_cosine: of embeddings, over texts; None for other tasks.
        top1: share of texts with the same best label (of words with the same tag; with several
            labels, of texts with the same set); None for embeddings and regressions.
        max_difference: largest difference of a probability, or of a value; None for embeddings
            and tags.
        note: why there are no figures, empty if there are.
    """

    bundle: int
    texts: int
    min_cosine: float | None = None
    mean_cosine: float | None = None
    top1: float | None = None
    max_difference: float | None = None
    note: str = ""


TEXT_TASKS = ("embedding", "classification", "token-classification")


def answers_to(model: "Model", texts: "Sequence[Text]") -> TextAnswers:
    """Run ``model`` on every text; its task is one of ``TEXT_TASKS``."""
    card = model.manifest.model
    firsts = [text for text, _ in texts]
    vectors: NDArray[Any] | None = None
    tags: tuple[dict[int, str], ...] = ()
    if card.task == "embedding":
        vectors = model.embed(firsts)
    elif card.task == "classification":
        seconds = [pair or "" for _, pair in texts] if any(pair for _, pair in texts) else None
        found = [
            {label.name: label.score for label in labels}
            for labels in model.classify(firsts, seconds, top_k=None)
        ]
        vectors = np.array([[row[name] for name in card.labels] for row in found], np.float64)
    else:
        tags = tuple({w.start: w.label for w in words} for words in model.tag_words(firsts))
    return TextAnswers(card, model.last_call.variants, model.threads, vectors, tags)


def agreement(number: int, answers: TextAnswers, first: TextAnswers) -> Agreement:
    """Compare the answers of bundle ``number`` with the first one's."""
    mine, theirs = answers.card, first.card
    texts = len(answers.tags) if answers.vectors is None else len(answers.vectors)
    if (mine.task, mine.problem_type) != (theirs.task, theirs.problem_type):
        return Agreement(number, texts, note="another task")
    if set(mine.labels) != set(theirs.labels):
        return Agreement(number, texts, note="other labels")
    if answers.vectors is None or first.vectors is None:
        return Agreement(number, texts, top1=_same_tags(answers.tags, first.tags))
    if mine.task == "embedding":
        if answers.vectors.shape != first.vectors.shape:
            sizes = f"{answers.vectors.shape[1]} and {first.vectors.shape[1]}"
            return Agreement(number, texts, note=f"vectors of {sizes} numbers")
        cosines = row_cosines(answers.vectors, first.vectors)
        return Agreement(number, texts, float(cosines.min()), float(cosines.mean()))
    order = [mine.labels.index(label) for label in theirs.labels]
    return _classes(number, answers.vectors[:, order], first.vectors, mine.problem_type)


def _classes(
    number: int, scores: NDArray[Any], first: NDArray[Any], problem_type: str
) -> Agreement:
    """Scores (texts, labels) of both, in the same order of labels."""
    difference = float(np.abs(scores - first).max())
    top1: float | None = None
    if problem_type == "multi_label":
        top1 = float(((scores >= 0.5) == (first >= 0.5)).all(axis=1).mean())
    elif problem_type != "regression":
        top1 = float((scores.argmax(axis=1) == first.argmax(axis=1)).mean())
    return Agreement(number, len(scores), top1=top1, max_difference=difference)


def _same_tags(tags: Sequence[dict[int, str]], first: Sequence[dict[int, str]]) -> float:
    """Share of words with the same tag, of those that either of the two has."""
    pairs = list(zip(tags, first, strict=True))
    same = sum(a.get(start) == label for a, b in pairs for start, label in b.items())
    words = sum(len(a.keys() | b.keys()) for a, b in pairs)
    return same / words if words else 1.0
