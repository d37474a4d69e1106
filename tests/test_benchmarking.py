"""Benchmarks: every figure is what its definition says, and no engine's death ends the report."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from edgeformer import benchmark_worker
from edgeformer.benchmarking import EngineResult, benchmark, percentile
from edgeformer.cli_text import benchmark_text
from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import BundleError, UsageError
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import ENGINES, missing_engine
from edgeformer.runtime.tokenizer import load_tokenizer
from edgeformer.workload import make_workload, text_of_length
from tests.tiny_bundles import bundle
from tests.tiny_models import tiny_tokenizer_json

ROOT = Path(__file__).parent.parent


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
    st.sampled_from([0, 50, 90, 95, 99, 100]),
)
def test_percentiles_are_numpys(samples: list[float], percent: int) -> None:
    assert percentile(samples, percent) == pytest.approx(np.percentile(samples, percent))


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 300), st.integers(0, 20))
def test_a_text_has_exactly_the_tokens_asked_for(tokens: int, start: int) -> None:
    """Counted by Hugging Face tokenizers, not by ourselves."""
    oracle = HfTokenizer.from_str(tiny_tokenizer_json().decode())
    oracle.no_truncation()
    oracle.no_padding()
    text = text_of_length(load_tokenizer(tiny_tokenizer_json()), tokens, start)
    assert len(oracle.encode(text).ids) == tokens


def test_a_vocabulary_of_unknown_words_still_gives_a_text() -> None:
    data = json.loads(tiny_tokenizer_json())
    data["normalizer"], data["pre_tokenizer"] = None, {"type": "WhitespaceSplit"}
    assert text_of_length(load_tokenizer(json.dumps(data).encode()), 10)


def test_the_texts_of_a_batch_differ_and_fit_the_model() -> None:
    with open_bundle(bundle()) as opened:
        work = make_workload(opened, None, None, 4)
        own = make_workload(opened, "the film " * 99, None, 2)
    assert len(set(work.texts)) == work.batch == 4
    assert work.tokens == 48  # what the model takes: less than the default
    assert (own.batch, own.tokens) == (2, 48)


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": 49},
        {"tokens": 2},
        {"tokens": 0},
        {"batch": 0},
        {"threads": 0},
        {"iterations": 0},
        {"text": "a", "tokens": 5},
        {"engines": ("onnx",)},
        {"engines": ("numpy-fp32",)},
    ],
)
def test_wrong_requests_are_refused_before_anything_is_measured(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        benchmark(bundle(), **options)


def test_a_bundle_of_arrays_takes_no_text() -> None:
    with pytest.raises(UsageError, match="cannot tokenize"):
        benchmark(TINY_BUNDLE, batch=2)


def test_a_damaged_bundle_is_not_measured(tmp_path: Path) -> None:
    data = bytearray(TINY_BUNDLE.read_bytes())
    with open_bundle(TINY_BUNDLE) as opened:
        model = opened.read("numpy-fp32/model.plan")
    position = bytes(data).index(model) + len(model) // 2
    data[position] ^= 1
    (tmp_path / "tiny.zip").write_bytes(data)
    with pytest.raises(BundleError):
        benchmark(tmp_path / "tiny.zip", engines=("numpy-fp32",), iterations=1)


def test_a_report_holds_what_was_measured() -> None:
    told: list[str] = []
    report = benchmark(bundle(), tokens=12, batch=3, iterations=7, threads=1, progress=told.append)
    assert told == ["numpy-int8"]
    (result,) = report.results
    assert (result.state, result.error, result.threads) == ("measured", "", 1)
    assert len(result.samples_ms) == 7
    assert result.warmup_runs >= 2 * benchmark_worker.WINDOW_RUNS
    assert result.file_mb == (bundle() / "numpy-int8/model.plan").stat().st_size / 1e6
    parts = result.import_ms + result.load_ms + result.first_run_ms
    assert 0 < parts < result.cold_start_ms
    assert 10 < result.cold_rss_mb <= result.peak_rss_mb
    assert report.workload.tokens == 12
    data = json.loads(json.dumps(report.as_dict()))
    row = data["results"][0]
    assert row["samples_ms"] == list(result.samples_ms)
    for name, percent in (("p50_ms", 50), ("p90_ms", 90), ("p95_ms", 95), ("p99_ms", 99)):
        assert row[name] == pytest.approx(np.percentile(result.samples_ms, percent))
    assert row["per_second"] == pytest.approx(7 * 3 / (sum(result.samples_ms) / 1000))
    assert data["schema_version"] == 1
    assert data["start"]["time"] <= data["end"]["time"]
    assert data["versions"]["numpy"] == np.__version__


def test_every_installed_engine_is_measured_in_a_process_of_its_own() -> None:
    report = benchmark(TINY_BUNDLE, iterations=2)
    states = {result.variant: result.state for result in report.results}
    wanted = {
        f"{engine}-{precision}": "missing" if missing_engine(engine) else "measured"
        for engine in ENGINES
        for precision in ("fp32", "int8")
    }
    assert states == wanted
    assert (report.workload.kind, report.workload.batch) == ("arrays", 1)
    page = benchmark_text(report)
    for result in report.results:
        if result.state == "measured":
            row = next(line for line in page.splitlines() if line.startswith(result.variant))
            assert f"{result.p50_ms:.2f}" in row.split()


def test_a_dying_engine_is_a_row_and_the_others_are_measured(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    arguments = ["--engine", "onnx-fp32", "--engine", "numpy-fp32", "--iterations", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeformer", "benchmark", str(TINY_BUNDLE), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    rows = {row["variant"]: row for row in json.loads(done.stdout)["results"]}
    assert rows["onnx-fp32"]["state"] == "failed"
    assert "SIGILL" in rows["onnx-fp32"]["error"]
    assert rows["numpy-fp32"]["state"] == "measured"
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "error: could not measure onnx-fp32",
    )


def test_an_engine_that_is_not_installed_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "onnx", ("none", ("no_such_package",), "onnx"))
    report = benchmark(TINY_BUNDLE, engines=("onnx-int8", "numpy-int8"), iterations=1)
    states = {result.variant: result.state for result in report.results}
    assert states == {"onnx-int8": "missing", "numpy-int8": "measured"}
    assert 'pip install "edgeformer[onnx]"' in benchmark_text(report)


def test_warm_up_ends_when_two_windows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    window = benchmark_worker.WINDOW_RUNS
    times = iter([9.0] * window + [3.0] * window + [2.0] * window + [2.01] * window + [7.0])
    monkeypatch.setattr(benchmark_worker, "_timed_ms", lambda call: next(times))
    assert benchmark_worker._warm_up(lambda: None) == (4 * window, True)
    assert next(times) == 7.0


def test_a_warm_up_that_never_settles_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    doubling = iter(float(2**n) for n in range(10_000))
    monkeypatch.setattr(benchmark_worker, "_timed_ms", lambda call: next(doubling))
    monkeypatch.setattr(benchmark_worker, "WARMUP_SECONDS", 0.0)
    assert benchmark_worker._warm_up(lambda: None) == (2 * benchmark_worker.WINDOW_RUNS, False)


def test_the_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    samples = benchmark_worker._samples
    assert len(samples(lambda: calls.append(1), 3)) == len(calls) == 3
    monkeypatch.setattr(benchmark_worker, "SAMPLE_SECONDS", 0.0)
    assert len(samples(lambda: None, None)) == benchmark_worker.MIN_SAMPLES
    monkeypatch.setattr(benchmark_worker, "SAMPLE_SECONDS", 600.0)
    assert len(samples(lambda: None, None)) == benchmark_worker.MAX_SAMPLES


def test_notes_say_which_figures_to_doubt() -> None:
    report = benchmark(TINY_BUNDLE, engines=("numpy-fp32",), iterations=1)
    shaky = EngineResult("x-fp32", "x", "fp32", 1.0, stable=False, samples_ms=(1.0,))
    notes = replace(report, results=(shaky,)).notes
    assert any("had not settled" in note and "x-fp32" in note for note in notes)
