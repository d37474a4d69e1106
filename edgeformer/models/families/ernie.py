"""ERNIE 1.0 to 3.0: BERT's layers, and from 2.0 on a table of tasks beside that of token types.

Sun et al., "ERNIE 2.0", arXiv 1907.12412, section 3.2.1 (task embedding).
"""

from dataclasses import replace
from typing import Any

from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import bert
from edgeformer.models.families.family import Family, Settings, model_classes, size
from edgeformer.models.name_tables import NameTable

NAMES = NameTable(
    prefix="ernie.",
    encoder=(
        *bert.EMBEDDINGS,
        ("embeddings.task_type_embeddings", "embeddings.task_types"),
        *bert.LAYERS,
    ),
    heads=bert.HEADS,
    copies=bert.COPIES,
    inside=("pooler.",),
    leftovers=(bert.BUFFERS, bert.POOLER, bert.OTHER_HEADS),
    old_endings=bert.OLD_NORMS,
)


def read(config: Settings) -> EncoderConfig:
    """BERT's settings, and the size of the table of tasks."""
    tasks = (
        size({"task_type_vocab_size": 3, **config}, "task_type_vocab_size")
        if config.get("use_task_id")
        else 0
    )
    return replace(bert.read(config), task_type_vocab_size=tasks)


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    tasks = config.task_type_vocab_size
    return {
        **bert.write(config),
        "use_task_id": bool(tasks),
        "task_type_vocab_size": tasks or 3,
    }


FAMILY = Family(NAMES, read, write, bert.head, model_classes("Ernie"))
