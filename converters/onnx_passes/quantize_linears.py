"""Dynamic int8 linear layers whose ranges are per row: no answer depends on another row.

    x (..., K) float32 -> row scale -> uint8 -> MatMulInteger with int8 weights -> float32

1. MatMul and Gemm with a constant matrix of at least 16 output channels are rewritten; smaller
   ones (a head of a few classes) stay float32: there is nothing to gain and a logit to lose. So do
   weights named by the caller.
2. Weights are symmetric int8, one scale per output channel, in [-127, 127]. With
   ``reduce_range`` each channel gets the largest range, [-63, 63] or wider, in which no two
   neighbouring products u8 x s8 overflow 16 bits; ``saturating_pairs`` proves it from the file.
3. Activations are uint8, one scale per row (a row is a token): max|x| / 127 around 128.
4. What comes out of a Gelu is never below -0.1701: it is shifted up by that and uses all 256
   levels; the shift's share of the product is constant and goes into the bias. What comes out of
   a Relu is used as it is, with all 256 levels.
5. Layers that read the same value share one quantized copy of it.
6. Only standard ONNX ops, so that any runtime and device reads the file. The activations are
   uint8 because ONNX Runtime has no int8 x int8 kernel on x86 (ten times slower); q, k and v are
   not merged: once they share their input, that gains nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeformer.converters.onnx_passes.editing import (
    Linear,
    constant,
    following_bias,
    insert,
    linears,
    replace,
)

MIN_CHANNELS = 16
GELU_SHIFT = 0.1701  # -min of the exact Gelu is 0.16997, of the tanh one 0.17004
_TINY = 1e-20  # a row of zeros gets this scale, and answers zeros
_PAIR_LIMIT = 128  # 255 * 128 is the largest multiple of 255 below 2**15


@dataclass(frozen=True)
class _Quantized:
    """A quantized input: uint8 values, float32 (..., 1) scale, zero point, shift before it."""

    values: ir.Value
    scale: ir.Value
    zero_point: int
    shift: float


def quantize_linears(
    model: ir.Model, reduce_range: bool, kept: Collection[str] = frozenset()
) -> int:
    """Rewrite the linear layers of ``model`` in place and return how many there were.

    Args:
        model: float32 graph.
        reduce_range: rule 2.
        kept: names of weights that stay float32.
    """
    shared: dict[ir.Value, _Quantized] = {}
    found = [linear for linear in linears(model) if is_quantizable(linear, kept)]
    for linear in found:
        x = linear.x
        if x not in shared:
            shared[x] = _quantize_rows(model, linear)
        _rewrite(model, linear, shared[x], reduce_range)
    return len(found)


def is_quantizable(linear: Linear, kept: Collection[str] = frozenset()) -> bool:
    """Rule 1; ``kept`` are names of weights that stay float32."""
    return int(linear.weight.shape[1]) >= MIN_CHANNELS and linear.weight_name not in kept


def quantize_weight(
    weight: NDArray[np.float32], reduce_range: bool
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 per output channel.

    Args:
        weight: float32 (in_features, out_features).
        reduce_range: keep every pair of neighbours from saturating.

    Returns:
        int8 of the same shape, and float32 (out_features,) scales.
    """
    largest = np.maximum(np.abs(weight).max(axis=0), _TINY)
    limit = _unsaturated_limits(weight, largest) if reduce_range else np.float32(127)
    scale = (largest / limit).astype(np.float32)
    return np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8), scale


def _unsaturated_limits(
    weight: NDArray[np.float32], largest: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Integer that each channel's largest weight becomes, 63 to 127, float32 (out_features,).

    With p the largest sum of two neighbours of one sign, the quantized pair is at most
    p / scale + 1, the 1 from rounding; that is 128 where largest / scale = 127 * largest / p.
    """
    same_sign = (weight[:-1] < 0) == (weight[1:] < 0)
    pairs = np.where(same_sign, np.abs(weight[:-1] + weight[1:]), 0).max(axis=0, initial=0)
    limit = np.floor(127 * (largest / np.maximum(pairs, largest)))
    limits: NDArray[np.float32] = np.clip(limit, 63, 127).astype(np.float32)
    return limits


def saturating_pairs(weight: NDArray[np.int8]) -> int:
    """How many pairs of neighbours could overflow a u8 x s8 instruction that adds two products
    in 16 bits.

    Two products overflow only if both weights have the same sign and |w1| + |w2| > 128, since
    255 * 128 < 2**15. Every neighbouring pair along the inputs counts, at odd places too.

    Args:
        weight: int8 (in_features, out_features).
    """
    pairs = weight[:-1].astype(np.int32) + weight[1:]
    same_sign = (weight[:-1] < 0) == (weight[1:] < 0)
    return int(np.count_nonzero(same_sign & (np.abs(pairs) > _PAIR_LIMIT)))


def model_saturating_pairs(model: ir.Model) -> int:
    """``saturating_pairs`` over every constant matrix that a MatMulInteger reads."""
    total = 0
    for node in model.graph:
        held = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] else None
        if node.op_type == "MatMulInteger" and held is not None:
            total += saturating_pairs(held.numpy())
    return total


def _quantize_rows(model: ir.Model, linear: Linear) -> _Quantized:
    x, at = linear.x, linear.node
    producer = x.producer()
    maker = producer.op_type if producer is not None else ""
    axis = constant(model, "last_axis", np.array([-1], np.int64))
    keep = {"keepdims": 1}
    shift, levels, zero_point = 0.0, 255.0, 0
    if maker == "Gelu":
        shift = GELU_SHIFT
        x = _binary(
            model, at, "Add", x, constant(model, "gelu_shift", np.array([shift], np.float32))
        )
        largest = insert(model, at, "ReduceMax", [x, axis], keep)
    elif maker == "Relu":
        largest = insert(model, at, "ReduceMax", [x, axis], keep)
    else:
        levels, zero_point = 127.0, 128
        magnitude = insert(model, at, "Abs", [x])
        largest = insert(model, at, "ReduceMax", [magnitude, axis], keep)
    tiny = constant(model, "smallest_range", np.array([_TINY], np.float32))
    largest = _binary(model, at, "Max", largest, tiny)
    count = constant(model, f"levels_{levels:.0f}", np.array([levels], np.float32))
    scaled = _binary(model, at, "Mul", x, _binary(model, at, "Div", count, largest))
    one = constant(model, "unit_scale", np.array(1, np.float32))
    zero = constant(model, f"zero_point_{zero_point}", np.array(zero_point, np.uint8))
    values = insert(model, at, "QuantizeLinear", [scaled, one, zero], dtype=ir.DataType.UINT8)
    return _Quantized(values, _binary(model, at, "Div", largest, count), zero_point, shift)


def _rewrite(model: ir.Model, linear: Linear, x: _Quantized, reduce_range: bool) -> None:
    at, name = linear.node, linear.weight_name
    weight, scale = quantize_weight(linear.weight, reduce_range)
    held = constant(model, f"{name}.int8", weight)
    zero = constant(model, f"zero_point_{x.zero_point}", np.array(x.zero_point, np.uint8))
    product = insert(model, at, "MatMulInteger", [x.values, held, zero])
    product = insert(
        model, at, "Cast", [product], {"to": int(ir.DataType.FLOAT)}, dtype=ir.DataType.FLOAT
    )
    product = _binary(model, at, "Mul", product, constant(model, f"{name}.scale", scale))
    result = _binary(model, at, "Mul", product, x.scale)
    if x.shift:
        lost = x.shift * (weight.astype(np.float64) * scale).sum(axis=0)
        result = _add_constant(model, linear, result, f"{name}.shift", -lost)
    if linear.bias is not None:
        result = _binary(model, at, "Add", result, linear.bias)
    replace(model, at, result)


def _add_constant(
    model: ir.Model, linear: Linear, value: ir.Value, name: str, amount: NDArray[np.float64]
) -> ir.Value:
    """Add ``amount``, inside the bias that follows the MatMul if there is a constant one."""
    added = following_bias(linear.node)
    if added is not None:
        node, bias = added
        assert bias.const_value is not None
        total = (bias.const_value.numpy() + amount).astype(np.float32)
        node.replace_input_with(list(node.inputs).index(bias), constant(model, name, total))
        return value
    shift = constant(model, name, amount.astype(np.float32))
    return _binary(model, linear.node, "Add", value, shift)


def _binary(model: ir.Model, at: ir.Node, op: str, a: ir.Value, b: ir.Value) -> ir.Value:
    return insert(model, at, op, [a, b], dtype=ir.DataType.FLOAT)
