"""OpenVINO with int8 weights by NNCF (asymmetric, its default for compress_weights)."""

from pathlib import Path

from benchmarks.peers import openvino_default, ort_fp32
from benchmarks.peers.common import Encode


def prepare(folder: Path) -> None:
    """Compress the weights of the exported model."""
    import nncf
    import openvino

    model = openvino.convert_model(folder.parent / "ort_fp32" / ort_fp32.FILE)
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(compressed, folder / openvino_default.FILE)


def open(folder: Path, threads: int) -> Encode:
    """As the default one."""
    return openvino_default.open(folder, threads)
