"""From settings to a model: its encoder's (``ModelConfig``) and its head's (``HeadConfig``)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from edgeformer.errors import ModelError
from edgeformer.models.bilstm import BiLstmClassifier, BiLstmConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.exits import ExitClassifier
from edgeformer.models.heads import EmbeddingModel, SequenceClassifier, TokenClassifier
from edgeformer.models.image_heads import IMAGE_CLASSIFIERS, ImageClassifier, ImageEmbeddingModel
from edgeformer.models.masked_lm import MaskedLanguageModel
from edgeformer.models.model_folder import TASKS

ModelConfig = EncoderConfig | BiLstmConfig
"""Settings of everything that may stand below a head."""


@dataclass(frozen=True)
class HeadConfig:
    """What stands on the encoder.

    Attributes:
        task: one of ``model_folder.TASKS``.
        num_labels: classes; 0 where the task has none.
        pooling: ``mean`` or ``cls``; for embeddings.
        normalized: embeddings have unit length.
        activation: after the dense layer of a classifier or of a masked language model; empty for
            a classifier without one.
        narrows: that layer of a masked language model narrows to the width of the token table.
        text_reads: what a classifier of texts reads: ``cls`` or ``mean``.
        image_reads: one of ``IMAGE_CLASSIFIERS``; for classes of images.
        exits: a classifier of texts has an off-ramp after each layer but the last.
        exit_pooling: what off-ramps read: ``mean`` or ``cls``.
    """

    task: str
    num_labels: int = 0
    pooling: str = "mean"
    normalized: bool = True
    activation: str = "tanh"
    narrows: bool = True
    text_reads: str = "cls"
    image_reads: str = "cls"
    exits: bool = False
    exit_pooling: str = "mean"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ModelError(f"no task {self.task!r}", hint=f"the tasks are: {', '.join(TASKS)}")
        if self.image_reads not in IMAGE_CLASSIFIERS:
            raise ModelError(f"no classifier of images {self.image_reads!r}")
        if self.exits and self.task != "classification":
            raise ModelError(f"early exits are for classification, not for {self.task}")


def make_model(config: ModelConfig, head: HeadConfig) -> nn.Module:
    """A model with weights as PyTorch initialises them.

    Raises:
        ModelError: the encoder has no such task.
    """
    if head.exits and not (isinstance(config, EncoderConfig) and config.vocab_size):
        raise ModelError("early exits are for classifiers of texts built on an Encoder")
    if isinstance(config, BiLstmConfig):
        if head.task == "classification":
            return BiLstmClassifier(config, head.num_labels, head.activation)
        raise ModelError(f"a BiLSTM has no head for {head.task}", hint="it has: classification")
    if config.image_size:
        return _make_image_model(config, head)
    if head.task == "embedding":
        return EmbeddingModel(config, head.pooling, head.normalized)
    if head.exits:
        reads = head.text_reads, head.exit_pooling
        return ExitClassifier(config, head.num_labels, head.activation, *reads)
    if head.task == "classification":
        return SequenceClassifier(config, head.num_labels, head.activation, head.text_reads)
    if head.task == "fill-mask":
        return MaskedLanguageModel(config, head.activation, head.narrows)
    return TokenClassifier(config, head.num_labels)


def _make_image_model(config: EncoderConfig, head: HeadConfig) -> nn.Module:
    if head.task == "embedding":
        return ImageEmbeddingModel(config, head.pooling, head.normalized)
    if head.task == "classification":
        return ImageClassifier(config, head.num_labels, head.image_reads)
    raise ModelError(f"the task {head.task!r} is for texts, and this encoder reads images")


def parameter_shapes(config: ModelConfig, head: HeadConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter of the model, without making it."""
    with torch.device("meta"):
        model = make_model(config, head)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def fill_model(
    config: ModelConfig, head: HeadConfig, parameters: Mapping[str, torch.Tensor]
) -> nn.Module:
    """The model with ``parameters``, in eval mode.

    On the meta device nothing is allocated or initialised: the tensors move in as they are.
    """
    with torch.device("meta"):
        model = make_model(config, head)
    model.load_state_dict(dict(parameters), assign=True)
    return model.eval()
