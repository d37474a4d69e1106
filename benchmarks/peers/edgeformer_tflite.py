"""EdgeFormer's ``tflite`` engine, on the bundle of edgeformer_onnx."""

from pathlib import Path

from benchmarks.peers.bundle import open_bundle
from benchmarks.peers.common import Encode


def open(folder: Path, threads: int) -> Encode:
    """``load(..., engine="tflite")``."""
    return open_bundle(folder, "tflite", threads)
