"""``Model.embed``: one vector for each text."""

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.calls import Call


def embed_texts(call: Call, texts: list[str], on_long: str) -> NDArray[np.float32]:
    """float32 (texts, hidden); the vector of a text in windows is the mean of theirs."""
    answers: NDArray[np.float32] | None = None
    done = 0
    for rows, vectors in call.encode(texts, None, on_long, "embedding"):
        if rows.windowed:
            from edgeformer.runtime.answers import merge_windows  # not at a cold start

            vectors = merge_windows(vectors, rows.owners, rows.batch.lengths, rows.texts)
            if call.card.normalized:
                norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.maximum(norms, 1e-12)
        if answers is None:  # filled piece by piece: joining pieces would take twice the memory
            answers = np.empty((len(texts), vectors.shape[1]), vectors.dtype)
        answers[done : done + len(vectors)] = vectors
        done += len(vectors)
    assert answers is not None  # even no text is one piece
    return answers
