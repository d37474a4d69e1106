"""The cuts of a stage: score, choose, take out."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from edgeformer.compression import distributed
from edgeformer.compression.batches import Batch, Outputs
from edgeformer.compression.losses import label_loss
from edgeformer.compression.making import layers_that_stay
from edgeformer.compression.model_config import num_layers_of
from edgeformer.compression.optimizing import seed_of
from edgeformer.compression.recipe import DROPPED_LAYERS, Prune
from edgeformer.compression.scores import score
from edgeformer.compression.selection import keep_best, normalized_by_place
from edgeformer.compression.slimming import slim
from edgeformer.compression.units import Values


def prune(
    model: nn.Module,
    cuts: tuple[Prune, ...],
    batches: Sequence[Iterable[Batch]],
    problem_type: str,
    seed: int,
) -> nn.Module:
    """A smaller model. All kinds of units are scored on the whole one, then cut together.

    Args:
        model: of edgeformer.models. It is left as it is.
        cuts: at most one of each kind of unit.
        batches: labelled, on the model's device, for each cut.
        problem_type: of the labels.
        seed: of random scores.

    Raises:
        UsageError: a method that does not score such units, or a share that leaves nothing.
        ModelError: a model without such units, or scores that are not finite.
    """
    keep: dict[str, Values] = {}
    for number, cut in enumerate(cuts):
        if cut.method in DROPPED_LAYERS:
            keep[cut.units] = by_rule(cut, num_layers_of(model))
            continue

        def loss(answer: Outputs, batch: Batch) -> torch.Tensor:
            return label_loss(answer["logits"], batch["labels"], problem_type)

        generator = torch.Generator().manual_seed(seed_of(seed, "prune", number))
        scores = score(model, cut.units, cut.method, batches[number], loss, generator)
        keep[cut.units] = chosen(scores, cut)
    return slim(model, distributed.agreed(keep))


def by_rule(cut: Prune, layers: int) -> Values:
    """Which layers stay where no score decides.

    Raises:
        UsageError: a rule that cannot drop as many.
    """
    return layers_that_stay(cut.method, layers, max(cut.minimum, round(cut.keep * layers)))


def chosen(scores: Values, cut: Prune) -> Values:
    """What stays: bool (units,) for each place.

    Raises:
        UsageError: a share that leaves fewer units than the minimum.
    """
    ranked = normalized_by_place(scores) if cut.normalized else scores
    return keep_best(ranked, fraction=cut.keep, per=cut.per, minimum=cut.minimum)
