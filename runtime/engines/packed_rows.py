"""What a packed plan reads of texts that lie one after the other, without padding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.manifest import Port, Program

Array = NDArray[Any]

GEOMETRY = ("offsets", "positions", "first_rows", "lengths")


def token_columns(batch: RaggedBatch) -> Array:
    """Place of each token in its text, integers (tokens,)."""
    return np.arange(len(batch.ids)) - np.repeat(batch.offsets[:-1], batch.lengths)


def packed_tokens(entry: Program, batch: RaggedBatch, columns: Array) -> dict[str, Array]:
    """The token inputs of a packed program, (tokens,) each."""
    arrays: dict[str, Array] = {"input_ids": batch.ids, "token_type_ids": batch.type_ids}
    for port in entry.inputs:
        if port.name == "position_ids":
            arrays[port.name] = columns + _first_position(port)
    return arrays


def geometry(offsets: Array, columns: Array) -> dict[str, Array]:
    """What a packed plan may ask about its texts.

    Returns:
        ``offsets`` (texts + 1,), ``positions`` (tokens,), ``first_rows`` (texts,): the row of each
        text's first token, and ``lengths`` float32 (texts, 1).
    """
    lengths = np.diff(offsets).astype(np.float32)[:, None]
    return {
        "offsets": offsets,
        "positions": columns,
        "first_rows": offsets[:-1],
        "lengths": lengths,
    }


def packed_sizes(offsets: Array, columns: Array) -> dict[str, int]:
    """The dimensions of a packed program for these texts."""
    return {
        "batch": len(offsets) - 1,
        "tokens": len(columns),
        "sequence": int(columns.max()) + 1,
    }


def _first_position(port: Port) -> int:
    """K of a port whose default is ``positions+K``."""
    return int((port.default or "positions+0").removeprefix("positions+"))
