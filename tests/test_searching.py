"""A search to a budget with real bundles of tiny models: what is written, what is said, and that
nothing else stays. Times are made up where a choice hangs on them."""

import itertools
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import edgeformer.remote.board
import edgeformer.searching.candidates
import edgeformer.searching.making
import edgeformer.searching.search
from edgeformer import compress, search
from edgeformer.errors import DataError, EngineError, ModelError, UsageError
from edgeformer.evaluation.evaluate import evaluate
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.remote.board import connect
from edgeformer.report.schema import Report
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from edgeformer.searching.candidates import Candidate, Cut
from edgeformer.searching.making import make_bundle
from edgeformer.searching.request import Request
from edgeformer.searching.search import SearchReport
from edgeformer.searching.trials import Budget
from tests.command_line import Edgeformer, is_error, process_result, start
from tests.labelled_bundles import TEXTS, checkpoint
from tests.reports import result, small_report
from tests.ssh_server import running
from tests.test_evaluation import sentiment
from tests.tiny_bundles import bundle as tiny_bundle
from tests.tiny_bundles import texts_file
from tests.tiny_models import tiny_bert_folder
from tests.tiny_tasks import FINETUNE, labelled_rows, recipe_file, tsv_file

pytestmark = pytest.mark.usefixtures("one_thread")

Times = Callable[[str, int], float]  # variant, parameters -> ms


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def take_times(monkeypatch: pytest.MonkeyPatch, times: Times) -> None:
    """Made-up times by variant and size, so that a choice does not hang on this machine's mood."""

    def measure(bundle: Path, *, tokens: int | None) -> Report:
        with open_bundle(bundle) as opened:
            (variant,), card = opened.manifest.variants, opened.manifest.model
        made = replace(
            result("numpy-int8"),
            variant=variant.id,
            tokens=tokens or 0,
            samples_ms=(times(variant.id, card.parameters),) * 20,
        )
        return replace(small_report(), results=(made,))

    monkeypatch.setattr(edgeformer.searching.search, "benchmark", measure)


def no_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the whole model is tried."""
    monkeypatch.setattr(edgeformer.searching.candidates, "LADDERS", ())


def options(output: Path, **more: Any) -> dict[str, Any]:
    fixed = {"profile": "x86", "engines": ("numpy",), "calibration": texts_file()}
    return {**fixed, "output": output, **more}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- the whole way, measured


def test_the_bundle_that_holds_the_budget_says_how_it_was_chosen(tmp_path: Path) -> None:
    data, output = sentiment(tmp_path), tmp_path / "found.edge"
    process = start(
        *("convert", checkpoint(), "--profile", "x86", "--engines", "numpy", "-o", output),
        *("--max-drop", "0.5", "--max-latency-ms", "10000", "--eval", data, "--progress"),
    )
    code, out, err = process_result(process)
    assert code == 0, err
    assert "numpy-fp32: measuring" in err
    assert f"next: edgeformer benchmark {output}" in err
    row = next(line.split() for line in out.splitlines() if line.startswith("fp32"))
    with load(output) as model:
        manifest = model.manifest
    assert [variant.id for variant in manifest.variants] == ["numpy-fp32"]
    assert b'"chosen"' not in (tiny_bundle() / "manifest.json").read_bytes()  # no search, no field
    assert manifest.chosen.startswith("numpy-fp32, the first candidate within --max-drop 0.5 and")
    assert manifest.chosen in out
    assert manifest.chosen in (output / "README.md").read_text(encoding="utf-8")
    found = json.loads((output / "search.json").read_text(encoding="utf-8"))
    wanted = evaluate(checkpoint(), data).metrics[0].value
    assert found["original"] == wanted == found["trials"][0]["metric"]
    assert row[:4] == ["fp32", "numpy", f"{found['trials'][0]['size_mb']:.1f}", f"{wanted:.4f}"]
    assert found["trials"][0]["p50_ms"] > 0
    assert names(tmp_path) == ["data.jsonl", "found.edge"]
    code, out, _ = process_result(start("inspect", output, "--verify"))
    assert (code, manifest.chosen in out) == (0, True)


def test_nothing_fits(command: Edgeformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, no bundle, and words that help: how near, and what would do."""
    take_times(monkeypatch, lambda variant, size: {"numpy-fp32": 50.0, "numpy-int8": 40.0}[variant])
    no_cuts(monkeypatch)
    data = sentiment(tmp_path)
    code, out, err = command(
        *("convert", checkpoint(), "--profile", "x86", "--engines", "numpy", "--force"),
        *("-o", tmp_path / "none.edge", "--max-latency-ms", "20", "--max-drop", "90"),
        *("--eval", data, "--json", "--calibration", texts_file()),
    )
    assert code == 3
    found = json.loads(out)
    assert (found["chosen"], found["path"]) == (None, None)
    assert [row["within_budget"] for row in found["trials"]] == [False] * len(found["trials"])
    assert "is within --max-drop 90 and --max-latency-ms 20; no bundle was written" in err
    assert "the nearest is numpy-int8" in err
    assert "--max-latency-ms 40 would take numpy-int8" in err
    assert names(tmp_path) == ["data.jsonl"]


def test_a_search_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    data = sentiment(tmp_path)
    process = start(
        *("convert", checkpoint(), "--profile", "x86", "--engines", "numpy", "--max-drop", "0"),
        *("-o", tmp_path / "o.edge", "--eval", data, "--progress"),
    )
    assert process.stderr is not None
    seen = ""
    while "numpy-fp32: measuring" not in seen:
        read = process.stderr.read(1)
        assert read, seen
        seen += read
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert names(tmp_path) == ["data.jsonl"]


# ---- choices


def test_a_drop_alone_takes_the_fastest_and_replaces_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_times(monkeypatch, lambda variant, size: {"numpy-fp32": 9.0, "numpy-int8": 3.0}[variant])
    no_cuts(monkeypatch)
    output = tmp_path / "o.zip"
    found = search(checkpoint(), **options(output, max_latency_ms=10.0))
    assert taken(found) == "numpy-fp32"  # no data: the least change that is fast enough
    assert any("no accuracy was measured" in note for note in found.notes)
    again = options(output, max_drop=90.0, data=sentiment(tmp_path), force=True, zip_file=True)
    found = search(checkpoint(), **again)
    fastest = min((t for t in found.trials if t.works), key=lambda t: t.p50_ms or 0.0)
    assert found.trials[found.chosen or 0] == fastest
    assert fastest.candidate.precision == "int8"
    with open_bundle(output) as opened:
        assert opened.manifest.variants[0].precision == "int8"
    assert names(tmp_path) == ["data.jsonl", "o.zip"]


def taken(found: SearchReport) -> str:
    assert found.chosen is not None
    return found.trials[found.chosen].candidate.name


def test_an_embedding_model_is_judged_by_pairs_with_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its drop is in hundredths of Spearman's correlation; nothing there is right or wrong."""
    take_times(monkeypatch, lambda variant, size: 1.0)
    rows = [
        {"text1": a, "text2": b, "score": (i * i) % 7}
        for i, (a, b) in enumerate(itertools.pairwise(TEXTS))
    ]
    data = rows_file(tmp_path / "pairs.jsonl", *rows)
    found = search(
        checkpoint("embedding"),
        **options(tmp_path / "o.edge", max_drop=1.0, max_latency_ms=5.0, data=data),
    )
    (trial,) = found.trials
    assert (found.metric, trial.p_value) == ("spearman", None)
    assert trial.drop == pytest.approx(0.0, abs=0.1)
    assert trial.interval and trial.interval.low <= (trial.drop or 0.0) <= trial.interval.high


# ---- mixed precision and smaller models


def test_a_mixture_keeps_the_most_sensitive_weights_in_float32(tmp_path: Path) -> None:
    request = Request(None, "x86", tmp_path / "o", Budget(0.5, None), calibration=texts_file())
    request = replace(request, model=checkpoint(), force=True)
    found = {}
    for share in (0.0, 0.2):
        bundle = tmp_path / f"{share}.edge"
        make_bundle(request, Candidate("onnx", "int8", share), bundle, lambda what: None)
        with open_bundle(bundle) as opened:
            (found[share],) = opened.manifest.variants
    table = json.loads((tmp_path / "0.2.edge/onnx-int8/sensitivity.json").read_text())
    kept = [site["values"] for site in table["sites"] if site["kept"]]
    errors = [site["error"] for site in table["sites"]]
    assert errors == sorted(errors, reverse=True)
    assert 0 < sum(kept) <= 0.2 * sum(site["values"] for site in table["sites"])
    assert table["sites"][0]["kept"]
    assert "of the weights stay in float32" in found[0.2].note
    plain, mixed = found[0.0].parity, found[0.2].parity
    assert plain and mixed and mixed.mean_cosine > plain.mean_cosine


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny classifier of four layers that has learned its task, and texts of it."""
    folder = tmp_path_factory.mktemp("search")
    train = tsv_file(folder / "train.tsv", labelled_rows(160))
    data = tsv_file(folder / "test.tsv", labelled_rows(80, seed=1))
    base = tiny_bert_folder(folder / "base", "embedding", num_hidden_layers=4, hidden_size=48)
    recipe = recipe_file(folder / "finetune.toml", FINETUNE.replace("5e-3", "2e-3"))
    compress(base, recipe=str(recipe), train=train, output=folder / "teacher", device="cpu")
    return {"teacher": folder / "teacher", "train": train, "data": data}


def small_options(
    taught: dict[str, Path], output: Path, monkeypatch: pytest.MonkeyPatch, *cuts: Cut
) -> dict[str, Any]:
    """A budget of time that only a smaller model holds; what takes time are its parameters."""
    whole = load_checkpoint(taught["teacher"]).parameters
    take_times(monkeypatch, lambda variant, size: 100.0 * size / whole)
    monkeypatch.setattr(edgeformer.searching.candidates, "LADDERS", (cuts,))
    fixed = {"profile": "x86", "engines": ("numpy",), "precisions": ("fp32",)}
    return {**fixed, "output": output, "data": taught["data"], "max_latency_ms": 80.0}


def test_a_model_without_its_upper_layers(
    taught: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are those of transformers' model with these layers taken off."""
    output = tmp_path / "half.edge"
    cuts = Cut(layers=0.99), Cut(layers=0.5)
    found = search(
        taught["teacher"], **small_options(taught, output, monkeypatch, *cuts), max_drop=99
    )
    assert [t.candidate.name for t in found.trials] == ["numpy-fp32", "numpy-fp32, 50% of layers"]
    assert (found.chosen, found.front) == (1, (0, 1) if found.trials[1].drop else (1,))
    assert any("were not trained" in note for note in found.notes)
    half = transformers.AutoModelForSequenceClassification.from_pretrained(taught["teacher"]).eval()
    half.bert.encoder.layer = half.bert.encoder.layer[:2]
    with load(output) as model:
        assert model.manifest.model.name == "teacher"
        assert "50% of layers" in model.manifest.chosen
        ids = torch.tensor([model.tokenizer.encode("the film was lovely")])
        with torch.inference_mode():
            wanted = half(input_ids=ids).logits.numpy()
        got = model.run(input_ids=ids.numpy())["logits"]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_smaller_models_learn_from_training_texts(
    taught: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a user gains by --train: the same cut, and a smaller drop."""
    cut = Cut(layers=0.5, neurons=0.25, heads=0.25)
    monkeypatch.setattr(edgeformer.searching.making, "LEARNING_RATE", 2e-3)  # it is tiny
    fixed = small_options(taught, tmp_path / "o.edge", monkeypatch, cut)
    alone = search(taught["teacher"], **fixed).trials[-1]
    found = search(taught["teacher"], **fixed, train=taught["train"], force=True)
    learned = found.trials[-1]
    assert not any("were not trained" in note for note in found.notes)
    assert learned.candidate == alone.candidate
    assert learned.size_mb == alone.size_mb
    assert learned.drop is not None and alone.drop is not None
    assert learned.drop < alone.drop - 5
    with open_bundle(tmp_path / "o.edge") as opened:
        assert opened.manifest.recipe == "search"
    assert names(tmp_path) == ["o.edge"]


def test_what_cannot_be_made_is_a_line_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_times(monkeypatch, lambda variant, size: 1.0)
    profile = tmp_path / "strict.toml"
    profile.write_text('extends = "x86"\n[tolerance]\nint8_min_cosine = 0.9999999\n')
    fixed = {"profile": str(profile), "engines": ("numpy",), "calibration": texts_file()}
    found = search(
        checkpoint(),
        **fixed,
        output=tmp_path / "o.edge",
        precisions=("int8", "fp32"),
        max_latency_ms=5,
        data=sentiment(tmp_path),
    )
    assert taken(found) == "numpy-fp32"
    found = search(
        checkpoint(),
        **fixed,
        output=tmp_path / "p.edge",
        precisions=("int8",),
        max_latency_ms=5,
    )
    assert "is below 0.9999999" in found.trials[0].problem
    with pytest.raises(EngineError, match="no candidate could be made"):
        found.check()
    assert not (tmp_path / "p.edge").exists()


# ---- on a board


def test_a_board_is_measured_over_ssh(
    command: Edgeformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--ssh sends the bundles there; the times in the table are the board's, and say so."""
    seen = []

    class Board:
        def __enter__(self) -> "Board":
            return self

        def __exit__(self, *exc: object) -> None:
            seen.append("closed")

        def benchmark(self, bundle: Path, *, tokens: int | None) -> Report:
            seen.append(bundle.name)
            made = replace(result("numpy-int8"), samples_ms=(7.0,) * 20)
            return replace(small_report(), results=(made,), host="pi4 (pi@board)")

    def connect(target: str, **settings: Any) -> Board:
        seen.append(target)
        return Board()

    monkeypatch.setattr(edgeformer.remote.board, "connect", connect)
    code, out, err = command(
        *("convert", checkpoint(), "--profile", "rpi4", "--engines", "numpy"),
        *("-o", tmp_path / "o.edge", "--max-latency-ms", "8", "--ssh", "pi@board"),
    )
    assert code == 0, err
    assert seen == ["pi@board", "0.edge", "closed"]
    assert "p50 7.00 ms on Cortex-A72 of pi4 (pi@board)" in out
    assert "they say nothing of that device" not in out  # a Pi was asked about a Pi


@pytest.mark.slow
def test_a_search_over_a_real_ssh_leaves_nothing_on_the_board(tmp_path: Path) -> None:
    """sshd on loopback, and a Python with NumPy only behind it."""
    (tmp_path / "sshd").mkdir()
    with running(tmp_path / "sshd") as server:
        with connect("board", config=server.config, python=str(server.python)) as board:
            given = options(tmp_path / "o.edge", max_latency_ms=1000.0)
            found = search(checkpoint(), **given, measure=board.benchmark)
        assert server.is_clean()
    assert taken(found) == "numpy-fp32"
    assert "(board)" in found.machine
    assert names(tmp_path) == ["o.edge", "sshd"]


# ---- what is refused


def rows_file(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"max_drop": 1.0}, UsageError, "--max-drop needs data"),
        ({"max_latency_ms": 9.0, "train": "t.tsv"}, UsageError, "--train makes smaller models"),
        ({"data": "data"}, UsageError, "a search needs a budget"),
        ({"max_drop": 1.0, "data": "data", "train": "data"}, UsageError, "64 of 64 texts of"),
        ({"max_drop": 1.0, "data": "wrong"}, DataError, "has no label 'poor'"),
        ({"max_drop": 1.0, "data": "nowhere.tsv"}, UsageError, "no file nowhere.tsv"),
        ({"max_latency_ms": 9.0, "engines": ("tensorrt",)}, UsageError, "no engine 'tensorrt'"),
        ({"max_latency_ms": 9.0, "output": "data"}, UsageError, "data.jsonl exists"),
        ({"max_latency_ms": 9.0, "model": "empty"}, ModelError, "config.json"),
        ({"max_drop": 1.0, "data": "scores", "model": "embedding"}, DataError, "pairs of texts"),
    ],
)
def test_bad_requests_are_refused_before_any_work(
    tmp_path: Path, more: dict[str, Any], error: type[Exception], says: str
) -> None:
    (tmp_path / "empty").mkdir()
    known = {
        "data": sentiment(tmp_path),
        "wrong": rows_file(tmp_path / "wrong.jsonl", {"text": "a", "label": "poor"}),
        "scores": rows_file(tmp_path / "scores.jsonl", {"text": "a", "score": 0.5}),
        "empty": tmp_path / "empty",
        "embedding": checkpoint("embedding"),
    }
    given = {
        key: known.get(value, value) if isinstance(value, str) else value
        for key, value in more.items()
    }
    before = names(tmp_path)
    model = given.pop("model", checkpoint())
    with pytest.raises(error, match=says):
        search(model, **options(tmp_path / "o.edge") | given)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--eval", "d.tsv"], "--eval is for a search"),
        (["--train", "d.tsv"], "--train is for a search"),
        (["--ssh", "pi@board"], "--ssh is for a search"),
        (["--max-drop", "-1", "--eval", "d.tsv"], "--max-drop -1 is not"),
        (["--max-latency-ms", "0"], "--max-latency-ms 0 is not"),
        (["--max-latency-ms", "5", "--task", "embedding"], "--task is not for a search"),
    ],
)
def test_options_that_do_not_go_together(
    command: Edgeformer, tmp_path: Path, words: list[str], says: str
) -> None:
    answer = command("convert", checkpoint(), "--profile", "x86", "-o", tmp_path / "o", *words)
    assert is_error(*answer, exit_code=2, says=says)


def test_rows_that_were_trained_or_calibrated_on_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_times(monkeypatch, lambda variant, size: 1.0)
    data = sentiment(tmp_path)
    train = tmp_path / "train.jsonl"
    train.write_text("".join(data.read_text().splitlines(keepends=True)[:9]))
    given = options(tmp_path / "o.edge", max_latency_ms=5.0, data=data, train=train)
    found = search(checkpoint(), **given | {"calibration": data})
    assert "9 of 64 texts of the data are also in --train" in found.notes
    assert any(
        note.startswith("64 of 64 texts of the data are also in --cal") for note in found.notes
    )
