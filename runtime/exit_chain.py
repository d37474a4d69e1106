"""The way of a batch through the segments of a model with exits, whatever the engine.

answers = exit_answers(variant, batch)
run_chain(chain, segments, texts, leave, answers)    # the engine's chain, a part of the texts
logits = every_exit(engine.encode_exits, batch, 6)   # nobody leaves
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.exiting import Bools, Leave
from edgeformer.runtime.manifest import Variant


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
