"""Translation rules for what has weights or works on whole rows: layers, norms, attention."""

import numpy as np
import torch

from edgeformer.converters.plan.builder import Builder
from edgeformer.converters.plan.graph import ValueType
from edgeformer.converters.plan.rules_math import Arguments, Rule, binary, reduce
from edgeformer.runtime.plan import Size
from edgeformer.runtime.recurrent import STATES


def _linear(b: Builder, node: torch.fx.Node, a: Arguments) -> str:
    bias = None if a["bias"] is None else b.operand(a["bias"])
    weight = b.transposed(b.operand(a["weight"]))
    return linear(b, b.operand(a["input"]), weight, bias, b.type_of(node))


def linear(b: Builder, x: str, weight: str, bias: str | None, result: ValueType) -> str:
    """``x @ weight + bias`` where weight (inputs, outputs) and bias are constants."""
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
        return linear(b, left, right, None, result)
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
    if len(b.shape(q)) != 4 or not b.shape(q)[:2] == b.shape(k)[:2] == b.shape(v)[:2]:
        raise b.fail("attention on tensors of these shapes has no operation in the NumPy engine")
    mask = None if a["attn_mask"] is None else b.operand(a["attn_mask"])
    if mask is not None:
        sizes = b.shape(mask)
        if len(result.shape) == 3 and len(sizes) == 3:
            sizes = (sizes[0], 1, *sizes[1:])
        mask = b.reshape(mask, (*((1,) * (4 - len(sizes))), *sizes))
    scale = a["scale"] if a["scale"] is not None else _int(b, b.shape(q)[-1]) ** -0.5
    kind = ValueType((*b.shape(q)[:-1], b.shape(v)[-1]), "float32")
    name = b.emit("attention_heads", (q, k, v, mask), kind, scale=float(scale))
    return b.reshape(name, result.shape)


def _int(b: Builder, size: Size) -> int:
    if not isinstance(size, int):
        raise b.fail("the width of an attention head is not a fixed number")
    return size


def _lstm(b: Builder, node: torch.fx.Node, a: Arguments) -> tuple[str, ...]:
    """What tokens add to the gates is one linear layer; who asks for which states shows later."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    arrays = [b.array(b.operand(a[name])) for name in names]
    if any(array is None for array in arrays):
        raise b.fail("an LSTM's weight is computed while the model runs")
    # torch's order of the gates is input, forget, candidate, output.
    parts = (np.split(array, 4) for array in arrays if array is not None)
    w_ih, w_hh, b_ih, b_hh = (np.concatenate([i, f, o, g]) for i, f, g, o in parts)
    x, mask = b.operand(a["x"]), b.operand(a["attention_mask"])
    wide = ValueType((*b.shape(x)[:-1], len(w_ih)), "float32")
    gates = linear(b, x, b.constant(w_ih.T), b.constant(b_ih + b_hh), wide)
    weight, direction = b.constant(w_hh.T), "reverse" if a["reverse"] else "forward"
    shapes = (tuple(b.size(n) for n in value.shape) for value in node.meta["val"])
    return tuple(
        b.emit(
            "lstm_dense",
            (gates, weight, mask),
            ValueType(shape, "float32"),
            direction=direction,
            states=states,
        )
        for shape, states in zip(shapes, STATES, strict=True)
    )


LAYER_RULES: dict[str, Rule] = {
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
    "edgeformer.lstm.default": _lstm,
}
