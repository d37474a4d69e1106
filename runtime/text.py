"""From texts to token rows: truncation, windows, and the counts that ``last_call`` reports."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import InputError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.tokenizer import Encoding, Tokenizer

ON_LONG = ("truncate", "window", "error")
CHUNK_TEXTS = 512  # texts of one call are tokenized and run so many at a time


def text_list(texts: Any) -> list[str]:
    """A list of str from a str or a sequence of str. Raises InputError for anything else."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, np.ndarray):
        raise InputError(
            "this bundle takes texts, not arrays", hint="pass a str, or call run(...) with arrays"
        )
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray)):
        raise InputError(f"expected a text or a list of texts, not {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {i} is {type(text).__name__}, not str")
    return list(texts)


@dataclass(frozen=True)
class TextRows:
    """Tokenized texts, each one or more rows of ``batch``.

    Attributes:
        batch: the rows.
        owners: intp (rows,), text of each row.
        texts: number of texts.
        truncated_texts, truncated_tokens: what did not fit.
        char_offsets, word_ids: of each row's tokens in the whole text, if they were asked for.
    """

    batch: RaggedBatch
    owners: NDArray[np.intp]
    texts: int
    truncated_texts: int
    truncated_tokens: int
    char_offsets: list[list[tuple[int, int]]]
    word_ids: list[list[int | None]]

    @property
    def windowed(self) -> bool:
        """True if some text takes more than one row."""
        return len(self.batch) > self.texts


def encode_texts(
    tokenizer: Tokenizer,
    texts: list[str],
    pair: list[str] | None,
    max_length: int,
    on_long: str,
    offsets: bool = False,
) -> TextRows:
    """Tokenize, with no row longer than ``max_length`` tokens.

    Raises:
        InputError: unequal lists, a non-str, an unknown ``on_long``, ``window`` with pairs, or a
            text that is too long under ``error``.
    """
    whole = slice(0, len(texts))
    _check(texts, pair, on_long)
    return _encode(tokenizer, texts, pair, max_length, on_long, offsets, whole)


def encode_in_chunks(
    tokenizer: Tokenizer,
    texts: list[str],
    pair: list[str] | None,
    max_length: int,
    on_long: str,
    offsets: bool = False,
) -> Iterator[TextRows]:
    """The same, ``CHUNK_TEXTS`` texts at a time, so that a long list needs no more memory than a
    short one; no text at all is one empty chunk."""
    _check(texts, pair, on_long)
    for start in range(0, max(1, len(texts)), CHUNK_TEXTS):
        chunk = slice(start, min(start + CHUNK_TEXTS, len(texts)))
        yield _encode(tokenizer, texts, pair, max_length, on_long, offsets, chunk)


def _check(texts: list[str], pair: list[str] | None, on_long: str) -> None:
    if on_long not in ON_LONG:
        raise InputError(f"on_long is {on_long!r}", hint=f"choose of: {', '.join(ON_LONG)}")
    if pair is not None and len(pair) != len(texts):
        raise InputError(f"{len(texts)} texts but {len(pair)} second texts")
    if pair is not None and on_long == "window":
        raise InputError("on_long='window' takes single texts, not pairs")


def _encode(
    tokenizer: Tokenizer,
    texts: list[str],
    pair: list[str] | None,
    max_length: int,
    on_long: str,
    offsets: bool,
    chunk: slice,
) -> TextRows:
    rows: list[tuple[Encoding, int]] = []
    owners: list[int] = []
    for i in range(chunk.start, chunk.stop):
        text = texts[i]
        second = None if pair is None else pair[i]
        encoding = tokenizer.encoding(text, second, max_length=max_length, offsets=offsets)
        if encoding.num_truncated and on_long == "error":
            raise InputError(
                f"text {i} has {len(encoding.ids) + encoding.num_truncated} tokens, the model"
                f" takes {max_length}",
                hint="pass on_long='truncate' or on_long='window', or shorten it",
            )
        if encoding.num_truncated and on_long == "window":
            parts = _windows(tokenizer, text, max_length, offsets)
        else:
            parts = [(encoding, 0)]
        rows += parts
        owners += [i - chunk.start] * len(parts)
    encodings = [encoding for encoding, _ in rows]
    cut = [encoding.num_truncated for encoding in encodings]
    return TextRows(
        batch=RaggedBatch.from_lists([e.ids for e in encodings], [e.type_ids for e in encodings]),
        owners=np.array(owners, np.intp),
        texts=chunk.stop - chunk.start,
        truncated_texts=sum(1 for n in cut if n),
        truncated_tokens=sum(cut),
        char_offsets=[_shifted(e, start) for e, start in rows] if offsets else [],
        word_ids=[e.word_ids or [] for e in encodings] if offsets else [],
    )


def _shifted(encoding: Encoding, start: int) -> list[tuple[int, int]]:
    return [(a + start, b + start) for a, b in encoding.offsets or []]


def _windows(
    tokenizer: Tokenizer, text: str, max_length: int, offsets: bool
) -> list[tuple[Encoding, int]]:
    """Cut ``text`` between words so that each piece fits; (encoding, first character) of each.

    The pieces are tokenized anew: words do not change each other's tokens. A single word above
    the limit is truncated, and counted as such.
    """
    whole = tokenizer.encoding(text, offsets=True)
    assert whole.offsets is not None and whole.word_ids is not None
    room = max_length - tokenizer.num_special_tokens(pair=False)
    pieces: list[tuple[int, int]] = []  # characters
    start = end = count = 0
    for (first, last), size in _words(whole):
        if count and count + size > room:
            pieces.append((start, end))
            start, count = first, 0
        count += size
        end = last
    pieces.append((start, len(text)))
    return [
        (tokenizer.encoding(text[a:b], max_length=max_length, offsets=offsets), a)
        for a, b in pieces
    ]


def _words(encoding: Encoding) -> list[tuple[tuple[int, int], int]]:
    """((first, last character), number of tokens) of each word."""
    words: list[tuple[tuple[int, int], int]] = []
    previous = None
    for (a, b), word in zip(encoding.offsets or [], encoding.word_ids or [], strict=True):
        if word is None:
            continue
        if word == previous:
            (first, _), size = words[-1]
            words[-1] = ((first, b), size + 1)
        else:
            words.append(((a, b), 1))
        previous = word
    return words
