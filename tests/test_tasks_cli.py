"""`edgeformer run` for every task: what is typed, what is printed, what is refused."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.answers import Label
from tests.command_line import Edgeformer, is_error
from tests.test_families import IMAGE_SIZES
from tests.tiny_bundles import bundle, texts_file
from tests.tiny_models import TEXTS, edit_config, randomise, tiny_bert_folder

QUESTION, CONTEXT = "was the film good?", TEXTS[2]
MASKED = "the film was [MASK] and [MASK]"


@pytest.fixture
def edgeformer_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny ViT's bundle, and an image file."""
    folder = tmp_path_factory.mktemp("images")
    config = transformers.ViTConfig(**IMAGE_SIZES, num_labels=3)
    model = transformers.ViTForImageClassification(config).eval()
    randomise(model, 0)
    model.save_pretrained(folder / "model")
    settings = {"image_processor_type": "ViTImageProcessor", "size": 12}
    (folder / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    output = folder / "vit.edge"
    convert(folder / "model", profile="x86", output=output, engines=("numpy",))
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    np.save(folder / "image.npy", image)
    return output, folder / "image.npy"


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of language inference."""
    folder = tmp_path_factory.mktemp("nli")
    source = tiny_bert_folder(folder / "model", "classification")
    names = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    edit_config(source, id2label=names, label2id={v: int(k) for k, v in names.items()})
    output = folder / "nli.edge"
    texts = texts_file()
    convert(source, profile="x86", output=output, engines=("numpy",), calibration=texts)
    return output


def test_a_question_with_its_context(edgeformer_command: Edgeformer, tmp_path: Path) -> None:
    path = bundle("question-answering")
    with load(path) as model:
        best = model.answer(QUESTION, CONTEXT, top_k=2)
    line = "{0.text}\t{0.score:.4f}\t{0.start}:{0.end}\n"
    code, out, err = edgeformer_command("run", path, QUESTION, "--context", CONTEXT)
    assert (code, err, out) == (0, "", line.format(best[0]))
    file = tmp_path / "context.txt"
    file.write_text(CONTEXT, encoding="utf-8")
    arguments = ("run", path, QUESTION, "--context", file, "--top-k", 2)
    code, out, _ = edgeformer_command(*arguments)
    assert (code, out) == (0, "".join(map(line.format, best)))
    _, out, _ = edgeformer_command(*arguments, "--json")
    row = json.loads(out)
    assert row["answers"] == [asdict(answer) for answer in best]
    assert (row["text"], row["variant"]) == (QUESTION, "numpy-int8")


def test_questions_from_stdin_share_their_context(edgeformer_command: Edgeformer) -> None:
    path, questions = bundle("question-answering"), [QUESTION, "a film?", ""]
    with load(path) as model:
        wanted = model.answer(questions, [CONTEXT] * 3)
    _, out, _ = edgeformer_command(
        "run", path, "--context", CONTEXT, stdin="\n".join([*questions, ""]).encode()
    )
    assert [line.split("\t")[0] for line in out.splitlines()] == [a.text for a in wanted]
    _, out, _ = edgeformer_command(
        "run", path, "-", "--context", CONTEXT, "--top-k", 2, stdin=b"a?\nb?\n"
    )
    lines = out.splitlines()
    assert [bool(line) for line in lines] == [True, True, False] * 2


def test_masks(edgeformer_command: Edgeformer) -> None:
    path = bundle("fill-mask")
    with load(path) as model:
        masks = model.fill_mask(MASKED, top_k=2)
        first = model.fill_mask("[MASK] film")
    code, out, err = edgeformer_command("run", path, MASKED, "--top-k", 2)
    assert (code, err) == (0, "")
    fills = [fill for mask in masks for fill in mask]
    assert out.splitlines() == [f"{f.token}\t{f.score:.4f}\t{f.text}" for f in fills]
    _, out, _ = edgeformer_command("run", path, MASKED, "--top-k", 2, "--json")
    assert json.loads(out)["masks"] == [[asdict(fill) for fill in mask] for mask in masks]
    _, out, _ = edgeformer_command("run", path, "[MASK] film", "--json")
    assert json.loads(out)["masks"] == [[asdict(fill) for fill in first]]
    result = edgeformer_command("run", path, "no mask")
    assert is_error(*result, exit_code=1, says="write [MASK]")


def named(label: Label) -> dict[str, object]:
    """As JSON has it: no layer where nothing left early."""
    assert label.exit_layer is None
    return {"name": label.name, "score": label.score}


def test_images(edgeformer_command: Edgeformer, images: tuple[Path, Path]) -> None:
    path, file = images
    with load(path) as model:
        labels = model.classify(np.load(file), top_k=2)
    code, out, err = edgeformer_command("run", path, "--image", file, "--top-k", 2)
    assert (code, err) == (0, "")
    assert out == "\t".join(f"{label.name}\t{label.score:.4f}" for label in labels) + "\n"
    _, out, _ = edgeformer_command("run", path, "--image", file, "--image", file, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == [str(file)] * 2
    assert rows[0]["labels"] == [named(labels[0])]


def test_candidates(edgeformer_command: Edgeformer, inference: Path) -> None:
    with load(inference) as model:
        keywords: Any = {"candidates": ["good", "bad"], "top_k": 2}
        plain = model.classify(CONTEXT, **keywords)
        both = model.classify(CONTEXT, **keywords, hypothesis="very {}", multi_label=True)
    arguments = ("run", inference, CONTEXT, "--candidates", "good, bad", "--top-k", 2)
    _, out, _ = edgeformer_command(*arguments)
    assert out.strip().split("\t")[::2] == [label.name for label in plain]
    more = ("--hypothesis", "very {}", "--multi-label", "--json")
    _, out, _ = edgeformer_command(*arguments, *more)
    assert json.loads(out)["labels"] == [named(label) for label in both]


@pytest.mark.parametrize(
    ("task", "arguments", "says"),
    [
        ("question-answering", ["text"], "--context FILE"),
        ("question-answering", ["text", "--context", "a", "--pair", "b"], "--pair is for class"),
        ("fill-mask", ["text", "--context", "a"], "--context is for question-answering"),
        ("fill-mask", ["text", "--candidates", "a"], "--candidates is for classification"),
        ("classification", ["--image", "a.npy"], "this bundle takes texts"),
        ("embedding", ["text", "--top-k", "2"], "task is embedding"),
        ("embedding", ["text", "--multi-label"], "--multi-label is for classification"),
        ("classification", ["text", "--candidates", " , "], "separated by commas"),
    ],
)
def test_what_the_task_cannot_do_is_refused(
    edgeformer_command: Edgeformer, task: str, arguments: list[str], says: str
) -> None:
    result = edgeformer_command("run", bundle(task), *arguments)
    assert is_error(*result, exit_code=2, says=says)


def test_image_bundles_want_images(
    edgeformer_command: Edgeformer, images: tuple[Path, Path]
) -> None:
    path, file = images
    result = edgeformer_command("run", path, "text")
    assert is_error(*result, exit_code=2, says="--image FILE")
    result = edgeformer_command("run", path, "text", "--image", file)
    assert is_error(*result, exit_code=2, says="exclude each other")
    result = edgeformer_command("run", path, "--image", "none.npy")
    assert is_error(*result, exit_code=2, says="no file none.npy")


def test_a_context_that_is_no_text_or_no_name(
    edgeformer_command: Edgeformer, tmp_path: Path
) -> None:
    path = bundle("question-answering")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin1"))
    result = edgeformer_command("run", path, "a?", "--context", tmp_path / "latin.txt")
    assert is_error(*result, exit_code=1, says="is not UTF-8")
    for context in ("good film " * 800, str(tmp_path)):  # no file has such a name; a folder
        code, _, err = edgeformer_command("run", path, "a?", "--context", context)
        assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("fill-mask", '"a [MASK] with one word left out"'),
        ("question-answering", '"a question?" --context FILE'),
        ("embedding", '"a sentence"'),
    ],
)
def test_a_conversion_says_how_to_ask(task: str, says: str, images: tuple[Path, Path]) -> None:
    from edgeformer.cli.text import run_example
    from edgeformer.runtime.bundle import open_bundle

    with open_bundle(bundle(task)) as opened:
        assert run_example(opened.manifest) == says
    with open_bundle(images[0]) as opened:
        assert run_example(opened.manifest) == "--image FILE"
    readme = (bundle(task) / "README.md").read_text()
    verbs = {"fill-mask": "fill_mask", "question-answering": "answer", "embedding": "embed"}
    assert f"model.{verbs[task]}(" in readme
    assert "model.classify(image)" in (images[0] / "README.md").read_text()


@pytest.mark.parametrize("task", ["question-answering", "fill-mask"])
def test_the_benchmark_asks_what_a_user_asks(task: str) -> None:
    from edgeformer.benchmarking.worker import make_call
    from edgeformer.benchmarking.workload import make_workload
    from edgeformer.runtime.bundle import open_bundle

    path = bundle(task)
    with open_bundle(path) as opened:
        workload = make_workload(opened, None, 24, 2)
    assert workload.tokens == 24
    with load(path) as model:
        make_call(model, str(path), {**asdict(workload), "texts": list(workload.texts)})()
        assert model.last_call.texts == 2
        assert model.last_call.tokens == 48
