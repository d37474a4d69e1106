"""LayerDrop: layers that are skipped at random in training, so that the model can lose them later.

Fan, Grave and Joulin, "Reducing Transformer Depth on Demand with Structured Dropout", arXiv
1909.11556. The authors warn that it needs pre-training, or long training: in a short fine-tuning
run of a BERT-like model alone it does not work well.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from edgeformer.compression.layer_hooks import after_each_layer
from edgeformer.compression.units import encoder_of
from edgeformer.errors import UsageError


@contextmanager
def layer_drop(
    model: nn.Module, rate: float, generator: torch.Generator | None = None
) -> Iterator[None]:
    """Skip each layer with probability ``rate`` in each forward pass, in training mode only.

    A skipped layer passes its input on and gets no gradient. It is still computed forwards (what
    observes its parts sees them), but not backwards.

    Args:
        model: of edgeformer.models.
        rate: 0.2 is the paper's advice, 0.5 where half of the layers or more will go.
        generator: on the CPU; None for torch's default.

    Raises:
        UsageError: a rate outside 0 to 1.
    """
    if not 0 <= rate < 1:
        raise UsageError(f"layers are dropped at a rate from 0 to below 1, not {rate}")

    def skip(position: int, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor | None:
        dropped = model.training and float(torch.rand((), generator=generator)) < rate
        return before if dropped else None

    with after_each_layer(encoder_of(model), skip):
        yield


def matched_rate(layers: int, stay: int) -> float:
    """The rate to train with for a model that will keep ``stay`` of its layers."""
    return 1 - stay / layers
