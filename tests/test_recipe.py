"""Recipes: each mistake is named with its line; each built-in one names its paper and holds."""

import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeformer.cli.text_compress import recipe_text
from edgeformer.compression import losses, recipe, units
from edgeformer.compression.layer_choice import LAYER_STRATEGIES
from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.masks import MASK_METHODS
from edgeformer.compression.recipe import Recipe, Trained, recipe_data
from edgeformer.compression.recipe_file import load_recipe, recipe_names
from edgeformer.compression.schedules import SCHEDULES
from edgeformer.compression.scores import METHODS
from edgeformer.compression.stages import plan_stages, stage_steps
from edgeformer.errors import UsageError
from tests.command_line import Edgeformer
from tests.tiny_tasks import FINETUNE, recipe_file

GOOD = """\
title = "a recipe"
paper = "none"

[student]
kind = "layers"
layers = 3

[[stages]]
name = "one"
epochs = 2
learning_rate = 1e-4
prune = [
    { units = "heads", method = "gate_taylor", keep = 0.5 },
    { units = "neurons", method = "neuron_taylor", keep = 0.5 },
]

[[stages.losses]]
kind = "hidden_mse"
layer_map = "uniform"

[[stages.losses]]
kind = "logit_kl"
temperature = 2.0

[[stages]]
name = "two"
steps = 10

[[stages.sparsity]]
method = "magnitude"
target = 0.5

[[stages.losses]]
kind = "labels"
"""


@pytest.fixture
def edgeformer(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def _error(path: Path, text: str) -> tuple[str, str]:
    with pytest.raises(UsageError) as info:
        load_recipe(str(recipe_file(path / "mine.toml", text)))
    assert info.value.message.startswith(str(path / "mine.toml"))
    return info.value.message.removeprefix(f"{path / 'mine.toml'}, "), info.value.hint


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ("learning_rate", "learning_rat", 11, "unknown key stages[0].learning_rat", "ng_rate'?"),
        ("temperature", "temprature", 23, "unknown key stages[0].losses[1].temp", "temperature'?"),
        ("layers = 3", "depth = 3", 6, "unknown key student.depth", "choose from: kind, layers"),
        ('"hidden_mse"', '"hiden_mse"', 18, "no loss 'hiden_mse'", "did you mean 'hidden_mse'?"),
        ('"heads"', '"hedas"', 12, "stages[0].prune[0].units is 'hedas'", "mean 'heads'?"),
        ('"gate_taylor"', '"taylor"', 12, "prune[0].method is 'taylor'", "'gate_taylor'?"),
        ('"gate_taylor"', '"top"', 12, "'top' says which layers go, not which heads", ""),
        ('"uniform"', '"unifrom"', 19, "layer_map is 'unifrom'", "'uniform'?"),
        ('"magnitude"', '"magnitud"', 30, "sparsity[0].method is 'magnitud'", "'magnitude'?"),
        ("target = 0.5", "target = 1.0", 31, "must be below 1, not 1", ""),
        ("keep = 0.5 },\n]", "keep = 0.0 },\n]", 12, "prune[1].keep must be above 0, not 0", ""),
        ("keep = 0.5 },\n]", "keep = nan },\n]", 12, "must be a finite number", ""),
        ('"neurons", method = "neuron', '"heads", method = "gate', 12, "pruned twice", ""),
        ("epochs = 2", "epochs = true", 10, "epochs must be a number, not True", ""),
        ("steps = 10", "steps = 1.5", 27, "steps must be a whole number, not 1.5", ""),
        ("steps = 10", "steps = 10\nepochs = 1", 27, "steps and epochs exclude each other", ""),
        ("steps = 10", "", 25, "the stage 'two' has no length", "set epochs or steps"),
        ('name = "two"', "", 25, "stages[1].name is missing", ""),
        ("temperature = 2.0", "temperature = 0", 23, "must be above 0, not 0", ""),
        ("temperature = 2.0", "projected = true", 23, "'logit_kl' has no projected", "has: temp"),
        ("temperature = 2.0", "pairs = [[1, 2, 3]]", 23, "must have 2 entries, not 3", ""),
        ('layer_map = "uniform"', 'layer_map = "explicit"', 17, "and pairs go together", ""),
        ("layers = 3", "layers = 3\nhidden_size = 8", 7, "has no hidden_size", "it has: layers"),
        ("layers = 3", "layers = 3\nlayer_share = 0.5", 7, "exclude each other", ""),
        ("steps = 10", 'steps = 10\ndata = "augmented"', 28, "augmentation go together", ""),
        ("steps = 10", 'steps = 10\ndata = "unlabelled"', 35, "needs labels", "logit_mse"),
        ("steps = 10", 'steps = 10\ntrain = [{ parameters = "(" }]', 28, "no regular expr", ""),
        ("steps = 10", 'steps = 10\ntrain = [{ parameters = "{layer}" }]', 28, "per_layer", ""),
    ],
)
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str, hint: str
) -> None:
    assert GOOD.count(old) >= 1
    said, advice = _error(tmp_path, GOOD.replace(old, new, 1))
    assert said.startswith(f"line {line}: "), said
    assert message in said
    assert hint in advice


def test_the_recipe_that_the_mistakes_are_made_in_is_good(tmp_path: Path) -> None:
    loaded = load_recipe(str(recipe_file(tmp_path / "mine.toml", GOOD)))
    assert loaded.name == "mine" and len(loaded.stages) == 2


def test_toml_that_is_none_says_so(tmp_path: Path) -> None:
    path = recipe_file(tmp_path / "mine.toml", "title = \n")
    with pytest.raises(UsageError, match=r"mine.toml cannot be read: .*line 1"):
        load_recipe(str(path))


def test_a_recipe_extends_another_and_is_blamed_for_its_own_lines_alone(tmp_path: Path) -> None:
    recipe_file(tmp_path / "base.toml", GOOD)
    mine = tmp_path / "mine.toml"
    loaded = load_recipe(
        str(recipe_file(mine, 'extends = "base.toml"\n[student]\ndrop = "bottom"\n'))
    )
    assert (loaded.student.drop, loaded.student.layers, loaded.name) == ("bottom", 3, "mine")
    recipe_file(mine, 'extends = "base.toml"\n[student]\ndrop = "botom"\n')
    with pytest.raises(UsageError, match=r"mine.toml, line 3: student.drop is 'botom'"):
        load_recipe(str(mine))
    recipe_file(tmp_path / "base.toml", GOOD.replace("keep = 0.5", "keep = 5"))
    recipe_file(mine, 'extends = "base.toml"\n')
    with pytest.raises(UsageError, match=r"base.toml, line 12: .*keep must be at most 1"):
        load_recipe(str(mine))
    recipe_file(mine, 'extends = "mine.toml"\n')
    with pytest.raises(UsageError, match="extends itself"):
        load_recipe(str(mine))


def test_an_unknown_name_gets_the_nearest(edgeformer: Edgeformer) -> None:
    code, _, err = edgeformer("recipes", "show", "distillbert")
    assert (code, "did you mean 'distilbert'?" in err) == (2, True)


@pytest.mark.parametrize("name", recipe_names())
def test_every_built_in_recipe_names_its_paper_and_how_it_differs(name: str) -> None:
    loaded = load_recipe(name)
    assert loaded.title and "arXiv" in loaded.paper
    assert loaded.deviations or name == "edge_small"


@pytest.mark.parametrize("name", recipe_names())
def test_what_show_prints_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    loaded = load_recipe(name)
    again = load_recipe(str(recipe_file(tmp_path / f"{name}.toml", recipe_text(loaded))))
    assert again == loaded


def test_list_and_show_print_json(edgeformer: Edgeformer) -> None:
    code, out, _ = edgeformer("recipes", "list", "--json")
    assert (code, [entry["name"] for entry in json.loads(out)]) == (0, recipe_names())
    code, out, _ = edgeformer("recipes", "show", "distilbert", "--json")
    assert (code, json.loads(out)["student"]["layer_share"]) == (0, 0.5)


def test_names_in_recipes_are_those_of_the_blocks() -> None:
    """recipe.py repeats them, so that listing recipes does not import torch."""
    assert set(recipe.PRUNED_UNITS) == set(units.UNIT_KINDS) - {"tokens"}
    assert set(recipe.SCORE_METHODS) == set(METHODS)
    assert set(recipe.DROPPED_LAYERS) == {*LAYER_STRATEGIES, "between"}
    assert set(recipe.SPARSITY_METHODS) == set(MASK_METHODS) - {"fixed"}
    assert set(recipe.SCHEDULES) == set(SCHEDULES) - {"staged"}
    assert set(losses._COMPUTE) == set(LOSS_KINDS)


def test_the_digest_is_of_what_decides_the_result() -> None:
    loaded = load_recipe("distilbert")
    assert dataclasses.replace(loaded, title="other").digest == loaded.digest
    assert dataclasses.replace(loaded, max_length=64).digest != loaded.digest
    assert load_recipe("distilbert").digest == loaded.digest


def test_stages_of_each_layer_are_written_out(tmp_path: Path) -> None:
    text = FINETUNE.replace(
        'name = "learn"',
        'name = "layer"\nper_layer = "up"\ntrain = [\n'
        '  { parameters = "layers[.]{layer}[.]" },\n'
        '  { parameters = "layers[.]{below}[.]", multiplier = 0.1 },\n]',
    )
    loaded = load_recipe(str(recipe_file(tmp_path / "r.toml", text)))
    first, second, third = plan_stages(loaded, 3)
    assert first.stage.train == (Trained("layers[.]0[.]"),)
    assert third.stage.train == (Trained("layers[.]2[.]"), Trained("layers[.](?:0|1)[.]", 0.1))
    assert (second.stage.name, second.layer, second.number) == ("layer 2/3", 1, 0)


@given(epochs=st.floats(0.01, 50), per_epoch=st.integers(1, 10**5), scale=st.floats(1e-4, 10))
def test_a_stage_that_trains_has_a_step(epochs: float, per_epoch: int, scale: float) -> None:
    stage = recipe.Stage(name="s", epochs=epochs)
    assert stage_steps(stage, per_epoch, scale) >= 1
    assert stage_steps(recipe.Stage(name="s"), per_epoch, scale) == 0


@given(st.data())
def test_every_key_is_found_on_the_line_that_sets_it(data: Any) -> None:
    """The line of a key is that on which tomllib first knows it, whatever the file looks like."""
    from edgeformer.compression.strict_toml import Source

    lines, keys = [], []
    for number in range(data.draw(st.integers(1, 6))):
        lines += [""] * data.draw(st.integers(0, 2)) + ["# a comment"] * data.draw(st.booleans())
        lines.append(f"[table{number}]")
        several = data.draw(st.booleans())
        keys.append(((f"table{number}", "key"), len(lines) + 1))
        lines += ['key = """', "text", '"""'] if several else ["key = 1"]
    text = "\n".join(lines)
    source = Source(Path("f.toml"), text, tomllib.loads(text))
    for key, line in keys:
        assert source.where(key) == f"f.toml, line {line}"


def test_plain_data_holds_every_key() -> None:
    data = recipe_data(load_recipe("finetune"))
    assert set(data) == {field.name for field in dataclasses.fields(Recipe)} - {"source"}


def test_the_digest_is_of_the_keys_that_are_written() -> None:
    """Results of hours are kept by digest, and go on counting when EdgeFormer learns a new key."""
    loaded = load_recipe("sixteen_heads")
    assert loaded.source is not None
    written = tomllib.loads(Path(loaded.source.path).read_text(encoding="utf-8"))
    data = {"stages": written["stages"]}
    text = json.dumps(data, sort_keys=True)
    assert loaded.digest == hashlib.sha256(text.encode()).hexdigest()
