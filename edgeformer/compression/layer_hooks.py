"""Watching, and changing, what each layer of an encoder gives, from outside of it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from edgeformer.models.encoder import Encoder

AfterLayer = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""Position of the layer, its input and its output, float (batch, sequence, hidden) both, to what
takes the output's place; None leaves it."""


@contextmanager
def after_each_layer(encoder: Encoder, act: AfterLayer) -> Iterator[None]:
    """Call ``act`` after each layer while the context is open.

    Layers that share weights are one module that runs several times, so positions are counted from
    the run of the embeddings, which each forward pass has once at its start.
    """
    position = 0

    def restart(module: nn.Module, inputs: Any) -> None:
        nonlocal position
        position = 0

    def after(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        nonlocal position
        position += 1
        return act(position - 1, inputs[0], output)

    with ExitStack() as stack:
        stack.callback(encoder.embeddings.register_forward_pre_hook(restart).remove)
        for layer in encoder.layers:
            stack.callback(layer.register_forward_hook(after).remove)
        yield
