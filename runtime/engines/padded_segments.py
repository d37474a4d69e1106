"""The way of rectangular arrays through the segments of an early-exit model.

Texts that leave are taken out of the rows, and the columns end with the longest that is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.exiting import Bools, Chain
from edgeformer.runtime.inputs import complete_inputs
from edgeformer.runtime.manifest import Program, Variant

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Padded:
    """``hidden`` (texts, sequence, hidden), and the tokens of each text, intp (texts,)."""

    hidden: NDArray[Any]
    lengths: NDArray[np.intp]


def padded_chain(
    variant: Variant, batch: RaggedBatch, run: Callable[[Program, Arrays], Arrays]
) -> Chain[Padded]:
    """The chain of a batch of texts that are padded to its longest.

    Args:
        variant: with segments.
        batch: one text at least.
        run: (program, one array for each of its inputs) -> its outputs.
    """

    def step(segment: int, before: Padded | None) -> tuple[Padded | None, NDArray[Any]]:
        program = variant.segments[segment - 1]
        lengths = batch.lengths if before is None else before.lengths
        if before is None:
            names = {port.name for port in program.inputs}
            padded = batch.padded(int(lengths.max()))
            given: Arrays = {name: array for name, array in padded.items() if name in names}
        else:
            mask = np.arange(before.hidden.shape[1]) < lengths[:, None]
            given = {"hidden": before.hidden, "attention_mask": mask.astype(np.int64)}
        outputs = run(program, complete_inputs(program.inputs, given))
        hidden = outputs.get("hidden")
        return None if hidden is None else Padded(hidden, lengths), outputs["logits"]

    def keep(state: Padded, kept: Bools) -> Padded:
        lengths = state.lengths[kept]
        return Padded(state.hidden[kept, : int(lengths.max())], lengths)

    return Chain(step, keep)
