"""Read ``model.plan``: a JSON header and, behind it, the weights, mapped and never copied.

    plan = parse_plan(bundle.map("numpy-int8/model.plan"))
    plan.programs["main"].steps[0].op          # "embedding"

docs/numpy_plan.md specifies the file. The header is treated as hostile: every operation,
attribute, index, shape and offset is checked before any of it is used, and what is wrong is a
BundleError. Nothing is evaluated or unpickled.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError
from edgeformer.runtime.operations import OPS

MAGIC = b"EFPLAN01"
ALIGNMENT = 64
DTYPES = ("float32", "int64", "int32", "int8", "bool")
LAYOUTS = ("packed", "dense")
SIZE_OPERATORS = ("+", "*", "//", "%", "max", "min")

# A size is a number, the name of a dimension, or (operator, left, right).
Size = int | str | tuple[str, Any, Any]

_MAX_SIZE = 1 << 40
_MAX_SIZE_DEPTH = 12
_MAX_RANK = 8


@dataclass(frozen=True)
class Tensor:
    """A stored array, read-only.

    Attributes:
        array: as stored; int8 matrices come with a scale, nothing else does. One with a scale for
            each column may lie in tiles of some columns, (tiles, rows, width).
        scale: float32, what one unit of each row or column is worth.
        axis: 0 if ``scale`` has one value for each row, 1 for each column.
    """

    array: NDArray[Any]
    scale: NDArray[np.float32] | None
    axis: int


@dataclass(frozen=True)
class Value:
    """An intermediate array. ``slot`` is the buffer it lives in, None for a view."""

    shape: tuple[Size, ...]
    dtype: str
    slot: int | None


@dataclass(frozen=True)
class Step:
    """One operation. Operand k >= 0 is value k, -1 - k is tensor k, None is absent."""

    op: str
    inputs: tuple[int | None, ...]
    output: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class PlanProgram:
    """A list of steps from ``inputs`` to ``outputs`` (names -> values).

    Attributes:
        layout: ``packed`` or ``dense``.
        dimensions: name -> largest size, 0 where any size runs.
        inputs, outputs: name -> value.
        values: intermediates, inputs among them.
        steps: in order; each operand was computed before.
    """

    layout: str
    dimensions: dict[str, int]
    inputs: dict[str, int]
    outputs: dict[str, int]
    values: tuple[Value, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Plan:
    """A parsed file: its weights, and the programs that share them."""

    tensors: tuple[Tensor, ...]
    programs: dict[str, PlanProgram]


def evaluate_size(size: Size, sizes: Mapping[str, int]) -> int:
    """The number that ``size`` stands for where the named dimensions have ``sizes``."""
    if isinstance(size, int):
        return size
    if isinstance(size, str):
        return sizes[size]
    operator, left, right = size[0], evaluate_size(size[1], sizes), evaluate_size(size[2], sizes)
    if operator == "+":
        return left + right
    if operator == "*":
        return left * right
    if operator in ("max", "min"):
        return max(left, right) if operator == "max" else min(left, right)
    if right == 0:
        fail("a size divides by zero")
    return left // right if operator == "//" else left % right


def parse_plan(data: memoryview) -> Plan:
    """Check and read a whole plan file.

    Args:
        data: the file, mapped or in memory. Tensors are views of it.

    Raises:
        BundleError: anything in the file that does not follow docs/numpy_plan.md.
    """
    if len(data) < 16 or bytes(data[:8]) != MAGIC:
        fail("it does not start as one")
    length = int.from_bytes(data[8:16], "little")
    if length > len(data) - 16:
        fail("its header is cut off")
    try:
        parsed = json.loads(bytes(data[16 : 16 + length]))
    except (ValueError, RecursionError):
        fail("its header is not JSON")
    header = _record(parsed, ("tensors", "programs"), "header")
    records = _list(header["tensors"], "tensors")
    body = data[aligned(16 + length) :]
    arrays = [_array(record, body, f"tensor {k}") for k, record in enumerate(records)]
    scales = [_scale(records[k], arrays, k) for k in range(len(arrays))]
    tensors = tuple(
        Tensor(a, s, r["axis"]) for a, s, r in zip(arrays, scales, records, strict=True)
    )
    if not isinstance(header["programs"], dict) or "main" not in header["programs"]:
        fail("it has no program 'main'")
    programs = {
        name: _program(program, tensors, f"program {name!r}")
        for name, program in header["programs"].items()
    }
    return Plan(tensors, programs)


def fail(what: str) -> NoReturn:
    """Say what is wrong with the file. Raises BundleError."""
    raise BundleError(
        f"model.plan is not a valid plan: {what}", hint="copy the bundle again, or convert again"
    )


def aligned(offset: int) -> int:
    """``offset`` rounded up to where a tensor may start."""
    return (offset + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def _array(value: Any, body: memoryview, where: str) -> NDArray[Any]:
    record = _record(value, ("dtype", "shape", "offset", "scale", "axis"), where)
    dtype = np.dtype(_word(record["dtype"], DTYPES, where)).newbyteorder("<")
    shape = [_int(size, 0, _MAX_SIZE, where) for size in _list(record["shape"], where)]
    if len(shape) > _MAX_RANK:
        fail(f"{where} has too many axes")
    count = math.prod(shape)
    offset = _int(record["offset"], 0, max(0, len(body)), where)
    if offset % ALIGNMENT or offset + count * dtype.itemsize > len(body):
        fail(f"{where} reaches outside the file")
    raw = np.frombuffer(body, dtype, count, offset) if count else np.empty(0, dtype)
    if dtype == np.bool_:  # a bool that is neither 0 nor 1 is not safe to compute with
        raw = raw.view(np.uint8) != 0
    try:
        return raw.reshape(shape)
    except (ValueError, OverflowError):  # an empty array whose other axes no index can count
        fail(f"{where} has a shape that is too large")


def _scale(value: Any, arrays: list[NDArray[Any]], k: int) -> NDArray[np.float32] | None:
    array, where = arrays[k], f"tensor {k}"
    if (value["scale"] is None) == (array.dtype == np.int8):
        fail(f"{where}: int8 must have a scale, and nothing else")
    if value["scale"] is None:
        return None
    scale = arrays[_int(value["scale"], 0, len(arrays) - 1, where)]
    axis = _int(value["axis"], 0, 1, where)
    tiled = array.ndim == 3 and axis == 1
    count = (array.shape[0] * array.shape[2],) if tiled else array.shape[axis : axis + 1]
    if scale.dtype != np.float32 or not (tiled or array.ndim == 2) or scale.shape != count:
        fail(f"{where} needs one float32 scale for each row or column")
    return scale


def _program(value: Any, tensors: tuple[Tensor, ...], where: str) -> PlanProgram:
    names = ("layout", "dimensions", "inputs", "outputs", "values", "steps")
    record = _record(value, names, where)
    layout = _word(record["layout"], LAYOUTS, where)
    dimensions = _table(record["dimensions"], _MAX_SIZE, f"{where} dimensions")
    if layout == "packed" and set(dimensions) != {"batch", "tokens", "sequence"}:
        fail(f"{where} must have the dimensions batch, tokens and sequence")
    values = tuple(
        _value(item, set(dimensions), f"{where} value {k}")
        for k, item in enumerate(_list(record["values"], where))
    )
    inputs = _table(record["inputs"], len(values) - 1, f"{where} inputs")
    outputs = _table(record["outputs"], len(values) - 1, f"{where} outputs")
    made = set(inputs.values())
    if len(made) != len(inputs) or any(values[k].slot is None for k in made):
        fail(f"{where} must have a buffer for each input")
    steps = []
    for k, item in enumerate(_list(record["steps"], where)):
        step = _step(item, values, tensors, made, set(dimensions), f"{where} step {k}")
        made.add(step.output)
        steps.append(step)
    if not outputs or not set(outputs.values()) <= made:
        fail(f"{where} returns what it does not compute")
    return PlanProgram(layout, dimensions, inputs, outputs, values, tuple(steps))


def _value(value: Any, dimensions: set[str], where: str) -> Value:
    record = _record(value, ("shape", "dtype", "slot"), where)
    shape = tuple(_size(item, dimensions, where, 0) for item in _list(record["shape"], where))
    if len(shape) > _MAX_RANK:
        fail(f"{where} has too many axes")
    slot = None if record["slot"] is None else _int(record["slot"], 0, 65_535, where)
    return Value(shape, _word(record["dtype"], DTYPES, where), slot)


def _step(
    value: Any,
    values: tuple[Value, ...],
    tensors: tuple[Tensor, ...],
    made: set[int],
    dimensions: set[str],
    where: str,
) -> Step:
    record = _record(value, ("op", "inputs", "output", "attributes"), where)
    op = _word(record["op"], tuple(OPS), where)
    spec, where = OPS[op], f"{where} ({op})"
    operands = _list(record["inputs"], where)
    if not spec.inputs[0] <= len(operands) <= spec.inputs[1]:
        fail(f"{where} has {len(operands)} operands")
    for position, operand in enumerate(operands):
        if operand is None and position in spec.optional:
            continue
        _int(operand, -len(tensors), len(values) - 1, where)
        if operand >= 0 and operand not in made:
            fail(f"{where} uses value {operand} before it is computed")
        if operand < 0 and tensors[-1 - operand].scale is not None:
            expected = (spec.quantized, spec.scale_axis)
            if (position, tensors[-1 - operand].axis) != expected:
                fail(f"{where} cannot take that int8 tensor as operand {position}")
    output = _int(record["output"], 0, len(values) - 1, where)
    if output in made or (values[output].slot is None) != spec.view:
        fail(f"{where} has a wrong output")
    given = _record(record["attributes"], tuple(spec.attributes), where)
    attributes = {
        name: _attribute(given[name], kind, dimensions, where)
        for name, kind in spec.attributes.items()
    }
    return Step(op, tuple(operands), output, attributes)


def _attribute(value: Any, kind: str | tuple[str, ...], dimensions: set[str], where: str) -> Any:
    if isinstance(kind, tuple):
        return _word(value, kind, where)
    if kind == "size":
        return _size(value, dimensions, where, 0)
    if kind == "axes":
        return tuple(_int(item, -_MAX_RANK, _MAX_RANK, where) for item in _list(value, where))
    if kind == "int":
        return _int(value, -_MAX_SIZE, _MAX_SIZE, where)
    if type(value) not in (int, float) or not -1e30 <= value <= 1e30:
        fail(f"{where} needs a finite number")
    return float(value)


def _size(value: Any, dimensions: set[str], where: str, depth: int) -> Size:
    if isinstance(value, str) and value in dimensions:
        return value
    if isinstance(value, list) and len(value) == 3 and depth < _MAX_SIZE_DEPTH:
        operator = _word(value[0], SIZE_OPERATORS, where)
        left, right = (_size(item, dimensions, where, depth + 1) for item in value[1:])
        return (operator, left, right)
    return _int(value, -_MAX_SIZE, _MAX_SIZE, f"a size of {where}")


def _record(value: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        fail(f"{where} must have exactly the fields {', '.join(names)}")
    return value


def _table(value: Any, high: int, where: str) -> dict[str, int]:
    if not isinstance(value, dict):
        fail(f"{where} must be a table")
    return {name: _int(number, 0, high, where) for name, number in value.items()}


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        fail(f"{where} must be a list")
    return value


def _word(value: Any, words: tuple[str, ...], where: str) -> str:
    if not isinstance(value, str) or value not in words:
        fail(f"{where} has {value!r}, which is not known")
    return value


def _int(value: Any, low: int, high: int, where: str) -> int:
    if type(value) is not int or not low <= value <= high:
        fail(f"{where} must be a whole number from {low} to {high}")
    return value
