"""MobileBERT-shaped models with channels far out, as trained ones have them."""

import torch
from torch import nn

from edgeformer.models.encoder import Encoder
from edgeformer.models.layer import FeedForwardBlock, PostNormLayer


def plant_outliers(model: nn.Module, size: float, seed: int = 0) -> None:
    """Multiply one channel in fifty of every stream by ``size``, all others by about 1, and divide
    the columns that read them: ``model`` with its NoNorms answers as before, in float32.

    Args:
        model: a classifier whose encoder has bottlenecks, trigrams and NoNorms.
        size: 1 or more.
        seed: of which channels.
    """
    generator = torch.Generator().manual_seed(seed)

    def channels(count: int) -> torch.Tensor:
        scale = torch.exp(0.3 * torch.randn(count, generator=generator))
        far = torch.randperm(count, generator=generator)[: max(1, count // 50)]
        scale[far] *= size
        return scale

    encoder = model.get_submodule("encoder")
    assert isinstance(encoder, Encoder)
    wide = channels(encoder.config.hidden_size)
    embeddings = encoder.embeddings
    with torch.no_grad():
        for name, parameter in embeddings.named_parameters():
            if name not in ("tokens.weight", "norm.weight"):
                parameter.mul_(wide[:, None] if name == "projection.weight" else wide)
        for layer in encoder.layers:
            assert isinstance(layer, PostNormLayer)
            _plant_layer(layer, wide, channels(encoder.config.bottleneck_size))
        model.get_submodule("pooler").get_parameter("weight").div_(wide)


def _plant_layer(layer: PostNormLayer, wide: torch.Tensor, narrow: torch.Tensor) -> None:
    ends, attention = layer.bottleneck, layer.attention
    assert ends is not None and ends.shared is not None
    blocks = [block for block in layer.stacked if isinstance(block, FeedForwardBlock)]
    forwards = [*(block.feed_forward for block in blocks), layer.feed_forward]
    for reader in (ends.narrow.linear, ends.shared.linear, attention.value):
        reader.weight.div_(wide)
    for reader in (*(forward.up for forward in forwards), ends.widen.linear):
        reader.weight.div_(narrow)
    norms = (layer.attention_norm, *(block.norm for block in blocks), layer.feed_forward_norm)
    writers = (attention.output, *(forward.down for forward in forwards))
    for linear, norm, scale in (
        *((linear, norm, narrow) for linear, norm in zip(writers, norms, strict=True)),
        (ends.narrow.linear, ends.narrow.norm, narrow),
        (ends.widen.linear, ends.widen.norm, wide),
    ):
        linear.weight.mul_(scale[:, None])
        linear.bias.mul_(scale)
        norm.get_parameter("bias").mul_(scale)
