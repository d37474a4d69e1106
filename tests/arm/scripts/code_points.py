"""On the board: digests of the ids of every code point, a block of code points each."""

import hashlib
import json
import sys
from pathlib import Path

from edgeformer.runtime.tokenizer import load_tokenizer

BLOCK, LINE = 16_384, 128


def block_digest(first: int) -> str:
    """sha256 over the ids of each code point of a block, between letters and alone."""
    sha = hashlib.sha256()
    codes = [c for c in range(first, first + BLOCK) if not 0xD800 <= c <= 0xDFFF]
    for start in range(0, len(codes), LINE):
        text = " ".join(f"a{chr(c)}b {chr(c)}" for c in codes[start : start + LINE])
        sha.update(json.dumps(tokenizer.encode(text)).encode("ascii"))
    return sha.hexdigest()


request = json.load(sys.stdin)
tokenizer = load_tokenizer(Path(request["tokenizer"]).read_bytes())
blocks = range(0, sys.maxunicode + 1, BLOCK)
json.dump({f"U+{first:04X}": block_digest(first) for first in blocks}, sys.stdout)
