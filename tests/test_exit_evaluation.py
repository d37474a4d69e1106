"""eval --exit says where texts left, what it cost and what it saved."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgeformer.evaluation.evaluate import evaluate
from edgeformer.evaluation.records import add_to_report
from edgeformer.remote.answers import read_evaluation
from edgeformer.report.files import read_report, write_reports
from edgeformer.report.html import html_page
from edgeformer.runtime import load
from edgeformer.runtime.exiting import ExitRule, replay
from tests.command_line import Edgeformer
from tests.exit_models import LAYERS, exit_bundle
from tests.tiny_bundles import bundle
from tests.tiny_models import TEXTS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"text": f"{TEXTS[i % len(TEXTS)]} {chr(97 + i)}", "label": f"class {i % 2}"}
        for i in range(20)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_figures_are_those_of_the_answers(data: Path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    texts, truth = [row["text"] for row in rows], np.array([row["label"][-1] for row in rows], int)
    with load(exit_bundle()) as model:
        logits = model.exit_logits(texts)
        assert logits.shape == (LAYERS, 20, 2)
        threshold = float(np.median([0.68, 0.6925]))
        exits = replay(logits, ExitRule("entropy", threshold))
    report = evaluate(exit_bundle(), data, exit=str(threshold))
    found = report.exits
    assert found is not None and found.layers == (1, 2, 3, 4)
    assert found.texts == tuple(int((exits == n).sum()) for n in found.layers)
    assert found.mean_layers == pytest.approx(exits.mean())
    right = logits.argmax(axis=2)[exits - 1, np.arange(20)] == truth
    assert report.metrics[0].value == pytest.approx(right.mean())
    first, last = found.curve[0], found.curve[-1]
    assert first.mean_layers == LAYERS >= last.mean_layers
    assert first.accuracy == pytest.approx((logits[-1].argmax(axis=1) == truth).mean())
    assert found.accuracy == pytest.approx(right.mean())
    times = found.times
    assert times.timed_texts == 20 and len(times.worst_ms) == len(times.with_ms) == 60
    shown = report.as_dict()["exits"]
    medians = np.median(np.reshape(times.with_ms, (3, 20)), axis=0)
    assert shown["mean_ms"] == pytest.approx(medians.mean())
    assert shown["ratio"] == shown["mean_ms"] / times.mean_ms_without
    assert report == read_evaluation(json.loads(json.dumps(report.as_dict())))  # over ssh


def test_a_report_shows_where_texts_left(data: Path, tmp_path: Path) -> None:
    from edgeformer.benchmarking.benchmark import benchmark

    path = tmp_path / "report.json"
    write_reports([benchmark(exit_bundle(), tokens=5, iterations=2)], path)
    for rule in ("0.1", "0.69"):  # the second replaces the first
        add_to_report(path, evaluate(exit_bundle(), data, exit=rule))
    (found,) = read_report(path).exits
    assert found.threshold.startswith("0.69") and sum(found.texts) == 20
    assert found.threshold.startswith("0.69") and len(found.curve) == 21 and found.times
    page = html_page([read_report(path)])
    assert "Early exits" in page and "accuracy in % against mean layers of a text" in page


def test_the_command_line(
    data: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edgeformer = Edgeformer(capfd, monkeypatch)
    code, out, err = edgeformer("eval", exit_bundle(), data, "--exit", "0.3")
    assert code == 0, err
    assert "layers on average" in out and "left after layer" in out and "mean layers" in out
    code, _, err = edgeformer("eval", exit_bundle(), data, "--exit", "auto")
    assert code == 1 and "not calibrated" in err
    code, _, err = edgeformer("eval", exit_bundle(), data, "--exit", "7")
    assert code == 1 and "from 0 to ln(2)" in err
    code, _, err = edgeformer("eval", bundle("embedding"), data, "--exit", "auto")
    assert code != 0
