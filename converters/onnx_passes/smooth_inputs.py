"""Move the outlier channels of activations into the weights, so that both quantize well.

One large channel of a row sets the row's int8 scale and rounds all the others away. SmoothQuant
(Xiao et al. 2023, equation 4) divides channel j of the input by s_j and multiplies row j of the
weight by it: s_j = max|x_j|^alpha / max|w_j|^(1 - alpha). The answers stay the same up to
rounding.

1. Only inputs made by a LayerNormalization are smoothed: they have the outliers, and they are
   signed and symmetric, which Gelu outputs are not.
2. All linear layers that read the same input share one s, from the largest of their weights, so
   that they can also share one quantized input. Layers that share a weight (ALBERT) share one s
   too, from all their inputs, so that the weight is still stored once; such a group is smoothed
   if any of its inputs is made by a LayerNormalization and none by a Gelu or Relu.
3. s is scaled to geometric mean 1; channels never seen active count as a thousandth of the
   largest.
4. An input without measured ranges, or whose weights stay float32, is left alone.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeformer.converters.onnx_passes.editing import Linear, constant, insert, linears
from edgeformer.converters.onnx_passes.quantize_linears import is_quantizable

ALPHA = 0.6
_FLOOR = 1e-3


def smooth_inputs(
    model: ir.Model,
    ranges: Mapping[str, NDArray[np.float32]],
    kept: Collection[str] = frozenset(),
) -> None:
    """Rewrite ``model`` in place.

    Args:
        model: float32 graph.
        ranges: name of a value -> largest absolute value of each channel, float32 (channels,).
        kept: names of weights that stay float32.
    """
    for group in _groups([x for x in linears(model) if is_quantizable(x, kept)]):
        inputs = {linear.x.name: linear.x for linear in group}
        makers = {_maker(x) for x in inputs.values()}
        if "LayerNormalization" not in makers or makers & {"Gelu", "Relu"}:
            continue
        if all(name in ranges for name in inputs):
            _smooth(model, group, np.max([ranges[name or ""] for name in inputs], axis=0))


def _maker(value: ir.Value) -> str:
    producer = value.producer()
    return producer.op_type if producer is not None else ""


def _groups(found: list[Linear]) -> list[list[Linear]]:
    """Linear layers joined wherever two of them share an input or a weight."""
    groups: list[tuple[set[int], list[Linear]]] = []
    for linear in found:
        keys, members = {id(linear.x), id(linear.node.inputs[1])}, [linear]
        apart = []
        for group in groups:
            if group[0] & keys:
                keys, members = keys | group[0], group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (keys, members)]
    return [members for _, members in groups]


def smoothing_scale(
    channel_max: NDArray[np.float32], weight_max: NDArray[np.float32], alpha: float = ALPHA
) -> NDArray[np.float32]:
    """s of every channel, float32 (channels,), geometric mean 1.

    Args:
        channel_max: largest absolute input of each channel.
        weight_max: largest absolute weight that each channel meets.
        alpha: share of the outliers' size that moves into the weights, 0 to 1.
    """
    inputs = np.maximum(channel_max, max(float(channel_max.max()) * _FLOOR, 1e-12))
    weights = np.maximum(weight_max, max(float(weight_max.max()) * _FLOOR, 1e-12))
    log_scale = alpha * np.log(inputs.astype(np.float64)) - (1 - alpha) * np.log(weights)
    scale: NDArray[np.float32] = np.exp(log_scale - log_scale.mean()).astype(np.float32)
    return scale


def _smooth(model: ir.Model, group: list[Linear], channel_max: NDArray[np.float32]) -> None:
    weight_max = np.max([np.abs(linear.weight).max(axis=1) for linear in group], axis=0)
    scale = smoothing_scale(channel_max, weight_max)
    inverse = constant(model, f"{group[0].x.name}.smooth", 1 / scale)
    smooth: dict[str | None, ir.Value] = {}
    for linear in group:
        name = linear.x.name
        if name not in smooth:
            smooth[name] = insert(
                model, linear.node, "Mul", [linear.x, inverse], dtype=ir.DataType.FLOAT
            )
        weight = linear.weight * scale[:, None]
        if linear.node.attributes.get_int("transB", 0):
            weight = weight.T
        held = constant(model, f"{linear.weight_name}.smooth", weight)
        linear.node.replace_input_with(0, smooth[name])
        linear.node.replace_input_with(1, held)
