"""benchmark --exit: what exits save, on which texts, and what they cost where nothing leaves."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeformer.benchmarking import exit_times
from edgeformer.benchmarking import exits as exit_benchmark
from edgeformer.benchmarking.benchmark import benchmark
from edgeformer.benchmarking.exit_times import NOBODY, spread
from edgeformer.benchmarking.exits import exit_cells, joined_exits
from edgeformer.benchmarking.matrix import make_cells
from edgeformer.benchmarking.text import benchmark_text
from edgeformer.errors import DataError, InputError, UsageError
from edgeformer.isolation import Outcome
from edgeformer.report.files import read_report
from edgeformer.report.html import html_page
from edgeformer.report.schema import dump_report, parse_report
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.exiting import ExitRule, Lookup, entropy, replay
from edgeformer.runtime.manifest import ExitPoint
from tests.command_line import Edgeformer, is_error
from tests.exit_models import LAYERS, exit_bundle
from tests.reports import small_report, timed_run
from tests.tiny_bundles import bundle
from tests.tiny_models import TEXTS

RULE = "0.69"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"{TEXTS[n % len(TEXTS)]} {n}" for n in range(70)), encoding="utf-8")
    return path


def test_times_and_layers_are_of_the_texts_that_the_report_names(texts: Path) -> None:
    told: list[str] = []
    kept = [texts.read_text(encoding="utf-8").splitlines()[n] for n in spread(70)]
    with load(exit_bundle()) as model:
        logits = model.exit_logits(kept)
    threshold = float(np.median(entropy(logits[0])))  # half of the texts leave at once
    left = replay(logits, ExitRule("entropy", threshold))
    report = benchmark(
        exit_bundle(),
        tokens=5,
        iterations=4,
        rounds=2,
        exit=str(threshold),
        texts=texts,
        progress=told.append,
    )
    exits, again = "numpy-fp32, exits", ", again (2)"
    assert told == ["numpy-fp32", exits, f"numpy-fp32{again}", f"{exits}{again}"]
    (run,) = report.exits
    assert (run.dataset, run.error) == ("64 of 70 texts of texts.txt", "")
    assert run.threshold == f"{threshold} (entropy {threshold:.4g})"
    assert run.texts == tuple(int((left == n).sum()) for n in range(1, LAYERS + 1))
    assert 1 < run.mean_layers < LAYERS
    assert run.mean_layers == pytest.approx(left.mean())
    times = run.times
    assert times is not None and times.timed_texts == 64
    lengths = [len(part) for part in (times.with_ms, times.without_ms, times.worst_ms)]
    assert lengths == [4 * 64] * 3  # four calls of each text, two in each process
    data = json.loads(dump_report(report))["exits"][0]
    means = [
        np.median(np.reshape(part, (4, 64)), axis=0).mean()
        for part in (times.with_ms, times.without_ms, times.worst_ms)
    ]
    assert [data["mean_ms"], data["mean_ms_without"], data["mean_ms_worst"]] == pytest.approx(means)
    assert data["ratio"] == pytest.approx(means[0] / means[1])
    assert parse_report(dump_report(report)) == report
    shown = benchmark_text(report)
    assert f"{run.mean_layers:.2f} of 4 layers on average" in shown
    assert "64 of 70 texts of texts.txt" in shown and f"({times.ratio:.2f}x)" in shown
    assert "EdgeFormer's own" not in shown
    assert "worst case: all layers" in html_page([report])


def test_in_the_worst_case_no_text_leaves() -> None:
    with load(exit_bundle()) as model:
        answers = model.classify(list(TEXTS), exit=NOBODY)
    assert {labels[0].exit_layer for labels in answers} == {LAYERS}


@pytest.mark.parametrize(
    ("options", "source"),
    [({}, r"64 of EdgeFormer's own \d+ texts"), ({"text": "a film"}, "the text of --text")],
)
def test_without_a_file_the_texts_are_ours_or_the_one_given(
    options: dict[str, Any], source: str
) -> None:
    with open_bundle(exit_bundle()) as opened:
        cells, _ = make_cells(opened, (), options.get("text"), (None,), (None,), (None, 1))
        found, notes = exit_cells(opened, cells, RULE, None, options.get("text"))
    assert [cell.threads for cell in found] == [None, 1]
    (dataset,) = {cell.dataset for cell in found}
    assert re.fullmatch(source, dataset)
    assert bool(notes) == ("text" not in options)  # who gave a text knows whose it is


def test_a_variant_without_exits_is_named_and_the_others_are_measured() -> None:
    with open_bundle(exit_bundle()) as opened:
        (variant,) = opened.manifest.variants
        point = ExitPoint(0.5, 3.0, 0.0, 0.1)
        assert variant.exits is not None
        table = replace(variant.exits, threshold=0.5, curve=(point,))
        cells, _ = make_cells(opened, (), None, (None,), (None,), (None,))
        plain = replace(cells[0], variant=replace(variant, id="onnx-fp16", exits=None))
        calibrated = replace(cells[0], variant=replace(variant, exits=table))
        found, notes = exit_cells(opened, [plain, calibrated], "auto", None, "a film")
        assert [(cell.variant.id, cell.words) for cell in found] == [
            ("numpy-fp32", "auto (entropy 0.5)")
        ]
        assert notes == [
            "no times with exits: onnx-fp16 has no exits: a text goes through all of its layers"
        ]
        with pytest.raises(InputError, match="not calibrated"):
            exit_cells(opened, cells, "auto", None, None)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"exit": "7"}, InputError, r"from 0 to ln\(2\)"),
        ({"exit": "probability:0.2"}, InputError, "from 0.5 to 1"),
        ({"exit": "patience:4"}, InputError, "from 1 to 3"),
        ({"exit": "soon"}, InputError, "exit is 'soon'"),
        ({"exit": "auto"}, InputError, "not calibrated"),
        ({"exit": "none"}, InputError, "nothing to measure"),
        ({"texts": "texts.txt"}, UsageError, "what exits are timed on"),
        ({"exit": "0.1", "texts": "none.txt"}, UsageError, "no file"),
        ({"exit": "0.1", "texts": "/dev/null"}, UsageError, "no file"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_measured(
    options: dict[str, Any], error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_benchmark, "run_worker", lambda *args: pytest.fail("measured"))
    with pytest.raises(error, match=says):
        benchmark(exit_bundle(), progress=lambda name: pytest.fail("measured"), **options)


def test_an_empty_file_and_a_bundle_without_exits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="has no text"):
        benchmark(exit_bundle(), exit="0.1", texts=tmp_path / "empty.txt")
    with pytest.raises(InputError, match="has no exits"):
        benchmark(bundle(), exit="0.1")


def test_the_command_line(
    texts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edgeformer = Edgeformer(capfd, monkeypatch)
    settings = ("--tokens", 5, "--iterations", 1, "--exit", RULE, "--texts", texts)
    file = tmp_path / "report.json"
    code, out, err = edgeformer("benchmark", exit_bundle(), *settings, "--report", file)
    assert code == 0, err
    assert "layers on average" in out and "where none leaves early" in out
    assert read_report(file).exits[0].times is not None
    result = edgeformer("benchmark", bundle(), "--exit", "auto")
    assert is_error(*result, exit_code=1, says="has no exits")


def test_exits_that_die_are_a_line_and_an_exit_code(
    texts: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    died = Outcome(None, "died with signal SIGILL", "", 0.0)
    monkeypatch.setattr(exit_benchmark, "run_worker", lambda module, request: died)
    edgeformer = Edgeformer(capfd, monkeypatch)
    settings = ("--tokens", 5, "--iterations", 1, "--exit", RULE, "--texts", texts)
    code, out, err = edgeformer("benchmark", exit_bundle(), *settings)
    assert code == 1 and "could not measure the exits of numpy-fp32" in err
    assert "died with signal SIGILL" in out and "p50 ms" in out


def test_processes_are_joined_text_by_text() -> None:
    run = timed_run()
    assert run.times is not None
    other = replace(run.times, with_ms=(9.0, 1.0), without_ms=(5.0, 5.0), worst_ms=(6.0, 6.0))
    other = replace(other, with_mj=23.0, without_mj=None)
    found = joined_exits([run, replace(run, times=other, void_reasons=("busy",))])
    assert found.times is not None
    assert found.times.with_ms == (*run.times.with_ms, 9.0, 1.0)
    expected = [np.median([2.0, 2.1, 1.9, 9.0]), np.median([4.0, 4.1, 3.9, 1.0])]
    assert found.times.mean_ms == pytest.approx(np.mean(expected))
    assert (found.times.with_mj, found.times.without_mj) == (22.0, 40.0)
    assert found.void_reasons == ("busy",) and "(void)" in html_page(
        [replace(small_report(), exits=(found,))]
    )
    failed = replace(run, error="it died")
    assert joined_exits([run, failed]) is failed


class Clockwork:
    """A model whose answers take 1, 2 or 3 ms, ten times that for the second text, and a clock and
    a meter that only it moves."""

    threads = 1
    name = "made by hand"

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked: list[tuple[str, object]] = []

    def classify(self, texts: list[str], pairs: Any, *, exit: Any, on_long: str) -> None:
        self.asked.append((texts[0], exit))
        slow = 10 if texts[0] == "second" else 1
        self.seconds += slow * {RULE: 0.001, None: 0.002, NOBODY: 0.003}[exit]

    def read(self) -> float:
        return self.seconds

    def used_mj(self, before: float, after: float) -> float:
        return 5000 * (after - before)  # of 5 W


def test_each_time_is_of_its_own_way_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Clockwork()
    monkeypatch.setattr(exit_times.time, "perf_counter", lambda: model.seconds)
    monkeypatch.setattr(exit_times, "find_meter", lambda: model)
    found = exit_times.time_exits(model, ["first", "second"], None, RULE)
    assert found.with_ms == pytest.approx((1, 10) * 3)
    assert found.without_ms == pytest.approx((2, 20) * 3)
    assert found.worst_ms == pytest.approx((3, 30) * 3)
    assert (found.ratio, found.worst_ratio) == pytest.approx((0.5, 1.5))
    assert (found.with_mj, found.without_mj) == pytest.approx((5 * 5.5, 5 * 11))
    assert found.meter == "made by hand"
    timed = model.asked[6:24]  # after the round that warms up, before the meter
    first = [way for n, (_, way) in enumerate(timed) if n % 3 == 0]
    assert set(first) == {RULE, None, NOBODY}  # none is always the one after a pause
    monkeypatch.setattr(exit_times, "find_meter", lambda: None)
    unmetered = exit_times.time_exits(model, ["first"], None, RULE)
    assert (unmetered.with_mj, unmetered.meter) == (None, "")


def test_nobody_leaves_by_the_predictor_either() -> None:
    lookup = Lookup(0.1, np.array([[0.0, 0.0], [0.3, 0.0]]))  # of four segments
    assert lookup.caps(np.array([0.0, 0.1]), NOBODY).tolist() == [4, 4]


def test_texts_are_spread_over_a_sorted_file() -> None:
    assert spread(3) == [0, 1, 2] and spread(64) == list(range(64))
    found = spread(1000)
    assert len(set(found)) == 64 and found[0] == 0 and found[-1] > 980
    assert max(np.diff(found)) <= math.ceil(1000 / 64)
