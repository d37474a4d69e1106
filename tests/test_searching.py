"""A search to a budget with real bundles of tiny models: what is written, what is said, and that
nothing else stays. Times are made up where a choice hangs on them."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import edgeformer.search_candidates
import edgeformer.searching
from edgeformer import search
from edgeformer.evaluation import evaluate
from edgeformer.report.schema import Report
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from edgeformer.searching import SearchReport
from tests.command_line import Edgeformer, process_result, start
from tests.labelled_bundles import checkpoint
from tests.reports import result, small_report
from tests.test_evaluation import sentiment
from tests.tiny_bundles import texts_file

Times = Callable[[str, int], float]  # variant, parameters -> ms


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def take_times(monkeypatch: pytest.MonkeyPatch, times: Times) -> None:
    """Made-up times by variant and size, so that a choice does not hang on this machine's mood."""

    def measure(bundle: Path, tokens: int | None) -> Report:
        with open_bundle(bundle) as opened:
            (variant,), card = opened.manifest.variants, opened.manifest.model
        made = replace(
            result("numpy-int8"),
            variant=variant.id,
            tokens=tokens or 0,
            samples_ms=(times(variant.id, card.parameters),) * 20,
        )
        return replace(small_report(), results=(made,))

    monkeypatch.setattr(edgeformer.searching, "measure_here", measure)


def no_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the whole model is tried."""
    monkeypatch.setattr(edgeformer.search_candidates, "LADDERS", ())


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
