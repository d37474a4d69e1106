"""EdgeFormer's ``numpy`` engine, on the bundle of edgeformer_onnx."""

from pathlib import Path

from benchmarks.peers.bundle import open_bundle
from benchmarks.peers.common import Encode


def open(folder: Path, threads: int) -> Encode:
    """``load(..., engine="numpy")``."""
    return open_bundle(folder, "numpy", threads)
