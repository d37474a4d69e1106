"""How near an engine's answers are to the PyTorch model's, measured as the task reads them.

    found = nearness("classification", pairs)
    found.cosines, found.top1

A pair is (answer, reference) to one input, two arrays of one shape with the batch in front.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.golden import cosine

Pairs = Sequence[tuple[NDArray[Any], NDArray[Any]]]


class Nearness(NamedTuple):
    """How near; docs/verification.md says why each task has its own measure.

    Attributes:
        cosines: over inputs, classes or masks.
        top1: share of equal best answers, None where the answers are no choice.
        top5: share of best answers that are among the engine's five best, None where few are
            to choose from.
    """

    cosines: list[float]
    top1: float | None = None
    top5: float | None = None


def nearness(task: str, pairs: Pairs) -> Nearness:
    """Measured as ``task`` needs it.

    Args:
        task: of the model card.
        pairs: at least one.
    """
    return _MEASURES.get(task, by_input)(pairs)


def by_input(pairs: Pairs) -> Nearness:
    """Vectors: a cosine for each input."""
    return Nearness([cosine(a.ravel(), r.ravel()) for a, r in pairs])


def by_class(pairs: Pairs) -> Nearness:
    """Logits of texts or tokens: a cosine for each class over all of them, since logits near the
    decision boundary are near zero, where a direction means nothing; and equal best classes."""
    answers, wanted = _stacked(pairs)
    agree = answers.argmax(axis=1) == wanted.argmax(axis=1)
    cosines = [cosine(answers[:, c], wanted[:, c]) for c in range(wanted.shape[1])]
    return Nearness(cosines, float(agree.mean()) if wanted.shape[1] > 1 else None)


def by_end(pairs: Pairs) -> Nearness:
    """Start and end of an answer, (1, tokens, 2): cosines as of classes; and how often the best
    start and the best end of a text are the same token."""
    agree = [a[0].argmax(axis=0) == r[0].argmax(axis=0) for a, r in pairs]
    return Nearness(by_class(pairs).cosines, float(np.mean(agree)))


def by_mask(pairs: Pairs) -> Nearness:
    """Logits of masks over the vocabulary: a cosine for each mask, its mean taken off both, since
    softmax does not see it; and the best tokens."""
    answers, wanted = _stacked(pairs)
    cosines = [cosine(a - a.mean(), r - r.mean()) for a, r in zip(answers, wanted, strict=True)]
    best = wanted.argmax(axis=1)
    rank = (answers > np.take_along_axis(answers, best[:, None], axis=1)).sum(axis=1)
    return Nearness(cosines, float((rank == 0).mean()), float((rank < 5).mean()))


def _stacked(pairs: Pairs) -> tuple[NDArray[Any], NDArray[Any]]:
    """All rows of all inputs, (rows, classes)."""
    answers = np.concatenate([a.reshape(-1, a.shape[-1]) for a, _ in pairs])
    return answers, np.concatenate([r.reshape(-1, r.shape[-1]) for _, r in pairs])


_MEASURES: dict[str, Callable[[Pairs], Nearness]] = {
    "classification": by_class,
    "token-classification": by_class,
    "question-answering": by_end,
    "fill-mask": by_mask,
}
