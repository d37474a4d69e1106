"""The same model with an encoder of other sizes."""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgeformer.compression.units import encoder_of
from edgeformer.errors import UsageError
from edgeformer.models.config import EncoderConfig
from edgeformer.models.encoder import Encoder

Model = TypeVar("Model", bound=nn.Module)


def rebuilt(model: Model, config: EncoderConfig, parameters: Mapping[str, torch.Tensor]) -> Model:
    """A copy of ``model`` whose encoder has other settings and weights.

    Args:
        model: of edgeformer.models, or an encoder itself. It is left as it is.
        config: settings of the new encoder.
        parameters: of the new encoder, by name, on one device; they are copied.

    Returns:
        A model of the same class that shares no memory with ``model``, in the same mode (training
        or not). The head is a copy, the encoder's parameters are all trainable.

    Raises:
        UsageError: weights are still masked (masks.py).
        ModelError: the model has no Encoder.
        RuntimeError: parameters that are not those of such an encoder.
    """
    check_plain(model)
    old = encoder_of(model)
    # On the meta device nothing is allocated or initialised.
    with torch.device("meta"):
        encoder = Encoder(config)
    copies = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    encoder.load_state_dict(copies, assign=True)
    encoder.train(old.training).to(next(iter(copies.values())).device)
    # Wherever the copy would hold a copy of the old encoder, it holds the new one.
    return copy.deepcopy(model, {id(old): encoder})


def check_plain(model: nn.Module) -> None:
    """Raises UsageError if a weight is computed from others, as masks.py does while it trains."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise UsageError(
                f"the weights of {name or 'the model'} are still masked",
                hint="call edgeformer.compression.masks.bake(model) first",
            )
