"""ViT: an image as a text of patches, in layers that normalise what they read.

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929.
"""

from collections.abc import Sequence
from typing import Any

from edgeformer.errors import ModelError
from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families.family import (
    Family,
    Settings,
    common,
    epsilon,
    head_dim,
    image_classes,
    size,
)
from edgeformer.models.name_tables import Names, NameTable

EMBEDDINGS: Names = (
    ("embeddings.cls_token", "embeddings.cls_token"),
    ("embeddings.distillation_token", "embeddings.distillation_token"),
    ("embeddings.position_embeddings", "embeddings.positions"),
    ("embeddings.patch_embeddings.projection", "embeddings.patches"),
    ("layernorm", "final_norm"),
)
ATTENTION: Names = (
    ("encoder.layer.{i}.attention.attention.query", "layers.{i}.attention.query"),
    ("encoder.layer.{i}.attention.attention.key", "layers.{i}.attention.key"),
    ("encoder.layer.{i}.attention.attention.value", "layers.{i}.attention.value"),
    ("encoder.layer.{i}.attention.output.dense", "layers.{i}.attention.output"),
)
LAYERS: Names = (
    *ATTENTION,
    ("encoder.layer.{i}.layernorm_before", "layers.{i}.attention_norm"),
    ("encoder.layer.{i}.intermediate.dense", "layers.{i}.feed_forward.up"),
    ("encoder.layer.{i}.output.dense", "layers.{i}.feed_forward.down"),
    ("encoder.layer.{i}.layernorm_after", "layers.{i}.feed_forward_norm"),
)
POOLER = (r"pooler\.", "makes pooler_output, which neither task reads")
MASK_TOKEN = (r"embeddings\.mask_token$", "replaces hidden patches in pre-training")
OTHER_HEADS = (
    r"(classifier|cls_classifier|distillation_classifier|decoder)\.",
    "the head of another task",
)


def square(config: Settings, key: str) -> int:
    """A size in pixels that is the same in both directions.

    Raises:
        ModelError: it is missing, is none, or differs.
    """
    value = config.get(key)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2 or value[0] != value[1]:
            raise ModelError(f"config.json: {key} {value!r} is not square, and only squares are")
        value = value[0]
    return size({key: value}, key)


def read_image_encoder(config: Settings, intermediate_size: int, **changes: Any) -> EncoderConfig:
    """What all three families of image encoders read alike; ``changes`` are the rest."""
    hidden_size, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    layers = size(config, "num_hidden_layers")
    image, patch = square(config, "image_size"), square(config, "patch_size")
    prefix = 2 if changes.get("distilled") else 1
    return EncoderConfig(
        vocab_size=0,
        hidden_size=hidden_size,
        num_heads=(heads,) * layers,
        head_dim=head_dim(hidden_size, heads, ("hidden_size", "num_attention_heads")),
        intermediate_sizes=(intermediate_size,) * layers,
        max_positions=(image // patch) ** 2 + prefix,
        type_vocab_size=0,
        activation=str(config.get("hidden_act", "gelu")),
        qkv_bias=bool(config.get("qkv_bias", True)),
        pre_norm=True,
        image_size=image,
        patch_size=patch,
        num_channels=size({"num_channels": 3, **config}, "num_channels"),
        **changes,
    )


def read(config: Settings) -> EncoderConfig:
    """The encoder's settings."""
    width = size(config, "intermediate_size")
    return read_image_encoder(config, width, layer_norm_eps=epsilon(config, 1e-12))


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": common(config.num_heads),
        "intermediate_size": common(config.intermediate_sizes),
        "hidden_act": config.activation,
        "layer_norm_eps": config.layer_norm_eps,
        "qkv_bias": config.qkv_bias,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
    }


def head(config: Settings, task: str) -> HeadConfig:
    """The class token's row, or one linear layer on it."""
    return HeadConfig(task, pooling="cls")


FAMILY = Family(
    names=NameTable(
        prefix="vit.",
        encoder=EMBEDDINGS + LAYERS,
        heads={"classification": (("classifier", "classifier"),)},
        copies={},
        leftovers=(POOLER, MASK_TOKEN, OTHER_HEADS),
    ),
    read=read,
    write=write,
    head=head,
    classes=image_classes("ViT"),
)
