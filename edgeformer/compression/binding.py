"""A stage's losses bound to the two models that they compare, and what can stop that."""

import torch
from torch import nn

from edgeformer.compression.layer_maps import LayerMap, attention_pairs, layer_map
from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.losses import BoundLoss
from edgeformer.compression.model_config import text_width
from edgeformer.compression.optimizing import seed_of
from edgeformer.compression.recipe import Loss, Recipe, Stage
from edgeformer.compression.stages import PlannedStage
from edgeformer.compression.strict_toml import Key
from edgeformer.errors import EdgeFormerError, UsageError
from edgeformer.models.encoder import Encoder


def make_projections(
    recipe: Recipe, student: nn.Module, teacher: nn.Module, seed: int
) -> nn.ModuleDict:
    """Maps from the student's widths to the teacher's, by what a loss reads: ``hidden``, ``text``.

    They are trained beside the student through all stages, and are not part of it.
    """
    projected = {
        LOSS_KINDS[loss.kind].reads
        for stage in recipe.stages
        for loss in stage.losses
        if loss.projected
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "projections"))
        return nn.ModuleDict(
            {
                reads: nn.Linear(text_width(student), text_width(teacher))
                for reads in sorted(projected)
            }
        )


def used_projections(stage: Stage, projections: nn.ModuleDict) -> nn.ModuleDict:
    """Those that a stage trains, and the spans of its heads (soft_spans.py)."""
    reads = {LOSS_KINDS[loss.kind].reads for loss in stage.losses if loss.projected}
    reads |= {"spans"} if stage.span is not None else set()
    return nn.ModuleDict({name: projections[name] for name in sorted(reads)})


def bind_losses(
    recipe: Recipe,
    planned: PlannedStage,
    student: nn.Module,
    teacher: nn.Module,
    projections: nn.ModuleDict,
    problem_type: str,
) -> tuple[BoundLoss, ...]:
    """The losses of a stage for a student and its teacher.

    Args:
        recipe: for the lines of its file.
        planned: the stage.
        student: as it is in that stage.
        teacher: of edgeformer.models.
        projections: of ``make_projections``.
        problem_type: of the labels.

    Raises:
        UsageError: models that the loss cannot compare: layers that do not match its map, other
            widths without a projection, other numbers of heads; with file and line.
    """
    bound = []
    for number, loss in enumerate(planned.stage.losses):
        key: Key = ("stages", planned.number, "losses", number)
        try:
            pairs = _pairs(loss, planned, student, teacher)
            _check(loss, pairs, student, teacher)
        except EdgeFormerError as error:
            where = f"{recipe.source.where(key)}: " if recipe.source else ""
            message = f"{where}the loss {loss.kind!r}: {error.message}"
            raise UsageError(message, hint=error.hint) from None
        reads = LOSS_KINDS[loss.kind].reads
        projection = projections[reads] if loss.projected else None
        bound.append(BoundLoss(loss, pairs, projection, problem_type))
    return tuple(bound)


def _pairs(loss: Loss, planned: PlannedStage, student: nn.Module, teacher: nn.Module) -> LayerMap:
    if "layer_map" not in LOSS_KINDS[loss.kind].options:
        return ()
    ours, theirs = _encoder(student, "student"), _encoder(teacher, "teacher")
    depths = ours.config.num_layers, theirs.config.num_layers
    pairs = layer_map(loss.layer_map, *depths, explicit=loss.pairs)
    if planned.layer is not None:
        pairs = tuple(pair for pair in pairs if pair[0] == planned.layer + 1)
    if LOSS_KINDS[loss.kind].reads == "attention":
        attention_pairs(pairs)
    return pairs


def _check(loss: Loss, pairs: LayerMap, student: nn.Module, teacher: nn.Module) -> None:
    kind = LOSS_KINDS[loss.kind]
    if kind.equal_width and not loss.projected:
        ours = _encoder(student, "student").config.hidden_size
        theirs = _encoder(teacher, "teacher").config.hidden_size
        if ours != theirs:
            hint = "projected = true puts a trained map between them"
            other = "a loss on attention or relations compares models of any width"
            raise UsageError(
                f"states of the student are {ours} wide, and those of the teacher {theirs}",
                hint=hint if "projected" in kind.options else other,
            )
    if kind.equal_heads:
        heads = (_encoder(model, "model").config.num_heads for model in (student, teacher))
        ours_by_layer, theirs_by_layer = heads
        for s, t in attention_pairs(pairs):
            if ours_by_layer[s] != theirs_by_layer[t]:
                raise UsageError(
                    f"layer {s} of the student has {ours_by_layer[s]} heads, layer {t} of the"
                    f" teacher {theirs_by_layer[t]}",
                    hint="value_relation with relation_heads serves any number of heads",
                )


def _encoder(model: nn.Module, who: str) -> Encoder:
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UsageError(
            f"the {who} is a {type(model).__name__}, which has no layers to compare",
            hint="compare logits, or text_mse, one vector for each text",
        )
    return encoder
