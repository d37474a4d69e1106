"""EdgeFormer as its users open it: the engine is chosen by measuring on this machine."""

import os
from pathlib import Path

from benchmarks.peers.bundle import BUNDLE, chosen, open_bundle
from benchmarks.peers.common import Encode

__all__ = ["chosen", "open", "prepare"]
_TABLE = "tuned.json"


def prepare(folder: Path) -> None:
    """`edgeformer tune` on the others' bundle; on a busy machine too, as the race itself."""
    from edgeformer.tuning.tune import tune

    tune(
        folder.parent / "edgeformer_onnx" / BUNDLE,
        output=folder / _TABLE,
        threads=len(os.sched_getaffinity(0)),
        force=True,
    )


def open(folder: Path, threads: int) -> Encode:
    """``load(...)`` with nothing said about engines."""
    return open_bundle(folder.parent / "edgeformer_onnx", "auto", threads, folder / _TABLE)
