"""CTranslate2's BERT encoder in int8."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import CHECKPOINT
from benchmarks.peers.common import Encode, pooled, tokenizer

FOLDER = "model"


def prepare(folder: Path) -> None:
    """Convert with CTranslate2's own converter."""
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(folder.parent / CHECKPOINT))
    converter.convert(str(folder / FOLDER), quantization="int8")


def open(folder: Path, threads: int) -> Encode:
    """One encoder, ``threads`` within an operation."""
    import ctranslate2

    encoder = ctranslate2.Encoder(
        str(folder / FOLDER), device="cpu", compute_type="int8", intra_threads=threads
    )
    loaded = tokenizer(folder.parent / CHECKPOINT, pad=False)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        ids = [encoding.ids for encoding in loaded.encode_batch(texts)]
        hidden = np.array(encoder.forward_batch(ids).last_hidden_state)
        lengths = np.array([len(row) for row in ids])
        mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.int64)
        return pooled(hidden, mask)

    return encode
