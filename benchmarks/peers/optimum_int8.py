"""ONNX Runtime with the dynamic int8 file that optimum makes for CPUs with VNNI."""

from pathlib import Path

from benchmarks.peers import CHECKPOINT
from benchmarks.peers.common import Encode
from benchmarks.peers.ort_fp32 import open_file

FILE = "model_quantized.onnx"


def prepare(folder: Path) -> None:
    """Export and quantize with optimum's defaults of ``avx512_vnni``."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    exported = folder / "exported"
    model = ORTModelForFeatureExtraction.from_pretrained(folder.parent / CHECKPOINT, export=True)
    model.save_pretrained(exported)
    quantizer = ORTQuantizer.from_pretrained(exported)
    quantizer.quantize(
        save_dir=folder, quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False)
    )


def open(folder: Path, threads: int) -> Encode:
    """A session with default options but for the thread count."""
    return open_file(folder, FILE, threads)
