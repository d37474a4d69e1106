"""The tensors of a plan: what its header says of them, checked, and then their arrays.

    records = parse_tensors(header["tensors"], len(body))
    tensors = load_tensors(records, body)

A tensor that is stored as it is in memory is a view of the file. One with a ``store`` is decoded
(runtime/stored.py), once, however many steps use it.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.adaptivfloat import AdaptivFloat
from edgeformer.runtime.plan_checks import (
    ALIGNMENT,
    DTYPES,
    MAX_RANK,
    MAX_SIZE,
    as_int,
    as_list,
    as_record,
    as_word,
    fail,
)
from edgeformer.runtime.stored import Store, channels, decode, parse_store

Array = NDArray[Any]
_FIELDS = ("dtype", "shape", "offset", "scale", "axis")


@dataclass(frozen=True)
class Tensor:
    """An array that steps use, never written to.

    Attributes:
        array: as in memory; int8 matrices and tables of codes come with a scale, nothing else does.
            One with a scale for each column may lie in tiles of some columns, (tiles, rows, width).
        scale: float32, what one unit of each row or column is worth.
        axis: 0 if ``scale`` has one value for each row, 1 for each column.
        values: float32, what each code is worth, for tables of uint8 codes.
    """

    array: Array
    scale: NDArray[np.float32] | None
    axis: int
    values: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TensorRecord:
    """What a header says of a tensor.

    Attributes:
        dtype: in memory; ``codes`` for uint8 that stand for numbers.
        shape: in memory.
        offset: byte of the body where it starts.
        scale: the tensor with the scale of each channel, None where there is none or where
            decoding makes it.
        axis: of the channels.
        store: how it lies in the file, None if as in memory.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    scale: int | None
    axis: int
    store: Store | None

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def loaded_bytes(self) -> int:
        """Bytes in memory."""
        return self.count * _item_bytes(self.dtype)

    @property
    def mapped(self) -> bool:
        """Whether the array is a view of the file."""
        store = self.store
        as_it_is = store is not None and store.bits == 8 and store.nonzeros is None
        return store is None or (self.dtype == "codes" and as_it_is)

    @property
    def file_bytes(self) -> int:
        """Bytes in the file."""
        return self.loaded_bytes if self.store is None else self.store.size_bytes(self.count)


def parse_tensors(value: Any, body_bytes: int) -> tuple[TensorRecord, ...]:
    """The list of tensors of a header.

    Args:
        value: from the JSON.
        body_bytes: how much of the file lies behind the header.

    Raises:
        BundleError: anything that does not follow docs/numpy_plan.md.
    """
    records = tuple(
        _record(item, body_bytes, f"tensor {k}") for k, item in enumerate(as_list(value, "tensors"))
    )
    for k, record in enumerate(records):
        _check_scale(record, records, f"tensor {k}")
    # So that a small file cannot ask for memory without bound by decoding one part many times.
    if sum(record.file_bytes for record in records if record.store) > body_bytes:
        fail("its stored tensors have more bytes than the file")
    return records


def load_tensors(records: tuple[TensorRecord, ...], body: memoryview) -> tuple[Tensor, ...]:
    """The arrays: views of ``body``, or decoded from it.

    Raises:
        BundleError: a stored tensor whose contents contradict what the header says.
        EngineError: not enough memory to decode one.
    """
    loaded = [_loaded(record, body, f"tensor {k}") for k, record in enumerate(records)]
    tensors = []
    for record, (array, scale) in zip(records, loaded, strict=True):
        if record.scale is not None:
            scale = loaded[record.scale][0]
        tensors.append(Tensor(array, scale, record.axis, _code_values(record)))
    return tuple(tensors)


def _item_bytes(dtype: str) -> int:
    return 1 if dtype == "codes" else np.dtype(dtype).itemsize


def _code_values(record: TensorRecord) -> NDArray[np.float32] | None:
    if record.dtype != "codes" or record.store is None:
        return None
    return AdaptivFloat(record.store.bits, record.store.exponent_bits).values


def _record(value: Any, body_bytes: int, where: str) -> TensorRecord:
    stored = isinstance(value, dict) and "store" in value
    fields = as_record(value, (*_FIELDS, "store") if stored else _FIELDS, where)
    dtype = as_word(fields["dtype"], (*DTYPES, "codes") if stored else DTYPES, where)
    shape = tuple(as_int(size, 0, MAX_SIZE, where) for size in as_list(fields["shape"], where))
    if len(shape) > MAX_RANK:
        fail(f"{where} has too many axes")
    offset = as_int(fields["offset"], 0, body_bytes, where)
    axis = as_int(fields["axis"], 0, 1, where)
    store = parse_store(fields["store"], dtype, shape, axis, where) if stored else None
    record = TensorRecord(dtype, shape, offset, fields["scale"], axis, store)
    if math.prod(size or 1 for size in shape) * _item_bytes(dtype) > sys.maxsize:
        fail(f"{where} has a shape that is too large")  # an empty one too: no index can count it
    if offset % ALIGNMENT or offset + record.file_bytes > body_bytes:
        fail(f"{where} reaches outside the file")
    return record


def _check_scale(record: TensorRecord, records: tuple[TensorRecord, ...], where: str) -> None:
    decoded = record.store is not None and record.store.exponent_bits > 0
    if (record.scale is None) == (record.dtype == "int8" and not decoded):
        fail(f"{where}: int8 must have a scale, and nothing else")
    if record.scale is None:
        return
    scale = records[as_int(record.scale, 0, len(records) - 1, where)]
    tiled = len(record.shape) == 3 and record.axis == 1
    fits = scale.dtype == "float32" and (tiled or len(record.shape) == 2)
    if not fits or scale.shape != (math.prod(channels(record.shape, record.axis)),):
        fail(f"{where} needs one float32 scale for each row or column")


def _loaded(
    record: TensorRecord, body: memoryview, where: str
) -> tuple[Array, NDArray[np.float32] | None]:
    """The array, and the scales that decoding it made."""
    if record.store is not None:
        data = body[record.offset : record.offset + record.file_bytes]
        return decode(record.store, record.dtype, record.shape, record.axis, data, where)
    dtype = np.dtype(record.dtype).newbyteorder("<")
    count = record.count
    raw = np.frombuffer(body, dtype, count, record.offset) if count else np.empty(0, dtype)
    if dtype == np.bool_:  # a bool that is neither 0 nor 1 is not safe to compute with
        raw = raw.view(np.uint8) != 0
    return raw.reshape(record.shape), None
