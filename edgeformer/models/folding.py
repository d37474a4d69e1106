"""A model for export: what a NoNorm multiplies and adds moves into the weights before it.

MobileBERT's NoNorm, ``x * weight + bias`` (arXiv 2004.02984, section 3.3), needs nothing of its own
on the device where a linear map comes right before it:

1. ``norm(linear(x))`` is a linear map: rows times ``weight``, bias times ``weight`` plus ``bias``
   (both bottlenecks of a layer).
2. ``norm(linear(x) + residual)`` is the same map plus ``residual * weight``: one multiplication and
   one sum are left, instead of one multiplication and two sums.
3. ``norm(projection(tokens) + types + positions)`` is a sum of scaled tables.

Exact up to rounding. Training and saving keep the NoNorms: this is a copy.
"""

import copy

import torch
from torch import nn

from edgeformer.models.bottleneck import Bottleneck, Projection
from edgeformer.models.embeddings import Embeddings
from edgeformer.models.encoder import Encoder
from edgeformer.models.layer import FeedForwardBlock, PostNormLayer
from edgeformer.models.low_rank import whole
from edgeformer.models.norms import NoNorm, ResidualScale


def without_no_norms(model: nn.Module) -> nn.Module:
    """A copy of ``model`` by the rules above, which shares all parameters that stay as they are.

    Args:
        model: any module; one whose ``encoder`` has no NoNorm is returned itself.

    Returns:
        a module with the same inputs and outputs.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder) or encoder.config.norm != "no_norm":
        return model
    shared = {id(parameter): parameter for parameter in model.parameters()}
    folded = copy.deepcopy(model, shared)
    with torch.no_grad():
        _fold_encoder(folded.get_submodule("encoder"))
    return folded


def _fold_encoder(encoder: nn.Module) -> None:
    assert isinstance(encoder, Encoder)
    if isinstance(encoder.embeddings, Embeddings):
        _fold_embeddings(encoder.embeddings)
    for layer in encoder.layers:
        if isinstance(layer, PostNormLayer):
            _fold_layer(layer)


def _fold_layer(layer: PostNormLayer) -> None:
    layer.attention_norm = _after_sum(whole(layer.attention.output), layer.attention_norm)
    for block in layer.stacked:
        assert isinstance(block, FeedForwardBlock)
        block.norm = _after_sum(whole(block.feed_forward.down), block.norm)
    layer.feed_forward_norm = _after_sum(whole(layer.feed_forward.down), layer.feed_forward_norm)
    if isinstance(layer.bottleneck, Bottleneck):
        _fold_bottleneck(layer.bottleneck)


def _fold_bottleneck(bottleneck: Bottleneck) -> None:
    for end in (bottleneck.narrow, bottleneck.shared):
        if isinstance(end, Projection):
            _scale(end.linear, end.norm)
            end.norm = nn.Identity()
    bottleneck.widen.norm = _after_sum(bottleneck.widen.linear, bottleneck.widen.norm)


def _after_sum(linear: nn.Linear, norm: nn.Module) -> ResidualScale:
    """Rule 2."""
    return ResidualScale(_scale(linear, norm))


def _scale(linear: nn.Linear, norm: nn.Module) -> nn.Parameter:
    """Let ``linear`` do what ``norm`` does to its output; the norm's weight."""
    assert isinstance(norm, NoNorm)
    linear.weight = nn.Parameter(linear.weight * norm.weight[:, None])
    linear.bias = nn.Parameter(linear.bias * norm.weight + norm.bias)
    return norm.weight


def _fold_embeddings(embeddings: Embeddings) -> None:
    """Rule 3. Without a projection the token table stays as it is: others may use it too."""
    norm, projection = embeddings.norm, embeddings.projection
    if not isinstance(norm, NoNorm) or projection is None or embeddings.project != "tokens":
        return
    weight = _scale(projection, norm)
    for table in (embeddings.token_types, embeddings.positions, embeddings.task_types):
        if table is not None:
            table.weight = nn.Parameter(table.weight * weight)
    embeddings.norm = None
