"""EdgeFormer's ``onnx`` engine; its bundle serves our other contenders too."""

from pathlib import Path

from benchmarks.peers.bundle import convert_bundle, open_bundle
from benchmarks.peers.common import Encode


def prepare(folder: Path) -> None:
    """One bundle for this machine, with every engine in int8."""
    convert_bundle(folder)


def open(folder: Path, threads: int) -> Encode:
    """``load(..., engine="onnx")``."""
    return open_bundle(folder, "onnx", threads)
