"""What a checkpoint folder says of itself: its config.json, its task, its labels, its length.

Reads JSON files of the folder and nothing else. Code in the folder is never imported.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeformer.errors import ModelError, UsageError

TASKS = (
    "embedding",
    "classification",
    "token-classification",
    "question-answering",
    "fill-mask",
)
ANSWER_ENDS = ("start", "end")
"""The two classes of a token in extractive question answering."""

_TASK_OF_ENDING = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
    "ForImageClassificationWithTeacher": "classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "Model": "embedding",
}
_PROBLEM_TYPES = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
# transformers writes 10**30 where a tokenizer has no limit of its own.
_NO_LIMIT = 10**6


def check_folder(folder: Path) -> None:
    """Raises UsageError unless ``folder`` is a folder, with what to pass instead."""
    if folder.is_dir():
        return
    if folder.exists():
        raise UsageError(
            f"{folder} is a file, a model is a folder with config.json and weights",
            hint=f"pass the folder: {folder.parent}",
        )
    looks_like_hub_id = not folder.is_absolute() and len(folder.parts) == 2
    raise UsageError(
        f"there is no folder {folder}",
        hint="EdgeFormer does not download; pass a folder. For a model of the Hugging Face hub,"
        f" `hf download {folder.as_posix()} --local-dir FOLDER` makes one"
        if looks_like_hub_id
        else "EdgeFormer does not download; pass a Hugging Face model folder",
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelError: unreadable, not JSON, or not an object.
    """
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", hint="copy the folder again")
    return value


def read_json_value(path: Path) -> Any:
    """The JSON value in a file. Raises ModelError if it is unreadable or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} is not JSON: {error}", hint="copy the folder again") from None


def read_optional_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or an empty one if there is no such file."""
    return read_json(path) if path.is_file() else {}


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint.

    Raises:
        ModelError: no config.json, no model_type in it, or weights that were quantized before.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} is not a model folder: no config.json", hint=_instead(folder))
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{path} names no model_type, so the architecture is unknown",
            hint="save the model with model.save_pretrained(folder) of transformers",
        )
    if "quantization_config" in config:
        raise ModelError(
            f"{folder} is quantized already (quantization_config)",
            hint="pass the float checkpoint it was made from: EdgeFormer quantizes by profile",
        )
    return config


def _instead(folder: Path) -> str:
    if (folder / "manifest.json").is_file():
        return "this is a bundle already: `edgeformer run` and `edgeformer inspect` take it"
    if (folder / "adapter_config.json").is_file():
        return "this is an adapter: merge it into its model and save that (merge_and_unload)"
    return "pass the folder that model.save_pretrained(folder) wrote"


def read_task(config: Mapping[str, Any], sentence_folder: bool) -> str:
    """The task a checkpoint was saved for.

    Args:
        config: contents of config.json.
        sentence_folder: True if the folder has a modules.json of sentence-transformers.

    Raises:
        ModelError: the head is none that EdgeFormer converts, or config.json names none.
    """
    if sentence_folder:
        return "embedding"
    architectures = config.get("architectures") or [""]
    for ending, task in _TASK_OF_ENDING.items():
        if str(architectures[0]).endswith(ending):
            return task
    if not architectures[0]:
        raise ModelError(
            "config.json names no architecture, so the task is unknown",
            hint=f"pass --task with one of: {', '.join(TASKS)}",
        )
    raise ModelError(
        f"the head of {architectures[0]} is not supported; heads for {', '.join(TASKS)} are",
        hint="pass --task embedding to convert its encoder",
    )


def check_task(task: str) -> None:
    """Raises UsageError unless ``task`` is one of ``TASKS``."""
    if task not in TASKS:
        raise UsageError(f"no task {task!r}", hint=f"choose from: {', '.join(TASKS)}")


def read_labels(config: Mapping[str, Any], classes: int) -> tuple[tuple[str, ...], str]:
    """Names of the classes in order of the logits, and a notice if they were made up.

    transformers leaves id2label out of config.json for two classes of the default names, so two
    classes without names are LABEL_0 and LABEL_1, as it would say. More are an error.

    Args:
        config: contents of config.json.
        classes: number of logits of the head.

    Raises:
        ModelError: no labels, or another number of them than the head has logits.
    """
    names = config.get("id2label")
    if names is None:
        if config.get("num_labels", 2) != classes:
            raise ModelError(
                f"labels missing: the classifier has {classes} classes, config.json names none",
                hint='add them to config.json: "id2label": {"0": "first", "1": "second", ...}',
            )
        labels = tuple(f"LABEL_{i}" for i in range(classes))
        return labels, f"config.json names no labels: they are {', '.join(labels)}"
    expected = {str(i) for i in range(classes)}
    if not isinstance(names, dict) or set(names) != expected:
        raise ModelError(
            f"id2label of config.json does not name the {classes} classes of the classifier",
            hint=f"its keys must be 0 to {classes - 1}",
        )
    return tuple(str(names[str(i)]) for i in range(classes)), ""


def read_problem_type(config: Mapping[str, Any], classes: int) -> str:
    """``single_label``, ``multi_label`` or ``regression``: how logits become an answer.

    Raises:
        ModelError: config.json has a problem_type that nobody knows.
    """
    named = config.get("problem_type")
    if named is None:
        return "regression" if classes == 1 else "single_label"
    if named not in _PROBLEM_TYPES:
        raise ModelError(
            f"config.json has the problem_type {named!r}",
            hint=f"one of: {', '.join(_PROBLEM_TYPES)}",
        )
    return _PROBLEM_TYPES[named]


def read_max_length(
    folder: Path, positions: int | None, sentence_limit: int | None
) -> tuple[int, str]:
    """Most tokens of one text, special tokens included, and a notice if nothing limits it.

    Args:
        folder: where tokenizer_config.json may be.
        positions: usable rows of the position table; None without a table.
        sentence_limit: max_seq_length of sentence_bert_config.json, None without one.

    Raises:
        ModelError: a limit that is not a positive number.
    """
    own = read_optional_json(folder / "tokenizer_config.json").get("model_max_length")
    limits = [limit for limit in (positions, sentence_limit, own) if limit is not None]
    for limit in limits:
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit < 1:
            raise ModelError(
                f"{folder} limits texts to {limit!r} tokens",
                hint="correct model_max_length, max_seq_length or max_position_embeddings",
            )
    finite = [int(limit) for limit in limits if limit < _NO_LIMIT]
    if not finite:
        return 512, "the checkpoint sets no maximum length: 512 tokens are taken"
    return min(finite), ""
