"""A contender for tests/test_race.py: vectors made from the text, and trouble on demand."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def prepare(folder: Path) -> None:
    """A file, or a failure with a message of two lines."""
    if (folder.parent / "fail").exists():
        raise RuntimeError("the converter is broken\n  -> install another")
    (folder / "model").write_text("made", encoding="ascii")


def open(folder: Path, threads: int) -> Callable[[list[str]], NDArray[np.float32]]:
    """Prints to stdout on purpose, as libraries do."""
    sys.stdout.write(f"loading {folder.name}\n")

    def encode(texts: list[str]) -> NDArray[np.float32]:
        sys.stdout.write("encoding\n")
        for text in texts:
            if text == "die":
                os._exit(7)
            if text == "fail":
                raise ValueError("no such text")
            if text.startswith("sleep "):
                time.sleep(float(text.split()[1]))
        return np.array([[len(t), threads, t.count("a")] for t in texts], np.float32)

    return encode


def chosen(encode: object) -> str:
    """What a contender may say of itself."""
    return "the fast one"
