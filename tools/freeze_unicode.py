"""Write runtime/unicode_data.py: how HF `tokenizers` treats every Unicode code point.

Run on a host that has the `tokenizers` package, whenever a newer release of it changes
its tables (the test suite notices):

    python tools/freeze_unicode.py            # rewrites runtime/unicode_data.py
    python tools/freeze_unicode.py --check    # exit 1 if the file on disk is out of date

Every fact is asked of `tokenizers` itself, one code point at a time. The only number taken
from elsewhere is the canonical combining class, a constant of Unicode's stability policy:
`tokenizers` shows only its effect, so each value is checked against that effect.
"""

import sys
import textwrap
import unicodedata
import zlib
from array import array
from base64 import b64encode
from itertools import groupby
from pathlib import Path

import tokenizers
from tokenizers import normalizers, pre_tokenizers

TARGET = Path(__file__).resolve().parent.parent / "runtime" / "unicode_data.py"
# The bits must match runtime/unicode_table.py.
SPACE, PUNCTUATION, WORD, CHINESE, CONTROL, NONSPACING, MARK = (1 << bit for bit in range(7))
SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xD7A4)
REPLACEMENT = 0xFFFD
LOWEST_MARK, HIGHEST_MARK = "\u0334", "\u0345"  # combining classes 1 and 240

_CLEAN = normalizers.BertNormalizer(True, False, False, False)
_CHINESE = normalizers.BertNormalizer(False, True, False, False)
_STRIP = normalizers.BertNormalizer(False, False, True, False)
_NFD = normalizers.NFD()
_LOWER = normalizers.Lowercase()
_STRIP_MARKS = normalizers.StripAccents()
_BERT = pre_tokenizers.BertPreTokenizer()
_WORDS = pre_tokenizers.Whitespace()

HEADER = '''"""How HF `tokenizers` {version} treats every code point: generated, do not edit.

Written by tools/freeze_unicode.py and read by runtime/unicode_table.py, which explains the
layout. Frozen here because the tables of `unicodedata` and `str` differ between Python
versions and from those of `tokenizers`.
"""

DATA = (
{lines}
)
'''


def code_point_class(char: str) -> int:
    """The property bits of one code point, without its combining class."""
    bits = 0
    pieces = [piece for piece, _ in _BERT.pre_tokenize_str(f"a{char}b")]
    if pieces == ["a", "b"]:
        bits |= SPACE
    elif pieces == ["a", char, "b"]:
        bits |= PUNCTUATION
    if not bits & SPACE and len(_WORDS.pre_tokenize_str(f"{char}!")) == 2:
        bits |= WORD
    if _CHINESE.normalize_str(char) != char:
        bits |= CHINESE
    cleaned = _CLEAN.normalize_str(char)
    if cleaned == "":
        bits |= CONTROL
    elif (cleaned == " ") != bool(bits & SPACE):
        raise AssertionError(f"U+{ord(char):04X}: clean_text and the pre-tokenizer disagree")
    # A decomposable code point is judged by its parts, after NFD.
    if _NFD.normalize_str(char) == char and _STRIP.normalize_str(char) == "":
        bits |= NONSPACING
    if _STRIP_MARKS.normalize_str(char) == "":
        bits |= MARK
    return bits


def reorders(char: str) -> bool:
    """Whether NFD moves this code point across another combining mark."""
    after, before = f"a{char}{LOWEST_MARK}", f"a{HIGHEST_MARK}{char}"
    return bool(_NFD.normalize_str(after) != after or _NFD.normalize_str(before) != before)


def combining_classes(decomposed: dict[str, str]) -> dict[int, int]:
    """Canonical combining class of each code point that `tokenizers` knows to reorder."""
    classes = {
        code: unicodedata.combining(chr(code))
        for code in range(sys.maxunicode + 1)
        if code not in SURROGATES and chr(code) not in decomposed and reorders(chr(code))
    }
    representatives = {value: chr(code) for code, value in classes.items()}
    for code, value in classes.items():
        for other, mark in representatives.items():
            text = f"a{mark}{chr(code)}"
            expected = f"a{chr(code)}{mark}" if other > value > 0 else text
            if _NFD.normalize_str(text) != expected:
                raise AssertionError(f"U+{code:04X}: combining class {value} is not what is seen")
    return classes


def pack_mapping(mapping: dict[str, str]) -> list[list[int]]:
    """Four columns that compress well: key steps, lengths, first-letter steps, other letters."""
    keys = [ord(key) for key in mapping]
    steps = [after - before for before, after in zip([0, *keys], keys, strict=False)]
    firsts = [ord(value[0]) - ord(key) for key, value in mapping.items()]
    rest = [ord(letter) for value in mapping.values() for letter in value[1:]]
    return [steps, [len(value) for value in mapping.values()], firsts, rest]


def build() -> bytes:
    """Ask `tokenizers` about every code point and pack the answers.

    Returns:
        zlib data of little-endian int32: sections, each a length and that many numbers.
    """
    every = [chr(code) for code in range(sys.maxunicode + 1) if code not in SURROGATES]
    decomposed = {c: d for c in every if (d := _NFD.normalize_str(c)) != c}
    lowered = {c: low for c in every if (low := _LOWER.normalize_str(c)) != c}
    bits = {ord(c): code_point_class(c) for c in every}
    for code, value in combining_classes(decomposed).items():
        bits[code] |= value << 8
    # A lone surrogate counts as U+FFFD: `tokenizers` cannot be given one.
    row = [bits.get(code, bits[REPLACEMENT]) for code in range(sys.maxunicode + 1)]
    runs = [(value, len(list(group))) for value, group in groupby(row)]
    sections = [[length for _, length in runs], [value for value, _ in runs]]
    sections += pack_mapping({c: d for c, d in decomposed.items() if ord(c) not in HANGUL})
    sections += pack_mapping(lowered)
    flat = array("i")
    for section in sections:
        flat.append(len(section))
        flat.extend(section)
    if sys.byteorder == "big":
        flat.byteswap()
    return zlib.compress(flat.tobytes(), 9)


def main() -> int:
    """Rewrite the module, or with ``--check`` compare it."""
    lines = textwrap.wrap(b64encode(build()).decode(), 90)
    text = HEADER.format(
        version=tokenizers.__version__, lines="\n".join(f'    "{line}"' for line in lines)
    )
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
