"""ELECTRA: BERT's layers over a token table that may be narrower than they are.

Clark et al., "ELECTRA", arXiv 2003.10555. The discriminator is what gets used; the generator is
a masked language model of the same shape.
"""

from dataclasses import replace
from typing import Any

from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import bert
from edgeformer.models.families.family import Family, Settings, model_classes, size, tied
from edgeformer.models.name_tables import NameTable

NAMES = NameTable(
    prefix="electra.",
    encoder=(
        *bert.EMBEDDINGS,
        ("embeddings_project", "embeddings.projection"),
        *bert.LAYERS,
    ),
    heads={
        "classification": (("classifier.dense", "pooler"), ("classifier.out_proj", "classifier")),
        "token-classification": (("classifier", "classifier"),),
        "question-answering": (("qa_outputs", "classifier"),),
        "fill-mask": (
            ("generator_predictions.dense", "dense"),
            ("generator_predictions.LayerNorm", "norm"),
            ("generator_lm_head.bias", "bias"),
        ),
    },
    copies={"fill-mask": (("generator_lm_head.weight", "encoder.embeddings.tokens.weight"),)},
    leftovers=(
        bert.BUFFERS,
        (
            r"(generator_predictions|generator_lm_head|discriminator_predictions|classifier"
            r"|qa_outputs)\.",
            "the head of another task",
        ),
    ),
    old_endings=bert.OLD_NORMS,
)


def read(config: Settings) -> EncoderConfig:
    """BERT's settings; a narrower table has a projection behind the sum of all tables."""
    plain, width = bert.read(config), size(config, "embedding_size")
    if width == plain.hidden_size:
        return plain
    return replace(plain, embedding_size=width, embedding_projection="sum")


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    return {**bert.write(config), "embedding_size": config.token_size}


def head(config: Settings, task: str) -> HeadConfig:
    """gelu under the classifier and in the masked language model."""
    if task == "fill-mask":
        tied(config)
    return HeadConfig(task, activation="gelu")


FAMILY = Family(NAMES, read, write, head, model_classes("Electra"))
