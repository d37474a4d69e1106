"""Bind a program to buffers once, then run it as a list of calls.

    bound = bind(program, plan.tensors, {"batch": 1, "tokens": 12, "sequence": 12}, buffers)
    bound.inputs["input_ids"][:] = ids
    bound.run()
    bound.outputs["embedding"]            # a view of a buffer: copy it before the next run

Every array a step reads or writes is looked up while binding; running does arithmetic only.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.errors import BundleError, EdgeFormerError, EngineError
from edgeformer.runtime import kernels, recurrent
from edgeformer.runtime.activations import activate
from edgeformer.runtime.operations import BINARY, OPS, REDUCE, UNARY
from edgeformer.runtime.plan import PlanProgram, Step, Value, evaluate_size
from edgeformer.runtime.plan_checks import ALIGNMENT, fail
from edgeformer.runtime.plan_tensors import Tensor
from edgeformer.runtime.scratch import Scratch

Array = NDArray[Any]

_MAX_BUFFER_BYTES = min(1 << 33, sys.maxsize)
# What NumPy raises for shapes, indices and numbers that do not fit; which one of these varies with
# its version and with the width of its index type.
_REFUSED = (ValueError, IndexError, OverflowError)


class Buffers:
    """The memory of an engine: one block per slot, shared by its programs, and scratch.

    ``generation`` counts how often a block was replaced by a larger one: what was bound before
    looks at the old blocks and must be bound again.
    """

    def __init__(self) -> None:
        self.scratch = Scratch()
        self.generation = 0
        self._blocks: dict[int, NDArray[np.uint8]] = {}

    def reserve(self, slot: int, size_bytes: int) -> None:
        """Make the block of ``slot`` at least that large."""
        if slot in self._blocks and self._blocks[slot].size >= size_bytes:
            return
        if size_bytes > _MAX_BUFFER_BYTES:
            fail(f"it asks for a buffer of {size_bytes} bytes")
        try:
            raw = np.empty(size_bytes + ALIGNMENT, np.uint8)
        except (MemoryError, ValueError):  # ValueError: above the address space of 32 bits
            raise _no_memory(f"a buffer of {size_bytes / 1e6:.0f} MB") from None
        start = -raw.ctypes.data % ALIGNMENT
        self._blocks[slot] = raw[start : start + size_bytes]
        self.generation += 1

    def array(self, slot: int, shape: tuple[int, ...], dtype: str) -> Array:
        """The block of ``slot`` seen as an array."""
        count = math.prod(shape) * np.dtype(dtype).itemsize
        return self._blocks[slot][:count].view(dtype).reshape(shape)


@dataclass(frozen=True, eq=False)
class BoundProgram:
    """A program with its arrays. ``run`` reads ``inputs`` and fills ``outputs``.

    ``operations`` names the operation of each call; views need none.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    calls: tuple[tuple["partial[None]", str], ...]
    operations: tuple[str, ...]

    def run(self) -> None:
        """Make every call in order.

        Raises:
            InputError: the values of an input cannot be used, such as an id outside a table.
            BundleError: a step whose shapes or values do not fit: the plan contradicts itself.
            EngineError: this NumPy refuses a step, or there is not enough memory for it.
        """
        with np.errstate(all="ignore"):
            for call, name in self.calls:
                try:
                    call()
                except EdgeFormerError:
                    raise
                except (*_REFUSED, TypeError, MemoryError) as error:
                    raise _failure(name, error) from None

    def run_timed(self) -> list[int]:
        """``run``, and how long each call took, in ns; errors come as NumPy raises them."""
        clock = time.perf_counter_ns
        marks = [clock()]
        with np.errstate(all="ignore"):
            for call, _ in self.calls:
                call()
                marks.append(clock())
        return [stop - start for start, stop in pairwise(marks)]

    def operands(self, k: int) -> list[Array]:
        """The arrays that call ``k`` reads, in the order of its operation's operands, and last
        the one it writes. An absent operand is left out."""
        return [array for array in self.calls[k][0].args if isinstance(array, np.ndarray)]


def bind(
    program: PlanProgram, tensors: tuple[Tensor, ...], sizes: Mapping[str, int], buffers: Buffers
) -> BoundProgram:
    """Give every value of ``program`` its array at these sizes of its dimensions.

    Raises:
        BundleError: shapes that contradict each other or exceed any memory.
        EngineError: not enough memory here.
    """
    shapes = [_shape(value, sizes) for value in program.values]
    for value, shape in zip(program.values, shapes, strict=True):
        if value.slot is not None:
            buffers.reserve(value.slot, math.prod(shape) * np.dtype(value.dtype).itemsize)
    arrays: list[Array | None] = [
        None if value.slot is None else buffers.array(value.slot, shape, value.dtype)
        for value, shape in zip(program.values, shapes, strict=True)
    ]
    calls: list[tuple[partial[None], str]] = []
    operations: list[str] = []
    for k, step in enumerate(program.steps):
        name = f"step {k} ({step.op})"
        operands = [_operand(o, arrays, tensors) for o in step.inputs]
        try:
            if OPS[step.op].view:
                view = _view(step, operands[0], shapes[step.output], sizes)
                if view.dtype != program.values[step.output].dtype:
                    raise ValueError("a view cannot change the dtype")
                arrays[step.output] = view
            else:
                calls.append((_call(step, operands, arrays, tensors, buffers.scratch), name))
                operations.append(step.op)
        except (*_REFUSED, TypeError, MemoryError) as error:
            raise _failure(name, error) from None
    return BoundProgram(
        {name: _made(arrays[k]) for name, k in program.inputs.items()},
        {name: _made(arrays[k]) for name, k in program.outputs.items()},
        tuple(calls),
        tuple(operations),
    )


def _failure(name: str, error: Exception) -> EdgeFormerError:
    """Whose fault a step's failure is: the plan's, the machine's, or this NumPy's."""
    if isinstance(error, MemoryError):
        return _no_memory(f"{name} of model.plan")
    if isinstance(error, TypeError):
        bits = 8 * np.dtype(np.intp).itemsize
        return EngineError(
            f"NumPy {np.__version__} ({bits} bits) refuses {name} of model.plan: {error}",
            hint="use another engine or another NumPy; if `edgeformer inspect --verify` finds the"
            " same on the machine that converted, convert again",
        )
    return BundleError(
        f"model.plan contradicts itself at {name}: {error}",
        hint="convert again with `edgeformer convert`",
    )


def _no_memory(what: str) -> EngineError:
    return EngineError(
        f"not enough memory for {what}", hint="pass fewer or shorter texts at a time"
    )


def _shape(value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = tuple(evaluate_size(size, sizes) for size in value.shape)
    if min(shape, default=0) < 0:
        fail("a shape is negative")
    return shape


def _made(array: Array | None) -> Array:
    if array is None:
        fail("a value is used before it is computed")
    return array


def _operand(
    operand: int | None, arrays: list[Array | None], tensors: tuple[Tensor, ...]
) -> Array | None:
    if operand is None:
        return None
    return _made(arrays[operand]) if operand >= 0 else tensors[-1 - operand].array


def _view(step: Step, x: Any, shape: tuple[int, ...], sizes: Mapping[str, int]) -> Array:
    """The result of a view step, which must have ``shape``."""
    a = step.attributes
    if step.op == "expand":
        return np.broadcast_to(x, shape)
    if step.op == "transpose":
        view = x.transpose(a["axes"])
    elif step.op == "reshape":
        view = x.reshape(shape)
        if x.size and not np.may_share_memory(view, x):
            raise ValueError("a reshape would need a copy")
    else:
        where: list[Any] = [slice(None)] * x.ndim
        if step.op == "slice":
            start, stop = evaluate_size(a["start"], sizes), evaluate_size(a["stop"], sizes)
            where[a["axis"]] = slice(start, stop, a["step"])
        else:
            where[a["axis"]] = evaluate_size(a["index"], sizes)
        view = x[tuple(where)]
    if view.shape != shape:
        raise ValueError(f"the result has shape {view.shape}, not {shape}")
    return np.asarray(view)


def _call(
    step: Step,
    operands: list[Array | None],
    arrays: list[Array | None],
    tensors: tuple[Tensor, ...],
    scratch: Scratch,
) -> "partial[None]":
    """The kernel of a compute step with its arrays and attributes filled in."""
    spec = OPS[step.op]
    keywords = dict(step.attributes)
    if spec.quantized >= 0:
        tensor = step.inputs[spec.quantized]
        assert tensor is not None  # the parser allows no absent operand there
        keywords["scale"] = tensors[-1 - tensor].scale if tensor < 0 else None
        if tensor < 0 and tensors[-1 - tensor].values is not None:  # a table's, by its axis
            keywords["values"] = tensors[-1 - tensor].values
    extra = (scratch,) if spec.scratch else ()
    return partial(KERNELS[step.op], *operands, _made(arrays[step.output]), *extra, **keywords)


def _matmul(a: Array, b: Array, out: Array) -> None:
    np.matmul(a, b, out=out)


def _reduce(x: Array, out: Array, *, fn: str, axes: tuple[int, ...]) -> None:
    REDUCE[fn](x, axis=axes, out=out, keepdims=out.ndim == x.ndim)


def _unary(x: Array, out: Array, *, fn: str) -> None:
    UNARY[fn](x, out=out)


def _binary(a: Array, b: Array, out: Array, *, fn: str) -> None:
    BINARY[fn](a, b, out=out)


def _where(condition: Array, a: Array, b: Array, out: Array) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=condition)


def _copy(x: Array, out: Array) -> None:
    np.copyto(out, x, casting="unsafe")  # also the cast between dtypes


def _take(x: Array, index: Array, out: Array, *, axis: int) -> None:
    np.take(x, kernels.as_index(index), axis=axis, out=out)


def _gather(x: Array, index: Array, out: Array, *, axis: int) -> None:
    """torch.gather: other axes of index may be shorter than those of x."""
    axis %= x.ndim
    part = tuple(slice(None) if d == axis else slice(n) for d, n in enumerate(index.shape))
    np.copyto(out, np.take_along_axis(x[part], kernels.as_index(index), axis))


def _index(x: Array, *rest: Array) -> None:
    *index, out = rest
    np.copyto(out, x[tuple(kernels.as_index(i) for i in index)])


def _concatenate(*arrays: Array, axis: int) -> None:
    *parts, out = arrays
    np.concatenate(parts, axis=axis, out=out)


def _range(out: Array, *, start: int, step: int) -> None:
    np.copyto(out, start + step * np.arange(len(out), dtype=np.int64), casting="unsafe")


def _cumsum(x: Array, out: Array, *, axis: int) -> None:
    np.cumsum(x, axis=axis, out=out)


KERNELS: dict[str, Callable[..., None]] = {
    "embedding": kernels.embedding,
    "linear": kernels.linear,
    "layer_norm": kernels.layer_norm,
    "attention_packed": kernels.attention_packed,
    "attention_dense": kernels.attention_dense,
    "attention_heads": kernels.attention_heads,
    "lstm_packed": recurrent.lstm_packed,
    "lstm_dense": recurrent.lstm_dense,
    "softmax": kernels.softmax,
    "segment_sum": kernels.segment_sum,
    "activate": activate,
    "matmul": _matmul,
    "reduce": _reduce,
    "unary": _unary,
    "binary": _binary,
    "where": _where,
    "copy": _copy,
    "take": _take,
    "gather": _gather,
    "index": _index,
    "concatenate": _concatenate,
    "range": _range,
    "cumsum": _cumsum,
}
