"""DINOv2: ViT with a trained scale on what each block adds.

Oquab et al., "DINOv2", arXiv 2304.07193; layer scale: Touvron et al., "CaiT", arXiv 2103.17239.
"""

from typing import Any

from edgeformer.errors import ModelError
from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import vit
from edgeformer.models.families.family import (
    Family,
    Settings,
    common,
    epsilon,
    image_classes,
    refuse,
    size,
)
from edgeformer.models.name_tables import NameTable

_LAYER = "encoder.layer.{i}"
NAMES = NameTable(
    prefix="dinov2.",
    encoder=(
        *vit.EMBEDDINGS,
        *vit.ATTENTION,
        (f"{_LAYER}.norm1", "layers.{i}.attention_norm"),
        (f"{_LAYER}.layer_scale1.lambda1", "layers.{i}.attention_scale"),
        (f"{_LAYER}.norm2", "layers.{i}.feed_forward_norm"),
        (f"{_LAYER}.mlp.fc1", "layers.{i}.feed_forward.up"),
        (f"{_LAYER}.mlp.fc2", "layers.{i}.feed_forward.down"),
        (f"{_LAYER}.layer_scale2.lambda1", "layers.{i}.feed_forward_scale"),
    ),
    heads={"classification": (("classifier", "classifier"),)},
    copies={},
    leftovers=(vit.MASK_TOKEN, vit.OTHER_HEADS),
)


def read(config: Settings) -> EncoderConfig:
    """ViT's settings; the feed-forward width is a multiple of the hidden size."""
    refuse(config, "use_swiglu_ffn", False, "only feed-forward blocks without a gate are")
    ratio = config.get("mlp_ratio", 4)
    if not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not ratio > 0:
        raise ModelError(f"config.json: mlp_ratio is {ratio!r}, not a positive number")
    width = int(size(config, "hidden_size") * ratio)
    return vit.read_image_encoder(
        config, width, layer_norm_eps=epsilon(config, 1e-6), layer_scale=True
    )


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    settings = vit.write(config)
    del settings["intermediate_size"]
    ratio = common(config.intermediate_sizes) / config.hidden_size
    return {**settings, "mlp_ratio": int(ratio) if ratio.is_integer() else ratio}


def head(config: Settings, task: str) -> HeadConfig:
    """The class token's row; a classifier reads it beside the mean of the patches."""
    return HeadConfig(task, pooling="cls", image_reads="cls_and_patches")


FAMILY = Family(NAMES, read, write, head, image_classes("Dinov2"))
