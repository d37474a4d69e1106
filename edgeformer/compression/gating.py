"""Gates: numbers that multiply what single units of a model contribute, from outside of the model.

A gate of 1 changes nothing, a gate of 0 switches its unit off, and the gradient of a loss by a gate
says how much the unit matters (Michel et al., arXiv 1905.10650, section 4.1; McCarley et al.,
arXiv 1910.06360, section 3). ``slimming.slim`` cuts out what a gate of 0 switches off.

    with gated(model, {"heads": gates}):
        loss(model(**batch)).backward()
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from edgeformer.compression.layer_hooks import after_each_layer
from edgeformer.compression.units import Place, Values, check_values, encoder_of, places
from edgeformer.models.encoder import Encoder


@contextmanager
def gated(model: nn.Module, gates: Mapping[str, Values]) -> Iterator[None]:
    """Multiply units by their gates while the context is open.

    What a gate g multiplies: of a head, its mixed values before the output map; of a neuron, its
    activation; of an embedding dimension, that entry of a looked-up token; of a token, its
    looked-up row (the scores of a masked language model are not gated). A layer with input x gives
    g * layer(x) + (1 - g) * x: at 0 the text passes it by, whether it normalises before or after
    its residual sums. Layers that share weights share the gates of heads and neurons, and have
    one each for themselves.

    Args:
        model: of edgeformer.models.
        gates: by kind, float or bool (units,) for each place, or (batch, units) for other gates in
            each row of a batch. Gradients flow to them.

    Raises:
        UsageError: an unknown kind, or gates that are not as many as the model's units.
        ModelError: the model has no units of a kind.
    """
    encoder = encoder_of(model)
    with ExitStack() as stack:
        for kind, values in gates.items():
            check_values(model, kind, values)
            for place, gate in zip(places(model, kind), values, strict=True):
                stack.enter_context(_gated_place(encoder, kind, place, gate))
        yield


def _gated_place(
    encoder: Encoder, kind: str, place: Place, gate: torch.Tensor
) -> AbstractContextManager[Any]:
    if kind == "layers":
        return after_each_layer(encoder, partial(_blend, gate))
    stack = ExitStack()
    for name in place.modules:
        module = encoder.get_submodule(name)
        if kind == "heads":
            scale = partial(_scale_input, gate, encoder.config.head_dim)
            handle = module.get_submodule("output").register_forward_pre_hook(scale)
        elif kind == "neurons":
            scale = partial(_scale_input, gate, 1)
            handle = module.get_submodule("down").register_forward_pre_hook(scale)
        else:
            look_up = _scale_columns if kind == "embedding_dims" else _scale_rows
            handle = module.register_forward_hook(partial(look_up, gate))
        stack.callback(handle.remove)
    return stack


def _blend(
    gate: torch.Tensor, position: int, before: torch.Tensor, after: torch.Tensor
) -> torch.Tensor:
    of_layer = gate.to(after)[..., position]
    if of_layer.dim():
        of_layer = of_layer[:, None, None]
    return of_layer * after + (1 - of_layer) * before


def _scale_input(
    gate: torch.Tensor, width: int, module: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    (hidden,) = inputs
    return (hidden * _by_token(gate, hidden).repeat_interleave(width, dim=-1),)


def _scale_columns(
    gate: torch.Tensor, module: nn.Module, inputs: Any, rows: torch.Tensor
) -> torch.Tensor:
    return rows * _by_token(gate, rows)


def _scale_rows(
    gate: torch.Tensor, module: nn.Module, inputs: tuple[torch.Tensor, ...], rows: torch.Tensor
) -> torch.Tensor:
    (ids,) = inputs
    of_tokens = gate.to(rows)
    chosen = of_tokens[ids] if gate.dim() == 1 else of_tokens.gather(1, ids)
    return rows * chosen.unsqueeze(-1)


def _by_token(gate: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The gate as a factor of float (batch, sequence, units)."""
    factor = gate.to(hidden)
    return factor if factor.dim() == 1 else factor.unsqueeze(1)
