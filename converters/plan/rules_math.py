"""Translation rules for arithmetic: how each ATen operation is said in the plan's vocabulary.

A rule is ``(builder, node, arguments) -> name``; arguments come by the names of the ATen schema.
Operands are cast to the type PyTorch would promote them to, so that kernels never mix dtypes.
"""

from collections.abc import Callable
from typing import Any

import torch

from edgeformer.converters.plan.builder import Builder
from edgeformer.converters.plan.graph import Shape, ValueType

Arguments = dict[str, Any]
Rule = Callable[[Builder, torch.fx.Node, Arguments], str | tuple[str, ...]]


def _unary(fn: str) -> Rule:
    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
        result = b.type_of(node)
        return b.emit("unary", (b.operand(a["self"], result.dtype),), result, fn=fn)

    return rule


def _activation(fn: str) -> Rule:
    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
        return b.emit("activate", (b.operand(a["self"], "float32"),), b.type_of(node), fn=fn)

    return rule


def _binary(fn: str) -> Rule:
    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
        result = b.type_of(node)
        left, right = b.operand(a["self"], result.dtype), b.operand(a["other"], result.dtype)
        if a.get("alpha", 1) != 1:
            kind = ValueType(b.shape(right), result.dtype)
            right = binary(b, "multiply", right, b.operand(a["alpha"], result.dtype), kind)
        return binary(b, fn, left, right, result)

    return rule


def _divide(b: Builder, node: torch.fx.Node, a: Arguments) -> str | tuple[str, ...]:
    if a["rounding_mode"] not in _MODES:
        raise b.fail(f"division rounded by {a['rounding_mode']} has no operation")
    return _binary(_MODES[a["rounding_mode"]])(b, node, a)


def _compare(fn: str) -> Rule:
    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
        values = [v.meta["val"] if isinstance(v, torch.fx.Node) else v for v in _pair(a)]
        dtype = b.dtype(torch.result_type(values[0], values[1]))
        left, right = (b.operand(v, dtype) for v in _pair(a))
        return binary(b, fn, left, right, b.type_of(node))

    return rule


def _pair(a: Arguments) -> tuple[Any, Any]:
    return a["self"], a["other"]


def binary(b: Builder, fn: str, left: str, right: str, result: ValueType) -> str:
    """Emit a binary operation."""
    return b.emit("binary", (left, right), result, fn=fn)


def _rsub(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    swapped = {"self": a["other"], "other": a["self"], "alpha": a["alpha"]}
    return str(_binary("subtract")(b, node, swapped))


def _gelu(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    fn = "gelu_tanh" if a["approximate"] == "tanh" else "gelu"
    return b.emit("activate", (b.operand(a["self"]),), b.type_of(node), fn=fn)


def _pow(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result, exponent = b.type_of(node), a["exponent"]
    x = b.operand(a["self"], result.dtype)
    if exponent == 2 or exponent == 3:
        square = binary(b, "multiply", x, x, result)
        return square if exponent == 2 else binary(b, "multiply", square, x, result)
    if exponent == 0.5:
        return b.emit("unary", (x,), result, fn="sqrt")
    return binary(b, "power", x, b.operand(exponent, result.dtype), result)


def _rsqrt(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result = b.type_of(node)
    root = b.emit("unary", (b.operand(a["self"], result.dtype),), result, fn="sqrt")
    return b.emit("unary", (root,), result, fn="reciprocal")


def _clamp(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result = b.type_of(node)
    x = b.operand(a["self"], result.dtype)
    for bound, fn in (("min", "maximum"), ("max", "minimum")):
        if a.get(bound) is not None:
            x = binary(b, fn, x, b.operand(a[bound], result.dtype), result)
    return x


def _logical_not(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    return b.emit("unary", (b.operand(a["self"], "bool"),), b.type_of(node), fn="logical_not")


def _logical(fn: str) -> Rule:
    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
        result = b.type_of(node)
        if result.dtype != "bool":
            raise b.fail(f"{node.target} on integers has no operation in the NumPy engine")
        left, right = (b.operand(v, "bool") for v in _pair(a))
        return binary(b, fn, left, right, result)

    return rule


def _where(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result = b.type_of(node)
    operands = [b.operand(a[name], result.dtype) for name in ("self", "other")]
    return b.emit("where", (b.operand(a["condition"], "bool"), *operands), result)


def _masked_fill(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    result = b.type_of(node)
    value, x = b.operand(a["value"], result.dtype), b.operand(a["self"], result.dtype)
    return b.emit("where", (b.operand(a["mask"], "bool"), value, x), result)


def _cast(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    return b.cast(b.operand(a["self"]), b.type_of(node).dtype)


def reduce(b: Builder, fn: str, x: str, axes: tuple[int, ...], result: ValueType) -> str:
    """Emit a reduction; the result keeps the axes as size 1 if its shape has them."""
    return b.emit("reduce", (x,), result, fn=fn, axes=axes)


def _reduction(fn: str) -> Rule:
    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
        result = b.type_of(node)
        x = b.operand(a["self"], result.dtype)
        return reduce(b, fn, x, _axes(a.get("dim"), b.shape(x)), result)

    return rule


def _extreme(fn: str) -> Rule:
    """max.dim and min.dim, as long as nobody asks for the indices."""

    def rule(b: Builder, node: torch.fx.Node, a: Arguments) -> tuple[str, ...]:
        if any(user.args[1] == 1 for user in node.users):
            raise b.fail("the index of a maximum has no operation in the NumPy engine")
        x = b.operand(a["self"])
        values = node.meta["val"][0]
        result = ValueType(tuple(b.size(n) for n in values.shape), b.dtype_of(x))
        return (reduce(b, fn, x, _axes(a["dim"], b.shape(x)), result), "unused_indices")

    return rule


def _variance(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    x, result = b.operand(a["self"], "float32"), b.type_of(node)
    shape = b.shape(x)
    axes = _axes(a["dim"], shape)
    count = 1
    for axis in axes:
        size = shape[axis]
        if not isinstance(size, int):
            raise b.fail("a variance over an axis of unknown size has no operation")
        count *= size
    wide = ValueType(tuple(1 if d in axes else n for d, n in enumerate(shape)), "float32")
    centred = ValueType(shape, "float32")
    y = binary(b, "subtract", x, reduce(b, "mean", x, axes, wide), centred)
    total = reduce(b, "sum", binary(b, "multiply", y, y, centred), axes, result)
    correction = 1 if a["correction"] is None else a["correction"]
    variance = binary(b, "divide", total, b.operand(float(count - correction)), result)
    if "std" not in str(node.target):
        return variance
    return b.emit("unary", (variance,), result, fn="sqrt")


def _norm(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    order = a["ord"] if "ord" in a else a["p"]
    if order not in (2, 2.0, None):
        raise b.fail(f"a norm of order {order} has no operation in the NumPy engine")
    x, result = b.operand(a["self"], "float32"), b.type_of(node)
    square = binary(b, "multiply", x, x, ValueType(b.shape(x), "float32"))
    total = reduce(b, "sum", square, _axes(a["dim"], b.shape(x)), result)
    return b.emit("unary", (total,), result, fn="sqrt")


def _axes(dim: Any, shape: Shape) -> tuple[int, ...]:
    rank = len(shape)
    if dim is None or dim == []:
        return tuple(range(rank))
    return tuple(d % rank for d in ([dim] if isinstance(dim, int) else dim))


_BINARY = {"add": "add", "sub": "subtract", "mul": "multiply", "div": "divide"}
_MODES = {None: "divide", "floor": "floor_divide"}
_COMPARE = {
    "eq": "equal", "ne": "not_equal", "lt": "less",
    "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
_UNARY = {
    "abs": "abs", "ceil": "ceil", "cos": "cos", "exp": "exp", "floor": "floor", "log": "log",
    "neg": "negative", "reciprocal": "reciprocal", "sign": "sign", "sin": "sin", "sqrt": "sqrt",
}  # fmt: skip
_REDUCTIONS = {
    "sum.default": "sum", "sum.dim_IntList": "sum", "mean.default": "mean", "mean.dim": "mean",
    "amax.default": "maximum", "amin.default": "minimum", "max.default": "maximum",
    "min.default": "minimum", "any.dim": "any", "any.default": "any", "all.dim": "all",
    "all.default": "all",
}  # fmt: skip

MATH_RULES: dict[str, Rule] = {
    **{f"aten.{k}.{t}": _binary(v) for k, v in _BINARY.items() for t in ("Tensor", "Scalar")},
    **{f"aten.{k}.{t}": _compare(v) for k, v in _COMPARE.items() for t in ("Tensor", "Scalar")},
    **{f"aten.{k}.default": _unary(v) for k, v in _UNARY.items()},
    **{f"aten.{k}.default": _activation(k) for k in ("relu", "tanh", "sigmoid", "silu", "erf")},
    **{f"aten.{k}": _reduction(v) for k, v in _REDUCTIONS.items()},
    **{f"aten.remainder.{t}": _binary("remainder") for t in ("Tensor", "Scalar")},
    **{f"aten.div.{t}_mode": _divide for t in ("Tensor", "Scalar")},
    "aten.floor_divide.default": _binary("floor_divide"),
    "aten.maximum.default": _binary("maximum"),
    "aten.minimum.default": _binary("minimum"),
    "aten.max.other": _binary("maximum"),
    "aten.min.other": _binary("minimum"),
    "aten.max.dim": _extreme("maximum"),
    "aten.min.dim": _extreme("minimum"),
    "aten.var.correction": _variance,
    "aten.std.correction": _variance,
    "aten.rsub.Scalar": _rsub,
    "aten.rsub.Tensor": _rsub,
    "aten.gelu.default": _gelu,
    "aten.pow.Tensor_Scalar": _pow,
    "aten.rsqrt.default": _rsqrt,
    "aten.clamp.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": _clamp,
    "aten.logical_not.default": _logical_not,
    "aten.bitwise_not.default": _logical_not,
    "aten.logical_and.default": _logical("logical_and"),
    "aten.logical_or.default": _logical("logical_or"),
    "aten.bitwise_and.Tensor": _logical("logical_and"),
    "aten.bitwise_or.Tensor": _logical("logical_or"),
    "aten.__and__.Tensor": _logical("logical_and"),
    "aten.__or__.Tensor": _logical("logical_or"),
    "aten.where.self": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.ScalarSelf": _where,
    "aten.where.Scalar": _where,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.masked_fill.Tensor": _masked_fill,
    "aten._to_copy.default": _cast,
    "aten.to.dtype": _cast,
    "aten.type_as.default": _cast,
    "aten.linalg_vector_norm.default": _norm,
    "aten.norm.ScalarOpt_dim": _norm,
}
