"""What a sentence-transformers folder adds to a checkpoint: pooling, normalisation, length.

modules.json lists the steps in order, each with its own folder of settings:
Transformer, Pooling, and sometimes Normalize. Reads those JSON files and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeformer.errors import ModelError
from edgeformer.models.model_folder import read_json, read_json_value, read_optional_json

_POOLING_OF_KEY = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_SUPPORTED = "supported are Transformer, Pooling (mean or cls) and Normalize"


@dataclass(frozen=True)
class SentenceSettings:
    """How a sentence-transformers folder makes one vector of a text.

    Attributes:
        checkpoint: folder of config.json, weights and tokenizer.
        pooling: ``mean`` or ``cls``.
        normalized: True if vectors are divided by their length.
        max_length: most tokens of a text, None if not set.
        lowercases: True if texts are lower-cased before the tokenizer sees them.
        notices: what a user should know.
    """

    checkpoint: Path
    pooling: str
    normalized: bool
    max_length: int | None
    lowercases: bool
    notices: tuple[str, ...] = ()


def read_sentence_settings(folder: Path) -> SentenceSettings | None:
    """Settings from modules.json, or None if the folder has none.

    Raises:
        ModelError: a step that is not supported, steps out of order, or a broken file.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json_value(path)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelError(f"{path} is not a list of modules", hint="copy the folder again")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ModelError(
                f"{path} has the step {kind!r}, which is not supported", hint=_SUPPORTED
            )
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(f"{path} has the steps {', '.join(kinds) or 'none'}", hint=_SUPPORTED)
    checkpoint, pooling = (_module_folder(folder, module) for module in modules[:2])
    transformer = read_optional_json(checkpoint / "sentence_bert_config.json")
    return SentenceSettings(
        checkpoint=checkpoint,
        pooling=_read_pooling(pooling / "config.json"),
        normalized=kinds[-1] == "Normalize",
        max_length=transformer.get("max_seq_length"),
        lowercases=transformer.get("do_lower_case") is True,
        notices=_prompt_notice(folder),
    )


def _module_folder(folder: Path, module: dict[str, Any]) -> Path:
    path = folder / str(module.get("path", ""))
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"modules.json of {folder} names a folder outside it: {module['path']!r}")
    return path


def _read_pooling(path: Path) -> str:
    config = read_json(path)
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    named = [_POOLING_OF_KEY.get(mode, mode) for mode in modes]
    # Newer files hold one word instead of a flag for each mode.
    if isinstance(config.get("pooling_mode"), str):
        named = [config["pooling_mode"]]
    if named not in (["mean"], ["cls"]):
        raise ModelError(
            f"{path} has the pooling {' and '.join(named) or 'none'}",
            hint="supported are mean (pooling_mode_mean_tokens) and cls (pooling_mode_cls_token)",
        )
    return named[0]


def _prompt_notice(folder: Path) -> tuple[str, ...]:
    settings = read_optional_json(folder / "config_sentence_transformers.json")
    name = settings.get("default_prompt_name")
    if not name:
        return ()
    prompt = (settings.get("prompts") or {}).get(name, "")
    return (
        f"sentence-transformers puts the prompt {prompt!r} before every text of this model;"
        " the bundle does not: put it there yourself",
    )
