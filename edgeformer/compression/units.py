"""What can be taken out of a model, unit by unit, and where the weights of each unit lie.

    unit_counts(model, "heads")                # (12, 12, 12, 12, 12, 12): one number for each place
    keep = tuple(torch.ones(count, dtype=torch.bool) for count in unit_counts(model, "heads"))

Scores, gates and keep-masks of one kind all have the form ``Values``: for each place a tensor with
one entry for each of its units. The places of a kind, in order:

- ``heads``: each set of layer weights (layers that share weights share their heads). Where one
  table of relative positions serves all layers (MPNet), there is a single place, and head h of all
  layers is one unit: they share a column of that table.
- ``neurons``: each feed-forward block of each set of layer weights, stacked ones (MobileBERT)
  first.
- ``layers``: one place; a unit is a layer by its position, whether or not it shares weights.
- ``embedding_dims``: one place; a unit is a column of the token table, where a linear map reads
  the looked-up row and nothing else does.
- ``tokens``: one place; a unit is a row of the token table.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from edgeformer.errors import ModelError, UsageError
from edgeformer.models.encoder import Encoder

UNIT_KINDS = ("heads", "neurons", "layers", "embedding_dims", "tokens")
Values = tuple[torch.Tensor, ...]
"""One tensor for each place, with one entry for each unit."""


@dataclass(frozen=True)
class Slice:
    """Where the units of a place lie in one parameter.

    Along ``axis`` the parameter holds ``copies`` times all units, each ``width`` entries wide.

    Attributes:
        name: of the parameter in the encoder.
        axis: along which the units follow each other.
        width: entries of one unit (a head: head_dim).
        copies: how often all units follow each other (trigrams: 3).
    """

    name: str
    axis: int
    width: int = 1
    copies: int = 1

    def take(self, parameter: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
        """The parameter with these units, int64, in this order."""
        shape = (self.copies, -1, self.width)
        entries = torch.arange(parameter.shape[self.axis], device=parameter.device).view(shape)
        chosen = entries[:, units.to(parameter.device)].flatten()
        return parameter.index_select(self.axis, chosen)

    def sums(self, tensor: torch.Tensor, units: int) -> torch.Tensor:
        """For each unit the sum of its entries of ``tensor``, shaped like the parameter."""
        first = tensor.movedim(self.axis, 0)
        return first.reshape(self.copies, units, self.width, -1).sum((0, 2, 3))


@dataclass(frozen=True)
class Place:
    """Units that are counted together, and of which at least one stays.

    Attributes:
        name: for messages and reports.
        units: how many there are.
        modules: names in the encoder of the modules to which they belong.
        slices: where their weights lie; empty for layers, whose weights are whole modules.
    """

    name: str
    units: int
    modules: tuple[str, ...]
    slices: tuple[Slice, ...] = ()


def encoder_of(model: nn.Module) -> Encoder:
    """The encoder of a model of edgeformer.models, or the model itself if it is one.

    Raises:
        ModelError: it has none.
    """
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise ModelError(
            f"a {type(model).__name__} is not built on EdgeFormer's Encoder",
            hint="only models of the families in docs/models.md can be compressed",
        )
    return encoder


def places(model: nn.Module, kind: str) -> tuple[Place, ...]:
    """The places of a kind, in the order of ``Values``.

    Raises:
        UsageError: no such kind.
        ModelError: the model has no units of that kind.
    """
    makers = {
        "heads": _head_places,
        "neurons": _neuron_places,
        "layers": _layer_places,
        "embedding_dims": _embedding_places,
        "tokens": _token_places,
    }
    if kind not in makers:
        raise UsageError(f"no kind of unit {kind!r}", hint=f"choose from: {', '.join(UNIT_KINDS)}")
    encoder = encoder_of(model)
    if kind in ("heads", "neurons") and encoder.config.linear_ranks:
        raise ModelError(
            f"the {kind} of this encoder lie behind factorised maps and cannot be told apart",
            hint="prune first, and factorise what is left",
        )
    return makers[kind](encoder)


def unit_counts(model: nn.Module, kind: str) -> tuple[int, ...]:
    """How many units of a kind each place has. Raises as ``places``."""
    return tuple(place.units for place in places(model, kind))


def parameter_names(model: nn.Module, kind: str) -> frozenset[str]:
    """Names, in the encoder, of all parameters that hold weights of a kind's units."""
    found = places(model, kind)
    names = [name for name, _ in encoder_of(model).named_parameters()]
    below = tuple(f"{module}." for place in found if not place.slices for module in place.modules)
    slices = {part.name for place in found for part in place.slices}
    return frozenset(name for name in names if name in slices or name.startswith(below))


def unit_sums(model: nn.Module, kind: str, tensors: Mapping[str, torch.Tensor]) -> Values:
    """For each unit the sum over its weights.

    Args:
        model: whose units.
        kind: of ``UNIT_KINDS``.
        tensors: by the name of a parameter in the encoder, a tensor of its shape; parameters that
            are not there add nothing.

    Returns:
        float32. Layers that share weights have equal sums.

    Raises:
        As ``places``.
    """
    device = next(model.parameters()).device
    sums = []
    for place in places(model, kind):
        total = torch.zeros(place.units, device=device)
        for part in place.slices:
            if part.name in tensors:
                total += part.sums(tensors[part.name].float(), place.units)
        if not place.slices:
            total += torch.stack([_sum_below(module, tensors, device) for module in place.modules])
        sums.append(total)
    return tuple(sums)


def _sum_below(
    module: str, tensors: Mapping[str, torch.Tensor], device: torch.device
) -> torch.Tensor:
    total = torch.zeros((), device=device)
    for name, tensor in tensors.items():
        if name.startswith(f"{module}."):
            total += tensor.float().sum()
    return total


def check_values(model: nn.Module, kind: str, values: Values) -> None:
    """Raises UsageError unless the last dimensions of ``values`` are the model's unit counts."""
    counts = unit_counts(model, kind)
    found = tuple(tensor.shape[-1] if tensor.dim() else 0 for tensor in values)
    if found != counts:
        raise UsageError(f"the model has {counts} {kind}, one number for each place, not {found}")


def check_keep(model: nn.Module, kind: str, keep: Values) -> None:
    """Check a mask of what stays.

    Raises:
        UsageError: not bool (units,) at each place, or nothing stays at one of them.
    """
    check_values(model, kind, keep)
    for place, mask in zip(places(model, kind), keep, strict=True):
        if mask.dtype != torch.bool or mask.dim() != 1:
            raise UsageError(
                f"what stays of the {kind} is a mask, bool ({place.units},), not {mask.dtype}"
                f" {tuple(mask.shape)}"
            )
        if not mask.any():
            raise UsageError(
                f"nothing would stay of {place.name}: all {place.units} {kind} are marked to go",
                hint=f"keep at least one of the {kind} there",
            )


def _head_places(encoder: Encoder) -> tuple[Place, ...]:
    found = tuple(_attention_place(encoder, group) for group in range(len(encoder.layers)))
    if encoder.relative_positions is None:
        return found
    table = Slice("relative_positions.table.weight", axis=1)
    return (
        Place(
            "attention of all layers",
            found[0].units,
            tuple(name for place in found for name in place.modules),
            (*(part for place in found for part in place.slices), table),
        ),
    )


def _attention_place(encoder: Encoder, group: int) -> Place:
    name, width = f"layers.{group}.attention", encoder.config.head_dim
    ends = ("weight", "bias") if encoder.config.qkv_bias else ("weight",)
    inner = [f"{name}.{part}.{end}" for part in ("query", "key", "value") for end in ends]
    slices = (
        *(Slice(parameter, axis=0, width=width) for parameter in inner),
        Slice(f"{name}.output.weight", axis=1, width=width),
    )
    heads, _ = encoder.config.layer_sizes(encoder.config.groups.index(group))
    return Place(name, heads, (name,), slices)


def _neuron_places(encoder: Encoder) -> tuple[Place, ...]:
    config, found = encoder.config, []
    for group in range(len(encoder.layers)):
        _, widths = config.layer_sizes(config.groups.index(group))
        names = [f"stacked.{i}.feed_forward" for i in range(len(widths) - 1)] + ["feed_forward"]
        for name, width in zip(names, widths, strict=True):
            name = f"layers.{group}.{name}"
            slices = (
                Slice(f"{name}.up.weight", axis=0),
                Slice(f"{name}.up.bias", axis=0),
                Slice(f"{name}.down.weight", axis=1),
            )
            found.append(Place(name, width, (name,), slices))
    return tuple(found)


def _layer_places(encoder: Encoder) -> tuple[Place, ...]:
    modules = tuple(f"layers.{group}" for group in encoder.config.groups)
    return (Place("the encoder", len(modules), modules),)


def _embedding_places(encoder: Encoder) -> tuple[Place, ...]:
    config = encoder.config
    if config.embedding_projection != "tokens":
        reader = "the patches have none" if config.image_size else "a norm reads its rows whole"
        raise ModelError(
            f"single columns of the token table cannot be cut from this encoder: {reader}",
            hint="factorise the token table first: then a linear map reads its rows",
        )
    slices = (
        Slice("embeddings.tokens.weight", axis=1),
        Slice("embeddings.projection.weight", axis=1, copies=3 if config.trigram else 1),
    )
    name = "embeddings.tokens"
    return (Place(name, config.token_size, (name,), slices),)


def _token_places(encoder: Encoder) -> tuple[Place, ...]:
    if encoder.config.image_size:
        raise ModelError("an encoder of images has no table of tokens")
    name = "embeddings.tokens"
    return (Place(name, encoder.config.vocab_size, (name,), (Slice(f"{name}.weight", axis=0),)),)
