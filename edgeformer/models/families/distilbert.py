"""DistilBERT: half of BERT's layers, no token types, no pooler.

Sanh et al., "DistilBERT, a distilled version of BERT", arXiv 1910.01108, section 3.
"""

from typing import Any

from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families.bert import BUFFERS
from edgeformer.models.families.family import (
    Family,
    Settings,
    common,
    head_dim,
    model_classes,
    size,
    tied,
)
from edgeformer.models.name_tables import NameTable

NAMES = NameTable(
    prefix="distilbert.",
    encoder=(
        ("embeddings.word_embeddings", "embeddings.tokens"),
        ("embeddings.position_embeddings", "embeddings.positions"),
        ("embeddings.LayerNorm", "embeddings.norm"),
        ("transformer.layer.{i}.attention.q_lin", "layers.{i}.attention.query"),
        ("transformer.layer.{i}.attention.k_lin", "layers.{i}.attention.key"),
        ("transformer.layer.{i}.attention.v_lin", "layers.{i}.attention.value"),
        ("transformer.layer.{i}.attention.out_lin", "layers.{i}.attention.output"),
        ("transformer.layer.{i}.sa_layer_norm", "layers.{i}.attention_norm"),
        ("transformer.layer.{i}.ffn.lin1", "layers.{i}.feed_forward.up"),
        ("transformer.layer.{i}.ffn.lin2", "layers.{i}.feed_forward.down"),
        ("transformer.layer.{i}.output_layer_norm", "layers.{i}.feed_forward_norm"),
    ),
    heads={
        "classification": (("pre_classifier", "pooler"), ("classifier", "classifier")),
        "token-classification": (("classifier", "classifier"),),
        "question-answering": (("qa_outputs", "classifier"),),
        "fill-mask": (
            ("vocab_transform", "dense"),
            ("vocab_layer_norm", "norm"),
            ("vocab_projector.bias", "bias"),
        ),
    },
    copies={"fill-mask": (("vocab_projector.weight", "encoder.embeddings.tokens.weight"),)},
    leftovers=(
        BUFFERS,
        (
            r"(vocab_transform|vocab_layer_norm|vocab_projector|pre_classifier|classifier"
            r"|qa_outputs)\.",
            "the head of another task",
        ),
    ),
)


def read(config: Settings) -> EncoderConfig:
    """The encoder's settings. The epsilon of its norms is no setting: it is 1e-12."""
    hidden_size, heads, layers = (size(config, key) for key in ("dim", "n_heads", "n_layers"))
    return EncoderConfig(
        vocab_size=size(config, "vocab_size"),
        hidden_size=hidden_size,
        num_heads=(heads,) * layers,
        head_dim=head_dim(hidden_size, heads, ("dim", "n_heads")),
        intermediate_sizes=(size(config, "hidden_dim"),) * layers,
        max_positions=size(config, "max_position_embeddings"),
        type_vocab_size=0,
        activation=str(config.get("activation", "gelu")),
    )


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    return {
        "vocab_size": config.vocab_size,
        "dim": config.hidden_size,
        "n_layers": config.num_layers,
        "n_heads": common(config.num_heads),
        "hidden_dim": common(config.intermediate_sizes),
        "max_position_embeddings": config.max_positions,
        "activation": config.activation,
        "pad_token_id": 0,
    }


def head(config: Settings, task: str) -> HeadConfig:
    """relu, where BERT has tanh, under the classifier."""
    if task != "fill-mask":
        return HeadConfig(task, activation="relu")
    tied(config)
    return HeadConfig(task, activation=str(config.get("activation", "gelu")))


FAMILY = Family(names=NAMES, read=read, write=write, head=head, classes=model_classes("DistilBert"))
