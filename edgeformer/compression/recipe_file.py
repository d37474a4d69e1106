"""Reading recipes: the built-in ones by name, a user's own by path, each checked line by line."""

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.recipe import DROPPED_LAYERS, SCORE_METHODS, Loss, Recipe, Stage
from edgeformer.compression.strict_toml import Key, Source, build, nearest, read_source, spelled
from edgeformer.errors import UsageError

_FOLDER = Path(__file__).parent.parent / "recipes"
# What ``{layer}`` and its like stand for is known once there is a student; any number will do here.
_PLACES = {"{layer}": "0", "{below}": "(?:0)", "{above}": "(?:0)"}


def recipe_names() -> list[str]:
    """Names of the built-in recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """The built-in recipe of that name, or the one in that TOML file.

    Raises:
        UsageError: an unknown name, a file that cannot be read, or anything in it that is unknown
            or impossible, with its file and line, and the nearest name.
    """
    path = _locate(name_or_path)
    source = read_source(path, _locate)
    source.data.setdefault("name", path.stem)
    recipe = replace(build(Recipe, source), source=source)
    _check(recipe, source)
    return recipe


def _locate(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(f"no recipe file {path}")
        return path
    names = recipe_names()
    if name_or_path in names:
        return _FOLDER / f"{name_or_path}.toml"
    raise UsageError(
        f"no recipe {name_or_path!r}",
        hint=f"{nearest(name_or_path, names)} `edgeformer recipes list` shows all; a file of your"
        " own needs its .toml",
    )


def _check(recipe: Recipe, source: Source) -> None:
    if not recipe.stages:
        source.fail(("stages",), "a recipe needs a stage", "start with [[stages]]")
    _check_student(recipe, source)
    for number, stage in enumerate(recipe.stages):
        key: Key = ("stages", number)
        _check_length(stage, key, source)
        _check_data(stage, key, source)
        _check_train(stage, key, source)
        _check_exits(recipe.stages[:number], stage, key, source)
        for index, loss in enumerate(stage.losses):
            _check_loss(loss, stage, (*key, "losses", index), source)


_SIZES = ("layers", "layer_share", "hidden_size", "num_heads", "intermediate_size")
_COPIED = ("embedding_size", "linear_share", "tied")
_STUDENT_KEYS = {
    "same": (*_COPIED, "reads"),
    "layers": ("layers", "layer_share", "drop", "layer_numbers", *_COPIED, "reads"),
    "sizes": (*_SIZES, "embedding_size", "reads"),
    "mobilebert": (*_SIZES, "bottleneck_size", "stacked_ffns", "embedding_size", "reads"),
    "bilstm": ("hidden_size", "intermediate_size", "embedding_size"),
}


def _check_student(recipe: Recipe, source: Source) -> None:
    student, takes = recipe.student, _STUDENT_KEYS[recipe.student.kind]
    for entry in fields(student):
        if entry.name not in ("kind", *takes) and getattr(student, entry.name) != entry.default:
            source.fail(
                ("student", entry.name),
                f"a student of the kind {student.kind!r} has no {entry.name}",
                f"it has: {', '.join(takes)}",
            )
    counts = ("layers", "layer_share", "layer_numbers")
    given = [name for name in counts if getattr(student, name)]
    if len(given) > 1:
        source.fail(("student", given[1]), f"{' and '.join(given)} exclude each other: give one")
    if student.kind == "layers" and not given:
        source.fail(("student",), "the student has no number of layers", "layers = 3")
    if student.kind == "mobilebert" and not (student.bottleneck_size and student.stacked_ffns):
        source.fail(("student",), "a mobilebert needs a bottleneck_size and stacked_ffns")


def _check_length(stage: Stage, key: Key, source: Source) -> None:
    if stage.steps and stage.epochs:
        source.fail((*key, "steps"), "steps and epochs exclude each other: give one")
    trains = bool(stage.steps or stage.epochs)
    if trains and not stage.losses:
        source.fail(key, f"the stage {stage.name!r} trains without a loss", "add [[stages.losses]]")
    if not trains and stage.losses:
        source.fail(key, f"the stage {stage.name!r} has no length", "set epochs or steps")
    if not trains and not stage.prune:
        source.fail(key, f"the stage {stage.name!r} does nothing", "set epochs, or add a prune")


def _check_data(stage: Stage, key: Key, source: Source) -> None:
    if (stage.data == "augmented") != (stage.augmentation is not None):
        source.fail(
            (*key, "data"),
            'data = "augmented" and the table augmentation go together',
            "write augmentation = { kind = ..., copies = ... }",
        )
    for number, cut in enumerate(stage.prune):
        if cut.method in DROPPED_LAYERS and cut.units != "layers":
            source.fail(
                (*key, "prune", number, "method"),
                f"{cut.method!r} says which layers go, not which {cut.units}",
                nearest("", SCORE_METHODS),
            )
    kinds = [prune.units for prune in stage.prune]
    if len(set(kinds)) < len(kinds):
        source.fail((*key, "prune"), f"units are pruned twice in one stage: {', '.join(kinds)}")
    for number, sparsity in enumerate(stage.sparsity):
        if sparsity.end < sparsity.start:
            where = (*key, "sparsity", number, "end")
            source.fail(where, "sparsity.end lies before sparsity.start")


def _check_train(stage: Stage, key: Key, source: Source) -> None:
    for number, entry in enumerate(stage.train):
        where, pattern = (*key, "train", number, "parameters"), entry.parameters
        used = [place for place in _PLACES if place in pattern]
        if used and not stage.per_layer:
            source.fail(where, f"{used[0]} needs a stage with per_layer", 'per_layer = "up"')
        for place in used:
            pattern = pattern.replace(place, _PLACES[place])
        try:
            re.compile(pattern)
        except re.error as error:
            source.fail(where, f"{pattern!r} is no regular expression: {error}")


def _check_exits(before: tuple[Stage, ...], stage: Stage, key: Key, source: Source) -> None:
    trains = bool(stage.steps or stage.epochs)
    if any(earlier.exits for earlier in before) and trains and not stage.exits:
        source.fail(
            key,
            f"the stage {stage.name!r} would change what the exits of the stages before it read",
            'train the exits last, or give this stage exits = "joint" too',
        )
    if stage.exits and not any(LOSS_KINDS[loss.kind].reads == "exits" for loss in stage.losses):
        source.fail((*key, "exits"), "no loss of this stage trains its exits", "exit_labels does")
    if stage.exits == "frozen" and (stage.train or stage.layer_drop):
        name = "train" if stage.train else "layer_drop"
        source.fail((*key, name), 'exits = "frozen" trains the exits and nothing else')
    if stage.exits == "frozen" and (stage.prune or stage.sparsity or stage.span is not None):
        source.fail(key, 'exits = "frozen" leaves the rest of the model as it is: prune before')


def _check_loss(loss: Loss, stage: Stage, key: Key, source: Source) -> None:
    if loss.kind not in LOSS_KINDS:
        source.fail((*key, "kind"), f"no loss {loss.kind!r}", nearest(loss.kind, LOSS_KINDS))
    kind = LOSS_KINDS[loss.kind]
    for name in _options_given(loss):
        if name not in kind.options:
            has = f"it has: {', '.join(kind.options)}" if kind.options else "it has no options"
            source.fail((*key, name), f"the loss {loss.kind!r} has no {name}", has)
    if (loss.layer_map == "explicit") != bool(loss.pairs):
        source.fail(
            key,
            f'{spelled(key)}: layer_map = "explicit" and pairs go together',
            "pairs = [[1, 2], [2, 4]] are pairs of a student's and a teacher's layer",
        )
    if stage.exits == "frozen" and kind.reads != "exits":
        source.fail(
            (*key, "kind"), f'{loss.kind!r} trains no exit, and exits = "frozen" nothing else'
        )
    if kind.reads == "exits" and not stage.exits:
        source.fail(
            (*key, "kind"),
            f"the loss {loss.kind!r} needs a stage with exits",
            'exits = "frozen" or "joint"',
        )
    if kind.labels and stage.data in ("augmented", "unlabelled"):
        source.fail(
            (*key, "kind"),
            f"the loss {loss.kind!r} needs labels, and {stage.data} texts have none",
            "learn from the teacher there: logit_mse, logit_kl",
        )


def _options_given(loss: Loss) -> Iterator[str]:
    """Options that are not at their default."""
    for entry in fields(loss):
        if entry.name not in ("kind", "weight") and getattr(loss, entry.name) != entry.default:
            yield entry.name
