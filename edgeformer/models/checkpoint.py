"""A Hugging Face or sentence-transformers folder as a model that is ready to be converted.

    loaded = load_checkpoint(Path("./my-classifier"))
    loaded.module(**inputs)["logits"]          # inputs: loaded.input_names, int64 (batch, sequence)

Reads config.json, the weights, tokenizer.json and the settings beside them. No network, and code
in the folder never runs. Families with a name table become our own Encoder, other encoders go
through transformers; docs/models.md says which checkpoints load how.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgeformer.errors import ModelError
from edgeformer.models.assemble import Assembled, assemble, check_known
from edgeformer.models.build import HeadConfig
from edgeformer.models.model_folder import (
    ANSWER_ENDS,
    check_folder,
    check_task,
    read_config,
    read_labels,
    read_max_length,
    read_optional_json,
    read_problem_type,
    read_task,
)
from edgeformer.models.own_folder import OWN_TYPE, read_own
from edgeformer.models.sentence_folder import SentenceSettings, read_sentence_settings
from edgeformer.models.tokenizer_file import lowercases, read_tokenizer
from edgeformer.models.weights import count_parameters, read_weights


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory, and what its answers mean.

    Attributes:
        module: in eval mode; ``module(**inputs)`` returns ``{"embedding": float (batch, hidden)}``,
            or ``{"logits": ...}``, float (batch, classes) or (batch, sequence, classes).
        input_names: names of the inputs in call order, each int64 (batch, sequence), or
            ``pixel_values``, float32 (batch, channels, height, width).
        position_start: position id of a text's first token.
        name: name of the folder.
        family: model_type of config.json.
        task: one of ``model_folder.TASKS``.
        labels: names of the classes in order of the logits; empty for embeddings and for the
            vocabulary of ``fill-mask``; ``start``, ``end`` for ``question-answering``.
        problem_type: ``single_label``, ``multi_label`` or ``regression``; only for classification.
        pooling: ``mean`` or ``cls``; only for embeddings.
        normalized: True if embeddings have unit length.
        max_length: most tokens of one text, special tokens included; 0 for images.
        parameters: trained values in the checkpoint, a head that the task leaves out included,
            shared ones counted once: the number under which the model is known.
        tokenizer_json: contents of tokenizer.json without truncation and padding; None for images.
        head: settings of the head.
        tokenizer_settings: contents of tokenizer_config.json.
        image_settings: contents of preprocessor_config.json: how images are scaled.
        notices: sentences that a user should read, empty if all was as expected.
    """

    module: nn.Module
    input_names: tuple[str, ...]
    position_start: int
    name: str
    family: str
    task: str
    labels: tuple[str, ...]
    problem_type: str
    pooling: str
    normalized: bool
    max_length: int
    parameters: int
    tokenizer_json: bytes | None
    head: HeadConfig
    tokenizer_settings: dict[str, Any] = field(default_factory=dict)
    image_settings: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


_PLAIN_EMBEDDING = (
    "no modules.json of sentence-transformers: embeddings are the mean of the tokens, divided by"
    " their length"
)


def load_checkpoint(folder: Path, *, task: str | None = None) -> LoadedModel:
    """Load a model folder.

    Args:
        folder: Hugging Face folder (config.json, weights, tokenizer) or sentence-transformers one
            (modules.json).
        task: one of ``model_folder.TASKS``; None takes the task that the checkpoint was saved for.

    Raises:
        UsageError: the folder does not exist or is a file, or there is no such task.
        ModelError: the folder is not a model, is broken, or is one that cannot be converted.
        EngineError: a package of the extra ``convert`` is missing.
    """
    folder = Path(folder)
    check_folder(folder)
    if task is not None:
        check_task(task)
    sentence = read_sentence_settings(folder)
    checkpoint = sentence.checkpoint if sentence else folder
    config = read_config(checkpoint)
    task = task or _saved_task(config, sentence)
    check_known(config)
    tensors = read_weights(checkpoint)
    made = assemble(config, tensors, task, sentence)
    labels, labels_notice = _labels(config, made.head)
    tokenizer_json, max_length, text_notices = _texts(checkpoint, made, sentence)
    notices = (*made.notices, *text_notices, labels_notice, _code_notice(config))
    embeds = task == "embedding"
    return LoadedModel(
        module=made.module,
        input_names=made.input_names,
        position_start=made.position_start,
        name=folder.resolve().name,
        family=made.family,
        task=task,
        labels=labels,
        problem_type=read_problem_type(config, len(labels)) if task == "classification" else "",
        pooling=made.head.pooling if embeds else "",
        normalized=made.head.normalized and embeds,
        max_length=max_length,
        parameters=count_parameters(tensors),
        tokenizer_json=tokenizer_json,
        head=made.head,
        tokenizer_settings=read_optional_json(checkpoint / "tokenizer_config.json"),
        image_settings=read_optional_json(checkpoint / "preprocessor_config.json"),
        notices=tuple(notice for notice in notices if notice),
    )


def _saved_task(config: dict[str, Any], sentence: SentenceSettings | None) -> str:
    if config["model_type"] == OWN_TYPE:
        return read_own(config)[1].task
    return read_task(config, sentence is not None)


def _labels(config: dict[str, Any], head: HeadConfig) -> tuple[tuple[str, ...], str]:
    if head.task == "question-answering":
        return ANSWER_ENDS, ""
    return read_labels(config, head.num_labels) if head.num_labels else ((), "")


def _texts(
    checkpoint: Path, made: Assembled, sentence: SentenceSettings | None
) -> tuple[bytes | None, int, tuple[str, ...]]:
    """Tokenizer, longest text and notices; a model of images has no tokenizer."""
    if "pixel_values" in made.input_names:
        return None, 0, ()
    tokenizer_json, notices = read_tokenizer(checkpoint, made.family, made.vocab_size)
    limit = sentence.max_length if sentence else None
    max_length, length_notice = read_max_length(checkpoint, made.positions, limit)
    embeds = made.head.task == "embedding"
    notices += _embedding_notices(sentence, tokenizer_json) if embeds else ()
    return tokenizer_json, max_length, (*notices, length_notice)


def _code_notice(config: dict[str, Any]) -> str:
    if "auto_map" not in config:
        return ""
    return "config.json points to code (auto_map): it is not run, the known architecture is used"


def _embedding_notices(sentence: SentenceSettings | None, tokenizer_json: bytes) -> tuple[str, ...]:
    if sentence is None:
        return (_PLAIN_EMBEDDING,)
    if sentence.lowercases and not lowercases(tokenizer_json):
        raise ModelError(
            "sentence-transformers lower-cases the texts of this model (do_lower_case in"
            " sentence_bert_config.json) and its tokenizer does not",
            hint="set do_lower_case in tokenizer_config.json, or remove it where it is set",
        )
    return sentence.notices
