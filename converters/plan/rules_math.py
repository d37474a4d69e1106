"""Translation rules for arithmetic: how each ATen operation is said in the plan's vocabulary.

A rule is ``(builder, node, arguments) -> name``; arguments come by the names of the ATen schema.
Operands are cast to the type PyTorch would promote them to, so that kernels never mix dtypes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgeformer.converters.plan.builder import Builder
from edgeformer.converters.plan.graph import Shape, ValueType
from edgeformer.runtime.plan import Size

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


def _linear(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    bias = None if a["bias"] is None else b.operand(a["bias"])
    return linear(b, b.operand(a["input"]), b.operand(a["weight"]), bias, b.type_of(node))


def linear(b: Builder, x: str, weight: str, bias: str | None, result: ValueType) -> str:
    """``x @ weight.T + bias`` where weight and bias are constants."""
    computed = [n for n in (weight, bias) if n is not None and b.array(n) is None]
    if computed or len(b.shape(weight)) != 2:
        raise b.fail("a linear layer's weight is computed while the model runs")
    return b.emit("linear", (x, weight, bias), result, activation="")


def _addmm(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    if a["alpha"] != 1 or a["beta"] != 1:
        raise b.fail("addmm with alpha or beta has no operation in the NumPy engine")
    product = _product(b, b.operand(a["mat1"]), b.operand(a["mat2"]), b.type_of(node))
    return binary(b, "add", product, b.operand(a["self"]), b.type_of(node))


def _matmul(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    left = a.get("self")
    right = a["other"] if "other" in a else a["mat2"]
    return _product(b, b.operand(left), b.operand(right), b.type_of(node))


def _product(b: Builder, left: str, right: str, result: ValueType) -> str:
    weight = b.array(right)
    if weight is not None and weight.ndim == 2 and len(b.shape(left)) > 1:
        return linear(b, left, b.constant(weight.T), None, result)
    if len(b.shape(left)) < 2 or len(b.shape(right)) < 2:
        raise b.fail("a matrix product with a vector has no operation in the NumPy engine")
    return b.emit("matmul", (left, right), result)


def _layer_norm(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    x = b.operand(a["input"])
    if len(a["normalized_shape"]) != 1:
        raise b.fail("layer_norm over several axes has no operation in the NumPy engine")
    weight = None if a["weight"] is None else b.operand(a["weight"])
    bias = None if a["bias"] is None else b.operand(a["bias"])
    result = ValueType(b.shape(x), "float32")
    return b.emit("layer_norm", (x, None, weight, bias), result, eps=float(a["eps"]))


def _native_layer_norm(b: Builder, node: torch.fx.Node, a: Arguments) -> tuple[str, ...]:
    return (_layer_norm(b, node, a), "unused_mean", "unused_deviation")


def _rms_norm(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    """Zhang and Sennrich 2019, eq. 4, over the last axis."""
    if len(a["normalized_shape"]) != 1:
        raise b.fail("rms_norm over several axes has no operation in the NumPy engine")
    x, result = b.operand(a["input"]), b.type_of(node)
    row = ValueType((*result.shape[:-1], 1), result.dtype)
    mean = reduce(b, "mean", binary(b, "multiply", x, x, result), (-1,), row)
    eps = a["eps"] if a["eps"] is not None else float(np.finfo(np.float32).eps)
    root = b.emit("unary", (binary(b, "add", mean, b.operand(eps), row),), row, fn="sqrt")
    y = binary(b, "divide", x, root, result)
    return y if a["weight"] is None else binary(b, "multiply", y, b.operand(a["weight"]), result)


def _softmax(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    return b.emit("softmax", (b.operand(a["self"], "float32"),), b.type_of(node), axis=a["dim"])


def _log_softmax(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    x, result = b.operand(a["self"], "float32"), b.type_of(node)
    axis = a["dim"] % len(result.shape)
    row = ValueType((*result.shape[:axis], 1, *result.shape[axis + 1 :]), "float32")
    shifted = binary(b, "subtract", x, reduce(b, "maximum", x, (axis,), row), result)
    powers = b.emit("unary", (shifted,), result, fn="exp")
    total = b.emit("unary", (reduce(b, "sum", powers, (axis,), row),), row, fn="log")
    return binary(b, "subtract", shifted, total, result)


def _embedding(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    table, ids = b.operand(a["weight"]), b.operand(a["indices"])
    if b.array(table) is None:
        raise b.fail("an embedding table is computed while the model runs")
    return b.emit("embedding", (table, ids), b.type_of(node))


def _attention(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    if a["is_causal"] or a.get("enable_gqa") or a["dropout_p"]:
        raise b.fail("causal, grouped or random attention has no operation in the NumPy engine")
    result = b.type_of(node)
    q, k, v = (b.operand(a[name]) for name in ("query", "key", "value"))
    if len(result.shape) == 3:
        q, k, v = (b.reshape(n, (b.shape(n)[0], 1, *b.shape(n)[1:])) for n in (q, k, v))
    if len(b.shape(q)) != 4:
        raise b.fail("attention on tensors of this rank has no operation in the NumPy engine")
    mask = None if a["attn_mask"] is None else b.operand(a["attn_mask"])
    if mask is not None:
        sizes = b.shape(mask)
        middle = (1,) if len(result.shape) == 3 and len(sizes) == 3 else ()
        missing = 4 - len(sizes) - len(middle)
        mask = b.reshape(
            mask,
            (*sizes[:1], *middle, *sizes[1:])
            if not missing
            else (*((1,) * (4 - len(sizes))), *sizes),
        )
    scale = a["scale"] if a["scale"] is not None else _int(b, b.shape(q)[-1]) ** -0.5
    kind = ValueType((*b.shape(q)[:-1], b.shape(v)[-1]), "float32")
    name = b.emit("attention_heads", (q, k, v, mask), kind, scale=float(scale))
    return b.reshape(name, result.shape)


def _int(b: Builder, size: Size) -> int:
    if not isinstance(size, int):
        raise b.fail("the width of an attention head is not a fixed number")
    return size


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
    "aten.maximum.default": _binary("maximum"),
    "aten.minimum.default": _binary("minimum"),
    "aten.max.other": _binary("maximum"),
    "aten.min.other": _binary("minimum"),
    "aten.max.dim": _extreme("maximum"),
    "aten.min.dim": _extreme("minimum"),
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
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    "aten.mm.default": _matmul,
    "aten.bmm.default": _matmul,
    "aten.matmul.default": _matmul,
    "aten.layer_norm.default": _layer_norm,
    "aten.native_layer_norm.default": _native_layer_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.log_softmax.int": _log_softmax,
    "aten._log_softmax.default": _log_softmax,
    "aten.embedding.default": _embedding,
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.linalg_vector_norm.default": _norm,
    "aten.norm.ScalarOpt_dim": _norm,
}
