"""BERT, and what says ``"model_type": "bert"``: MiniLM, TinyBERT and most sentence encoders.

Devlin et al., "BERT", arXiv 1810.04805; Wang et al., "MiniLM", arXiv 2002.10957; Jiao et al.,
"TinyBERT", arXiv 1909.10351, whose students are plain BERT encoders of other sizes.
"""

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
    model_classes,
    refuse,
    size,
    tied,
    whole,
)
from edgeformer.models.name_tables import Names, NameTable

LAYERS: Names = (
    ("encoder.layer.{i}.attention.self.query", "layers.{i}.attention.query"),
    ("encoder.layer.{i}.attention.self.key", "layers.{i}.attention.key"),
    ("encoder.layer.{i}.attention.self.value", "layers.{i}.attention.value"),
    ("encoder.layer.{i}.attention.output.dense", "layers.{i}.attention.output"),
    ("encoder.layer.{i}.attention.output.LayerNorm", "layers.{i}.attention_norm"),
    ("encoder.layer.{i}.intermediate.dense", "layers.{i}.feed_forward.up"),
    ("encoder.layer.{i}.output.dense", "layers.{i}.feed_forward.down"),
    ("encoder.layer.{i}.output.LayerNorm", "layers.{i}.feed_forward_norm"),
)
EMBEDDINGS: Names = (
    ("embeddings.word_embeddings", "embeddings.tokens"),
    ("embeddings.position_embeddings", "embeddings.positions"),
    ("embeddings.token_type_embeddings", "embeddings.token_types"),
    ("embeddings.LayerNorm", "embeddings.norm"),
)
HEADS: dict[str, Names] = {
    "classification": (("pooler.dense", "pooler"), ("classifier", "classifier")),
    "token-classification": (("classifier", "classifier"),),
    "question-answering": (("qa_outputs", "classifier"),),
    "fill-mask": (
        ("cls.predictions.transform.dense", "dense"),
        ("cls.predictions.transform.LayerNorm", "norm"),
        ("cls.predictions.bias", "bias"),
    ),
}
COPIES: dict[str, Names] = {
    "fill-mask": (
        ("cls.predictions.decoder.weight", "encoder.embeddings.tokens.weight"),
        ("cls.predictions.decoder.bias", "bias"),
    )
}
BUFFERS = (r"embeddings\.(position_ids|token_type_ids)$", "numbers that count up, in old files")
POOLER = (r"pooler\.", "makes pooler_output, which only a classifier reads")
OTHER_HEADS = (r"(cls|classifier|qa_outputs)\.", "the head of another task")
DISTILLING = (r"fit_dense(s\.\d+)?\.", "TinyBERT's way to its teacher's width, for training only")
OLD_NORMS: Names = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


def read(config: Settings) -> EncoderConfig:
    """The encoder's settings.

    Raises:
        ModelError: a size is missing or not a number, or a feature that the encoder has not.
    """
    if config.get("is_decoder"):
        raise ModelError(
            "this model was saved as a decoder (is_decoder), and generative decoding is out of"
            " scope",
            hint="pass an encoder",
        )
    refuse(config, "position_embedding_type", "absolute", "only absolute positions are")
    hidden_size, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    layers = size(config, "num_hidden_layers")
    return EncoderConfig(
        vocab_size=size(config, "vocab_size"),
        hidden_size=hidden_size,
        num_heads=(heads,) * layers,
        head_dim=head_dim(hidden_size, heads, ("hidden_size", "num_attention_heads")),
        intermediate_sizes=(size(config, "intermediate_size"),) * layers,
        max_positions=size(config, "max_position_embeddings"),
        type_vocab_size=whole(config, "type_vocab_size", 2),
        activation=str(config.get("hidden_act", "gelu")),
        layer_norm_eps=epsilon(config, 1e-12),
    )


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": common(config.num_heads),
        "intermediate_size": common(config.intermediate_sizes),
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.type_vocab_size,
        "hidden_act": config.activation,
        "layer_norm_eps": config.layer_norm_eps,
        "pad_token_id": 0,
    }


def head(config: Settings, task: str) -> HeadConfig:
    """A tanh pooler under the classifier; the encoder's activation in the masked language model."""
    if task != "fill-mask":
        return HeadConfig(task)
    tied(config)
    return HeadConfig(task, activation=str(config.get("hidden_act", "gelu")))


FAMILY = Family(
    names=NameTable(
        prefix="bert.",
        encoder=EMBEDDINGS + LAYERS,
        heads=HEADS,
        copies=COPIES,
        inside=("pooler.",),
        leftovers=(BUFFERS, POOLER, OTHER_HEADS, DISTILLING),
        old_endings=OLD_NORMS,
    ),
    read=read,
    write=write,
    head=head,
    classes=model_classes("Bert"),
)
