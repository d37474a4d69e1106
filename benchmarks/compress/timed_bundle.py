"""A student's bundle with the engine that it chooses, as `benchmarks.race.worker` opens it."""

from pathlib import Path
from typing import Any

BUNDLE = "bundle.edge"


def open(folder: Path, threads: int) -> Any:
    """Texts to labels with their scores."""
    from edgeformer.runtime import load

    return load(folder / BUNDLE, threads=threads).classify


def chosen(encode: Any) -> str:
    """The variant that answers."""
    return str(encode.__self__.variant.id)
