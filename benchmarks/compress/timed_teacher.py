"""The teacher in stock ONNX Runtime fp32, as `benchmarks.race.worker` opens it."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.common import Encode, batch, tokenizer

MODEL = "model"  # the Hugging Face folder
FILE = "teacher.onnx"


def prepare(folder: Path) -> None:
    """``torch.onnx.export`` of what transformers reads, with dynamic batch and length."""
    import torch
    from transformers import AutoModelForSequenceClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(folder / MODEL)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    torch.onnx.export(
        Logits().eval(),
        (torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64)),
        str(folder / FILE),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=(sizes, sizes),
        external_data=False,
        dynamo=True,
    )


def open(folder: Path, threads: int) -> Encode:
    """Texts to logits; a session with default options but for the thread count."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(folder / FILE), options, providers=["CPUExecutionProvider"]
    )
    loaded = tokenizer(folder / MODEL)

    def encode(texts: list[str]) -> Any:
        ids, mask = batch(loaded, texts)
        return np.asarray(session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0])

    return encode
