"""LiteRT with what litert-torch and ai-edge-quantizer make of the checkpoint, nothing added.

Lengths are fixed in such a file: one signature per bucket, and a text runs in the smallest that
holds it, one text a call.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import CHECKPOINT
from benchmarks.peers.common import MAX_TOKENS, Encode, tokenizer

BUCKETS = (16, 32, 64, MAX_TOKENS)
FILE = "model.tflite"


def prepare(folder: Path) -> None:
    """Convert the encoder with pooling, then quantize with ``dynamic_wi8_afp32``."""
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe
    from transformers import AutoModel

    class Embedding(torch.nn.Module):
        """Its own additive mask: the one that ``transformers`` makes does not lower."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(
                folder.parent / CHECKPOINT, attn_implementation="eager"
            )

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            kept = attention_mask.to(torch.float32)
            hidden = self.encoder(
                input_ids=input_ids, attention_mask=(1.0 - kept[:, None, None, :]) * -10000.0
            ).last_hidden_state
            mean = (hidden * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
            return torch.nn.functional.normalize(mean, dim=-1)

    module = Embedding().eval()
    converter = litert_torch
    for length in BUCKETS:
        sample = {  # two tensors: one object given twice would be taken for one input
            "input_ids": torch.ones(1, length, dtype=torch.int32),
            "attention_mask": torch.ones(1, length, dtype=torch.int32),
        }
        converter = converter.signature(f"embed_{length}", module, sample_kwargs=sample)
    converter.convert().export(str(folder / "fp32.tflite"))
    work = quantizer.Quantizer(str(folder / "fp32.tflite"), recipe.dynamic_wi8_afp32())
    work.quantize().export_model(str(folder / FILE))
    (folder / "fp32.tflite").unlink()


def open(folder: Path, threads: int) -> Encode:
    """One interpreter with a runner per bucket."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / FILE), num_threads=threads)
    runners = {length: interpreter.get_signature_runner(f"embed_{length}") for length in BUCKETS}
    (output,) = runners[BUCKETS[0]].get_output_details()
    loaded = tokenizer(folder.parent / CHECKPOINT, pad=False)

    def embed(ids: list[int]) -> NDArray[np.float32]:
        length = next(bucket for bucket in BUCKETS if bucket >= len(ids))
        inputs = np.zeros((2, 1, length), np.int32)
        inputs[0, 0, : len(ids)] = ids
        inputs[1, 0, : len(ids)] = 1
        answer = runners[length](input_ids=inputs[0], attention_mask=inputs[1])
        return np.asarray(answer[output][0])

    def encode(texts: list[str]) -> NDArray[np.float32]:
        return np.stack([embed(encoding.ids) for encoding in loaded.encode_batch(texts)])

    return encode
