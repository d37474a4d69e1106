"""``Model.classify`` of a model with exits: each text goes through as many layers as it needs."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.answers import Label, merge_windows, probabilities, top_labels
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.calls import Call
from edgeformer.runtime.exit_request import ExitRequest
from edgeformer.runtime.exit_times import SegmentTimes
from edgeformer.runtime.exiting import Deadline, Leave, every_exit
from edgeformer.runtime.manifest import Variant
from edgeformer.runtime.text import TextRows, encode_in_chunks

_ANSWER_SECONDS = 1e-4  # kept of a deadline for what follows the model: softmax and labels


def classify_early(
    call: Call,
    texts: list[str],
    pair: list[str] | None,
    top_k: int | None,
    on_long: str,
    request: ExitRequest,
) -> list[list[Label]]:
    """The best labels of each text, which say at which layer it left.

    A text in windows has left with the last of them. With a deadline each text is a batch of its
    own, whose time runs from before it is tokenized.

    Raises:
        InputError: see ``ExitRequest.rule_for``; or a deadline before the first segment's end.
    """
    if request.latency_ms is None:
        return _classify(call, texts, pair, top_k, on_long, request, None)
    if on_long == "window":
        raise InputError(
            "latency_ms goes with a text as one piece, not in windows",
            hint="pass on_long='truncate' or on_long='error'",
        )
    labels = []
    for i, text in enumerate(texts):
        end = time.perf_counter() + request.latency_ms / 1000 - _ANSWER_SECONDS
        second = None if pair is None else [pair[i]]
        labels += _classify(call, [text], second, top_k, on_long, request, end)
    return labels


def exit_logits(
    call: Call, texts: list[str], pair: list[str] | None, on_long: str
) -> NDArray[np.float32]:
    """The logits of every exit, float32 (exits, texts, classes). Raises InputError without exits
    and for texts in windows."""
    if on_long == "window":
        raise InputError("the logits of exits are of whole texts", hint="on_long='truncate'")
    found = []
    for rows in encode_in_chunks(call.tokenizer, texts, pair, call.card.max_length, on_long):
        found.append(every_exit(partial(_run, call), rows.batch, call.segments))
    return np.concatenate(found, axis=1)


def _run(call: Call, batch: RaggedBatch, leave: Leave) -> tuple[NDArray[Any], NDArray[np.intp]]:
    exited = call.run_exits(batch, lambda variant, times: leave)
    return exited.logits, exited.layers


def _classify(
    call: Call,
    texts: list[str],
    pair: list[str] | None,
    top_k: int | None,
    on_long: str,
    request: ExitRequest,
    end: float | None,
) -> list[list[Label]]:
    labels: list[list[Label]] = []
    begun = time.perf_counter()
    longest = call.card.max_length
    for rows in encode_in_chunks(call.tokenizer, texts, pair, longest, on_long):
        call.count(rows, begun)
        exited = call.run_exits(rows.batch, _leaving(call, rows, request, end))
        logits, layers = exited.logits, exited.layers
        if rows.windowed:
            logits = merge_windows(logits, rows.owners, rows.batch.lengths, rows.texts)
            last = np.zeros(rows.texts, np.intp)
            np.maximum.at(last, rows.owners, layers)
            layers = last
        labels += _labels(call, logits, layers, top_k)
        begun = time.perf_counter()
    return labels


def _leaving(
    call: Call, rows: TextRows, request: ExitRequest, end: float | None
) -> Callable[[Variant, SegmentTimes], Leave]:
    """Who leaves, once it is known which variant runs. Measuring does not count for ``end``."""

    def make(variant: Variant, times: SegmentTimes) -> Leave:
        if end is None or request.latency_ms is None:
            return request.leave(variant, len(rows.batch), None)
        request.rule_for(variant)  # whether it can exit at all, before anything is measured
        begun = time.perf_counter()
        seconds = times.at(int(rows.batch.lengths[0]), call.card.max_length)
        if seconds[0] > request.latency_ms / 1000:
            raise InputError(
                f"latency_ms is {request.latency_ms:g}, and the first of {len(seconds)} segments"
                f" takes {seconds[0] * 1000:.3g} ms for this text of {len(rows.batch.ids)} tokens"
                " on this machine",
                hint="allow more time, or convert with a smaller model or for another engine",
            )
        later = end + time.perf_counter() - begun
        return request.leave(variant, len(rows.batch), Deadline(later, seconds))

    return make


def _labels(
    call: Call, logits: NDArray[Any], layers: NDArray[np.intp], top_k: int | None
) -> list[list[Label]]:
    names = call.card.labels
    labels = [
        top_labels(row, names, top_k) for row in probabilities(logits, call.card.problem_type)
    ]
    return [
        [replace(label, exit_layer=int(layer)) for label in of_text]
        for of_text, layer in zip(labels, layers, strict=True)
    ]
