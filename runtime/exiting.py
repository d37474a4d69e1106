"""When a text may leave a model before its last layer: NumPy only, no engine, no clock but one.

    rule = parse_rule("entropy:0.2", segments=6, classes=2)
    controller = Controller(rule, segments=6, texts=len(batch))
    controller.leave(1, rows, logits)          # bool (rows,): who has seen enough

A model with exits is run in segments; after each there are logits. The criteria:

- ``entropy``: of the softmax, in nats, below the threshold (Xin et al., "DeeBERT", arXiv
  2004.12993, section 3.2; Tambe et al., "EdgeBERT", arXiv 2011.14203, algorithm 1).
- ``probability``: that of the best class, above the threshold.
- ``patience``: so many exits in a row answer the same (Zhou et al., "BERT Loses Patience", arXiv
  2006.04152, section 3.1; there the first answer starts the count at 0, as here).

EdgeBERT's predictor looks up, by the entropy after the first segment, what the entropies of later
ones will be: the first that will be below the threshold is as far as the text goes.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.manifest import Variant

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Leave = Callable[[int, NDArray[np.intp], NDArray[Any]], Bools]
"""(segment from 1, texts intp (n,), their logits (n, classes)) -> who leaves, bool (n,)."""

_FEW = 64  # logits; more of them are quicker in NumPy
CRITERIA = ("entropy", "probability", "patience")


def entropy(logits: NDArray[Any]) -> Floats:
    """Entropy of the softmax of each row, in nats: EdgeBERT, equation 1.

    ln(sum e^z) - sum(z e^z) / sum(e^z), with the largest z taken off first, so that no logit is too
    large.

    Args:
        logits: (..., classes).

    Returns:
        float64 (...,), from 0 to ln(classes).
    """
    if logits.ndim == 2 and logits.size <= _FEW:
        return np.array([_entropy(row) for row in logits.tolist()])
    z = logits.astype(np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    powers = np.exp(z)
    total = powers.sum(axis=-1)
    # Rounding may leave -1e-17 of a sure answer.
    return np.asarray(np.maximum(np.log(total) - (z * powers).sum(axis=-1) / total, 0.0))


def _entropy(row: list[float]) -> float:
    """The same of one row, for a text or two some 10 microseconds quicker: a tenth of what a
    segment of a small model takes."""
    most = max(row)
    powers = [math.exp(z - most) for z in row]
    total = sum(powers)
    mean = sum(p * (z - most) for p, z in zip(powers, row, strict=True) if p) / total
    return max(math.log(total) - mean, 0.0)


def best_probability(logits: NDArray[Any]) -> Floats:
    """Largest softmax probability of each row: (..., classes) to float64 (...,)."""
    z = logits.astype(np.float64)
    return np.asarray(1.0 / np.exp(z - z.max(axis=-1, keepdims=True)).sum(axis=-1))


@dataclass(frozen=True)
class ExitRule:
    """A criterion and its threshold.

    Attributes:
        criterion: one of ``CRITERIA``.
        threshold: entropy in nats, a probability, or a number of exits.
    """

    criterion: str
    threshold: float


def check_rule(rule: ExitRule, segments: int, classes: int) -> None:
    """Refuse a threshold that the criterion cannot have.

    Args:
        rule: what was asked for.
        segments: of the model.
        classes: of its logits.

    Raises:
        InputError: an unknown criterion, or a threshold outside its range.
    """
    ranges = {
        "entropy": (0.0, math.log(classes), f"ln({classes})"),
        "probability": (1 / classes, 1.0, "1"),
        "patience": (1.0, float(segments - 1), f"{segments - 1}"),
    }
    if rule.criterion not in ranges:
        raise InputError(
            f"no exit criterion {rule.criterion!r}", hint=f"choose of: {', '.join(CRITERIA)}"
        )
    low, high, text = ranges[rule.criterion]
    whole = rule.criterion != "patience" or float(rule.threshold).is_integer()
    if not low <= rule.threshold <= high + 1e-12 or not whole:
        number = "a whole number" if rule.criterion == "patience" else "a number"
        raise InputError(
            f"the exit threshold {rule.threshold:g} is not {number} from {low:g} to {text}, where"
            f" {rule.criterion} lies for {classes} classes and {segments} exits",
            hint="choose one within, or exit='auto' for the calibrated one",
        )


def parse_rule(text: str) -> ExitRule:
    """``"0.2"`` (entropy), ``"probability:0.9"`` or ``"patience:2"`` as a rule, unchecked.

    Raises:
        InputError: none of these.
    """
    criterion, _, number = text.rpartition(":")
    try:
        return ExitRule(criterion or "entropy", float(number))
    except ValueError:
        raise InputError(
            f"exit is {text!r}",
            hint="auto, none, an entropy such as 0.2, probability:0.9 or patience:2",
        ) from None


@dataclass(frozen=True)
class Lookup:
    """EdgeBERT's predictor as a table.

    Attributes:
        step: the k-th row is for an entropy of ``k * step`` after the first segment.
        rows: float64 (rows, segments - 2): predicted entropies after the second segment to the last
            but one.
    """

    step: float
    rows: Floats

    def caps(self, first: Floats, threshold: float) -> NDArray[np.intp]:
        """The segment after which each text leaves at the latest.

        Args:
            first: entropies after the first segment, (texts,).
            threshold: of the entropy.

        Returns:
            intp (texts,), from 2 to the last segment, which is meant where no entropy will be low
            enough.
        """
        nearest = np.clip(np.rint(first / self.step), 0, len(self.rows) - 1).astype(np.intp)
        below = self.rows[nearest] < threshold
        last = self.rows.shape[1] + 2
        caps = np.where(below.any(axis=1), below.argmax(axis=1) + 2, last)
        return np.asarray(caps, np.intp)


@dataclass(frozen=True)
class Deadline:
    """When a single text must have its answer.

    Attributes:
        end: on the clock ``time.perf_counter``, in seconds.
        seconds: what each segment takes for this text.
    """

    end: float
    seconds: Sequence[float]

    def allows(self, segment: int) -> bool:
        """True if ``segment`` (from 1), begun now, ends in time."""
        return time.perf_counter() + self.seconds[segment - 1] <= self.end


class Controller:
    """Decides for the texts of one batch. Use a new one for each batch."""

    def __init__(
        self,
        rule: ExitRule | None,
        segments: int,
        texts: int,
        lookup: Lookup | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        """Start with all texts at the first segment.

        Args:
            rule: None for texts that leave by the deadline only.
            segments: of the model.
            texts: of the batch.
            lookup: the predictor, for a rule of entropy.
            deadline: of the batch, as a rule one text.
        """
        self._rule = rule
        self._lookup = lookup if rule and rule.criterion == "entropy" else None
        self._deadline = deadline
        self._caps = np.full(texts, segments, np.intp)
        self._answers = np.full(texts, -1, np.intp)
        self._repeats = np.zeros(texts, np.intp)

    def leave(self, segment: int, texts: NDArray[np.intp], logits: NDArray[Any]) -> Bools:
        """See ``Leave``. Called after each segment but the last, in order, for those still in."""
        if self._deadline is not None and not self._deadline.allows(segment + 1):
            return np.ones(len(texts), np.bool_)
        if self._rule is None:
            return np.zeros(len(texts), np.bool_)
        if self._rule.criterion == "patience":
            return self._patient(texts, logits)
        if self._rule.criterion == "probability":
            return best_probability(logits) > self._rule.threshold
        found = entropy(logits)
        gone: Bools = found < self._rule.threshold
        if self._lookup is None:
            return gone
        if segment == 1:
            self._caps[texts] = self._lookup.caps(found, self._rule.threshold)
        return gone | (self._caps[texts] <= segment)

    def _patient(self, texts: NDArray[np.intp], logits: NDArray[Any]) -> Bools:
        assert self._rule is not None
        answers = logits.argmax(axis=1)
        same = answers == self._answers[texts]
        self._answers[texts] = answers
        self._repeats[texts] = np.where(same, self._repeats[texts] + 1, 0)
        return np.asarray(self._repeats[texts] >= self._rule.threshold)


def replay(
    logits: NDArray[Any], rule: ExitRule | None, lookup: Lookup | None = None
) -> NDArray[np.intp]:
    """Where each text would have left, from the logits of all segments.

    Args:
        logits: (segments, texts, classes).
        rule: see ``Controller``.
        lookup: see ``Controller``.

    Returns:
        intp (texts,): the segment, from 1.
    """
    segments, texts = logits.shape[:2]
    controller = Controller(rule, segments, texts, lookup)
    exits = np.full(texts, segments, np.intp)
    inside = np.arange(texts)
    for segment in range(1, segments):
        gone = controller.leave(segment, inside, logits[segment - 1, inside])
        exits[inside[gone]] = segment
        inside = inside[~gone]
    return exits


def thresholds(criterion: str, segments: int, classes: int, steps: int) -> tuple[float, ...]:
    """A grid over the range of a criterion, from the strictest threshold on, at which nobody
    leaves; ``patience`` has one for each whole number."""
    if criterion == "patience":
        return tuple(float(n) for n in range(segments - 1, 0, -1))
    if criterion == "probability":
        return tuple(1 - k * (1 - 1 / classes) / steps for k in range(steps + 1))
    return tuple(k * math.log(classes) / steps for k in range(steps + 1))


def every_exit(
    run: Callable[[RaggedBatch, Leave], tuple[NDArray[Any], NDArray[np.intp]]],
    batch: RaggedBatch,
    segments: int,
) -> NDArray[np.float32]:
    """The logits of all texts after each segment, float32 (segments, texts, classes).

    Args:
        run: ``Engine.encode_exits``.
        batch: tokenized texts.
        segments: of the model.
    """
    rows: list[tuple[int, NDArray[np.intp], NDArray[Any]]] = []

    def stay(segment: int, texts: NDArray[np.intp], logits: NDArray[Any]) -> Bools:
        rows.append((segment, texts.copy(), logits.copy()))
        return np.zeros(len(texts), np.bool_)

    last, _ = run(batch, stay)
    found = np.zeros((segments, *last.shape), np.float32)
    for segment, texts, logits in rows:
        found[segment - 1, texts] = logits
    found[-1] = last
    return found


def exit_answers(variant: Variant, batch: RaggedBatch) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Room for what ``Engine.encode_exits`` returns.

    Raises:
        InputError: the variant has no segments.
    """
    if variant.exits is None:
        raise InputError(
            f"{variant.id} has no exits: a text goes through all of its layers",
            hint="leave exit and latency_ms out, or convert a model that was trained with exits",
        )
    classes = int(variant.segments[-1].outputs[0].shape[-1])
    return np.zeros((len(batch), classes), np.float32), np.zeros(len(batch), np.intp)


State = TypeVar("State")


@dataclass(frozen=True)
class Chain(Generic[State]):
    """How an engine runs segments: ``State`` is the hidden states in its own form.

    Attributes:
        step: (segment from 1, the state before it, None before the first) -> the state after it,
            None after the last, and the logits (texts, classes).
        keep: (state, bool (texts,)) -> the state of those texts only.
    """

    step: Callable[[int, State | None], tuple[State | None, NDArray[Any]]]
    keep: Callable[[State, Bools], State]


def run_chain(
    chain: Chain[State],
    segments: int,
    texts: NDArray[np.intp],
    leave: Leave,
    answers: tuple[NDArray[Any], NDArray[np.intp]],
) -> None:
    """Run some texts from the first segment until all have left.

    Args:
        chain: of an engine, for just these texts.
        segments: how many there are.
        texts: intp (n,), what ``leave`` knows them by, and their rows of ``answers``.
        leave: see ``Leave``.
        answers: logits (all texts, classes) and segments (all texts,), filled in.
    """
    state: State | None = None
    for segment in range(1, segments + 1):
        state, logits = chain.step(segment, state)
        gone = None if segment == segments else leave(segment, texts, logits)
        count = len(texts) if gone is None else np.count_nonzero(gone)
        if gone is None or count == len(texts):
            answers[0][texts] = logits
            answers[1][texts] = segment
            return
        if count:
            answers[0][texts[gone]] = logits[gone]
            answers[1][texts[gone]] = segment
            texts = texts[~gone]
            assert state is not None  # of all segments but the last
            state = chain.keep(state, ~gone)
