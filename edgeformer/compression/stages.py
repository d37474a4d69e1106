"""The stages of a recipe for one student: those repeated layer by layer written out."""

import math
from dataclasses import dataclass, replace

from edgeformer.compression.recipe import Recipe, Stage, Trained


@dataclass(frozen=True)
class PlannedStage:
    """A stage as it is carried out.

    Attributes:
        stage: its settings.
        number: in the recipe, from 0.
        layer: of the student, from 0, to which its losses look; None for all.
    """

    stage: Stage
    number: int
    layer: int | None = None


def plan_stages(recipe: Recipe, layers: int) -> tuple[PlannedStage, ...]:
    """The stages in their order, for a student of so many layers."""
    planned: list[PlannedStage] = []
    for number, stage in enumerate(recipe.stages):
        if not stage.per_layer:
            planned.append(PlannedStage(stage, number))
            continue
        order = range(layers) if stage.per_layer == "up" else range(layers - 1, -1, -1)
        for count, layer in enumerate(order):
            once = stage if count == 0 else replace(stage, prune=())
            planned.append(PlannedStage(_of_layer(once, layer, layers), number, layer))
    return tuple(planned)


def stage_steps(stage: Stage, steps_per_epoch: int, scale: float) -> int:
    """Steps of the optimizer; ``scale`` shortens a stage, to at least one step."""
    steps = stage.steps or math.ceil(stage.epochs * steps_per_epoch)
    return max(1, round(steps * scale)) if steps else 0


def _of_layer(stage: Stage, layer: int, layers: int) -> Stage:
    train = tuple(
        Trained(_written_out(entry.parameters, layer, layers), entry.multiplier)
        for entry in stage.train
        # Below the first layer and above the last one there is nothing to train.
        if not ("{below}" in entry.parameters and layer == 0)
        and not ("{above}" in entry.parameters and layer == layers - 1)
    )
    return replace(stage, name=f"{stage.name} {layer + 1}/{layers}", train=train)


def _written_out(pattern: str, layer: int, layers: int) -> str:
    numbers = {
        "{layer}": str(layer),
        "{below}": _any_of(range(layer)),
        "{above}": _any_of(range(layer + 1, layers)),
    }
    for place, text in numbers.items():
        pattern = pattern.replace(place, text)
    return pattern


def _any_of(numbers: range) -> str:
    return f"(?:{'|'.join(map(str, numbers))})"
