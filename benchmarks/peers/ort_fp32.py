"""ONNX Runtime with the file of ``torch.onnx.export`` and the options nobody changes."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import CHECKPOINT
from benchmarks.peers.common import Encode, batch, pooled, tokenizer

FILE = "model.onnx"


def prepare(folder: Path) -> None:
    """Export with dynamic batch and length."""
    import torch
    from transformers import AutoModel

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(folder.parent / CHECKPOINT)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.encoder(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state

    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    torch.onnx.export(
        Hidden().eval(),
        (torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64)),
        str(folder / FILE),
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state"],
        dynamic_shapes=(sizes, sizes),
        external_data=False,
        dynamo=True,
    )


def open(folder: Path, threads: int) -> Encode:
    """A session with default options but for the thread count."""
    return open_file(folder, FILE, threads)


def open_file(folder: Path, name: str, threads: int) -> Encode:
    """``encode`` over the ONNX file ``name``, whatever inputs of a BERT it asks for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(folder / name), options, providers=["CPUExecutionProvider"]
    )
    asks_types = "token_type_ids" in {port.name for port in session.get_inputs()}
    loaded = tokenizer(folder.parent / CHECKPOINT)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        ids, mask = batch(loaded, texts)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if asks_types:
            inputs["token_type_ids"] = np.zeros_like(ids)
        hidden = session.run(["last_hidden_state"], inputs)[0]
        return pooled(hidden, mask)

    return encode
