"""The settings of what stands below a model's head, an Encoder's or a BiLSTM's."""

from torch import nn

from edgeformer.errors import ModelError
from edgeformer.models.bilstm import BiLstmConfig
from edgeformer.models.build import ModelConfig
from edgeformer.models.config import EncoderConfig


def config_of(model: nn.Module) -> ModelConfig:
    """The settings of a model of edgeformer.models.

    Raises:
        ModelError: it is none.
    """
    config = getattr(getattr(model, "encoder", None), "config", None)
    if not isinstance(config, EncoderConfig | BiLstmConfig):
        raise ModelError(
            f"a {type(model).__name__} is not built on EdgeFormer's Encoder and cannot be trained",
            hint="docs/models.md lists the families that are",
        )
    return config


def num_layers_of(model: nn.Module) -> int:
    """Layers of its encoder."""
    return config_of(model).num_layers


def text_width(model: nn.Module) -> int:
    """Width of the vector that stands for a text: of hidden states, or of a BiLSTM's last ones."""
    config = config_of(model)
    both = 2 if isinstance(config, BiLstmConfig) else 1
    return both * config.hidden_size
