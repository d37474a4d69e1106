"""How a weight lies in the plan's file where that is smaller than what it is in memory.

    form = sparse_form(levels) or plain
    form = adaptivfloat_form(weight, AdaptivFloat(8, 3), axis=1, per_channel=True, sparse=True)

docs/storage.md says what each form costs and saves; ``runtime/stored.py`` decodes them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.converters.adaptivfloat import encode, pack_codes
from edgeformer.runtime.adaptivfloat import AdaptivFloat
from edgeformer.runtime.plan_checks import aligned
from edgeformer.runtime.stored import Store

# A tensor that is decoded is no longer mapped: below this saving that is a bad bargain.
_WORTH = 0.9


@dataclass(frozen=True)
class StoredForm:
    """A weight as the file holds it.

    Attributes:
        store: what the header says.
        parts: ranges, bitmask and codes, those there are.
    """

    store: Store
    parts: tuple[NDArray[Any], ...]

    def header(self) -> Mapping[str, int | None]:
        """The field ``store`` of the tensor's record."""
        return asdict(self.store)

    def to_bytes(self) -> bytes:
        """The parts, each at a multiple of 64."""
        data = bytearray()
        for part in (part for part in self.parts if part.size):
            data += bytes(aligned(len(data)) - len(data)) + part.tobytes()
        return bytes(data)


def bitmask(values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """One bit for each value, low bits first, 1 where it is not zero; and those values."""
    nonzero = values.reshape(-1) != 0
    return np.packbits(nonzero, bitorder="little"), values.reshape(-1)[nonzero]


def sparse_form(values: NDArray[Any]) -> StoredForm | None:
    """A bitmask and the non-zero values, exactly; None where that is hardly smaller.

    Args:
        values: float32 or int8.
    """
    store = Store(8 * values.itemsize, 0, 0, int(np.count_nonzero(values)))
    if store.size_bytes(values.size) > _WORTH * values.nbytes:
        return None
    return StoredForm(store, bitmask(values))


def adaptivfloat_form(
    array: NDArray[np.float32],
    kind: AdaptivFloat,
    axis: int,
    *,
    per_channel: bool,
    sparse: bool,
    tile_width: int = 0,
) -> StoredForm:
    """AdaptivFloat codes of a matrix.

    Args:
        array: float32 (rows, columns).
        kind: of the codes.
        axis: 0 where rows are the channels, 1 for columns.
        per_channel: a range for each channel, not one for the tensor.
        sparse: a bitmask where it is smaller, since most codes are zero.
        tile_width: columns of a tile; 0 for the matrix as it is.
    """
    codes, tops = encode(array, kind, axis if per_channel else None)
    if tile_width:
        codes = tiled(codes, tile_width)
    dense = Store(kind.bits, kind.exponent_bits, len(tops), None)
    masked = Store(kind.bits, kind.exponent_bits, len(tops), int(np.count_nonzero(codes)))
    if sparse and masked.size_bytes(codes.size) < dense.size_bytes(codes.size):
        mask, nonzero = bitmask(codes)
        return StoredForm(masked, (tops, mask, pack_codes(nonzero, kind.bits)))
    return StoredForm(dense, (tops, pack_codes(codes, kind.bits)))


def tiled(matrix: NDArray[Any], width: int) -> NDArray[Any]:
    """(rows, columns) -> (columns / width, rows, width): tiles of columns one after the other."""
    return np.ascontiguousarray(matrix.reshape(len(matrix), -1, width).transpose(1, 0, 2))
