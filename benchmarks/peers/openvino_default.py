"""OpenVINO on the exported ONNX file: bfloat16 where the CPU has it, that being its default."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import CHECKPOINT, ort_fp32
from benchmarks.peers.common import Encode, batch, pooled, tokenizer

FILE = "model.xml"


def prepare(folder: Path) -> None:
    """Convert to OpenVINO's own format; it stores the weights in fp16, as it does by default."""
    import openvino

    model = openvino.convert_model(folder.parent / "ort_fp32" / ort_fp32.FILE)
    openvino.save_model(model, folder / FILE)


def open(folder: Path, threads: int) -> Encode:
    """The compiled model with OpenVINO's hint for single requests."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(folder / FILE), "CPU", settings)
    request = compiled.create_infer_request()
    loaded = tokenizer(folder.parent / CHECKPOINT)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        ids, mask = batch(loaded, texts)
        answers = request.infer(
            {"input_ids": ids, "attention_mask": mask}, share_inputs=True, share_outputs=True
        )
        return pooled(answers[0], mask)

    return encode
