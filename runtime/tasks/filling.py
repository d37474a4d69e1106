"""``Model.fill_mask``: the likeliest tokens for each mask of a text.

Devlin et al., "BERT", arXiv 1810.04805, section 3.1. Only rows that hold a mask run, and so many at
a time that the logits, a whole vocabulary for each token, stay below 32 MB (one row may need more).
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.answers import Fill, probabilities
from edgeformer.runtime.calls import Call
from edgeformer.runtime.text import TextRows, encode_in_chunks
from edgeformer.runtime.tokenizer import Tokenizer

MAX_LOGITS = 1 << 23  # float32


def fill_masks(call: Call, texts: list[str], top_k: int, on_long: str) -> list[list[list[Fill]]]:
    """For each text and each of its masks the ``top_k`` likeliest tokens, best first.

    Raises:
        InputError: ``top_k`` below 1, a text without a mask, or one whose mask was cut off.
    """
    if top_k < 1:
        raise InputError(f"top_k must be at least 1, not {top_k}", hint="leave it out for 5")
    tokenizer, longest = call.tokenizer, call.card.max_length
    mask_id = tokenizer.token_id(call.card.mask_token)
    assert mask_id is not None  # as the conversion found it
    filled: list[list[list[Fill]]] = []
    begun = time.perf_counter()
    for rows in encode_in_chunks(tokenizer, texts, None, longest, on_long, offsets=True):
        call.count(rows, begun)
        start = len(filled)
        chunk = texts[start : start + rows.texts]
        masks = [np.flatnonzero(ids == mask_id).tolist() for ids in _row_ids(rows)]
        _check_masks(call, chunk, rows, masks, mask_id, start)
        filled += [[] for _ in chunk]
        for row, token, scores in _mask_scores(call, rows, masks):
            text = int(rows.owners[row])
            place = rows.char_offsets[row][token]
            fills = best_fills(tokenizer, chunk[text], place, scores, top_k)
            filled[start + text].append(fills)
        begun = time.perf_counter()
    return filled


def _row_ids(rows: TextRows) -> list[NDArray[np.int32]]:
    return np.split(rows.batch.ids, rows.batch.offsets[1:-1]) if len(rows.batch) else []


def _check_masks(
    call: Call,
    texts: list[str],
    rows: TextRows,
    masks: list[list[int]],
    mask_id: int,
    start: int,
) -> None:
    """Every text has a mask, and none was cut off."""
    kept = [0] * len(texts)
    for owner, places in zip(rows.owners.tolist(), masks, strict=True):
        kept[owner] += len(places)
    token = call.card.mask_token
    for i, (text, count) in enumerate(zip(texts, kept, strict=True)):
        if rows.truncated_texts and count < call.tokenizer.encode(text).count(mask_id):
            raise InputError(
                f"text {start + i} has a {token} beyond the {call.card.max_length} tokens that the"
                " model takes",
                hint="pass on_long='window', or shorten the text",
            )
        if not count:
            raise InputError(
                f"text {start + i} has no {token}", hint=f"write {token} in the place to be filled"
            )


def _mask_scores(
    call: Call, rows: TextRows, masks: list[list[int]]
) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """(row, token of the row, probability of each vocabulary entry) of each mask, in order."""
    for group in _groups(rows, masks, MAX_LOGITS // call.output_size):
        batch = rows.batch.select(group)
        logits = call.run(batch, "logits")
        for row, first in zip(group, batch.offsets[:-1].tolist(), strict=True):
            for token in masks[row]:
                yield row, token, probabilities(logits[first + token], "single_label")


def _groups(rows: TextRows, masks: list[list[int]], most_tokens: int) -> list[list[int]]:
    """Rows with masks, in order, those of one group with at most so many tokens together."""
    groups: list[list[int]] = []
    tokens = 0
    for row, length in enumerate(rows.batch.lengths.tolist()):
        if not masks[row]:
            continue
        if not groups or tokens + length > most_tokens:
            groups.append([])
            tokens = 0
        groups[-1].append(row)
        tokens += length
    return groups


def best_fills(
    tokenizer: Tokenizer,
    text: str,
    place: tuple[int, int],
    scores: NDArray[np.float64],
    top_k: int,
) -> list[Fill]:
    """The likeliest tokens for the mask at the characters ``place`` of ``text``."""
    before, after = text[: place[0]], text[place[1] :]
    top = min(top_k, len(scores))
    best: list[Any] = np.argpartition(-scores, top - 1)[:top].tolist()
    best.sort(key=lambda i: (-scores[i], i))
    return [
        Fill(tokenizer.token(i), float(scores[i]), tokenizer.append(before, i) + after)
        for i in best
    ]
