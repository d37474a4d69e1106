"""What every code point is and becomes, frozen from HF `tokenizers`: the same on every Python.

`unicodedata`, `str.lower` and `str.isspace` follow the Unicode version of the interpreter, so
two devices would give one text two different encodings. This module answers from
runtime/unicode_data.py instead, which is unpacked at the first question (about a millisecond):
a process that meets nothing but ASCII never pays for it. Standard library only.

Layout of the data: base64 of zlib of little-endian int32, in sections that each start with
their length. Two sections are the run lengths and values of `properties`; then four for each
mapping (decomposition, lowercase): steps between keys, lengths of the values, first letter
minus key, all further letters.
"""

import sys
import zlib
from array import array
from binascii import a2b_base64
from bisect import bisect_right
from functools import cache, lru_cache
from itertools import accumulate
from typing import NamedTuple

SPACE, PUNCTUATION, WORD, CHINESE, CONTROL, NONSPACING, MARK = (1 << bit for bit in range(7))
COMBINING_SHIFT = 8

_HANGUL_FIRST, _HANGUL_LAST = 0xAC00, 0xD7A3
_LEADS, _VOWELS, _TAILS = 0x1100, 0x1161, 0x11A7  # The Unicode Standard, section 3.12
_VOWEL_COUNT, _TAIL_COUNT = 21, 28


class _Tables(NamedTuple):
    run_starts: list[int]
    run_values: list[int]
    decompositions: dict[str, str]
    lowercase: dict[str, str]


@lru_cache(maxsize=4096)
def properties(code: int) -> int:
    """What a code point is.

    Returns:
        the bits SPACE (splits words), PUNCTUATION (a word of its own), WORD (``\\w``), CHINESE
        (set apart by spaces), CONTROL (removed by cleaning), NONSPACING (removed with accents),
        MARK (removed by the StripAccents normalizer), and above ``COMBINING_SHIFT`` the
        canonical combining class. A surrogate has those of U+FFFD.
    """
    tables = _tables()
    return tables.run_values[bisect_right(tables.run_starts, code) - 1]


def lowercase(char: str) -> str:
    """One code point in lower case, one or more code points, whatever stands around it."""
    return _tables().lowercase.get(char, char)


def decompose(char: str) -> str:
    """The full canonical decomposition (NFD) of one code point."""
    code = ord(char)
    if _HANGUL_FIRST <= code <= _HANGUL_LAST:
        syllable, tail = divmod(code - _HANGUL_FIRST, _TAIL_COUNT)
        lead, vowel = divmod(syllable, _VOWEL_COUNT)
        return chr(_LEADS + lead) + chr(_VOWELS + vowel) + (chr(_TAILS + tail) if tail else "")
    return _tables().decompositions.get(char, char)


def is_plain(char: str) -> bool:
    """Whether no normalizer changes or moves this code point, so that no step need be tried."""
    tables = _tables()
    return not (
        properties(ord(char)) & ~(PUNCTUATION | WORD)
        or char in tables.lowercase
        or char in tables.decompositions
        or _HANGUL_FIRST <= ord(char) <= _HANGUL_LAST
    )


@cache
def _tables() -> _Tables:
    from edgeformer.runtime.unicode_data import DATA  # 14 kB that an ASCII-only run never reads

    numbers = array("i")
    numbers.frombytes(zlib.decompress(a2b_base64(DATA)))
    if sys.byteorder == "big":
        numbers.byteswap()
    sections: list[list[int]] = []
    position = 0
    while position < len(numbers):
        end = position + 1 + numbers[position]
        sections.append(numbers[position + 1 : end].tolist())
        position = end
    run_lengths, run_values, *mappings = sections
    run_starts = [0, *accumulate(run_lengths[:-1])]
    return _Tables(run_starts, run_values, _mapping(*mappings[:4]), _mapping(*mappings[4:]))


def _mapping(
    steps: list[int], lengths: list[int], firsts: list[int], rest: list[int]
) -> dict[str, str]:
    letters = "".join(map(chr, rest))
    mapping: dict[str, str] = {}
    position = 0
    for key, length, first in zip(accumulate(steps), lengths, firsts, strict=True):
        end = position + length - 1
        mapping[chr(key)] = chr(key + first) + letters[position:end]
        position = end
    return mapping
