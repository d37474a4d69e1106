"""Tensors that a plan stores in fewer bytes than they have in memory; decoded when it is loaded.

Two ways, alone or together (docs/numpy_plan.md):

1. AdaptivFloat codes of 4 to 8 bits, one after the other, with a range for the whole tensor or for
   each channel. Matrices become float32, or int8 with a scale for each column; tables stay codes,
   a byte each, and only the rows that are looked up become numbers.
2. A bitmask, one bit for each value, and only what is not zero.

What a file says of them is hostile until ``parse_store`` has compared it with the shape, and
``decode`` the bitmask with what it counts. Nothing larger than 32 times the stored bytes is made.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import EngineError
from edgeformer.runtime.adaptivfloat import (
    BITS,
    MAX_EXPONENT_BITS,
    TOPS,
    AdaptivFloat,
    unpack_codes,
)
from edgeformer.runtime.plan_checks import aligned, as_int, fail

Array = NDArray[Any]
Floats = NDArray[np.float32]

_STRIP = 1 << 16  # values decoded at a time: what is made of them on the way stays in the cache


@dataclass(frozen=True)
class Store:
    """How one tensor lies in the file: ranges, bitmask and codes, each at a multiple of 64.

    Attributes:
        bits: of one code, or of one value.
        exponent_bits: of an AdaptivFloat code; 0 where the values themselves are stored.
        ranges: int8 exponents, 1 or one for each channel; 0 for plain values.
        nonzeros: how many codes follow the bitmask; None for all of them and no bitmask.
    """

    bits: int
    exponent_bits: int
    ranges: int
    nonzeros: int | None

    def part_sizes(self, count: int) -> tuple[int, int, int]:
        """Bytes of the ranges, the bitmask and the codes of ``count`` values."""
        codes = count if self.nonzeros is None else self.nonzeros
        mask = 0 if self.nonzeros is None else -(-count // 8)
        return self.ranges, mask, -(-codes * self.bits // 8)

    def size_bytes(self, count: int) -> int:
        """Bytes from the first part to the end of the last."""
        end = 0
        for size in self.part_sizes(count):
            end = aligned(end) + size if size else end
        return end


def channels(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of what each channel of a matrix has one of, ready to be multiplied with it.

    A channel is a row (axis 0) or a column (axis 1), also of a matrix in tiles of columns.
    """
    if len(shape) == 3:
        return shape[0], 1, shape[2]
    return (shape[0], 1) if axis == 0 else (1, shape[1])


def parse_store(value: Any, dtype: str, shape: tuple[int, ...], axis: int, where: str) -> Store:
    """Check what a header says of a stored tensor.

    Raises:
        BundleError: fields that contradict each other or the tensor's dtype and shape.
    """
    names = ("bits", "exponent_bits", "ranges", "nonzeros")
    if not isinstance(value, dict) or set(value) != set(names):
        fail(f"{where} must say of its store: {', '.join(names)}")
    count = math.prod(shape)
    if count == 0:
        fail(f"{where} is empty, and has a store")
    nonzeros = value["nonzeros"]
    if nonzeros is not None:
        nonzeros = as_int(nonzeros, 0, count, f"{where}, its non-zero values,")
    exponent_bits = as_int(value["exponent_bits"], 0, MAX_EXPONENT_BITS, where)
    if exponent_bits == 0:
        bits = {"int8": 8, "float32": 32}.get(dtype)
        if (value["bits"], value["ranges"]) != (bits, 0) or nonzeros is None:
            fail(f"{where} stores its values in a way that is not known")
        return Store(value["bits"], 0, 0, nonzeros)
    bits = as_int(value["bits"], *BITS, where)
    ranks = {(0, "codes"): (2,), (1, "float32"): (2,), (1, "int8"): (2, 3)}.get((axis, dtype), ())
    if exponent_bits >= bits or len(shape) not in ranks:
        fail(f"{where} cannot be stored as AdaptivFloat")
    ranges = as_int(value["ranges"], 0, count, where)
    if ranges not in (1, math.prod(channels(shape, axis))):
        fail(f"{where} needs one range, or one for each channel")
    return Store(bits, exponent_bits, ranges, nonzeros)


def decode(
    store: Store, dtype: str, shape: tuple[int, ...], axis: int, data: memoryview, where: str
) -> tuple[Array, Floats | None]:
    """The tensor in memory.

    Args:
        store: how it lies in the file, from ``parse_store``.
        dtype: ``float32``, ``int8`` or ``codes``, what it becomes.
        shape: what it becomes; ``data`` has ``store.size_bytes`` of it.
        axis: which one the channels are.
        data: the file from the first part on.
        where: its name in errors.

    Returns:
        the values, of ``codes`` uint8; and of AdaptivFloat that becomes int8 or stays codes the
        scale of each channel, float32, else None.

    Raises:
        BundleError: a bitmask that counts other than the file says, or a range outside float32.
        EngineError: not enough memory.
    """
    try:
        return _decode(store, dtype, shape, axis, data, where)
    except MemoryError:
        raise EngineError(
            f"not enough memory for {where} of model.plan",
            hint='use a smaller model, or one converted with storage.decoded = "int8"',
        ) from None


def _decode(
    store: Store, dtype: str, shape: tuple[int, ...], axis: int, data: memoryview, where: str
) -> tuple[Array, Floats | None]:
    count = math.prod(shape)
    tops, mask, packed = _parts(store, count, data)
    if store.exponent_bits == 0:
        values = packed.view(np.dtype(dtype).newbyteorder("<"))
        return _scattered(mask, values, count, where).reshape(shape), None
    kind = AdaptivFloat(store.bits, store.exponent_bits)
    stored = count if store.nonzeros is None else store.nonzeros
    codes = unpack_codes(packed, stored, store.bits)
    if store.nonzeros is not None:
        codes = _scattered(mask, codes, count, where)
    exponents = tops.view(np.int8).astype(np.int32)
    if not ((exponents >= TOPS[0]) & (exponents <= TOPS[1])).all():
        fail(f"{where} has a range outside of float32")
    codes = codes.reshape(shape)
    if dtype == "codes":
        return codes, np.ldexp(np.float32(1), np.broadcast_to(exponents, shape[:1]))
    columns = channels(shape, axis)
    ranges = exponents.reshape(columns if store.ranges > 1 else (1,) * len(shape))
    if dtype == "int8":
        return _as_int8(kind, codes, ranges)
    return _as_floats(kind, codes, ranges), None


def _parts(store: Store, count: int, data: memoryview) -> tuple[Array, Array, Array]:
    """Ranges, bitmask and codes as bytes."""
    found, end = [], 0
    for size in store.part_sizes(count):
        start = aligned(end) if size else end
        found.append(np.frombuffer(data[start : start + size], np.uint8))
        end = start + size
    return found[0], found[1], found[2]


def _scattered(mask: NDArray[np.uint8], values: Array, count: int, where: str) -> Array:
    """``count`` values, zero where the mask is 0, else the next of ``values``."""
    out = np.zeros(count, values.dtype.newbyteorder("="))
    used = 0
    for start in range(0, count, _STRIP):
        stop = min(start + _STRIP, count)
        bits = np.unpackbits(
            mask[start // 8 : -(-stop // 8)], count=stop - start, bitorder="little"
        )
        more = used + int(np.count_nonzero(bits))
        if more > len(values):
            break
        out[start:stop][bits.view(np.bool_)] = values[used:more]
        used = more
    else:
        if used == len(values):
            return out
    fail(f"{where} has a bitmask that does not count {len(values)} values")


def _as_floats(kind: AdaptivFloat, codes: NDArray[np.uint8], ranges: Array) -> Floats:
    factors = np.ldexp(np.float32(1), ranges)
    out = np.empty(codes.shape, np.float32)
    for rows in _strips(codes):
        np.take(kind.values, codes[rows], out=out[rows], mode="clip")
        np.multiply(out[rows], _of(factors, rows), out=out[rows])
    return out


def _as_int8(
    kind: AdaptivFloat, codes: NDArray[np.uint8], ranges: Array
) -> tuple[NDArray[np.int8], Floats]:
    """Int8 within +-127 and the scale of each column, its largest value over 127.

    In place of the codes where they can be written to: no second copy is made.
    """
    magnitude = np.uint8((1 << (kind.bits - 1)) - 1)
    rows_axis = codes.ndim - 2
    peaks = np.zeros(channels(codes.shape, 1), np.uint8)
    for rows in _strips(codes):
        highest = (codes[rows] & magnitude).max(axis=rows_axis, keepdims=True, initial=0)
        place = _of(peaks, rows)
        np.maximum(place, highest, out=place)
    largest = kind.values[peaks]  # where the largest exponent is 0
    ratios = np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, 1), 1)
    ratios = ratios.astype(np.float32)
    levels = codes.view(np.int8) if codes.flags.writeable else np.empty(codes.shape, np.int8)
    for rows in _strips(codes):
        wide = kind.values[codes[rows]]
        np.multiply(wide, _of(ratios, rows), out=wide)
        levels[rows] = np.rint(wide, out=wide)
    scale = np.where(largest > 0, np.ldexp(largest, ranges) / 127, 1).astype(np.float32)
    return levels, scale.reshape(-1)


def _strips(array: Array) -> Iterator[slice]:
    """Slices of the first axis with about ``_STRIP`` values each."""
    step = max(1, _STRIP // max(1, math.prod(array.shape[1:])))
    yield from (slice(start, start + step) for start in range(0, len(array), step))


def _of(each: Array, rows: slice) -> Array:
    """What belongs to ``rows`` of an array that is multiplied with others by broadcasting."""
    return each[rows] if len(each) > 1 else each
