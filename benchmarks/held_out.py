"""Texts that no conversion has seen: sentences from the standard library's docstrings.

They come with every Python, so that a figure can be made again without a download. A file of
other texts can be named instead (one a line, or what `--calibration` takes).
"""

import ast
import os
import re
from pathlib import Path

from edgeformer.data import read_texts

COUNT = 200


def held_out_texts(path: Path | None = None, count: int = COUNT) -> list[str]:
    """``count`` distinct texts, evenly spaced over the source, of 1 to 100 words."""
    found = [text for text, _ in read_texts(path)] if path else _docstring_sentences()
    distinct = list(dict.fromkeys(found))
    step = max(1, len(distinct) // count)
    return distinct[::step][:count]


def _docstring_sentences() -> list[str]:
    sentences: list[str] = []
    for source in sorted(Path(os.__file__).parent.glob("*.py")):
        tree = ast.parse(source.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                paragraphs = (ast.get_docstring(node) or "").split("\n\n")
                sentences += [re.sub(r"\s+", " ", p).strip() for p in paragraphs]
    return [s for s in sentences if s and len(s.split()) <= 100]
