"""Room for the temporaries of kernels, and how large a piece of work stays in the CPU's cache."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 32_768  # 128 KiB of float32: a block and two temporaries stay in a 512 KiB cache


class Scratch:
    """Temporary float32 arrays, kept by name and grown when a larger one is asked for."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.float32]] = {}

    def floats(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An uninitialised float32 array; it holds until the same name is asked for again."""
        size = math.prod(shape)
        array = self._arrays.get(name)
        if array is None or array.size < size:
            array = self._arrays[name] = np.empty(size, np.float32)
        return array[:size].reshape(shape)


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices over ``rows`` rows of ``width`` values, each about one cache block."""
    step = max(1, BLOCK_VALUES // max(1, width))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
