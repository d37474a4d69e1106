"""A Hugging Face or sentence-transformers folder as a model that is ready to be converted.

    loaded = load_checkpoint(Path("./my-classifier"))
    loaded.module(**inputs)["logits"]          # inputs: loaded.input_names, int64 (batch, sequence)

Reads config.json, the weights, tokenizer.json and the settings beside them. No network, and code
in the folder never runs. BERT and MiniLM become our own modules, other encoders go through
transformers; docs/models.md says which checkpoints load how.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgeformer.errors import EngineError, ModelError
from edgeformer.models.bert import bert_encoder_config, build_bert
from edgeformer.models.model_folder import (
    check_folder,
    check_task,
    read_config,
    read_labels,
    read_max_length,
    read_problem_type,
    read_task,
)
from edgeformer.models.sentence_folder import SentenceSettings, read_sentence_settings
from edgeformer.models.tokenizer_file import lowercases, read_tokenizer
from edgeformer.models.weights import Tensors, count_parameters, read_weights


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory, and what its answers mean.

    Attributes:
        module: in eval mode; ``module(**inputs)`` returns ``{"embedding": float (batch, hidden)}``,
            or ``{"logits": ...}``, float (batch, classes) or (batch, sequence, classes).
        input_names: names of the inputs in call order, each int64 (batch, sequence).
        position_start: position id of a text's first token.
        name: name of the folder.
        family: model_type of config.json.
        task: ``embedding``, ``classification`` or ``token-classification``.
        labels: names of the classes in order of the logits; empty for embeddings.
        problem_type: ``single_label``, ``multi_label`` or ``regression``; only for classification.
        pooling: ``mean`` or ``cls``; only for embeddings.
        normalized: True if embeddings have unit length.
        max_length: most tokens of one text, special tokens included.
        parameters: trained values in the checkpoint, a head that the task leaves out included,
            shared ones counted once: the number under which the model is known.
        tokenizer_json: contents of tokenizer.json without truncation and padding.
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
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Built:
    """A module, and what only its making tells. ``positions`` None: no table limits a text."""

    module: nn.Module
    input_names: tuple[str, ...]
    vocab_size: int
    position_start: int
    positions: int | None
    classes: int
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
        task: ``embedding``, ``classification`` or ``token-classification``; None takes the task
            that the checkpoint was saved for.

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
    task = task or read_task(config, sentence is not None)
    family = str(config["model_type"])
    pooling = sentence.pooling if sentence else "mean"
    normalized = sentence.normalized if sentence else True
    _check_known(family)
    tensors = read_weights(checkpoint)
    built = _build(family, config, tensors, task, pooling, normalized)
    tokenizer_json, notices = read_tokenizer(checkpoint, family, built.vocab_size)
    limit = sentence.max_length if sentence else None
    max_length, length_notice = read_max_length(checkpoint, built.positions, limit)
    labels, labels_notice = read_labels(config, built.classes) if built.classes else ((), "")
    notices += (*built.notices, length_notice, labels_notice, _code_notice(config))
    notices += _embedding_notices(sentence, tokenizer_json) if task == "embedding" else ()
    embeds = task == "embedding"
    return LoadedModel(
        module=built.module,
        input_names=built.input_names,
        position_start=built.position_start,
        name=folder.resolve().name,
        family=family,
        task=task,
        labels=labels,
        problem_type=read_problem_type(config, len(labels)) if task == "classification" else "",
        pooling=pooling if embeds else "",
        normalized=normalized and embeds,
        max_length=max_length,
        parameters=count_parameters(tensors),
        tokenizer_json=tokenizer_json,
        notices=tuple(notice for notice in notices if notice),
    )


def _check_known(family: str) -> None:
    """Families are checked before weights are read, so that the first error is the real one."""
    if family != "bert":
        _transformers_family().check_family(family)


def _build(
    family: str, config: dict[str, Any], tensors: Tensors, task: str, pooling: str, normalized: bool
) -> _Built:
    if family == "bert":
        if config.get("is_decoder"):
            raise ModelError(
                "this BERT was saved as a decoder (is_decoder), and generative decoding is out of"
                " scope",
                hint="pass an encoder",
            )
        settings = bert_encoder_config(config)
        module, classes = build_bert(settings, tensors, task, pooling, normalized)
        return _Built(
            module=module,
            input_names=settings.input_names,
            vocab_size=settings.vocab_size,
            position_start=settings.position_start,
            positions=settings.usable_positions,
            classes=classes,
        )
    wrapped, classes, notices = _transformers_family().build_transformers(
        config, tensors, task, pooling, normalized
    )
    start = wrapped.call.position_start or 0
    family_config: Any = wrapped.model.config
    table = getattr(family_config, "max_position_embeddings", None)
    return _Built(
        module=wrapped,
        input_names=wrapped.input_names,
        vocab_size=family_config.vocab_size,
        position_start=start,
        positions=table - start if isinstance(table, int) and table > start else None,
        classes=classes,
        notices=notices,
    )


def _transformers_family() -> Any:
    """The module behind the other families, imported late: transformers takes seconds."""
    try:
        from edgeformer.models import transformers_family
    except ImportError as error:
        raise EngineError(
            f"a model of another family than BERT needs the package transformers: {error}",
            hint='pip install "edgeformer[convert]"',
        ) from None
    return transformers_family


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
