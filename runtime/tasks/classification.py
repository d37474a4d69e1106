"""``Model.classify``: the classes of a text or of a pair, or the nearest of labels made up later.

Zero-shot classification asks a model of natural language inference whether the text entails a
sentence about each label: Yin et al., "Benchmarking Zero-shot Text Classification", arXiv
1909.00161, section 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.answers import Label, merge_windows, probabilities, top_labels
from edgeformer.runtime.calls import Call
from edgeformer.runtime.manifest import ModelCard
from edgeformer.runtime.text import text_list

if TYPE_CHECKING:
    from edgeformer.runtime.exit_request import ExitRequest

HYPOTHESIS = "This example is {}."


@dataclass(frozen=True)
class Candidates:
    """Labels that the model was not trained for.

    Attributes:
        names: at least one.
        hypothesis: the sentence that a text of the label entails, ``{}`` for the label.
        multi_label: each label is true or false by itself, else one of them is true.

    Raises:
        InputError: none of that.
    """

    names: tuple[str, ...]
    hypothesis: str = HYPOTHESIS
    multi_label: bool = False

    def __post_init__(self) -> None:
        if not self.names or not all(isinstance(n, str) and n.strip() for n in self.names):
            raise InputError(
                "candidates must be a list of one or more labels", hint='candidates=["sport", ...]'
            )
        if "{}" not in self.hypothesis:
            raise InputError(
                f"the hypothesis {self.hypothesis!r} has no place for the label",
                hint=f"write {{}} where it goes, as in {HYPOTHESIS!r}",
            )


def classify(
    call: Call,
    inputs: Any,
    pair: Any,
    candidates: Candidates | None,
    early: "ExitRequest | None",
    top_k: int | None,
    on_long: str,
) -> list[list[Label]]:
    """The best labels of each input, in the one way that the arguments ask for.

    Raises:
        InputError: inputs of another kind, or arguments that do not go together.
    """
    special = candidates is not None or call.takes_images
    if special and pair is not None:
        raise InputError(
            "a second text goes neither with candidates nor with images", hint="leave pair out"
        )
    if special and early is not None:
        raise InputError(
            "early exits go neither with candidates nor with images",
            hint="leave exit and latency_ms out",
        )
    if call.takes_images:
        return classify_images(call, inputs, candidates, top_k)
    texts, seconds = text_list(inputs), None if pair is None else text_list(pair)
    if candidates is not None:
        return classify_candidates(call, texts, candidates, top_k, on_long)
    if early is not None:
        from edgeformer.runtime.tasks.early_exit import classify_early

        return classify_early(call, texts, seconds, top_k, on_long, early)
    return classify_texts(call, texts, seconds, top_k, on_long)


def make_early(exit: Any, latency_ms: Any) -> "ExitRequest | None":
    """What a caller asked of early exits, None for nothing. Raises InputError as ``make_request``
    does; without exits nothing of theirs is imported."""
    if exit is None and latency_ms is None:
        return None
    from edgeformer.runtime.exit_request import make_request

    return make_request(exit, latency_ms)


def classify_texts(
    call: Call, texts: list[str], pair: list[str] | None, top_k: int | None, on_long: str
) -> list[list[Label]]:
    """The best labels of each text; the logits of a text in windows are the mean of theirs."""
    labels: list[list[Label]] = []
    for rows, logits in call.encode(texts, pair, on_long, "logits"):
        if rows.windowed:
            logits = merge_windows(logits, rows.owners, rows.batch.lengths, rows.texts)
        labels += _best_labels(call.card, logits, top_k)
    return labels


def classify_images(
    call: Call, images: Any, candidates: Candidates | None, top_k: int | None
) -> list[list[Label]]:
    """The best labels of each image."""
    if candidates is not None:
        raise InputError(
            "candidates go with texts, and this bundle takes images", hint="leave candidates out"
        )
    from edgeformer.runtime.tasks.images import answer_images

    return _best_labels(call.card, answer_images(call, images, "logits"), top_k)


def _best_labels(card: ModelCard, logits: NDArray[Any], top_k: int | None) -> list[list[Label]]:
    scores = probabilities(logits, card.problem_type)
    return [top_labels(row, card.labels, top_k) for row in scores]


def make_candidates(names: Any, hypothesis: str | None, multi_label: bool) -> Candidates | None:
    """What a caller passed, None for no candidates. Raises InputError as Candidates does."""
    if names is None:
        if hypothesis is not None or multi_label:
            raise InputError(
                "hypothesis and multi_label go with candidates", hint='candidates=["sport", ...]'
            )
        return None
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InputError(
            f"candidates must be a list of labels, not {type(names).__name__}",
            hint='candidates=["sport", ...]',
        )
    return Candidates(tuple(names), HYPOTHESIS if hypothesis is None else hypothesis, multi_label)


def classify_candidates(
    call: Call, texts: list[str], candidates: Candidates, top_k: int | None, on_long: str
) -> list[list[Label]]:
    """The best candidates of each text.

    Raises:
        InputError: the model's labels name no entailment: it was not trained for inference.
    """
    entails, contradicts = inference_classes(call.card.labels)
    count = len(candidates.names)
    premises = [text for text in texts for _ in range(count)]
    hypotheses = [candidates.hypothesis.replace("{}", name) for name in candidates.names]
    parts = call.encode(premises, hypotheses * len(texts), on_long, "logits")
    logits = np.concatenate([part for _, part in parts])
    logits = logits.reshape(len(texts), count, len(call.card.labels))
    scores = candidate_scores(logits, entails, contradicts, candidates.multi_label)
    return [top_labels(row, candidates.names, top_k) for row in scores]


def inference_classes(labels: Sequence[str]) -> tuple[int, int]:
    """Classes of entailment and of contradiction: named so, or of two classes the other one.

    Raises:
        InputError: the labels are not those of natural language inference.
    """
    entails = [i for i, label in enumerate(labels) if label.lower().startswith("entail")]
    contradicts = [i for i, label in enumerate(labels) if label.lower().startswith("contradict")]
    if len(labels) == 2 and len(entails) == 1:
        contradicts = [1 - entails[0]]
    if len(entails) != 1 or len(contradicts) != 1:
        raise InputError(
            "candidates need a model of natural language inference, with labels entailment and"
            f" contradiction; this one's are {', '.join(labels)}",
            hint="leave candidates out, or convert a model that was trained on MNLI",
        )
    return entails[0], contradicts[0]


def candidate_scores(
    logits: NDArray[Any], entails: int, contradicts: int, multi_label: bool
) -> NDArray[np.float64]:
    """Probability of each candidate, float64 (texts, candidates).

    One true label: softmax of the candidates' entailment. Several, or a single candidate: each
    one's entailment against its contradiction.

    Args:
        logits: (texts, candidates, classes).
        entails, contradicts: which classes.
        multi_label: see ``Candidates``.
    """
    if multi_label or logits.shape[1] == 1:
        pairs = logits[:, :, [contradicts, entails]]
        return np.asarray(probabilities(pairs, "single_label")[:, :, 1])
    return probabilities(logits[:, :, entails], "single_label")
