"""ALBERT: one set of layer weights used many times, and a token table narrower than the layers.

Lan et al., "ALBERT", arXiv 1909.11942, section 3.1.
"""

from dataclasses import replace
from typing import Any

from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import bert
from edgeformer.models.families.family import Family, Settings, model_classes, refuse, size, tied
from edgeformer.models.name_tables import NameTable

_LAYER = "encoder.albert_layer_groups.{i}.albert_layers.0"
NAMES = NameTable(
    prefix="albert.",
    encoder=(
        *bert.EMBEDDINGS,
        ("encoder.embedding_hidden_mapping_in", "embeddings.projection"),
        (f"{_LAYER}.attention.query", "layers.{i}.attention.query"),
        (f"{_LAYER}.attention.key", "layers.{i}.attention.key"),
        (f"{_LAYER}.attention.value", "layers.{i}.attention.value"),
        (f"{_LAYER}.attention.dense", "layers.{i}.attention.output"),
        (f"{_LAYER}.attention.LayerNorm", "layers.{i}.attention_norm"),
        (f"{_LAYER}.ffn", "layers.{i}.feed_forward.up"),
        (f"{_LAYER}.ffn_output", "layers.{i}.feed_forward.down"),
        (f"{_LAYER}.full_layer_layer_norm", "layers.{i}.feed_forward_norm"),
    ),
    heads={
        "classification": (("pooler", "pooler"), ("classifier", "classifier")),
        "token-classification": (("classifier", "classifier"),),
        "question-answering": (("qa_outputs", "classifier"),),
        "fill-mask": (
            ("predictions.dense", "dense"),
            ("predictions.LayerNorm", "norm"),
            ("predictions.bias", "bias"),
        ),
    },
    copies={
        "fill-mask": (
            ("predictions.decoder.weight", "encoder.embeddings.tokens.weight"),
            ("predictions.decoder.bias", "bias"),
        )
    },
    inside=("pooler.",),
    leftovers=(
        bert.BUFFERS,
        bert.POOLER,
        (r"(predictions|sop_classifier|classifier|qa_outputs)\.", "the head of another task"),
    ),
)


def read(config: Settings) -> EncoderConfig:
    """BERT's settings; neighbouring layers share the weights of their group.

    The projection stands behind the sum of all tables, even between equal widths.
    """
    refuse(config, "inner_group_num", 1, "a group of layers is one layer, used many times")
    plain = bert.read({"hidden_act": "gelu_new", **config})
    layers, groups = plain.num_layers, size({"num_hidden_groups": 1, **config}, "num_hidden_groups")
    return replace(
        plain,
        embedding_size=size(config, "embedding_size"),
        embedding_projection="sum",
        # As transformers computes it, so that odd divisions fall alike.
        layer_groups=tuple(int(layer / (layers / groups)) for layer in range(layers)),
    )


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    return {
        **bert.write(config),
        "embedding_size": config.token_size,
        "num_hidden_groups": len(set(config.groups)),
        "inner_group_num": 1,
    }


def head(config: Settings, task: str) -> HeadConfig:
    """BERT's pooler; the masked language model narrows to the token table first."""
    if task != "fill-mask":
        return HeadConfig(task)
    tied(config)
    return HeadConfig(task, activation=str(config.get("hidden_act", "gelu_new")))


FAMILY = Family(NAMES, read, write, head, model_classes("Albert"))
