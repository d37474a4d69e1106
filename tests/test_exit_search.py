"""Early exits as a candidate of a search to a budget: when they are tried, how they are judged and
timed, and what the bundle then says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgeformer.searching.candidates
import edgeformer.searching.search
from edgeformer import search
from edgeformer.cli.search import print_search
from edgeformer.errors import DataError, ModelError, UsageError
from edgeformer.evaluation.evaluate import evaluate
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.report.schema import Report
from edgeformer.runtime import load
from edgeformer.searching.candidates import Candidate, Cut, Sizes, cuts, exits
from edgeformer.searching.request import Request, exits_left_out
from edgeformer.searching.trials import Budget, Trial, settled
from tests.command_line import Edgeformer, is_error
from tests.exit_models import LAYERS, exit_checkpoint
from tests.labelled_bundles import checkpoint
from tests.reports import result, small_report
from tests.tiny_bundles import texts_file
from tests.tiny_models import TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")

FP32, FP16, INT8 = (Candidate("onnx", precision) for precision in ("fp32", "fp16", "int8"))
NUMPY = Candidate("numpy", "fp32")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def rows_file(path: Path, count: int, word: str) -> Path:
    """Labelled rows that no file with another word has."""
    rows = [
        {"text": f"{TEXTS[i % 4]} {word} {chr(97 + i % 26)} {chr(97 + i // 26)}", "label": i % 2}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "data": rows_file(tmp_path / "test.jsonl", 24, "x"),
        "exits": rows_file(tmp_path / "exits.jsonl", 500, "z"),
    }


def options(output: Path, **more: Any) -> dict[str, Any]:
    fixed = {"profile": "x86", "engines": ("numpy",), "precisions": ("fp32",), "force": True}
    return {**fixed, "calibration": texts_file(), "output": output, **more}


def slow(host: str = "") -> Any:
    """A benchmark that takes half a second for every text, on this machine or a board."""

    def measure(bundle: Path, *, tokens: int | None) -> Report:
        made = replace(
            result("numpy-int8"), variant="numpy-fp32", tokens=tokens or 0, samples_ms=(500.0,) * 20
        )
        return replace(small_report(), results=(made,), host=host)

    return measure


def only_cut(monkeypatch: pytest.MonkeyPatch, *ladder: Cut) -> None:
    monkeypatch.setattr(edgeformer.searching.candidates, "LADDERS", (ladder,))


def trial(candidate: Candidate, drop: float, p50_ms: float) -> Trial:
    return Trial(candidate, size_mb=1.0, metric=0.9, drop=drop, p50_ms=p50_ms)


# ---- rules, on made-up trials


def test_each_engine_has_exits_in_the_fastest_precision_that_holds_the_drop() -> None:
    """Not in float16, whose files have none, and not where everything drops too far."""
    trials = [trial(FP32, 0.0, 40), trial(NUMPY, 0.7, 9), trial(FP16, 0.0, 5)]
    trials += [trial(INT8, 0.9, 10), trial(replace(INT8, fp32_share=0.1), 0.4, 20)]
    wanted = replace(INT8, fp32_share=0.1, exits=True)
    assert list(exits(trials, Budget(0.5, None))) == [wanted]
    both = [wanted, replace(NUMPY, exits=True)]
    assert list(exits(trials, Budget(0.8, None))) == both
    assert list(exits(trials[2:4], Budget(0.5, None))) == []
    assert wanted.name == "onnx-int8, 10% fp32, exits"


def test_exits_do_not_answer_as_the_original_and_are_no_base_of_a_cut() -> None:
    early = replace(trial(replace(FP32, exits=True), 0.0, 1), mean_time=True)
    assert not settled([early], Budget(None, 30))
    trials = [trial(FP32, 0.0, 40), trial(NUMPY, 0.0, 30), early]
    first = next(cuts(trials, Budget(0.5, None), Sizes(12, (8,) * 12, (4,) * 12)))
    assert (first.engine, first.exits) == ("numpy", False)


# ---- real searches


def test_a_bundle_whose_texts_leave_early_is_judged_timed_and_named_so(
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only_cut(monkeypatch, Cut(layers=0.5))
    output = tmp_path / "o.edge"
    found = search(exit_checkpoint(), **options(output, max_drop=60.0, measure=slow(), **files))
    names = [t.candidate.name for t in found.trials]
    assert names == ["numpy-fp32", "numpy-fp32, exits", "numpy-fp32, 50% of layers"]
    early = found.trials[1]
    assert found.chosen == 1
    assert early.mean_time and early.p50_ms is not None and early.p50_ms < 500
    assert "its time is a mean, of texts of the data" in early.note
    assert f"{names[1]}: {early.note}" in found.notes
    assert found.trials[2].works and not found.trials[2].mean_time
    print_search(found, False)
    out, err = capsys.readouterr()
    assert "(mean)" in next(line for line in out.splitlines() if line.startswith("fp32, exits"))
    assert f"next: edgeformer run {output} TEXT --exit auto" in err
    judged = evaluate(output, files["data"], exit="auto")
    assert judged.exits is not None and judged.exits.mean_layers < LAYERS  # texts do leave
    whole = evaluate(exit_checkpoint(), files["data"]).metrics[0].value
    assert early.metric == judged.metrics[0].value
    assert early.drop == pytest.approx(100 * (whole - judged.metrics[0].value))
    with load(output) as model:
        table, chosen = model.variant.exits, model.manifest.chosen
    assert table is not None and (table.max_drop, table.texts) == (60, 500)
    assert chosen.startswith("numpy-fp32, exits, the fastest of 3 candidates within --max-drop 60:")
    assert "ms of a text with exits on" in chosen and "--exit auto" in chosen
    assert chosen in (output / "README.md").read_text(encoding="utf-8")
    saved = json.loads((output / "search.json").read_text(encoding="utf-8"))
    assert saved["trials"][1]["candidate"]["exits"] and saved["trials"][1]["mean_time"]


def test_means_of_this_machine_are_no_times_of_a_board(
    files: dict[str, Path], tmp_path: Path, command: Edgeformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command line, with some texts in both files."""
    only_cut(monkeypatch)
    monkeypatch.setattr(edgeformer.searching.search, "benchmark", slow("pi (pi@board)"))
    with files["exits"].open("a") as file:
        file.writelines(files["data"].read_text().splitlines(keepends=True)[:5])
    code, out, err = command(
        *("convert", exit_checkpoint(), "--profile", "x86", "-o", tmp_path / "o.edge", "--force"),
        *("--engines", "numpy", "--precision", "fp32", "--max-latency-ms", "100", "--json"),
        *("--eval", files["data"], "--exits", files["exits"]),
    )
    assert code == 3, err
    found = json.loads(out)
    assert [t["name"] for t in found["trials"]] == ["numpy-fp32", "numpy-fp32, exits"]
    assert [(t["p50_ms"], t["mean_time"]) for t in found["trials"]] == [(500.0, False)] * 2
    assert any("is the p50 of all layers on pi (pi@board)" in note for note in found["notes"])
    assert "5 of 24 texts of the data are also in --exits" in found["notes"]


def test_exits_that_are_left_out_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    request = Request(exit_checkpoint(), "x86", tmp_path / "o.edge", Budget(None, 9.0))
    loaded = load_checkpoint(exit_checkpoint())
    assert "with --eval DATA and --exits DATA" in exits_left_out(request, loaded)[0]
    judged = replace(request, data=files["data"])
    assert "left out: with --exits DATA" in exits_left_out(judged, loaded)[0]
    assert exits_left_out(replace(judged, exits=files["exits"]), loaded) == ()
    assert exits_left_out(request, load_checkpoint(checkpoint())) == ()


# ---- what is refused


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        ({"exits": "data"}, DataError, "24 texts cannot show"),
        ({"data": "exits"}, UsageError, "500 of 500 texts of .* are also in --exits"),
        ({"exits": "nowhere.tsv"}, UsageError, "no file nowhere.tsv"),
        ({"data": None, "max_drop": None, "max_latency_ms": 9.0}, UsageError, "without data"),
        ({"max_drop": 0.0}, UsageError, "not between 0 and 100"),
        ({"model": "plain"}, ModelError, "has no exits to calibrate"),
    ],
)
def test_bad_requests_are_refused_before_any_work(
    files: dict[str, Path],
    tmp_path: Path,
    more: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    given = {"max_drop": 0.5, **files}
    given |= {k: files.get(v, v) if isinstance(v, str) else v for k, v in more.items()}
    model = given.pop("model", None)
    before = sorted(tmp_path.iterdir())
    if model is not None:  # its labels are others
        rows = [json.dumps({"text": "x", "label": "neutral"})]
        given["data"].write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(error, match=says):
        search(
            checkpoint() if model else exit_checkpoint(), **options(tmp_path / "o.edge", **given)
        )
    assert sorted(tmp_path.iterdir()) == before


def test_options_that_do_not_go_together(
    files: dict[str, Path], tmp_path: Path, command: Edgeformer
) -> None:
    usual = ["convert", exit_checkpoint(), "--profile", "x86", "-o", tmp_path / "o.edge"]
    usual += ["--exits", files["exits"]]
    data = ["--eval", files["data"], "--max-drop", "1"]
    for words, says in (
        (["--max-latency-ms", "9"], "without --eval DATA the option --exits"),
        ([*data, "--exit-predictor"], "--exit-predictor is for one conversion"),
        ([*data, "--exit-criterion", "patience"], "--exit-criterion is for one conversion"),
        ([*data, "--exit-layers", "2"], "--exit-layers is for one conversion"),
        (["--eval", files["data"]], "--eval is for a search"),
    ):
        assert is_error(*command(*usual, *words), exit_code=2, says=says)
