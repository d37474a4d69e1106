"""Encoder families without a name table: the model of ``transformers`` with the checkpoint's
weights, wrapped by ``transformers_call``.

Imports transformers, which takes seconds: import this module only when it is needed. Weights come
in as tensors and settings as data: transformers opens no file, no socket and no code of a folder.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto import modeling_auto
from transformers.utils import logging

from edgeformer.errors import ModelError
from edgeformer.models.transformers_call import GENERIC_HINT, Call, TransformersModel, find_call

_AUTO_CLASSES: dict[str, Any] = {
    "embedding": AutoModel,
    "classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "fill-mask": AutoModelForMaskedLM,
}
# Settings of config.json that would load code or other kernels, or that we decide ourselves.
_NOT_OURS = ("model_type", "auto_map", "attn_implementation", "_attn_implementation", "torch_dtype")


def build_transformers(
    config: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
    task: str,
    pooling: str,
    normalized: bool,
) -> tuple[TransformersModel, int, tuple[str, ...]]:
    """The wrapped model with the checkpoint's weights, its number of classes, and notices.

    Args:
        config: contents of config.json.
        tensors: the checkpoint's, float32.
        task: one of ``model_folder.TASKS``.
        pooling: ``mean`` or ``cls``; for embeddings.
        normalized: True for vectors of unit length; for embeddings.

    Raises:
        ModelError: a family or head that does not exist, tensors that do not fit, or a model that
            cannot be called with token ids and a mask.
    """
    family = str(config["model_type"])
    check_family(family)
    settings = {key: value for key, value in config.items() if key not in _NOT_OURS}
    try:
        family_config = CONFIG_MAPPING[family].from_dict(settings)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"config.json is no configuration of {family}: {error}") from None
    if family_config.is_encoder_decoder or getattr(family_config, "is_decoder", False):
        raise _not_an_encoder(family)
    model, notices = _load(family_config, tensors, task)
    wrapped = TransformersModel(model, Call(), task, pooling, normalized).eval()
    with _quiet():
        output = find_call(wrapped, family_config)
    return wrapped, 0 if task in ("embedding", "fill-mask") else output.shape[-1], notices


def check_family(family: str) -> None:
    """Raises ModelError unless transformers knows ``family`` as an encoder of text."""
    if family in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return
    if family not in CONFIG_MAPPING:
        raise ModelError(
            f"model_type {family!r} is unknown to EdgeFormer and to transformers, and code in a"
            " model folder is never run",
            hint=GENERIC_HINT,
        )
    if family in modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise ModelError(
            f"{family} is a vision model; checkpoints of text encoders are supported so far",
            hint=GENERIC_HINT,
        )
    if (
        family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or family in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    ):
        raise _not_an_encoder(family)
    raise ModelError(f"{family} is not an encoder of text with a mask", hint=GENERIC_HINT)


def _not_an_encoder(family: str) -> ModelError:
    return ModelError(
        f"{family} is a decoder, and generative decoding is out of scope",
        hint=f"pass an encoder such as BERT; {GENERIC_HINT}",
    )


def _load(
    config: Any, tensors: dict[str, torch.Tensor], task: str
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with every parameter from ``tensors``, with fused attention where it has one."""
    auto_class = _AUTO_CLASSES[task]
    if type(config) not in auto_class._model_mapping:
        raise ModelError(
            f"there is no head for {task} on {config.model_type}",
            hint="pass --task embedding to convert its encoder",
        )
    model_class = auto_class._model_mapping[type(config)]
    attention = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                local_files_only=True,
                attn_implementation=attention,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(f"transformers cannot build {config.model_type}: {error}") from error
    return model.eval(), _check_report(model, report, task)


def _check_report(model: Any, report: Mapping[str, Any], task: str) -> tuple[str, ...]:
    """Raises ModelError unless the checkpoint filled the model; names what was left over."""
    for name, found, wanted in sorted(report["mismatched_keys"], key=str):
        raise ModelError(
            f"tensor {name!r} has shape {tuple(found)}, config.json says {tuple(wanted)}",
            hint="the weights and config.json do not belong together: copy both again",
        )
    for name in sorted(report["missing_keys"]):
        # An embedding is pooled from the hidden states; the pooler only makes `pooler_output`.
        if task != "embedding" or "pooler." not in name:
            raise ModelError(
                f"the checkpoint lacks the tensor {name!r}",
                hint=f"it was not saved for the task {task!r}: check --task and architectures",
            )
    prefix = f"{model.base_model_prefix}."
    base = getattr(model, model.base_model_prefix, model)
    inside = {name for name, _ in base.named_children()} - {"pooler"}
    unused = []
    for name in sorted(report["unexpected_keys"]):
        part = name.removeprefix(prefix).partition(".")[0]
        if part in inside or (name.startswith(prefix) and part != "pooler"):
            raise ModelError(
                f"the checkpoint has a tensor that the encoder has no place for: {name!r}",
                hint="check num_hidden_layers and model_type in config.json",
            )
        unused.append(name)
    return (f"tensors not needed for {task}: {', '.join(unused)}",) if unused else ()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its progress bars and load reports: we check the report ourselves."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
