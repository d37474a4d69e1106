"""config.json and tensors to a module: the join of families, settings and weights.

Families with a name table, and EdgeFormer's own folders, become our Encoder; others go through
transformers, which is imported only then. Opens no file.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from edgeformer.errors import EngineError, ModelError
from edgeformer.models.build import HeadConfig, ModelConfig, fill_model, parameter_shapes
from edgeformer.models.families import find_family
from edgeformer.models.families.family import Settings
from edgeformer.models.model_folder import ANSWER_ENDS
from edgeformer.models.name_tables import OWN_NAMES, NameTable, checkpoint_names, translate
from edgeformer.models.own_folder import OWN_TYPE, read_own
from edgeformer.models.sentence_folder import SentenceSettings
from edgeformer.models.weights import Tensors


@dataclass(frozen=True)
class Assembled:
    """A module, and what only its making tells.

    Attributes:
        module: in eval mode, as ``LoadedModel.module``.
        family: model_type of the checkpoint; of our own folders, that of their origin.
        head: settings of the head.
        input_names: names of the inputs in call order.
        vocab_size: rows of the token table; 0 for images.
        position_start: position id of a text's first token.
        positions: longest text in tokens; None if no table limits it.
        notices: sentences that a user should read.
    """

    module: nn.Module
    family: str
    head: HeadConfig
    input_names: tuple[str, ...]
    vocab_size: int
    position_start: int
    positions: int | None
    notices: tuple[str, ...] = ()


def check_known(config: Settings) -> None:
    """Families are checked before weights are read, so that the first error is the real one."""
    if config["model_type"] != OWN_TYPE and find_family(config) is None:
        _transformers_family().check_family(str(config["model_type"]))


def assemble(
    config: Settings, tensors: Tensors, task: str, sentence: SentenceSettings | None
) -> Assembled:
    """The model of the task with the checkpoint's weights.

    Args:
        config: contents of config.json.
        tensors: the checkpoint's by their own names, float32.
        task: one of ``model_folder.TASKS``.
        sentence: pooling and normalisation of a sentence-transformers folder; None for the
            family's own.

    Raises:
        ModelError: settings or tensors that do not fit, or a task that the family has not.
    """
    if config["model_type"] == OWN_TYPE:
        return _own(config, tensors, task)
    family = find_family(config)
    if family is None:
        return _through_transformers(config, tensors, task, sentence)
    if task not in family.classes:
        raise ModelError(
            f"{config['model_type']} has no head for {task}",
            hint=f"it has: {', '.join(family.classes)}",
        )
    encoder = family.read(config)
    head = _with_classes(family.head(config, task), tensors, family.names)
    if sentence is not None:
        head = replace(head, pooling=sentence.pooling, normalized=sentence.normalized)
    return _filled(encoder, head, tensors, family.names, str(config["model_type"]))


def _filled(
    encoder: ModelConfig, head: HeadConfig, tensors: Tensors, names: NameTable, family: str
) -> Assembled:
    parameters = translate(tensors, names, head.task, parameter_shapes(encoder, head))
    return Assembled(
        module=fill_model(encoder, head, parameters),
        family=family,
        head=head,
        input_names=encoder.input_names,
        vocab_size=encoder.vocab_size,
        position_start=encoder.position_start,
        positions=encoder.usable_positions,
    )


def _own(config: Settings, tensors: Tensors, task: str) -> Assembled:
    encoder, head, family = read_own(config)
    if task != head.task:
        if task != "embedding":
            raise ModelError(
                f"the folder was saved for {head.task}, not for {task}",
                hint="leave --task out, or pass --task embedding for its encoder",
            )
        head = HeadConfig(task)
        tensors = {name: t for name, t in tensors.items() if name.startswith("encoder.")}
    return _filled(encoder, head, tensors, OWN_NAMES, family)


def _with_classes(head: HeadConfig, tensors: Tensors, names: NameTable) -> HeadConfig:
    """``head`` with the number of classes that the classifier's weight has."""
    if head.task in ("embedding", "fill-mask"):
        return head
    name = checkpoint_names(["classifier.weight"], names, head.task)["classifier.weight"]
    weight = tensors.get(name)
    if weight is None or weight.dim() != 2:
        raise ModelError(
            f"the checkpoint lacks the tensor {name!r}, the head for {head.task}",
            hint="pass --task embedding to convert its encoder",
        )
    if head.task == "question-answering" and weight.shape[0] != len(ANSWER_ENDS):
        raise ModelError(
            f"tensor {name!r} has {weight.shape[0]} rows: an answer has a start and an end"
        )
    return replace(head, num_labels=weight.shape[0])


def _through_transformers(
    config: Settings, tensors: Tensors, task: str, sentence: SentenceSettings | None
) -> Assembled:
    head = HeadConfig(task)
    if sentence is not None:
        head = replace(head, pooling=sentence.pooling, normalized=sentence.normalized)
    wrapped, classes, notices = _transformers_family().build_transformers(
        config, tensors, task, head.pooling, head.normalized
    )
    start = wrapped.call.position_start or 0
    family_config: Any = wrapped.model.config
    table = getattr(family_config, "max_position_embeddings", None)
    return Assembled(
        module=wrapped,
        family=str(config["model_type"]),
        head=replace(head, num_labels=classes),
        input_names=wrapped.input_names,
        vocab_size=family_config.vocab_size,
        position_start=start,
        positions=table - start if isinstance(table, int) and table > start else None,
        notices=notices,
    )


def _transformers_family() -> Any:
    """The module behind the other families, imported late: transformers takes seconds."""
    try:
        from edgeformer.models import transformers_family
    except ImportError as error:
        raise EngineError(
            f"a model of a family without a name table needs the package transformers: {error}",
            hint='pip install "edgeformer[convert]"',
        ) from None
    return transformers_family
