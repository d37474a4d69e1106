"""A physically smaller model: the weights of units that do not stay are cut out.

small = slim(model, {"heads": keep})       # equals gated(model, {"heads": keep}) to 1e-5
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from edgeformer.compression.rebuilding import Model, rebuilt
from edgeformer.compression.slimming_vocabulary import slim_masked_lm
from edgeformer.compression.units import Values, check_keep, check_values, encoder_of, places
from edgeformer.errors import UsageError
from edgeformer.models.config import EncoderConfig
from edgeformer.models.exits import ExitClassifier
from edgeformer.models.masked_lm import MaskedLanguageModel


def slim(model: Model, keep: Mapping[str, Values]) -> Model:
    """A new model without the units that do not stay.

    Its answers are those of ``gated(model, keep)``. After ``tokens`` it takes other ids, those of
    ``new_ids(keep["tokens"][0])``, and a masked language model scores only the tokens that stay.

    Args:
        model: of edgeformer.models. It is left as it is.
        keep: by kind, bool (units,) for each place, true for what stays; other kinds stay whole.

    Returns:
        A model of the same class; its ``encoder.config`` says the new sizes.

    Raises:
        UsageError: masks that do not fit the model, or a place of which nothing would stay; weights
            that are still masked (masks.py).
        ModelError: the model has no units of a kind, or its head forbids cutting them.
    """
    encoder = encoder_of(model)
    parameters = {name: tensor.detach() for name, tensor in encoder.named_parameters()}
    for kind, masks in keep.items():
        check_keep(model, kind, masks)
        for place, mask in zip(places(model, kind), masks, strict=True):
            for part in place.slices:
                parameters[part.name] = part.take(parameters[part.name], mask.nonzero().flatten())
    config = slim_config(encoder.config, keep)
    if "layers" in keep:
        parameters = _renumbered(parameters, _kept_groups(encoder.config, keep))
    made = rebuilt(model, config, parameters)
    if "layers" in keep and isinstance(made, ExitClassifier):
        made.keep_layers(keep["layers"][0].nonzero().flatten().tolist())
    if isinstance(model, MaskedLanguageModel) and isinstance(made, MaskedLanguageModel):
        slim_masked_lm(made, model.encoder.token_table.detach(), keep)
    return made


def sort_units(model: Model, scores: Mapping[str, Values]) -> Model:
    """A new model that answers the same, with its units in another order: the best ones first.

    What stays of each place is then its first units, whatever the width, so that one file of
    weights holds all narrower models (DynaBERT, Hou et al., arXiv 2004.04037, section 2.1).

    Args:
        model: of edgeformer.models. It is left as it is.
        scores: of ``heads``, ``neurons`` or both, float (units,) for each place.

    Raises:
        UsageError: scores of another kind, or that do not fit the model; weights that are still
            masked (masks.py).
    """
    encoder = encoder_of(model)
    parameters = {name: tensor.detach() for name, tensor in encoder.named_parameters()}
    for kind, values in scores.items():
        if kind not in ("heads", "neurons"):
            raise UsageError(f"{kind} cannot be reordered: heads and neurons can")
        if kind == "heads" and encoder.config.attention_spans:
            raise UsageError("heads that have spans keep their order")
        check_values(model, kind, values)
        for place, of_units in zip(places(model, kind), values, strict=True):
            order = of_units.sort(descending=True, stable=True).indices
            for part in place.slices:
                parameters[part.name] = part.take(parameters[part.name], order)
    return rebuilt(model, encoder.config, parameters)


def slim_config(config: EncoderConfig, keep: Mapping[str, Values]) -> EncoderConfig:
    """Settings of the slimmed encoder; arguments as of ``slim``."""
    groups, firsts = config.groups, dict.fromkeys(config.groups)
    heads = {group: config.layer_sizes(groups.index(group))[0] for group in firsts}
    widths = {group: config.layer_sizes(groups.index(group))[1] for group in firsts}
    if "heads" in keep:
        kept = [int(mask.sum()) for mask in keep["heads"]]
        # One place stands for all layers where they share a table of relative positions.
        heads = dict(zip(heads, kept * len(heads) if len(kept) == 1 else kept, strict=True))
    if "neurons" in keep:
        kept, each = [int(mask.sum()) for mask in keep["neurons"]], config.stacked_ffns
        widths = {group: tuple(kept[group * each : (group + 1) * each]) for group in widths}
    left = _kept_groups(config, keep)
    order = list(dict.fromkeys(left))
    return replace(
        config,
        num_heads=tuple(heads[group] for group in left),
        intermediate_sizes=tuple(width for group in left for width in widths[group]),
        layer_groups=tuple(order.index(group) for group in left) if config.layer_groups else (),
        attention_spans=_kept_spans(config, keep),
        linear_ranks=_kept_ranks(config, keep),
        embedding_size=_count(keep, "embedding_dims", config.embedding_size),
        vocab_size=_count(keep, "tokens", config.vocab_size),
    )


def new_ids(keep: torch.Tensor) -> torch.Tensor:
    """For each old token id the new one, -1 where the token does not stay.

    Args:
        keep: bool (vocabulary,), as for ``slim``.

    Returns:
        int64 (vocabulary,).
    """
    ids = keep.long().cumsum(0) - 1
    return torch.where(keep, ids, -1)


def _kept_ranks(config: EncoderConfig, keep: Mapping[str, Values]) -> tuple[int, ...]:
    """Ranks of the layers that stay."""
    if not config.linear_ranks or "layers" not in keep:
        return config.linear_ranks
    stay = keep["layers"][0].nonzero().flatten().tolist()
    return tuple(rank for layer in stay for rank in config.layer_ranks(layer))


def _kept_spans(config: EncoderConfig, keep: Mapping[str, Values]) -> tuple[int, ...]:
    """Spans of the heads and layers that stay."""
    if not config.attention_spans:
        return ()
    groups = config.groups
    stays = keep["layers"][0].tolist() if "layers" in keep else [True] * config.num_layers
    spans: list[int] = []
    for layer in (number for number, stay in enumerate(stays) if stay):
        all_heads = config.layer_spans(layer)
        heads = [True] * len(all_heads)
        if "heads" in keep:
            # One place stands for all layers where they share a table of relative positions.
            heads = keep["heads"][groups[layer] if len(keep["heads"]) > 1 else 0].tolist()
        spans += [span for span, stay in zip(all_heads, heads, strict=True) if stay]
    return tuple(spans)


def _count(keep: Mapping[str, Values], kind: str, otherwise: int) -> int:
    return int(keep[kind][0].sum()) if kind in keep else otherwise


def _kept_groups(config: EncoderConfig, keep: Mapping[str, Values]) -> tuple[int, ...]:
    """For each layer that stays the old number of its weights."""
    if "layers" not in keep:
        return config.groups
    stays = keep["layers"][0].tolist()
    return tuple(group for group, stay in zip(config.groups, stays, strict=True) if stay)


def _renumbered(
    parameters: Mapping[str, torch.Tensor], groups: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """The parameters without layers that do not stay, those left counting up from 0."""
    numbers = {str(old): str(new) for new, old in enumerate(dict.fromkeys(groups))}
    found = {}
    for name, tensor in parameters.items():
        start, *rest = name.split(".")
        if start != "layers":
            found[name] = tensor
        elif rest[0] in numbers:
            found[".".join((start, numbers[rest[0]], *rest[1:]))] = tensor
    return found
