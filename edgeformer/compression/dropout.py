"""Dropout for training, from outside of the encoder, which has none.

with dropout(model, hidden=0.1):
    loss(model(**batch)).backward()
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.compression.units import encoder_of
from edgeformer.errors import UsageError
from edgeformer.models.attention import Attention
from edgeformer.models.exits import ramps_of
from edgeformer.models.feed_forward import FeedForward


@contextmanager
def dropout(model: nn.Module, hidden: float = 0.1) -> Iterator[None]:
    """Drop entries of hidden states at random while the context is open and the model trains.

    Srivastava et al., JMLR 15 (2014), at BERT's places (``hidden_dropout_prob``): the embeddings'
    output, and what each attention and each feed-forward block adds to the residual sum; and, as in
    EdgeBERT's release, what the pooler of an off-ramp gives to its classifier. The attention
    probabilities and the input of the last layer's classifier stay whole. Random numbers are
    torch's global ones, as in ``torch.nn.Dropout``.

    Args:
        model: of edgeformer.models; in eval mode nothing is dropped.
        hidden: probability of an entry to become 0, from 0 to below 1; the others are divided by 1
            minus it.

    Raises:
        UsageError: no such probability.
        ModelError: the model has no Encoder.
    """
    if not 0.0 <= hidden < 1.0:
        raise UsageError(f"dropout is a probability from 0 to below 1, not {hidden}")
    encoder = encoder_of(model)
    places: list[nn.Module] = [encoder.embeddings]
    for module in encoder.modules():
        if isinstance(module, Attention):
            places.append(module.output)
        elif isinstance(module, FeedForward):
            places.append(module.down)

    def drop(module: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
        return F.dropout(output, hidden, training=module.training)

    def drop_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (F.dropout(inputs[0], hidden, training=module.training),)

    with ExitStack() as stack:
        for place in places if hidden > 0 else ():
            stack.callback(place.register_forward_hook(drop).remove)
        for ramp in ramps_of(model) if hidden > 0 else ():
            stack.callback(ramp.classifier.register_forward_pre_hook(drop_input).remove)
        yield
