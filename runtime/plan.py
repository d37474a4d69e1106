"""Read ``model.plan``: a JSON header and, behind it, the weights, mapped or decoded.

    plan = parse_plan(bundle.map("numpy-int8/model.plan"))
    plan.programs["main"].steps[0].op          # "embedding"

docs/numpy_plan.md specifies the file. The header is treated as hostile: every operation,
attribute, index, shape and offset is checked before any of it is used, and what is wrong is a
BundleError. Nothing is evaluated or unpickled.
"""

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeformer.runtime.operations import OPS
from edgeformer.runtime.plan_checks import (
    DTYPES,
    MAX_RANK,
    MAX_SIZE,
    aligned,
    as_int,
    as_list,
    as_record,
    as_table,
    as_word,
    fail,
)
from edgeformer.runtime.plan_tensors import Tensor, TensorRecord, load_tensors, parse_tensors

MAGIC = b"EFPLAN01"
LAYOUTS = ("packed", "dense")
SIZE_OPERATORS = ("+", "*", "//", "%", "max", "min")

# A size is a number, the name of a dimension, or (operator, left, right).
Size = int | str | tuple[str, Any, Any]

_MAX_SIZE_DEPTH = 12


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
        data: the file, mapped or in memory. Tensors are views of it, or decoded from it.

    Raises:
        BundleError: anything in the file that does not follow docs/numpy_plan.md.
        EngineError: not enough memory to decode what is stored in fewer bytes.
    """
    records, programs, body = parse_header(data)
    tensors = load_tensors(records, body)
    if not all(record.mapped for record in records):
        _forget_pages(data)
    return Plan(tensors, programs)


def _forget_pages(data: memoryview) -> None:
    """Take what was read to decode it out of the process's memory: it will not be read again. Pages
    that are needed come back from the file."""
    if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.obj.madvise(mmap.MADV_DONTNEED)


def parse_header(
    data: memoryview,
) -> tuple[tuple[TensorRecord, ...], dict[str, PlanProgram], memoryview]:
    """Check and read the header alone.

    Returns:
        what it says of the tensors, the programs, and the rest of the file.

    Raises:
        BundleError: anything in the header that does not follow docs/numpy_plan.md.
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
    header = as_record(parsed, ("tensors", "programs"), "header")
    body = data[aligned(16 + length) :]
    records = parse_tensors(header["tensors"], len(body))
    if not isinstance(header["programs"], dict) or "main" not in header["programs"]:
        fail("it has no program 'main'")
    programs = {
        name: _program(program, records, f"program {name!r}")
        for name, program in header["programs"].items()
    }
    return records, programs, body


def _program(value: Any, tensors: tuple[TensorRecord, ...], where: str) -> PlanProgram:
    names = ("layout", "dimensions", "inputs", "outputs", "values", "steps")
    record = as_record(value, names, where)
    layout = as_word(record["layout"], LAYOUTS, where)
    dimensions = as_table(record["dimensions"], MAX_SIZE, f"{where} dimensions")
    if layout == "packed" and set(dimensions) != {"batch", "tokens", "sequence"}:
        fail(f"{where} must have the dimensions batch, tokens and sequence")
    values = tuple(
        _value(item, set(dimensions), f"{where} value {k}")
        for k, item in enumerate(as_list(record["values"], where))
    )
    inputs = as_table(record["inputs"], len(values) - 1, f"{where} inputs")
    outputs = as_table(record["outputs"], len(values) - 1, f"{where} outputs")
    made = set(inputs.values())
    if len(made) != len(inputs) or any(values[k].slot is None for k in made):
        fail(f"{where} must have a buffer for each input")
    steps = []
    for k, item in enumerate(as_list(record["steps"], where)):
        step = _step(item, values, tensors, made, set(dimensions), f"{where} step {k}")
        made.add(step.output)
        steps.append(step)
    if not outputs or not set(outputs.values()) <= made:
        fail(f"{where} returns what it does not compute")
    return PlanProgram(layout, dimensions, inputs, outputs, values, tuple(steps))


def _value(value: Any, dimensions: set[str], where: str) -> Value:
    record = as_record(value, ("shape", "dtype", "slot"), where)
    shape = tuple(_size(item, dimensions, where, 0) for item in as_list(record["shape"], where))
    if len(shape) > MAX_RANK:
        fail(f"{where} has too many axes")
    slot = None if record["slot"] is None else as_int(record["slot"], 0, 65_535, where)
    return Value(shape, as_word(record["dtype"], DTYPES, where), slot)


def _step(
    value: Any,
    values: tuple[Value, ...],
    tensors: tuple[TensorRecord, ...],
    made: set[int],
    dimensions: set[str],
    where: str,
) -> Step:
    record = as_record(value, ("op", "inputs", "output", "attributes"), where)
    op = as_word(record["op"], tuple(OPS), where)
    spec, where = OPS[op], f"{where} ({op})"
    operands = as_list(record["inputs"], where)
    if not spec.inputs[0] <= len(operands) <= spec.inputs[1]:
        fail(f"{where} has {len(operands)} operands")
    for position, operand in enumerate(operands):
        if operand is None and position in spec.optional:
            continue
        as_int(operand, -len(tensors), len(values) - 1, where)
        if operand >= 0 and operand not in made:
            fail(f"{where} uses value {operand} before it is computed")
        if operand < 0 and tensors[-1 - operand].dtype in ("int8", "codes"):
            expected = (spec.quantized, spec.scale_axis)
            if (position, tensors[-1 - operand].axis) != expected:
                dtype = tensors[-1 - operand].dtype
                fail(f"{where} cannot take that tensor of {dtype} as operand {position}")
    output = as_int(record["output"], 0, len(values) - 1, where)
    if output in made or (values[output].slot is None) != spec.view:
        fail(f"{where} has a wrong output")
    given = as_record(record["attributes"], tuple(spec.attributes), where)
    attributes = {
        name: _attribute(given[name], kind, dimensions, where)
        for name, kind in spec.attributes.items()
    }
    return Step(op, tuple(operands), output, attributes)


def _attribute(value: Any, kind: str | tuple[str, ...], dimensions: set[str], where: str) -> Any:
    if isinstance(kind, tuple):
        return as_word(value, kind, where)
    if kind == "size":
        return _size(value, dimensions, where, 0)
    if kind == "axes":
        return tuple(as_int(item, -MAX_RANK, MAX_RANK, where) for item in as_list(value, where))
    if kind == "int":
        return as_int(value, -MAX_SIZE, MAX_SIZE, where)
    if type(value) not in (int, float) or not -1e30 <= value <= 1e30:
        fail(f"{where} needs a finite number")
    return float(value)


def _size(value: Any, dimensions: set[str], where: str, depth: int) -> Size:
    if isinstance(value, str) and value in dimensions:
        return value
    if isinstance(value, list) and len(value) == 3 and depth < _MAX_SIZE_DEPTH:
        operator = as_word(value[0], SIZE_OPERATORS, where)
        left, right = (_size(item, dimensions, where, depth + 1) for item in value[1:])
        return (operator, left, right)
    return as_int(value, -MAX_SIZE, MAX_SIZE, f"a size of {where}")
