"""From the tensor names of a checkpoint to the parameter names of our models: data, one table for
each family, and the one function that applies them.

Every tensor of the checkpoint is used exactly once or is on the table's list of what the task does
not need. Anything else is an error that names the tensor: a forgotten bias is a wrong model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edgeformer.errors import ModelError

Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NameTable:
    """How one family names its modules. ``{i}`` stands for the number of the layer.

    Attributes:
        prefix: what may or may not stand before the encoder's names.
        encoder: (checkpoint's module, ours) for the encoder; weight and bias follow along.
        heads: the same for the head of each task.
        ignored: for each task, patterns (``re.match``) of tensors that it does not need.
        old_endings: endings of parameter names in old files, and what they are called now.
    """

    prefix: str
    encoder: Names
    heads: Mapping[str, Names]
    ignored: Mapping[str, str]
    old_endings: Names = ()


_BERT_BUFFERS = r"embeddings\.(position_ids|token_type_ids)$"

BERT = NameTable(
    prefix="bert.",
    encoder=(
        ("embeddings.word_embeddings", "embeddings.tokens"),
        ("embeddings.position_embeddings", "embeddings.positions"),
        ("embeddings.token_type_embeddings", "embeddings.token_types"),
        ("embeddings.LayerNorm", "embeddings.norm"),
        ("encoder.layer.{i}.attention.self.query", "layers.{i}.attention.query"),
        ("encoder.layer.{i}.attention.self.key", "layers.{i}.attention.key"),
        ("encoder.layer.{i}.attention.self.value", "layers.{i}.attention.value"),
        ("encoder.layer.{i}.attention.output.dense", "layers.{i}.attention.output"),
        ("encoder.layer.{i}.attention.output.LayerNorm", "layers.{i}.attention_norm"),
        ("encoder.layer.{i}.intermediate.dense", "layers.{i}.feed_forward.up"),
        ("encoder.layer.{i}.output.dense", "layers.{i}.feed_forward.down"),
        ("encoder.layer.{i}.output.LayerNorm", "layers.{i}.feed_forward_norm"),
    ),
    heads={
        "embedding": (),
        "classification": (("pooler.dense", "pooler"), ("classifier", "classifier")),
        "token-classification": (("classifier", "classifier"),),
    },
    ignored={
        "embedding": _BERT_BUFFERS + r"|pooler\.|cls\.|classifier\.|qa_outputs\.",
        "classification": _BERT_BUFFERS + r"|cls\.",
        "token-classification": _BERT_BUFFERS + r"|pooler\.|cls\.",
    },
    old_endings=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
)


def translate(
    tensors: Mapping[str, torch.Tensor],
    table: NameTable,
    task: str,
    shapes: Mapping[str, torch.Size],
) -> dict[str, torch.Tensor]:
    """The state dict of our model.

    Args:
        tensors: the checkpoint's.
        table: names of the family.
        task: a key of ``table.heads``.
        shapes: name and shape of every parameter of our model, ``encoder.`` before the encoder's.

    Raises:
        ModelError: a tensor that is unexpected, missing, there twice or of the wrong shape.
    """
    ignored = re.compile(table.ignored[task])
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        plain = _plain_name(name, table)
        if ignored.match(plain):
            continue
        ours = _our_name(plain, table, task)
        if ours not in shapes:
            raise ModelError(
                f"the checkpoint has a tensor that the task {task!r} has no place for: {name!r}",
                hint="check architectures, num_hidden_layers and model_type in config.json",
            )
        if ours in found:
            raise ModelError(f"the checkpoint has the tensor {plain!r} twice: also as {name!r}")
        if tensor.shape != shapes[ours]:
            raise ModelError(
                f"tensor {name!r} has shape {tuple(tensor.shape)}, config.json says"
                f" {tuple(shapes[ours])}",
                hint="the weights and config.json do not belong together: copy both again",
            )
        found[ours] = tensor
    for ours in shapes:
        if ours not in found:
            raise ModelError(
                f"the checkpoint lacks the tensor {_their_name(ours, table, task)!r}",
                hint=f"it was not saved for the task {task!r}: check --task and architectures",
            )
    return found


def _plain_name(name: str, table: NameTable) -> str:
    """The checkpoint's name without prefix and in today's spelling."""
    plain = name.removeprefix(table.prefix)
    for old, new in table.old_endings:
        if plain.endswith(old):
            plain = plain.removesuffix(old) + new
    return plain


def _our_name(plain: str, table: NameTable, task: str) -> str:
    """Our name of a parameter, empty if the table has none."""
    module, _, kind = plain.rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    index = number.group(1) if number else ""
    for prefix, pairs in (("encoder.", table.encoder), ("", table.heads[task])):
        for theirs, ours in pairs:
            if theirs.replace("{i}", index) == module:
                return f"{prefix}{ours.replace('{i}', index)}.{kind}"
    return ""


def _their_name(ours: str, table: NameTable, task: str) -> str:
    """The checkpoint's name of one of our parameters, for a message."""
    module, _, kind = ours.rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    index = number.group(1) if number else ""
    for prefix, pairs in (("encoder.", table.encoder), ("", table.heads[task])):
        for theirs, name in pairs:
            if prefix + name.replace("{i}", index) == module:
                return f"{theirs.replace('{i}', index)}.{kind}"
    return ours
