"""The TFLite engine's way through the segments of an early-exit model: one text at a time.

What a segment gives goes into the next as it is: the text was padded to its bucket before the
first, and nothing is cast, cut or padded between two of them. In a small model a segment takes a
sixth of a millisecond, and each array that is made between two of them a hundredth of that.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.exiting import Chain
from edgeformer.runtime.manifest import Program

Arrays = dict[str, NDArray[Any]]


def text_chain(
    segments: Sequence[Program], arrays: Arrays, run: Callable[[Program, Arrays], Arrays]
) -> Chain[Arrays]:
    """The chain of one text, whose state is all that the next segment may read.

    Args:
        segments: of the variant.
        arrays: what the first segment reads, of the file's own shapes.
        run: (segment, one array for each of its inputs) -> its outputs.
    """
    given = {n: a.astype(np.int32) if a.dtype == np.int64 else a for n, a in arrays.items()}

    def step(segment: int, before: Arrays | None) -> tuple[Arrays | None, NDArray[Any]]:
        program = segments[segment - 1]
        state = given if before is None else before
        outputs = run(program, {port.name: state[port.name] for port in program.inputs})
        logits = outputs.pop("logits")
        return (given | outputs if outputs else None), logits

    return Chain(step, lambda state, kept: state)  # a single text stays whole or leaves
