"""Layers that share their weights, and layers that stop sharing them.

    shared = tie_layers(model, (0, 0, 0, 1, 1, 1))   # six layers, two sets of weights
    apart = untie_layers(shared)                     # six sets again, equal ones within a group

Lan et al., "ALBERT", arXiv 1909.11942, section 3.1 (cross-layer parameter sharing). Sharing saves
memory, not time. Layers that were trained apart do not answer alike once they are tied: the result
is where training starts from.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from edgeformer.compression.rebuilding import Model, rebuilt
from edgeformer.compression.units import encoder_of
from edgeformer.errors import UsageError
from edgeformer.models.config import EncoderConfig
from edgeformer.models.encoder import Encoder

HOW = ("mean", "first")


def tie_layers(model: Model, groups: Sequence[int], how: str = "mean") -> Model:
    """A new model in which the layers of a group run one set of weights.

    Args:
        model: of edgeformer.models. It is left as it is.
        groups: for each layer the number of its group, counting up from 0.
        how: ``mean`` of the group's weights, or those of its ``first`` layer.

    Returns:
        A model of the same class, with ``encoder.config.layer_groups`` = ``groups``.

    Raises:
        UsageError: no such ``how``.
        ModelError: groups that do not number the layers, or layers of different sizes in one.
    """
    if how not in HOW:
        raise UsageError(f"layers cannot be tied by {how!r}", hint=f"choose: {' or '.join(HOW)}")
    encoder = encoder_of(model)
    config = _grouped(encoder.config, tuple(groups))
    parameters = _outside_layers(encoder)
    for group in range(len(set(groups))):
        members = [i for i, number in enumerate(groups) if number == group]
        for name, tensor in _merged(encoder, members[:1] if how == "first" else members).items():
            parameters[f"layers.{group}.{name}"] = tensor
    return rebuilt(model, config, parameters)


def untie_layers(model: Model) -> Model:
    """A new model in which every layer has weights of its own; it answers as before.

    Args:
        model: of edgeformer.models. It is left as it is.

    Returns:
        A model of the same class, without ``layer_groups``.

    Raises:
        ModelError: the model has no Encoder.
    """
    encoder = encoder_of(model)
    parameters = _outside_layers(encoder)
    for layer in range(encoder.config.num_layers):
        for name, tensor in _merged(encoder, [layer]).items():
            parameters[f"layers.{layer}.{name}"] = tensor
    return rebuilt(model, replace(encoder.config, layer_groups=()), parameters)


def _grouped(config: EncoderConfig, groups: tuple[int, ...]) -> EncoderConfig:
    """The settings with these groups; none where each layer is a group of its own."""
    grouped = replace(config, layer_groups=groups)
    alone = len(set(groups)) == len(groups)
    return replace(config, layer_groups=()) if alone else grouped


def _outside_layers(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {
        name: tensor.detach()
        for name, tensor in encoder.named_parameters()
        if not name.startswith("layers.")
    }


def _merged(encoder: Encoder, members: Sequence[int]) -> dict[str, torch.Tensor]:
    """Parameters of one layer: the mean over those at the positions ``members``."""
    layers = [dict(encoder.layers[encoder.config.groups[i]].named_parameters()) for i in members]
    if len(layers) == 1:
        return {name: tensor.detach() for name, tensor in layers[0].items()}
    return {
        name: torch.stack([layer[name].detach() for layer in layers]).mean(0) for name in layers[0]
    }
