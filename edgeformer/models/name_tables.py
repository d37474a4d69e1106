"""From the tensor names of a checkpoint to the parameter names of our models and back: what a
family's table holds, and the functions that apply it.

Every tensor of the checkpoint is used exactly once, is a copy of one that is used, or is on the
table's list of what the task does not need. Anything else is an error that names the tensor: a
forgotten bias is a wrong model.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from edgeformer.errors import ModelError

Names = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NameTable:
    """How one family names its modules. ``{i}`` and ``{j}`` stand for numbers of layers.

    Attributes:
        prefix: what may or may not stand before the encoder's names.
        encoder: (checkpoint's name, ours) in the encoder: of a module, whose weight and bias follow
            along, or of one parameter.
        heads: the same for the head of each task.
        copies: for each task (checkpoint's name, our parameter): tensors that files of some
            versions hold a second time. They must equal the first.
        leftovers: (pattern for ``re.match``, reason): tensors that a task may leave unused.
        old_endings: endings of parameter names in old files, and what they are called now.
        transposed: our parameters that the checkpoint stores with their axes exchanged.
        inside: our head's modules that the checkpoint counts as a part of the encoder.
    """

    prefix: str
    encoder: Names
    heads: Mapping[str, Names]
    leftovers: Names
    copies: Mapping[str, Names]
    old_endings: Names = ()
    transposed: frozenset[str] = frozenset()
    inside: tuple[str, ...] = ()


OWN_NAMES = NameTable(prefix="encoder.", encoder=(), heads={}, leftovers=(), copies={})
"""The table of our own folders, whose names need no translation."""


def translate(
    tensors: Mapping[str, torch.Tensor],
    table: NameTable,
    task: str,
    shapes: Mapping[str, torch.Size],
) -> dict[str, torch.Tensor]:
    """The parameters of our model.

    Args:
        tensors: the checkpoint's.
        table: names of the family.
        task: which head.
        shapes: name and shape of every parameter of our model, ``encoder.`` before the encoder's.

    Raises:
        ModelError: a tensor that is unexpected, missing, there twice or of the wrong shape.
    """
    theirs = checkpoint_names(shapes, table, task)
    ours = {name: parameter for parameter, name in theirs.items()}
    copies = dict(table.copies.get(task, ()))
    found: dict[str, torch.Tensor] = {}
    second: list[tuple[str, str]] = []
    for name, tensor in tensors.items():
        plain = _plain_name(name, table)
        if plain in copies:
            second.append((name, copies[plain]))
        elif plain in ours:
            if ours[plain] in found:
                raise ModelError(f"the checkpoint has the tensor {plain!r} twice: also as {name!r}")
            found[ours[plain]] = _fitting(name, tensor, ours[plain], table, shapes)
        elif not any(re.match(pattern, plain) for pattern, _ in table.leftovers):
            raise ModelError(
                f"the checkpoint has a tensor that the task {task!r} has no place for: {name!r}",
                hint="check architectures, num_hidden_layers and model_type in config.json",
            )
    _check_complete(found, theirs, task)
    _check_copies(second, tensors, found)
    return found


def checkpoint_names(parameters: Iterable[str], table: NameTable, task: str) -> dict[str, str]:
    """For each of our parameters the name that the checkpoint gives it, without prefix."""
    encoder = [(_numbered(ours), theirs) for theirs, ours in table.encoder]
    head = [(_numbered(ours), theirs) for theirs, ours in table.heads.get(task, ())]
    return {
        name: _their_name(name.removeprefix("encoder."), encoder)
        if name.startswith("encoder.")
        else _their_name(name, head)
        for name in parameters
    }


def _numbered(ours: str) -> re.Pattern[str]:
    """A pattern for a module of ours and for a parameter in it."""
    name = re.escape(ours).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    return re.compile(rf"{name}(?P<kind>\.weight|\.bias|)")


def _their_name(ours: str, pairs: list[tuple[re.Pattern[str], str]]) -> str:
    """A parameter that no pair names keeps its name: an error then says that it is missing."""
    for pattern, theirs in pairs:
        match = pattern.fullmatch(ours)
        if match:
            numbers = match.groupdict()
            return theirs.format(**numbers) + numbers["kind"]
    return ours


def _plain_name(name: str, table: NameTable) -> str:
    """The checkpoint's name without prefix and in today's spelling."""
    plain = name.removeprefix(table.prefix)
    for old, new in table.old_endings:
        if plain.endswith(old):
            plain = plain.removesuffix(old) + new
    return plain


def _fitting(
    name: str,
    tensor: torch.Tensor,
    ours: str,
    table: NameTable,
    shapes: Mapping[str, torch.Size],
) -> torch.Tensor:
    wanted = tuple(shapes[ours])
    if ours in table.transposed:
        wanted = wanted[::-1]
    if tuple(tensor.shape) != wanted:
        raise ModelError(
            f"tensor {name!r} has shape {tuple(tensor.shape)}, config.json says {wanted}",
            hint="the weights and config.json do not belong together: copy both again",
        )
    return tensor.t().contiguous() if ours in table.transposed else tensor


def _check_complete(
    found: Mapping[str, torch.Tensor], theirs: Mapping[str, str], task: str
) -> None:
    for ours, name in theirs.items():
        if ours not in found:
            raise ModelError(
                f"the checkpoint lacks the tensor {name!r}",
                hint=f"it was not saved for the task {task!r}: check --task and architectures",
            )


def _check_copies(
    second: list[tuple[str, str]],
    tensors: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
) -> None:
    for name, ours in second:
        if not torch.equal(tensors[name], found[ours]):
            raise ModelError(
                f"the tensor {name!r} should be a copy of the one that becomes {ours!r}, and"
                " differs from it",
                hint="models whose output layer is not tied to the token table are not supported",
            )
