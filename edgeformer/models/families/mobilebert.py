"""MobileBERT: 24 thin layers, each a bottleneck with four small feed-forward blocks.

Sun et al., "MobileBERT", arXiv 2004.02984, section 3 and table 1.
"""

from dataclasses import replace
from typing import Any

from edgeformer.errors import ModelError
from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import bert
from edgeformer.models.families.family import (
    Family,
    Settings,
    common,
    epsilon,
    head_dim,
    model_classes,
    size,
    tied,
)
from edgeformer.models.name_tables import NameTable

_LAYER = "encoder.layer.{i}"
NAMES = NameTable(
    prefix="mobilebert.",
    encoder=(
        *bert.EMBEDDINGS,
        ("embeddings.embedding_transformation", "embeddings.projection"),
        *bert.LAYERS,
        (f"{_LAYER}.bottleneck.input.dense", "layers.{i}.bottleneck.narrow.linear"),
        (f"{_LAYER}.bottleneck.input.LayerNorm", "layers.{i}.bottleneck.narrow.norm"),
        (f"{_LAYER}.bottleneck.attention.dense", "layers.{i}.bottleneck.shared.linear"),
        (f"{_LAYER}.bottleneck.attention.LayerNorm", "layers.{i}.bottleneck.shared.norm"),
        (f"{_LAYER}.output.bottleneck.dense", "layers.{i}.bottleneck.widen.linear"),
        (f"{_LAYER}.output.bottleneck.LayerNorm", "layers.{i}.bottleneck.widen.norm"),
        (f"{_LAYER}.ffn.{{j}}.intermediate.dense", "layers.{i}.stacked.{j}.feed_forward.up"),
        (f"{_LAYER}.ffn.{{j}}.output.dense", "layers.{i}.stacked.{j}.feed_forward.down"),
        (f"{_LAYER}.ffn.{{j}}.output.LayerNorm", "layers.{i}.stacked.{j}.norm"),
    ),
    heads={
        **bert.HEADS,
        "fill-mask": (*bert.HEADS["fill-mask"], ("cls.predictions.dense", "columns")),
    },
    copies=bert.COPIES,
    inside=("pooler.",),
    leftovers=(
        bert.BUFFERS,
        bert.POOLER,
        bert.OTHER_HEADS,
        (
            r"embeddings\.embedding_transformation\.(weight|bias)$",
            "made by transformers but never read where tokens are as wide as the hidden states",
        ),
        (
            r"encoder\.layer\.\d+\.bottleneck\.attention\.(dense|LayerNorm)\.(weight|bias)$",
            "made by transformers but never read where all of Q, K and V read the input bottleneck",
        ),
    ),
    transposed=frozenset({"columns.weight"}),
)
_DEFAULT_EPS = 1e-5


def read(config: Settings) -> EncoderConfig:
    """The encoder's settings; ``intra_bottleneck_size`` is the width inside a layer."""
    # Heads divide the width inside a layer, not the hidden size that BERT's reader looks at.
    plain = bert.read({"hidden_act": "relu", **config, "num_attention_heads": 1})
    stacked = size({"num_feedforward_networks": 4, **config}, "num_feedforward_networks")
    narrow = size(config, "intra_bottleneck_size") if config.get("use_bottleneck", True) else 0
    heads = size(config, "num_attention_heads")
    names = ("intra_bottleneck_size" if narrow else "hidden_size", "num_attention_heads")
    table, trigram = size(config, "embedding_size"), bool(config.get("trigram_input", True))
    projects = trigram or table != plain.hidden_size
    return replace(
        plain,
        num_heads=(heads,) * plain.num_layers,
        head_dim=head_dim(narrow or plain.hidden_size, heads, names),
        intermediate_sizes=plain.intermediate_sizes * stacked,
        embedding_size=table,
        embedding_projection="tokens" if projects else "none",
        trigram=trigram,
        norm=_norm(config),
        bottleneck_size=narrow,
        bottleneck_readers=_readers(config) if narrow else "query_key",
        stacked_ffns=stacked,
    )


def _norm(config: Settings) -> str:
    kind = str(config.get("normalization_type", "no_norm"))
    if kind not in ("no_norm", "layer_norm"):
        raise ModelError(f"config.json: normalization_type {kind!r} is not supported")
    if kind == "layer_norm" and epsilon(config, 1e-12) != _DEFAULT_EPS:
        raise ModelError(
            "config.json: MobileBERT with normalization_type 'layer_norm' needs layer_norm_eps"
            f" {_DEFAULT_EPS}",
            hint="transformers takes that for some of its norms whatever layer_norm_eps says",
        )
    return kind


def _readers(config: Settings) -> str:
    if config.get("use_bottleneck_attention", False):
        return "all"
    return "query_key" if config.get("key_query_shared_bottleneck", True) else "none"


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    settings = {
        **bert.write(config),
        "embedding_size": config.token_size,
        "trigram_input": config.trigram,
        "use_bottleneck": bool(config.bottleneck_size),
        "intra_bottleneck_size": config.inner_size,
        "use_bottleneck_attention": config.bottleneck_readers == "all",
        "key_query_shared_bottleneck": config.bottleneck_readers == "query_key",
        "num_feedforward_networks": config.stacked_ffns,
        "normalization_type": config.norm,
        "num_attention_heads": common(config.num_heads),
    }
    return settings


def head(config: Settings, task: str) -> HeadConfig:
    """A classifier with or without BERT's pooler; the token table gets columns of its own."""
    if task == "fill-mask":
        tied(config)
        return HeadConfig(task, activation=str(config.get("hidden_act", "relu")), narrows=False)
    return HeadConfig(task, activation="tanh" if config.get("classifier_activation", True) else "")


FAMILY = Family(NAMES, read, write, head, model_classes("MobileBert"))
