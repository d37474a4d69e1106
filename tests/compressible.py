"""Tiny random models of our own, one for each way in which an encoder differs from another, and
batches for them. Made from settings alone: no checkpoint, no transformers."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.config import EncoderConfig
from tests.tiny_models import randomise

BERT = EncoderConfig(
    vocab_size=30,
    hidden_size=16,
    num_heads=(4, 4, 4),
    head_dim=4,
    intermediate_sizes=(12, 12, 12),
    max_positions=24,
)
_MOBILE = replace(
    BERT,
    head_dim=2,
    intermediate_sizes=(12, 10) * 3,
    stacked_ffns=2,
    embedding_size=6,
    embedding_projection="tokens",
    bottleneck_size=8,
    norm="no_norm",
    activation="relu",
)
_IMAGE = replace(BERT, vocab_size=0, max_positions=10, pre_norm=True, image_size=12, patch_size=4)
CONFIGS = {
    "bert": BERT,
    "uneven": replace(BERT, num_heads=(4, 1, 3), intermediate_sizes=(12, 5, 9)),
    "albert": replace(BERT, layer_groups=(0, 0, 0), embedding_size=8, embedding_projection="sum"),
    "groups": replace(BERT, layer_groups=(0, 1, 0)),
    "factorised": replace(BERT, embedding_size=6, embedding_projection="tokens"),
    "mobilebert": replace(_MOBILE, trigram=True),
    "mobilebert-plain": replace(_MOBILE, bottleneck_readers="all", norm="layer_norm"),
    "mpnet": replace(BERT, relative_buckets=8, type_vocab_size=0, position_start=2),
    "vit": _IMAGE,
    "dinov2": replace(_IMAGE, layer_scale=True, qkv_bias=False),
    "deit": replace(_IMAGE, max_positions=11, distilled=True),
}
TEXT_CONFIGS = tuple(name for name, config in CONFIGS.items() if not config.image_size)
HEADS = {
    "embedding": HeadConfig("embedding"),
    "classification": HeadConfig("classification", num_labels=3),
    "token-classification": HeadConfig("token-classification", num_labels=3),
    "fill-mask": HeadConfig("fill-mask", activation="gelu"),
}


def tiny(name: str, task: str = "embedding", seed: int = 0) -> Any:
    """The model of ``CONFIGS[name]`` and ``HEADS[task]``, every tensor random, in eval mode."""
    head = HEADS[task]
    if name.startswith("mobilebert"):
        head = replace(head, narrows=False)
    if name == "deit" and task == "classification":
        head = replace(head, image_reads="cls_and_teacher")
    model: nn.Module = make_model(CONFIGS[name], head).eval()
    randomise(model, seed)
    return model


def batch_for(
    name: str, lengths: tuple[int, ...] = (9, 4, 1), seed: int = 0
) -> dict[str, torch.Tensor]:
    """Padded texts, or as many images, for ``CONFIGS[name]``."""
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(seed)
    if config.image_size:
        size = config.image_size
        return {"pixel_values": torch.randn(len(lengths), 3, size, size, generator=generator)}
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, config.vocab_size, shape, generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask}
    if config.type_vocab_size:
        batch["token_type_ids"] = torch.randint(0, 2, shape, generator=generator) * mask
    return batch
