"""What the peers share: HF ``tokenizers``, and pooling as their users write it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_TOKENS = 128  # every contender cuts its texts there
Encode = Callable[[list[str]], NDArray[np.float32]]


def tokenizer(checkpoint: Path, pad: bool = True) -> Any:
    """The ``tokenizers.Tokenizer``, truncating, padding to the longest of a batch."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    loaded.enable_truncation(MAX_TOKENS)
    if pad:
        loaded.enable_padding()
    else:
        loaded.no_padding()
    return loaded


def batch(loaded: Any, texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """int64 (texts, longest): token ids, and the mask with 1 for tokens."""
    encodings = loaded.encode_batch(texts)
    ids = np.array([e.ids for e in encodings], np.int64)
    return ids, np.array([e.attention_mask for e in encodings], np.int64)


def pooled(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean over the tokens, then unit length: (texts, longest, hidden) -> (texts, hidden)."""
    weights = mask.astype(np.float32)
    sums = np.einsum("blh,bl->bh", hidden, weights) / weights.sum(axis=1, keepdims=True)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / norms, np.float32)
