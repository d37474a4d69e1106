"""BERT and MiniLM checkpoints into our own models. transformers is not needed for it.

Devlin et al., "BERT", arXiv 1810.04805; Wang et al., "MiniLM", arXiv 2002.10957, whose students
are plain BERT encoders and say ``"model_type": "bert"``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeformer.errors import ModelError
from edgeformer.models.config import EncoderConfig
from edgeformer.models.heads import EmbeddingModel, SequenceClassifier, TokenClassifier
from edgeformer.models.name_tables import BERT, translate


def bert_encoder_config(config: Mapping[str, Any]) -> EncoderConfig:
    """The encoder's settings from a config.json of model_type ``bert``.

    Raises:
        ModelError: a size is missing or not a number, or a feature that the encoder has not.
    """
    hidden_size, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    layers = _size(config, "num_hidden_layers")
    if hidden_size % heads:
        raise ModelError(
            f"config.json: hidden_size {hidden_size} is not a multiple of"
            f" num_attention_heads {heads}"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(
            f"position_embedding_type {config['position_embedding_type']!r} is not supported",
            hint="only absolute positions are",
        )
    return EncoderConfig(
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden_size,
        num_heads=(heads,) * layers,
        head_dim=hidden_size // heads,
        intermediate_sizes=(_size(config, "intermediate_size"),) * layers,
        max_positions=_size(config, "max_position_embeddings"),
        type_vocab_size=int(config.get("type_vocab_size", 2)),
        activation=str(config.get("hidden_act", "gelu")),
        layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
    )


def build_bert(
    config: EncoderConfig,
    tensors: Mapping[str, torch.Tensor],
    task: str,
    pooling: str,
    normalized: bool,
) -> tuple[nn.Module, int]:
    """The model of the task with the checkpoint's weights, and its number of classes.

    Args:
        config: settings of the encoder.
        tensors: the checkpoint's, by their own names; float32.
        task: ``embedding``, ``classification`` or ``token-classification``.
        pooling: ``mean`` or ``cls``; for embeddings.
        normalized: True for vectors of unit length; for embeddings.

    Raises:
        ModelError: a tensor that is unexpected, missing or of the wrong shape.
    """
    classes = 0 if task == "embedding" else _classes(tensors)
    # On the meta device nothing is allocated or initialised: the checkpoint's tensors move in.
    with torch.device("meta"):
        model: nn.Module
        if task == "embedding":
            model = EmbeddingModel(config, pooling, normalized)
        elif task == "classification":
            model = SequenceClassifier(config, classes)
        else:
            model = TokenClassifier(config, classes)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.load_state_dict(translate(tensors, BERT, task, shapes), assign=True)
    return model.eval(), classes


def _classes(tensors: Mapping[str, torch.Tensor]) -> int:
    weight = tensors.get("classifier.weight")
    if weight is None or weight.dim() != 2:
        raise ModelError(
            "the checkpoint has no classifier: the tensor 'classifier.weight' is missing",
            hint="pass --task embedding to convert its encoder",
        )
    return weight.shape[0]


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"config.json: {key} is {value!r}, not a positive whole number")
    return value
