"""Translation rules for everything that moves values without computing: views, joins, look-ups."""

from typing import Any

import numpy as np
import torch

from edgeformer.converters.plan.builder import Builder, add, multiply
from edgeformer.converters.plan.graph import Shape, ValueType
from edgeformer.converters.plan.rules_math import Arguments, Rule
from edgeformer.runtime.plan import Size


def _reshape(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    return b.reshape(b.operand(a["self"]), b.type_of(node).shape)


def _same(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    if a.get("train"):
        raise b.fail("the model drops values at random", "call eval() on it, F.dropout included")
    return b.operand(a["input"] if "input" in a else a["self"])


def _expand(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    return b.expand(b.operand(a["self"]), b.type_of(node).shape)


def _permute(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    rank = len(b.type_of(node).shape)
    return _transposed(b, node, a, [d % rank for d in a["dims"]])


def _transpose(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    axes = list(range(len(b.type_of(node).shape)))
    first, second = a.get("dim0", 0), a.get("dim1", 1)
    if len(axes) > 1:
        axes[first], axes[second] = axes[second], axes[first]
    return _transposed(b, node, a, axes)


def _transposed(b: Builder, node: torch.fx.Node, a: Arguments, axes: list[int]) -> str:
    name = b.operand(a["self"])
    if axes == sorted(axes):
        return name
    return b.emit("transpose", (name,), b.type_of(node), axes=tuple(axes))


def _slice(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    name, result = b.operand(a["self"]), b.type_of(node)
    axis = a["dim"] % len(result.shape)
    start = _from_front(b, a["start"] or 0, b.shape(name)[axis])
    return _sliced(b, name, axis, start, result.shape[axis], int(a["step"]))


def _sliced(b: Builder, name: str, axis: int, start: Size, length: Size, step: int = 1) -> str:
    """``length`` rows of ``name`` along ``axis``, from ``start`` on."""
    shape = b.shape(name)
    if shape[axis] == length and step == 1:
        return name
    result = ValueType((*shape[:axis], length, *shape[axis + 1 :]), b.dtype_of(name))
    stop = add(start, multiply(length, step))
    return b.emit("slice", (name,), result, axis=axis, start=start, stop=stop, step=step)


def _from_front(b: Builder, index: Any, length: Size) -> Size:
    """An index that may count from the end, or lie before the start, as one from the front."""
    if isinstance(index, int) and index < 0:
        if isinstance(length, int):
            return max(0, length + index)
        return ("max", 0, add(length, index))
    return b.size(index)


def _select(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    name = b.operand(a["self"])
    axis = a["dim"] % len(b.shape(name))
    return _selected(b, name, axis, _from_front(b, a["index"], b.shape(name)[axis]))


def _selected(b: Builder, name: str, axis: int, index: Size) -> str:
    shape = b.shape(name)
    result = ValueType((*shape[:axis], *shape[axis + 1 :]), b.dtype_of(name))
    return b.emit("select", (name,), result, axis=axis, index=index)


def _unbind(b: Builder, node: torch.fx.Node, a: Arguments) -> tuple[str, ...]:
    name = b.operand(a["self"])
    axis = a["dim"] % len(b.shape(name))
    return tuple(_selected(b, name, axis, i) for i in range(len(node.meta["val"])))


def _split(b: Builder, node: torch.fx.Node, a: Arguments) -> tuple[str, ...]:
    name, start, parts = b.operand(a["self"]), 0, list[str]()
    axis = a["dim"] % len(b.shape(name))
    for value in node.meta["val"]:
        length = b.size(value.shape[axis])
        if not isinstance(length, int):
            raise b.fail("a split into parts of unknown size has no operation in the NumPy engine")
        parts.append(_sliced(b, name, axis, start, length))
        start += length
    return tuple(parts)


def _cat(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result = b.type_of(node)
    parts = [b.operand(t, result.dtype) for t in a["tensors"]]
    parts = [p for p in parts if b.shape(p) != (0,)]
    return _joined(b, parts, a["dim"] % len(result.shape), result)


def _joined(b: Builder, parts: list[str], axis: int, result: ValueType) -> str:
    if len(parts) == 1:
        return parts[0]
    return b.emit("concatenate", parts, result, axis=axis)


def _stack(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result = b.type_of(node)
    axis = a["dim"] % len(result.shape)
    parts = [b.operand(t, result.dtype) for t in a["tensors"]]
    shape = b.shape(parts[0])
    parts = [b.reshape(p, (*shape[:axis], 1, *shape[axis:])) for p in parts]
    return _joined(b, parts, axis, result)


def _pad(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    """Constant padding, innermost axis first as torch counts; negative widths cut."""
    name, widths = b.operand(a["self"]), list(a["pad"])
    if a.get("mode", "constant") != "constant" or not all(isinstance(w, int) for w in widths):
        raise b.fail("this kind of padding has no operation in the NumPy engine")
    rank, dtype = len(b.shape(name)), b.dtype_of(name)
    for k, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        axis = rank - 1 - k
        cut = min(before, 0) + min(after, 0)
        name = _sliced(b, name, axis, max(-before, 0), add(b.shape(name)[axis], cut))
        shape = b.shape(name)
        value = b.operand(a["value"] or 0, dtype)
        edges = [
            b.expand(value, (*shape[:axis], width, *shape[axis + 1 :])) if width > 0 else None
            for width in (before, after)
        ]
        total = add(shape[axis], max(before, 0) + max(after, 0))
        parts = [part for part in (edges[0], name, edges[1]) if part is not None]
        result = ValueType((*shape[:axis], total, *shape[axis + 1 :]), dtype)
        name = _joined(b, parts, axis, result)
    return name


def _roll(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    name, result = b.operand(a["self"]), b.type_of(node)
    if not a["dims"] or not all(isinstance(s, int) for s in a["shifts"]):
        raise b.fail("roll without axes has no operation in the NumPy engine")
    for shift, dim in zip(a["shifts"], a["dims"], strict=True):
        axis = dim % len(result.shape)
        length = result.shape[axis]
        shift = ("%", shift, length)
        rest = add(length, multiply(shift, -1))
        tail = _sliced(b, name, axis, rest, shift)
        name = _joined(b, [tail, _sliced(b, name, axis, 0, rest)], axis, result)
    return name


def _repeat(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    """Each axis n times: (n, size) side by side, broadcast, then merged."""
    name, result = b.operand(a["self"]), b.type_of(node)
    times = [b.size(n) for n in a["repeats"]]
    shape = (*((1,) * (len(times) - len(b.shape(name)))), *b.shape(name))
    split = tuple(part for size in shape for part in (1, size))
    wide: Shape = tuple(p for n, size in zip(times, shape, strict=True) for p in (n, size))
    return b.reshape(b.expand(b.reshape(name, split), wide), result.shape)


def _gather(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    x, index = b.operand(a["self"]), b.operand(a["index"])
    return b.emit("gather", (x, index), b.type_of(node), axis=a["dim"] % len(b.shape(x)))


def _index_select(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    x, index = b.operand(a["self"]), b.operand(a["index"])
    return b.emit("take", (x, index), b.type_of(node), axis=a["dim"] % len(b.shape(x)))


def _index(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    x, result = b.operand(a["self"]), b.type_of(node)
    given = [(axis, i) for axis, i in enumerate(a["indices"]) if i is not None]
    names = [b.operand(i) for _, i in given]
    if any(b.dtype_of(n) == "bool" for n in names):
        raise b.fail("indexing with a mask has no operation in the NumPy engine")
    if len(given) == 1:
        return b.emit("take", (x, names[0]), result, axis=given[0][0])
    if [axis for axis, _ in given] != list(range(len(given))) or len(given) > 3:
        raise b.fail("this way of indexing has no operation in the NumPy engine")
    return b.emit("index", (x, *names), result)


def _arange(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    start, step = a.get("start", 0), a.get("step", 1)
    if not isinstance(start, int) or not isinstance(step, int):
        raise b.fail("arange from a computed start has no operation in the NumPy engine")
    return b.emit("range", (), b.type_of(node), start=start, step=step)


def _filled(value: float | None) -> Rule:
    """full, zeros, ones and their _like forms."""

    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
        result = b.type_of(node)
        number = a["fill_value"] if value is None else value
        scalar = b.constant(np.asarray(number, result.dtype))
        return b.expand(scalar, result.shape)

    return rule


def _cumsum(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result = b.type_of(node)
    axis = a["dim"] % len(result.shape)
    return b.emit("cumsum", (b.operand(a["self"], result.dtype),), result, axis=axis)


SHAPE_RULES: dict[str, Rule] = {
    **{
        f"aten.{name}": _reshape
        for name in (
            "view.default", "_unsafe_view.default", "reshape.default", "unsqueeze.default",
            "squeeze.default", "squeeze.dim", "squeeze.dims", "flatten.using_ints",
            "unflatten.int",
        )
    },
    **{
        f"aten.{name}.default": _same
        for name in (
            "clone", "alias", "detach", "contiguous", "dropout", "lift_fresh_copy",
        )
    },
    "aten.expand.default": _expand,
    "aten.expand_as.default": _expand,
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    "aten.t.default": _transpose,
    "aten.slice.Tensor": _slice,
    "aten.select.int": _select,
    "aten.unbind.int": _unbind,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _split,
    "aten.cat.default": _cat,
    "aten.stack.default": _stack,
    "aten.constant_pad_nd.default": _pad,
    "aten.pad.default": _pad,
    "aten.roll.default": _roll,
    "aten.repeat.default": _repeat,
    "aten.gather.default": _gather,
    "aten.index_select.default": _index_select,
    "aten.index.Tensor": _index,
    "aten.arange.default": _arange,
    "aten.arange.start": _arange,
    "aten.arange.start_step": _arange,
    "aten.cumsum.default": _cumsum,
    **{f"aten.{name}.default": _filled(None) for name in ("full", "full_like", "new_full")},
    **{f"aten.{name}.default": _filled(0) for name in ("zeros", "zeros_like", "new_zeros")},
    **{f"aten.{name}.default": _filled(1) for name in ("ones", "ones_like", "new_ones")},
}  # fmt: skip
