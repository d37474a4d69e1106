"""EdgeFormer's own settings in config.json, for models that no family of transformers can say.

A pruned, tied or otherwise changed encoder, or a BiLSTM, is written as ``"model_type":
"edgeformer"``. ``architecture`` says whose fields ``encoder`` holds, ``head`` those of
``HeadConfig``; the tensors have our names. Touches no file.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from edgeformer.errors import ModelError
from edgeformer.models.bilstm import BiLstmConfig
from edgeformer.models.build import HeadConfig, ModelConfig
from edgeformer.models.config import EncoderConfig

OWN_TYPE = "edgeformer"
ARCHITECTURES: dict[str, type[ModelConfig]] = {"encoder": EncoderConfig, "bilstm": BiLstmConfig}
"""By ``architecture``; folders without one hold an encoder."""

_Settings = TypeVar("_Settings", bound=ModelConfig | HeadConfig)
_DAMAGED = "config.json is damaged, or of a later EdgeFormer: copy the folder again"


def own_settings(encoder: ModelConfig, head: HeadConfig, family: str) -> dict[str, Any]:
    """What config.json holds; ``read_own`` takes it back."""
    (architecture,) = (name for name, kind in ARCHITECTURES.items() if kind is type(encoder))
    return {
        "model_type": OWN_TYPE,
        "architecture": architecture,
        "family": family,
        "encoder": asdict(encoder),
        "head": asdict(head),
    }


def read_own(config: Mapping[str, Any]) -> tuple[ModelConfig, HeadConfig, str]:
    """The encoder's settings, the head's, and the family from which the model came.

    Raises:
        ModelError: a setting that is missing, unknown or of the wrong type.
    """
    architecture = config.get("architecture", "encoder")
    if architecture not in ARCHITECTURES:
        raise ModelError(f"config.json: no architecture {architecture!r}", hint=_DAMAGED)
    encoder = _settings(ARCHITECTURES[architecture], config.get("encoder"), "encoder")
    head = _settings(HeadConfig, config.get("head"), "head")
    return encoder, head, str(config.get("family", OWN_TYPE))


def _settings(kind: type[_Settings], given: Any, where: str) -> _Settings:
    if not isinstance(given, dict):
        raise ModelError(f"config.json has no settings of the {where}", hint=_DAMAGED)
    types = {field.name: str(field.type) for field in fields(kind)}
    unknown = sorted(set(given) - set(types))
    if unknown:
        raise ModelError(f"config.json: unknown settings of the {where}: {unknown}", hint=_DAMAGED)
    values = {name: _value(name, types[name], value) for name, value in given.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ModelError(f"config.json: settings of the {where}: {error}", hint=_DAMAGED) from None


def _value(name: str, kind: str, value: Any) -> Any:
    """``value`` as the type of the field, which JSON may have changed (a tuple into a list)."""
    plain = kind.removeprefix("<class '").removesuffix("'>")
    if plain == "tuple[int, ...]":
        if isinstance(value, list) and all(type(item) is int for item in value):
            return tuple(value)
    elif plain == "float" and type(value) in (int, float):
        return float(value)
    elif type(value).__name__ == plain:
        return value
    raise ModelError(f"config.json: {name} is {value!r}, not {plain}", hint=_DAMAGED)
