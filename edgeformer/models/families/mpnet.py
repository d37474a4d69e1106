"""MPNet: BERT's layers without token types, with a bias on attention by relative position.

Song et al., "MPNet", arXiv 2004.09297.
"""

from dataclasses import replace
from typing import Any

from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import bert, roberta
from edgeformer.models.families.family import Family, Settings, model_classes, refuse
from edgeformer.models.name_tables import NameTable

BUCKETS = 32
_LAYER = "encoder.layer.{i}"
NAMES = NameTable(
    prefix="mpnet.",
    encoder=(
        *bert.EMBEDDINGS,
        ("encoder.relative_attention_bias", "relative_positions.table"),
        (f"{_LAYER}.attention.attn.q", "layers.{i}.attention.query"),
        (f"{_LAYER}.attention.attn.k", "layers.{i}.attention.key"),
        (f"{_LAYER}.attention.attn.v", "layers.{i}.attention.value"),
        (f"{_LAYER}.attention.attn.o", "layers.{i}.attention.output"),
        (f"{_LAYER}.attention.LayerNorm", "layers.{i}.attention_norm"),
        (f"{_LAYER}.intermediate.dense", "layers.{i}.feed_forward.up"),
        (f"{_LAYER}.output.dense", "layers.{i}.feed_forward.down"),
        (f"{_LAYER}.output.LayerNorm", "layers.{i}.feed_forward_norm"),
    ),
    heads=roberta.HEADS,
    copies=roberta.COPIES,
    leftovers=(bert.BUFFERS, bert.POOLER, roberta.OTHER_HEADS),
)


def read(config: Settings) -> EncoderConfig:
    """BERT's settings; padding is token 1 by definition, so texts start at position 2."""
    refuse(
        config,
        "relative_attention_num_buckets",
        BUCKETS,
        f"transformers computes {BUCKETS} buckets whatever the size of the table",
    )
    plain = replace(bert.read(config), type_vocab_size=0, relative_buckets=BUCKETS)
    return replace(plain, position_start=2)


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    settings = {**bert.write(config), "relative_attention_num_buckets": config.relative_buckets}
    del settings["type_vocab_size"]
    return {**settings, "pad_token_id": 1}


FAMILY = Family(NAMES, read, write, roberta.head, model_classes("MPNet"))
