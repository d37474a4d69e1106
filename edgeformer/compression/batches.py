"""What blocks that run a model share: the form of a batch and of a loss."""

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from edgeformer.compression.units import encoder_of

Batch = dict[str, torch.Tensor]
"""Inputs of the model by name, int64 (batch, sequence), ``attention_mask`` among them, or
``pixel_values``; beside them whatever the loss needs (``labels``)."""
Outputs = dict[str, torch.Tensor]
"""What a model answers, by name."""
Loss = Callable[[Outputs, Batch], torch.Tensor]
"""What the model answered to the batch, and the batch, to one number."""


def answer(model: nn.Module, batch: Batch) -> Outputs:
    """Call the model with those entries of the batch that are its inputs."""
    names = encoder_of(model).config.input_names
    return cast(Outputs, model(**{name: batch[name] for name in names if name in batch}))


def real_tokens(batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """Bool (batch, sequence): true where ``hidden`` (batch, sequence, ...) is not of padding."""
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    return mask.bool()
