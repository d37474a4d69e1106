"""What int8 does to a module's answers, without converting it: weights and inputs are rounded.

    with FakeInt8(module, frozenset({"encoder.layers.0.feed_forward.up.weight"})):
        answer = module(**inputs)

Rounds as the engines do: a linear layer's weights to 255 levels for each output channel, its
inputs to 256 levels for each row, a table to 255 levels for each of its rows. The layers are found
by the parameters they use, so that a weight used twice is rounded twice.
"""

from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_TINY = 1e-20


class FakeInt8(TorchFunctionMode):
    """Rounds the named sites for as long as the context lasts.

    Attributes:
        used: names of all parameters that linear layers and tables read meanwhile.
    """

    def __init__(self, module: torch.nn.Module, sites: AbstractSet[str]) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in module.named_parameters() if p.ndim == 2}
        self._sites = sites
        self._weights: dict[str, torch.Tensor] = {}
        self.used: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by torch for each of its functions."""
        kwargs = kwargs or {}
        name = self._names.get(id(args[1])) if len(args) > 1 else None
        if name is None or func not in (F.linear, F.embedding):
            return func(*args, **kwargs)
        self.used.add(name)
        if name not in self._sites:
            return func(*args, **kwargs)
        if func is F.embedding:
            return round_symmetric(func(*args, **kwargs))
        if name not in self._weights:
            self._weights[name] = round_symmetric(args[1])
        return func(round_rows(args[0]), self._weights[name], *args[2:], **kwargs)


def round_symmetric(values: torch.Tensor) -> torch.Tensor:
    """Each row (last axis) to the nearest of 255 levels from -max|x| to max|x|."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=_TINY) / 127
    return torch.round(values / scale) * scale


def round_rows(values: torch.Tensor) -> torch.Tensor:
    """Each row (last axis) to the nearest of 256 levels from its least to its largest, 0 kept."""
    low = values.amin(-1, keepdim=True).clamp(max=0)
    high = values.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=_TINY) / 255
    zero = torch.round(-low / scale)
    return (torch.clamp(torch.round(values / scale) + zero, 0, 255) - zero) * scale
