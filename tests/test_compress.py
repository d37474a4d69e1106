"""From a model folder through a recipe to a model folder, and on to a bundle that answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import edgeformer
from edgeformer import compress, convert
from edgeformer.compression.batching import batch_settings, collate, tokenize
from edgeformer.compression.examples import read_examples
from edgeformer.compression.measuring import flops
from edgeformer.compression.recipe_file import recipe_names
from edgeformer.errors import UsageError
from edgeformer.models.checkpoint import load_checkpoint
from tests.command_line import Edgeformer
from tests.tiny_models import edit_weights, save_folder, tiny_bert_folder, tiny_model
from tests.tiny_tasks import FINETUNE, labelled_rows, recipe_file, tsv_file

pytestmark = pytest.mark.usefixtures("one_thread")

# What a tiny teacher needs to be other than the recipe says: sizes alone.
_TINY = {
    "tinybert": "hidden_size = 24\nintermediate_size = 32",
    "tinybert_general": "hidden_size = 24\nintermediate_size = 32",
    "minilm_v1": "hidden_size = 48\nintermediate_size = 32",
    "minilm_v2": "hidden_size = 48\nintermediate_size = 32",
    "mobilebert": "bottleneck_size = 16\nintermediate_size = 32\nembedding_size = 12",
    "albert": "embedding_size = 12",
    "tang_bilstm": "hidden_size = 8\nintermediate_size = 12",
    "unlabelled_transfer": "hidden_size = 8\nintermediate_size = 12",
}
FOR_LANGUAGE_MODELS = {"distilbert_general"}


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny classifier of six layers that has learned its task, and texts for and about it."""
    folder = tmp_path_factory.mktemp("compress")
    train = tsv_file(folder / "train.tsv", labelled_rows(160))
    dev = tsv_file(folder / "dev.tsv", labelled_rows(64, seed=1))
    sizes = {"num_hidden_layers": 6, "hidden_size": 48}
    tiny_bert_folder(folder / "base", "embedding", **sizes)
    recipe = recipe_file(folder / "finetune.toml", FINETUNE.replace("5e-3", "2e-3"))
    compress(folder / "base", recipe=str(recipe), train=train, output=folder / "teacher")
    return {"base": folder / "base", "teacher": folder / "teacher", "train": train, "dev": dev}


def test_fine_tuned_pruned_distilled_converted_and_run(
    places: dict[str, Path], tmp_path: Path, command: Edgeformer
) -> None:
    """The whole way, by the command line; the bundle answers as the compressed model does."""
    small, bundle = tmp_path / "small", tmp_path / "small.edge"
    code, out, err = command(
        "compress",
        places["teacher"],
        *("--recipe", "edge_small", "--train", places["train"], "--eval", places["dev"]),
        *("-o", small, "--json", "--device", "cpu"),
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["teacher"]["value"] > 0.9
    assert report["student"]["value"] > 0.8, "far above chance, after sixty steps"
    assert report["after"]["layers"] == 3
    assert sum(report["after"]["heads"]) == 5
    assert sum(report["after"]["neurons"]) == 48
    assert f"edgeformer convert {small}" in err
    saved = json.loads((small / "compression.json").read_text())
    assert saved["settings"]["student"]["layer_share"] == 0.5
    made = convert(
        small, profile="x86", output=bundle, engines=("onnx", "numpy"), precisions=("fp32",)
    )
    assert made.manifest.recipe == "edge_small"
    loaded = load_checkpoint(small)
    assert loaded.parameters == report["after"]["parameters"]
    rows = labelled_rows(16, seed=2)
    right = {"onnx": 0, "numpy": 0}
    for engine in right:
        with edgeformer.load(bundle, engine) as model:
            for row in rows:
                right[engine] += model.classify(row["text"])[0].name == row["label"]
    assert min(right.values()) >= 13


@pytest.mark.parametrize("name", [n for n in recipe_names() if n not in FOR_LANGUAGE_MODELS])
def test_every_recipe_gives_a_model_that_loads_and_answers(
    places: dict[str, Path], tmp_path: Path, name: str
) -> None:
    mine = f'extends = "{name}"\n'
    if name in _TINY:
        mine += f"[student]\n{_TINY[name]}\n"
    recipe = recipe_file(tmp_path / "mine.toml", mine)
    report = compress(
        places["teacher"],
        recipe=str(recipe),
        train=places["train"],
        output=tmp_path / "out",
        scale=1e-6,
    )
    assert any("1e-06 times the steps" in notice for notice in report.notices)
    larger = (
        "mobilebert",
        "exits",
        "edgebert",
    )  # bottlenecks of other sizes; ramps beside the model
    assert report.after.nonzero <= report.before.nonzero or name in larger
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.tokenizer_json is not None
    tokenized = tokenize(read_examples(places["dev"]), loaded.tokenizer_json, loaded.max_length)
    batch = collate(tokenized, batch_settings(loaded, 8, seed=0), torch.arange(8))
    del batch["labels"]
    with torch.inference_mode():
        logits = loaded.module(**batch)["logits"]
    assert logits.shape == (8, 2) and bool(logits.isfinite().all())


def test_a_dry_run_knows_the_size_that_comes_out(
    places: dict[str, Path], tmp_path: Path, command: Edgeformer
) -> None:
    arguments = [places["teacher"], "--recipe", "edge_small", "--train", places["train"], "--json"]
    code, out, err = command("compress", *arguments, "--dry-run")
    assert code == 0, err
    plan = json.loads(out)
    code, out, err = command("compress", *arguments, "-o", tmp_path / "out", "--scale", "0.01")
    report = json.loads(out)
    for key in ("parameters", "layers", "vocabulary", "mflops"):
        assert plan["after"][key] == pytest.approx(report["after"][key])
    assert [stage["steps"] for stage in plan["stages"]] == [15, 30, 15]
    assert plan["stages"][0]["trained"] > plan["stages"][1]["trained"]
    assert 0 < plan["seconds"] < 100


def test_a_recipe_factorises_the_maps_of_a_model_and_trains_both_factors(
    places: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(
        tmp_path / "svd.toml",
        FINETUNE.replace(
            "[[stages]]", '[student]\nkind = "same"\nlinear_share = 0.5\n[[stages]]', 1
        ),
    )
    report = compress(
        places["teacher"],
        recipe=str(recipe),
        train=places["train"],
        evaluate=places["dev"],
        output=tmp_path / "out",
    )
    assert report.after.mflops < 0.75 * report.before.mflops
    config = load_checkpoint(tmp_path / "out").module.encoder.config
    assert len(config.linear_ranks) == 6 * config.num_layers
    assert report.student is not None
    assert report.student.value > 0.8


def test_the_same_seed_gives_the_same_model_and_another_one_another(
    places: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE.replace("dropout = 0.0", "dropout = 0.1"))
    outputs = []
    for number, seed in enumerate((0, 0, 1)):
        output = tmp_path / str(number)
        compress(
            places["base"],
            recipe=str(recipe),
            train=places["train"],
            output=output,
            seed=seed,
            scale=0.1,
        )
        outputs.append((output / "model.safetensors").read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]


def test_flops_are_those_of_the_formula(places: dict[str, Path]) -> None:
    """Per layer 2n(4h² + 2hf) and 4n²h, for n tokens, width h and f neurons; then the head."""
    model = load_checkpoint(places["teacher"]).module
    n, h, f = 32, 48, 64
    layer = 2 * n * (4 * h * h + 2 * h * f) + 4 * n * n * h
    assert flops(model, n) == 6 * layer + 2 * h * h + 2 * h * 2


def test_regression_is_measured_by_correlation(tmp_path: Path) -> None:
    folder = tiny_bert_folder(
        tmp_path / "model", "classification", num_labels=1, problem_type="regression"
    )
    rows: list[dict[str, Any]] = [
        {"text": row["text"], "score": float(row["label"] == "positive")}
        for row in labelled_rows(96)
    ]
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE)
    report = compress(
        folder, recipe=str(recipe), train=rows, evaluate=rows, output=tmp_path / "out"
    )
    assert report.student is not None and report.student.metric == "pearson"
    assert report.student.value > 0.9


def test_an_embedding_model_learns_its_teachers_vectors(
    places: dict[str, Path], tmp_path: Path
) -> None:
    """No labels, no classes: a smaller embedding model from plain texts."""
    text = FINETUNE.replace('kind = "labels"', 'kind = "text_mse"')
    text = text.replace("max_length = 16", 'max_length = 16\nstudent = {kind="layers", layers=2}')
    text = text.replace("batch_size = 16", 'batch_size = 16\ndata = "unlabelled"')
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(row["text"] for row in labelled_rows(160)))
    report = compress(
        places["base"],
        recipe=str(recipe_file(tmp_path / "r.toml", text)),
        train=lines,
        output=tmp_path / "out",
    )
    assert load_checkpoint(report.path).task == "embedding"
    lines_of_log = (report.path / "training.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines_of_log]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_masked_language_model_learns_hidden_words(tmp_path: Path) -> None:
    """No labels but the words that are hidden: first alone, then from a teacher that knows them."""
    config = tiny_model("bert", "embedding", num_hidden_layers=4).config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        language_model = transformers.BertForMaskedLM(config)
    folder = save_folder(language_model, tmp_path / "new")
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(row["text"] for row in labelled_rows(160)))
    text = FINETUNE.replace("batch_size = 16", 'batch_size = 16\ndata = "masked_words"')
    alone = str(recipe_file(tmp_path / "alone.toml", text.replace("epochs = 6", "epochs = 15")))
    compress(folder, recipe=alone, train=lines, output=tmp_path / "teacher")
    learned = _losses(tmp_path / "teacher", "labels")
    assert np.mean(learned[-20:]) < 0.6 * np.log(config.vocab_size)
    report = compress(
        tmp_path / "teacher",
        recipe="distilbert_general",
        train=lines,
        output=tmp_path / "out",
        scale=4.0,
    )
    assert (report.after.layers, report.student) == (2, None)
    assert load_checkpoint(report.path).task == "fill-mask"
    weighted = _losses(report.path, "labels")  # by 2
    assert np.mean(weighted[-10:]) / 2 < 0.6 * np.log(config.vocab_size)


def _losses(folder: Path, name: str) -> list[float]:
    lines = (folder / "training.jsonl").read_text().splitlines()
    return [json.loads(line)["parts"][name] for line in lines]


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        ("base", "distilbert", "learns from the answers of a classifier"),
        ("teacher", "tinybert", "does not divide among 5 heads"),
        ("teacher", "nonsense", "no recipe 'nonsense'"),
    ],
)
def test_a_recipe_that_does_not_go_with_the_model_says_why(
    places: dict[str, Path], tmp_path: Path, model: str, recipe: str, message: str
) -> None:
    folder = places[model]
    if recipe == "tinybert":
        folder = tiny_bert_folder(
            tmp_path / "five", "classification", num_labels=2, hidden_size=40, num_attention_heads=5
        )
    labels = {"negative": "class 0", "positive": "class 1"}
    rows = [{**row, "label": labels[row["label"]]} for row in labelled_rows(40)]
    train = rows if recipe == "tinybert" else places["train"]
    with pytest.raises(edgeformer.EdgeFormerError, match=message):
        compress(folder, recipe=recipe, train=train, output=tmp_path / "out", scale=1e-6)


def test_losses_that_cannot_compare_the_models_name_their_line(
    places: dict[str, Path], tmp_path: Path
) -> None:
    text = FINETUNE.replace('{ kind = "labels" }', '{ kind = "hidden_cosine" }')
    text += '\n[student]\nkind = "sizes"\nhidden_size = 24\n'
    recipe = recipe_file(tmp_path / "mine.toml", text)
    with pytest.raises(UsageError, match=r"mine.toml, line 12: .*'hidden_cosine': .*24 wide"):
        compress(
            places["teacher"], recipe=str(recipe), train=places["train"], output=tmp_path / "out"
        )
    text = text.replace("hidden_cosine", "attention_kl").replace("24", "24\nnum_heads = 2")
    recipe_file(recipe, text)
    with pytest.raises(UsageError, match=r"line 12: .*layer 5 of the student has 2 heads"):
        compress(
            places["teacher"], recipe=str(recipe), train=places["train"], output=tmp_path / "out"
        )


def test_a_student_of_another_vocabulary_is_refused(
    places: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE)
    trimmed = tmp_path / "trimmed"
    compress(
        places["teacher"],
        recipe="edge_small",
        train=[row for row in labelled_rows(40) if "film" not in row["text"]],
        output=trimmed,
        scale=1e-6,
    )
    with pytest.raises(UsageError, match="different vocabularies"):
        compress(
            places["teacher"],
            recipe=str(recipe),
            train=places["train"],
            student=trimmed,
            output=tmp_path / "out",
        )


def test_an_output_that_exists_stays(places: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").touch()
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE)
    given: dict[str, Any] = {"recipe": str(recipe), "train": places["train"], "output": output}
    with pytest.raises(UsageError, match="exists already"):
        compress(places["teacher"], **given)
    assert (output / "precious").exists()
    compress(places["teacher"], force=True, scale=0.1, **given)
    assert not (output / "precious").exists()


def test_weights_that_were_made_zero_stay_zero_through_later_stages(
    places: dict[str, Path], tmp_path: Path
) -> None:
    later = FINETUNE[FINETUNE.index("[[stages]]") :].replace('"learn"', '"later"')
    sparse = '\n[[stages.sparsity]]\nmethod = "magnitude"\ntarget = 0.5\nevery = 2\n'
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE + sparse + later)
    output = tmp_path / "out"
    compress(places["teacher"], recipe=str(recipe), train=places["train"], output=output)
    module = load_checkpoint(output).module
    for name, parameter in module.named_parameters():
        if "encoder.layers" in name and parameter.dim() == 2:
            share = float((parameter == 0).float().mean())
            assert share == pytest.approx(0.5, abs=1e-3), name


def test_nan_weights_of_a_teacher_are_refused(places: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(places["teacher"], broken)

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.bias"][0] = torch.nan

    edit_weights(broken, spoil)
    with pytest.raises(edgeformer.EdgeFormerError, match="NaN"):
        compress(broken, recipe="distilbert", train=places["train"], output=tmp_path / "out")
