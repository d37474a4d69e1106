"""Make a module easier to quantize to int8 without changing what it computes.

    with smoothed(module, examples):
        content = convert(module)

SmoothQuant (Xiao et al. 2022, equation 4, with their alpha of 0.5) divides the input of a linear
layer by a scale for each channel and multiplies the weight's column by it, so that a few large
channels no longer use up the 8 bits of all others. It is applied where encoders have such
channels: to linear layers that read the output of a normalisation. Afterwards the module is put
back as it was.

Left alone, TFLite's converter does the opposite: it moves the normalisation's own scale into the
weights, which makes short texts lose most.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

_ALPHA = 0.5  # the same share for inputs and weights, so their quotient to that power
# A bound that no activation reaches. The converter does not move scales across it.
_FENCE = -3.0e38


@contextlib.contextmanager
def smoothed(module: nn.Module, examples: Sequence[dict[str, torch.Tensor]]) -> Iterator[None]:
    """Smooth ``module`` for as long as the context lasts.

    Args:
        module: in eval mode.
        examples: named inputs; the largest values of their activations set the scales.
    """
    handles, weights = [], []
    try:
        for linears, peak in _sites(module, examples):
            scale = _scale(peak, linears)
            for linear in linears:
                weights.append((linear.weight, linear.weight.data))
                linear.weight.data = linear.weight.data * scale
                handles.append(linear.register_forward_pre_hook(_Divide(1 / scale)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, data in weights:
            parameter.data = data


class _Divide:
    """Forward pre-hook: the layer's input over the scale."""

    def __init__(self, inverse: torch.Tensor) -> None:
        self._inverse = inverse

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        return torch.clamp(inputs[0] * self._inverse, min=_FENCE)


def _scale(peak: torch.Tensor, linears: Sequence[nn.Linear]) -> torch.Tensor:
    """float32 (in_features,): equation 4, for all layers that read the same input."""
    columns = torch.stack([linear.weight.data.abs().amax(0) for linear in linears]).amax(0)
    usable = (peak > 0) & (columns > 0)
    # Few examples see few of the values a channel can have: none counts as smaller than most are.
    peak = torch.maximum(peak, peak.median())
    scale = (peak / columns) ** _ALPHA
    return torch.where(usable, scale, torch.ones_like(scale))


@dataclass
class _Seen:
    """What the hooks note: outputs of normalisations, and who reads which tensor.

    The tensors are kept, so that no two of them have the same id.
    """

    normed: dict[int, torch.Tensor] = field(default_factory=dict)
    readers: dict[int, list[nn.Linear]] = field(default_factory=dict)
    read: dict[int, torch.Tensor] = field(default_factory=dict)

    def norm_output(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            self.normed[id(output)] = output

    def linear_input(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Linear)
        self.read[id(inputs[0])] = inputs[0]
        self.readers.setdefault(id(inputs[0]), []).append(module)


def _sites(
    module: nn.Module, examples: Sequence[dict[str, torch.Tensor]]
) -> list[tuple[tuple[nn.Linear, ...], torch.Tensor]]:
    """Linear layers that read one normalised tensor, and its largest value in each channel.

    Left out: a weight that something else uses too, and a layer that reads other tensors besides.
    A layer called several times with the same companions (shared layers) is one site.
    """
    owners = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    peaks: dict[tuple[nn.Linear, ...], torch.Tensor] = {}
    left_out: set[nn.Linear] = set()
    for seen in (_observe(module, example) for example in examples):
        for tensor_id, linears in seen.readers.items():
            site = tuple(linears)
            if tensor_id not in seen.normed or any(owners[id(x.weight)] > 1 for x in site):
                left_out.update(site)
                continue
            tensor = seen.read[tensor_id]
            peak = tensor.abs().reshape(-1, tensor.shape[-1]).amax(0)
            peaks[site] = torch.maximum(peaks.get(site, peak), peak)
    uses = Counter(linear for site in peaks for linear in site)
    return [
        (site, peak)
        for site, peak in peaks.items()
        if not left_out.intersection(site) and all(uses[linear] == 1 for linear in site)
    ]


def _observe(module: nn.Module, example: dict[str, torch.Tensor]) -> _Seen:
    seen, handles = _Seen(), []
    for part in module.modules():
        if isinstance(part, nn.Linear):
            handles.append(part.register_forward_pre_hook(seen.linear_input))
        elif type(part).__name__.endswith("Norm"):
            handles.append(part.register_forward_hook(seen.norm_output))
    try:
        with torch.no_grad():
            module(**example)
    finally:
        for handle in handles:
            handle.remove()
    return seen
