"""The way of rectangular arrays through the segments of an early-exit model.

Texts that leave are taken out of the rows, and the columns end with the longest that is left.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.exit_chain import Chain
from edgeformer.runtime.exiting import Bools
from edgeformer.runtime.inputs import complete_inputs
from edgeformer.runtime.manifest import Program, Variant

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Padded:
    """``hidden`` float32 (texts, sequence, hidden), and ``mask`` int64 (texts, sequence)."""

    hidden: NDArray[Any]
    mask: NDArray[np.int64]


_NOTHING = np.zeros((0, 0, 0), np.float32)


def padded_chain(
    variant: Variant, batch: RaggedBatch, run: Callable[[Program, Arrays], Arrays]
) -> Chain[Padded]:
    """The chain of a batch of texts that are padded to its longest.

    Args:
        variant: with segments.
        batch: one text at least.
        run: (program, one array for each of its inputs) -> its outputs.
    """

    segments = variant.segments

    def step(segment: int, before: Padded | None) -> tuple[Padded | None, NDArray[Any]]:
        program = segments[segment - 1]
        if before is None:
            names = {port.name for port in program.inputs}
            arrays = batch.padded(int(batch.lengths.max()))
            given = {name: array for name, array in arrays.items() if name in names}
            state = Padded(_NOTHING, arrays["attention_mask"])
            outputs = run(program, complete_inputs(program.inputs, given))
        else:  # arrays that another segment gave: there is nothing to check
            state = before
            outputs = run(program, {"hidden": state.hidden, "attention_mask": state.mask})
        hidden = outputs.get("hidden")
        return None if hidden is None else replace(state, hidden=hidden), outputs["logits"]

    def keep(state: Padded, kept: Bools) -> Padded:
        mask = state.mask[kept]
        longest = int(mask.sum(axis=1).max())
        columns = (kept, slice(longest))
        return Padded(state.hidden[columns], np.ascontiguousarray(mask[:, :longest]))

    return Chain(step, keep)
