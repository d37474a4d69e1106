"""The texts of the race: held-out sentences by length, a natural mix, and odd ones for accuracy.

All come from ``benchmarks.held_out``, which no conversion has seen, but the odd ones, which are
written here to be unlike any calibration text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.held_out import held_out_texts
from benchmarks.peers.common import MAX_TOKENS, tokenizer

BATCH_TEXTS = 32
_SINGLE_INPUTS = 64  # different texts of a single-text workload, taken in turn
_BATCH_INPUTS = 8
_MANY = 1_000_000

# Empty, one character, punctuation alone, repetition, other scripts, no words at all.
ODD_TEXTS = (
    "",
    " ",
    ".",
    ". . .",
    "ok. .",
    "b",
    "I",
    "?!",
    "yes",
    "nope.",
    "very very very very very very",
    "0",
    "42",
    "3.14159265358979",
    "-----------",
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "qwrtzpsdfg",
    "https://example.org/?q=1&r=2#top",
    "{'a': [1, 2, {'b': None}]}",
    "<p>&nbsp;</p>",
    "\t\n \u3000",
    "\u200b\u200d",
    "😀",
    "👩‍👩‍👧‍👦 🏳️‍🌈",
    "你好",
    "我们明天下午三点在图书馆见面。",
    "これは日本語の文です。",
    "한국어 문장입니다",
    "Привет, как дела?",
    "שלום עולם",
    "مرحبا بالعالم",
    "Ünïcödé çàfé naïve",
    "ﬁne ﬂuﬀy ligatures ½ ²",
    "SHOUTING IN CAPITALS!!!",
    "lol brb idk smh tbh",
    "SELECT * FROM t WHERE x = 'y'; --",
    "x = [i**2 for i in range(10) if i % 2]",
    "no no no. no.",
    "and or but if",
)


@dataclass(frozen=True)
class Workload:
    """What is timed: ``inputs`` are lists of texts, one list a call.

    Attributes:
        name: short name in the JSON.
        title: what the report calls it.
        inputs: taken in turn, the same for all contenders.
        calls: timed calls of one round.
        tokens: mean tokens of a text, special tokens included, after truncation.
        padding: share of a rectangle of each input's texts that no token fills.
    """

    name: str
    title: str
    inputs: tuple[tuple[str, ...], ...]
    calls: int
    tokens: float
    padding: float


def accuracy_texts(path: Path | None = None, count: int = 200) -> list[str]:
    """At least ``count`` held-out texts and the odd ones."""
    return [*held_out_texts(path, count), *ODD_TEXTS]


def workloads(checkpoint: Path, path: Path | None = None, quick: bool = False) -> list[Workload]:
    """One text of about 12, about 40 and 128 tokens, and a mixed batch of 32."""
    loaded = tokenizer(checkpoint, pad=False)
    texts = held_out_texts(path, _MANY)
    lengths = _lengths(loaded, texts)
    joined = list(_joined(texts, lengths))
    singles = (
        ("short", "1 text of ~12 tokens", _of_length(texts, lengths, 9, 15), 12),
        ("medium", "1 text of ~40 tokens", _of_length(texts, lengths, 34, 46), 8),
        ("long", f"1 text of {MAX_TOKENS} tokens", joined, 6),
    )
    inputs: list[tuple[str, str, list[tuple[str, ...]], int]] = [
        (name, title, [(text,) for text in _spread(found, _SINGLE_INPUTS)], calls)
        for name, title, found, calls in singles
    ]
    mixed = _spread(texts, BATCH_TEXTS * _BATCH_INPUTS)
    batches = [tuple(mixed[k::_BATCH_INPUTS]) for k in range(_BATCH_INPUTS)]
    inputs.append(("batch", f"mixed batch of {BATCH_TEXTS}", batches, 2))
    return [
        _workload(loaded, name, title, chosen, 1 if quick else calls)
        for name, title, chosen, calls in inputs
    ]


def _workload(
    loaded: Any, name: str, title: str, inputs: Sequence[tuple[str, ...]], calls: int
) -> Workload:
    lengths = [np.minimum(_lengths(loaded, list(texts)), MAX_TOKENS) for texts in inputs]
    tokens = sum(int(n.sum()) for n in lengths)
    rectangle = sum(int(n.max()) * len(n) for n in lengths)
    count = sum(len(n) for n in lengths)
    return Workload(name, title, tuple(inputs), calls, tokens / count, 1 - tokens / rectangle)


def _lengths(loaded: Any, texts: list[str]) -> Any:
    return np.array([len(encoding.ids) for encoding in loaded.encode_batch(texts)])


def _of_length(texts: list[str], lengths: Any, least: int, most: int) -> list[str]:
    return [t for t, n in zip(texts, lengths, strict=True) if least <= n <= most]


def _joined(texts: list[str], lengths: Any) -> Iterator[str]:
    """Runs of texts with at least ``MAX_TOKENS`` tokens."""
    run: list[str] = []
    tokens = 0
    for text, length in zip(texts, lengths, strict=True):
        run.append(text)
        tokens += int(length) - 2
        if tokens >= MAX_TOKENS:
            yield " ".join(run)
            run, tokens = [], 0


def _spread(texts: list[str], count: int) -> list[str]:
    """``count`` of them, evenly spaced; all of them if there are fewer."""
    step = max(1, len(texts) // count)
    return texts[::step][:count]
