"""The normalizers of a WordPiece tokenizer: clean, set Chinese apart, decompose, strip, lower.

`Normalizer` does the same work twice: `fast` gives the normalised text alone (one lookup per
character), `aligned` also says which original characters each normalised one stands for, which
offsets need. `fast` is exact because a code point's result depends on its neighbours in one
case only: NFD sorts neighbouring combining marks by their canonical class. Where a mark that
can be moved survives, `fast` hands the text to `aligned`. Standard library only.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from edgeformer.runtime.unicode_table import (
    CHINESE,
    COMBINING_SHIFT,
    CONTROL,
    MARK,
    NONSPACING,
    SPACE,
    decompose,
    is_plain,
    lowercase,
    properties,
)

Step = Literal["clean", "chinese", "nfd", "strip_nonspacing", "strip_marks", "lower"]
Span = tuple[int, int]
Aligned = list[tuple[str, Span]]  # normalised characters, each with its original [start, end)

_ASCII_CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f]+")
_TABLE_LIMIT = 1 << 14  # entries; a text that shows more kinds of characters is hostile


class Normalizer:
    """Applies ``steps`` in order, as HF `tokenizers` does.

    Args:
        steps: what to do; each step sees the whole result of the one before.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self._ascii_steps = tuple(step for step in steps if step in ("clean", "lower"))
        self._table = CharacterTable(self.character)

    def ascii(self, text: str) -> str:
        """Normalise a text of ASCII only: no table is needed."""
        if "clean" in self._ascii_steps and not text.isprintable():
            text = _ASCII_CONTROLS.sub("", text).translate(_ASCII_SPACES)
        return text.lower() if "lower" in self._ascii_steps else text

    def fast(self, text: str) -> str:
        """Normalise any text."""
        if text.isascii():
            return self.ascii(text)
        try:
            return text.translate(self._table)
        except MovableMarkError:
            return "".join(char for char, _ in self.aligned(text))

    def aligned(self, text: str, start: int = 0) -> Aligned:
        """Normalise ``text``, whose first character is number ``start`` of the original."""
        result: Aligned = [(char, (start + i, start + i + 1)) for i, char in enumerate(text)]
        for step in self._ascii_steps if text.isascii() else self.steps:
            result = _STEPS[step](result)
        return result

    def character(self, code: int) -> str:
        """What one code point becomes in any text.

        Raises:
            MovableMarkError: it leaves a combining mark whose place depends on its neighbours.
        """
        if is_plain(chr(code)):
            return chr(code)
        result: Aligned = [(chr(code), (0, 1))]
        sorts = False
        for step in self.steps:
            result = _STEPS[step](result)
            sorts = sorts or step == "nfd"
        if sorts and any(properties(ord(char)) >> COMBINING_SHIFT for char, _ in result):
            raise MovableMarkError
        return "".join(char for char, _ in result)


class MovableMarkError(Exception):
    """A character that cannot be normalised on its own: never leaves the tokenizer."""


class CharacterTable(dict[int, str]):
    """A table for `str.translate` that fills itself and stays small.

    Args:
        become: the text that a code point is replaced by.
    """

    def __init__(self, become: Callable[[int], str]) -> None:
        super().__init__()
        self._become = become

    def __missing__(self, code: int) -> str:
        result = self._become(code)
        if len(self) >= _TABLE_LIMIT:
            self.clear()
        self[code] = result
        return result


def _clean(text: Aligned) -> Aligned:
    result: Aligned = []
    for char, span in text:
        bits = properties(ord(char))
        if not bits & CONTROL:
            result.append((" " if bits & SPACE else char, span))
    return result


def _set_chinese_apart(text: Aligned) -> Aligned:
    result: Aligned = []
    for char, span in text:
        if properties(ord(char)) & CHINESE:
            result += [(" ", span), (char, span), (" ", span)]
        else:
            result.append((char, span))
    return result


def _nfd(text: Aligned) -> Aligned:
    """Decompose, then stably sort each run of combining marks by canonical class.

    A mark that moves does not take its origin along: `tokenizers` counts, from left to right,
    how many original characters have begun, and so does this.
    """
    result: Aligned = []
    pending: list[tuple[int, str, bool]] = []
    begun = 0

    def flush() -> None:
        nonlocal begun
        pending.sort(key=lambda mark: mark[0])
        for _, letter, begins in pending:
            begun += begins
            result.append((letter, text[begun - 1][1]))
        pending.clear()

    for char, _ in text:
        for index, letter in enumerate(decompose(char)):
            combining = properties(ord(letter)) >> COMBINING_SHIFT
            if not combining:
                flush()
            pending.append((combining, letter, index == 0))
    flush()
    return result


def _without(bit: int) -> Callable[[Aligned], Aligned]:
    return lambda text: [item for item in text if not properties(ord(item[0])) & bit]


def _lower(text: Aligned) -> Aligned:
    return [(letter, span) for char, span in text for letter in lowercase(char)]


_ASCII_SPACES = {9: " ", 10: " ", 13: " "}
_STEPS: dict[Step, Callable[[Aligned], Aligned]] = {
    "clean": _clean,
    "chinese": _set_chinese_apart,
    "nfd": _nfd,
    "strip_nonspacing": _without(NONSPACING),
    "strip_marks": _without(MARK),
    "lower": _lower,
}
