"""What every family says of itself, and what most of them read alike from config.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeformer.errors import ModelError
from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.name_tables import NameTable

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    Attributes:
        names: its name table.
        read: config.json to the encoder's settings; raises ModelError.
        write: the encoder's settings to config.json. Where ``read`` of it gives other settings
            (pruned heads, say), transformers has no way to say them.
        head: config.json and a task to the head's settings, the number of classes left out.
        classes: what transformers calls the model of each task.
    """

    names: NameTable
    read: Callable[[Settings], EncoderConfig]
    write: Callable[[EncoderConfig], dict[str, Any]]
    head: Callable[[Settings, str], HeadConfig]
    classes: Mapping[str, str]


def model_classes(stem: str) -> dict[str, str]:
    """Names of the classes of transformers for each task on texts."""
    return {
        "embedding": f"{stem}Model",
        "classification": f"{stem}ForSequenceClassification",
        "token-classification": f"{stem}ForTokenClassification",
        "question-answering": f"{stem}ForQuestionAnswering",
        "fill-mask": f"{stem}ForMaskedLM",
    }


def image_classes(stem: str) -> dict[str, str]:
    """Names of the classes of transformers for each task on images."""
    return {"embedding": f"{stem}Model", "classification": f"{stem}ForImageClassification"}


def size(config: Settings, key: str) -> int:
    """A positive whole number of config.json.

    Raises:
        ModelError: it is missing or is none.
    """
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"config.json: {key} is {value!r}, not a positive whole number")
    return value


def whole(config: Settings, key: str, default: int) -> int:
    """A whole number of config.json that may be left out, and may be 0.

    Raises:
        ModelError: it is none.
    """
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ModelError(f"config.json: {key} is {value!r}, not a whole number")
    return value


def epsilon(config: Settings, default: float) -> float:
    """``layer_norm_eps`` of config.json, which may be left out.

    Raises:
        ModelError: it is no positive number.
    """
    value = config.get("layer_norm_eps", default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise ModelError(f"config.json: layer_norm_eps is {value!r}, not a positive number")
    return float(value)


def head_dim(hidden_size: int, heads: int, names: tuple[str, str]) -> int:
    """Width of one head.

    Args:
        hidden_size: width of all heads.
        heads: how many.
        names: keys of both in config.json, for the message.

    Raises:
        ModelError: the heads do not divide the width.
    """
    if hidden_size % heads:
        raise ModelError(
            f"config.json: {names[0]} {hidden_size} is not a multiple of {names[1]} {heads}"
        )
    return hidden_size // heads


def refuse(config: Settings, key: str, allowed: Any, why: str) -> None:
    """Raises ModelError if config.json sets ``key`` to something else than ``allowed``."""
    if config.get(key, allowed) != allowed:
        raise ModelError(f"config.json: {key} {config[key]!r} is not supported", hint=why)


def tied(config: Settings) -> None:
    """Raises ModelError if the output layer of a masked language model is not the token table."""
    refuse(
        config,
        "tie_word_embeddings",
        True,
        "only output layers that share the token table are; --task embedding takes the encoder",
    )


def common(values: tuple[int, ...]) -> int:
    """The one width of all layers, or that of the first."""
    return values[0]
