"""``Model.classify`` of a model with exits: each text goes through as many layers as it needs."""

import time
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.answers import Label, merge_windows, probabilities, top_labels
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.calls import Call
from edgeformer.runtime.exit_chain import every_exit
from edgeformer.runtime.exit_request import ExitRequest
from edgeformer.runtime.exit_times import SegmentTimes, TimedText
from edgeformer.runtime.exiting import Deadline, Leave
from edgeformer.runtime.manifest import Variant
from edgeformer.runtime.text import encode_in_chunks


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
        InputError: see ``ExitRequest.rule_for``; or a deadline that no exit can meet.
    """
    if request.latency_ms is None:
        return _classify(call, texts, pair, top_k, on_long, request)
    if on_long == "window":
        raise InputError(
            "latency_ms goes with a text as one piece, not in windows",
            hint="pass on_long='truncate' or on_long='error'",
        )
    labels = []
    for i, text in enumerate(texts):
        second = None if pair is None else [pair[i]]
        labels.append(_classify_in_time(call, text, second, top_k, on_long, request))
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
) -> list[list[Label]]:
    labels: list[list[Label]] = []
    begun = time.perf_counter()
    longest = call.card.max_length
    for rows in encode_in_chunks(call.tokenizer, texts, pair, longest, on_long):
        call.count(rows, begun)
        exited = call.run_exits(rows.batch, partial(_leaving, request, len(rows.batch)))
        logits, layers = exited.logits, exited.layers
        if rows.windowed:
            logits = merge_windows(logits, rows.owners, rows.batch.lengths, rows.texts)
            last = np.zeros(rows.texts, np.intp)
            np.maximum.at(last, rows.owners, layers)
            layers = last
        labels += _labels(call, logits, layers, top_k)
        begun = time.perf_counter()
    return labels


def _leaving(request: ExitRequest, texts: int, variant: Variant, times: SegmentTimes) -> Leave:
    """Who leaves by the rule alone, once it is known which variant runs."""
    return request.leave(variant, texts, None)


def _classify_in_time(
    call: Call,
    text: str,
    second: list[str] | None,
    top_k: int | None,
    on_long: str,
    request: ExitRequest,
) -> list[Label]:
    """One text by its deadline, and what its segments took noted for the texts to come."""
    assert request.latency_ms is not None
    begun = time.perf_counter()
    end = begun + request.latency_ms / 1000
    longest = call.card.max_length
    (rows,) = encode_in_chunks(call.tokenizer, [text], second, longest, on_long)
    call.count(rows, begun)
    before = time.perf_counter() - begun
    length = len(rows.batch.ids)
    ways: list[tuple[SegmentTimes, TimedText]] = []

    def make(variant: Variant, times: SegmentTimes) -> Leave:
        deadline = _deadline(request, variant, times, length, longest, end)
        timed = TimedText(request.leave(variant, 1, deadline))
        ways.append((times, timed))
        return timed.leave

    exited = call.run_exits(rows.batch, make)
    times, timed = ways[-1]  # of the engine that answered
    if exited.stayed:
        timed.marks.append(time.perf_counter())
    (labels,) = _labels(call, exited.logits, exited.layers, top_k)
    taken = [stop - start for start, stop in pairwise(timed.marks)]
    times.note(length, longest, before, taken, time.perf_counter() - timed.marks[-1])
    return labels


def _deadline(
    request: ExitRequest,
    variant: Variant,
    times: SegmentTimes,
    length: int,
    longest: int,
    end: float,
) -> Deadline:
    """When the last segment must have ended. Measuring does not count."""
    assert request.latency_ms is not None
    request.rule_for(variant)  # whether it can exit at all, before anything is measured
    begun = time.perf_counter()
    seconds = times.at(length, longest)
    least = times.least(length, longest)
    if least > request.latency_ms / 1000:
        raise InputError(
            f"latency_ms is {request.latency_ms:g}, and an answer after the first of"
            f" {len(seconds)} segments takes {least * 1000:.3g} ms for this text of {length} tokens"
            " on this machine",
            hint="allow more time, or convert with a smaller model or for another engine",
        )
    return Deadline(end + time.perf_counter() - begun - times.rest, seconds)


def _labels(
    call: Call, logits: NDArray[Any], layers: NDArray[np.intp], top_k: int | None
) -> list[list[Label]]:
    names = call.card.labels
    labels = [
        top_labels(row, names, top_k) for row in probabilities(logits, call.card.problem_type)
    ]
    return [
        [Label(label.name, label.score, layer) for label in of_text]
        for of_text, layer in zip(labels, layers.tolist(), strict=True)
    ]
