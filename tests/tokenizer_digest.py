"""Prints a digest of the ids of every code point: run by other Pythons, which have no numpy.

    python3.13 tests/tokenizer_digest.py TOKENIZER_JSON

The packages are entered without their ``__init__``, which may need numpy; the tokenizer itself
needs the standard library only.
"""

import hashlib
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
BATCH = 128


def code_point_texts() -> Iterator[str]:
    """Every code point that UTF-8 can hold, each between letters and alone."""
    codes = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    for start in range(0, len(codes), BATCH):
        yield " ".join(f"a{chr(c)}b {chr(c)}" for c in codes[start : start + BATCH])


def digest(rows: Iterator[list[int]]) -> str:
    """sha256 over rows of ids."""
    sha = hashlib.sha256()
    for row in rows:
        numbers = array("i", [len(row), *row])
        if sys.byteorder == "big":
            numbers.byteswap()
        sha.update(numbers.tobytes())
    return sha.hexdigest()


def main() -> None:
    """Load the tokenizer by path and print the digest."""
    for name in ("edgeformer", "edgeformer.runtime"):
        package = ModuleType(name)
        package.__path__ = [str(ROOT / name.replace(".", "/"))]
        sys.modules[name] = package
    from edgeformer.runtime.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(sys.argv[1]).read_bytes())
    sys.stdout.write(digest(map(tokenizer.encode, code_point_texts())))
    assert "numpy" not in sys.modules


if __name__ == "__main__":
    main()
