"""The NumPy engine's way through the segments of an early-exit model.

Texts that leave are taken out of the rows: what is left lies one after the other again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.engines.packed_rows import (
    geometry,
    packed_sizes,
    packed_tokens,
    token_columns,
)
from edgeformer.runtime.exit_chain import Chain
from edgeformer.runtime.exiting import Bools
from edgeformer.runtime.inputs import complete_inputs
from edgeformer.runtime.manifest import Program, Variant

Array = NDArray[Any]
RunProgram = Callable[[Program, Mapping[str, int], Mapping[str, Array]], dict[str, Array]]
"""(program, sizes of its dimensions, its inputs and perhaps more) -> its outputs, as copies."""


@dataclass(frozen=True)
class Packed:
    """Rows of texts that lie one after the other.

    Attributes:
        columns: (tokens,), place of each token in its text.
        offsets: intp (texts + 1,).
        geometry: of ``geometry``.
        sizes: of ``packed_sizes``.
        hidden: (tokens, hidden); None before the first segment.
    """

    columns: Array
    offsets: NDArray[np.intp]
    geometry: dict[str, Array]
    sizes: dict[str, int]
    hidden: Array | None = None


class NumpySegments:
    """Makes chains for batches of one variant."""

    def __init__(self, variant: Variant, run: RunProgram) -> None:
        self._segments = variant.segments
        self._run = run

    def packed(self, batch: RaggedBatch) -> Chain[Packed]:
        """For texts that run together without padding."""

        def step(segment: int, before: Packed | None) -> tuple[Packed | None, Array]:
            entry = self._segments[segment - 1]
            state = _packed(token_columns(batch), batch.offsets) if before is None else before
            if before is None:
                tokens = packed_tokens(entry, batch, state.columns)
            else:
                tokens = {"hidden": _hidden(before)}
            outputs = self._run(entry, state.sizes, state.geometry | tokens)
            if "hidden" not in outputs:
                return None, outputs["logits"]
            return replace(state, hidden=outputs["hidden"]), outputs["logits"]

        def keep(state: Packed, kept: Bools) -> Packed:
            lengths = np.diff(state.offsets)
            rows = np.repeat(kept, lengths)
            offsets = np.zeros(int(kept.sum()) + 1, np.intp)
            np.cumsum(lengths[kept], out=offsets[1:])
            return replace(_packed(state.columns[rows], offsets), hidden=_hidden(state)[rows])

        return Chain(step, keep)

    def dense(self, batch: RaggedBatch) -> Chain[Array]:
        """For texts of one length: the state is (texts, sequence, hidden)."""
        length = int(batch.lengths[0])

        def step(segment: int, hidden: Array | None) -> tuple[Array | None, Array]:
            entry = self._segments[segment - 1]
            names = {port.name for port in entry.inputs} - {"position_ids"}
            given = batch.padded(length) if hidden is None else {"hidden": hidden}
            inputs = complete_inputs(entry.inputs, {k: v for k, v in given.items() if k in names})
            texts = len(next(iter(inputs.values())))
            outputs = self._run(entry, {"batch": texts, "sequence": length}, inputs)
            return outputs.get("hidden"), outputs["logits"]

        return Chain(step, lambda hidden, kept: hidden[kept])


def _hidden(state: Packed) -> Array:
    assert state.hidden is not None  # after the first segment
    return state.hidden


def _packed(columns: Array, offsets: NDArray[np.intp]) -> Packed:
    return Packed(columns, offsets, geometry(offsets, columns), packed_sizes(offsets, columns))
