"""PyTorch eager with ``transformers``, as its feature-extraction users write it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import CHECKPOINT
from benchmarks.peers.common import MAX_TOKENS, Encode


def prepare(folder: Path) -> None:
    """The checkpoint is all it needs."""


def open(folder: Path, threads: int) -> Encode:
    """AutoModel and AutoTokenizer from the checkpoint."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(threads)
    checkpoint = folder.parent / CHECKPOINT
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint).eval()

    def encode(texts: list[str]) -> NDArray[np.float32]:
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors = torch.nn.functional.normalize(mean, dim=-1)
        return np.asarray(vectors.numpy())

    return encode
