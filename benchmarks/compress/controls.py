"""The controls of a recipe: what it must beat with a student of its size and as many steps.

    for control in controls(load_recipe("fastformers"), steps, layers=6, seed=0):
        control.kind, write_recipe(control.recipe, path)

A control is the recipe with data replaced, so a recipe itself: ``random`` lets chance decide what
is cut, ``plain`` learns the labels and nothing else. Both keep the stages, their learning rates,
batch sizes and steps.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.making import num_layers
from edgeformer.compression.recipe import Loss, Recipe, Stage

KINDS = {
    "random": "what is cut is drawn by lot; the training is the recipe's",
    "plain": "the same student learns the labels alone, for as many steps",
}


@dataclass(frozen=True)
class Control:
    """A recipe to beat.

    Attributes:
        kind: of ``KINDS``.
        recipe: what the control does.
        scale: of its steps.
    """

    kind: str
    recipe: Recipe
    scale: float

    @property
    def run(self) -> str:
        """Name of its run: recipes with the same control share it."""
        return f"control-{self.recipe.digest[:8]}"


def learns_from_teacher(recipe: Recipe) -> bool:
    """True if some loss compares with a teacher."""
    return any(LOSS_KINDS[loss.kind].teacher for s in recipe.stages for loss in s.losses)


def controls(
    recipe: Recipe, scale: float, steps: Sequence[tuple[str, int]], layers: int, seed: int
) -> tuple[Control, ...]:
    """The controls that a recipe has; none for plain fine-tuning.

    Args:
        recipe: what was done.
        scale: of its steps.
        steps: name and steps of each stage that was carried out, in order; a stage that was
            repeated for each layer comes as often.
        layers: of the teacher.
        seed: of what is drawn.
    """
    found = []
    teaches = learns_from_teacher(recipe)
    drops = recipe.student.kind == "layers" and not teaches
    cuts = any(stage.prune or stage.sparsity for stage in recipe.stages)
    if drops or cuts:
        found.append(Control("random", _random(recipe, layers, seed, drops), scale))
    if teaches or any(stage.layer_drop for stage in recipe.stages):
        found.append(Control("plain", _plain(recipe, steps), 1.0))
    return tuple(found)


def _random(recipe: Recipe, layers: int, seed: int, drops: bool) -> Recipe:
    student = recipe.student
    if drops:
        stay = num_layers(student, layers)
        drawn = tuple(sorted(random.Random(seed).sample(range(layers), stay)))
        student = replace(student, layer_share=0.0, layers=0, drop="top", layer_numbers=drawn)
    stages = tuple(
        replace(
            stage,
            prune=tuple(replace(cut, method="random", normalized=False) for cut in stage.prune),
            sparsity=tuple(replace(part, method="random") for part in stage.sparsity),
        )
        for stage in recipe.stages
    )
    return _named(recipe, "random", replace(recipe, student=student, stages=stages))


def _plain(recipe: Recipe, steps: Sequence[tuple[str, int]]) -> Recipe:
    """Every stage trains everything on labels for the steps that it took, whatever data that was;
    those of a layer alone become one."""
    stages = tuple(
        replace(
            stage,
            losses=(Loss("labels"),) if stage.losses else (),
            data="labelled",
            augmentation=None,
            train=(),
            per_layer="",
            layer_drop=0.0,
        )
        for stage in _with_steps(recipe, steps)
    )
    return _named(recipe, "plain", replace(recipe, stages=stages))


def _with_steps(recipe: Recipe, steps: Sequence[tuple[str, int]]) -> tuple[Stage, ...]:
    found = []
    for stage in recipe.stages:
        # A stage of layers is named "NAME 2/6" for the second of six.
        taken = [n for name, n in steps if name == stage.name or name.startswith(stage.name + " ")]
        found.append(replace(stage, epochs=0.0, steps=sum(taken)))
    return tuple(found)


def _named(recipe: Recipe, kind: str, control: Recipe) -> Recipe:
    return replace(
        control,
        name=f"{recipe.name}-{kind}",
        title=f"Control of {recipe.name}: {KINDS[kind]}",
        paper="none: a control",
        deviations=(),
        export=(),
    )


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as the TOML that ``load_recipe`` reads; what is a default is left out."""
    lines = []
    tables = {"student": [recipe.student], "vocabulary": [recipe.vocabulary]}
    for entry in fields(recipe):
        value = getattr(recipe, entry.name)
        if entry.name not in ("stages", "source", *tables) and value != entry.default:
            lines.append(f"{entry.name} = {_toml(value)}")
    for name, (table,) in tables.items():
        if table is not None:
            lines += ["", f"[{name}]", *_pairs(table)]
    for stage in recipe.stages:
        lines += ["", "[[stages]]", *_pairs(stage)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pairs(table: Any) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in _said(table).items()]


def _said(table: Any) -> Mapping[str, Any]:
    """The fields that differ from their defaults."""
    values = {entry.name: (entry.default, getattr(table, entry.name)) for entry in fields(table)}
    return {
        k: value for k, (default, value) in values.items() if default is MISSING or value != default
    }


def _toml(value: Any) -> str:
    if is_dataclass(value):
        return "{ " + ", ".join(_pairs(value)) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # texts, numbers and truth values are alike
