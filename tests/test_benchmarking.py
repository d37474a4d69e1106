"""Benchmarks: every figure is what its definition says, and no engine's death ends the report."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer

from edgeformer.benchmarking import benchmark as benchmarking
from edgeformer.benchmarking import worker as benchmark_worker
from edgeformer.benchmarking.benchmark import benchmark
from edgeformer.benchmarking.rounds import disagreements, joined
from edgeformer.benchmarking.text import benchmark_text
from edgeformer.benchmarking.workload import make_workload, text_of_length
from edgeformer.cli.main import commands
from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import BundleError, UsageError
from edgeformer.machine import MachineState
from edgeformer.report.schema import dump_report, parse_report
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import ENGINES, missing_engine
from edgeformer.runtime.threads import available_threads
from edgeformer.runtime.tokenizer import load_tokenizer
from tests.reports import result as made_result
from tests.tiny_bundles import bundle
from tests.tiny_models import tiny_tokenizer_json

ROOT = Path(__file__).parent.parent


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
        {"tokens": (16, 49)},
        {"batch": 0},
        {"batch": (1, 0)},
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
    assert 10 < result.warm_rss_mb <= result.peak_rss_mb + 1
    assert 10 < result.end_rss_mb <= result.peak_rss_mb + 1
    assert (result.tokens, result.batch, result.layout) == (12, 3, "packed")
    assert report.start.clock_seconds < report.end.clock_seconds
    assert report.versions["numpy"] == np.__version__
    with open_bundle(bundle()) as opened:
        manifest = opened.manifest
    parity = manifest.variants[0].parity
    assert parity is not None
    assert result.fidelity is not None
    assert result.fidelity.mean_cosine == parity.mean_cosine
    facts = report.bundle
    assert (facts.name, facts.parameters) == (manifest.model.name, manifest.model.parameters)
    assert facts.digest == json.loads((bundle() / "manifest.json").read_bytes())["digest"]
    assert parse_report(dump_report(report)) == report


@pytest.mark.parametrize("task", ["classification", "question-answering", "fill-mask"])
def test_the_stages_of_a_call_are_parts_of_its_time(task: str) -> None:
    """Tokenizing and the model lie within each call, and the model runs as often as is measured."""
    report = benchmark(bundle(task), tokens=40, batch=2, iterations=6, per_layer=True)
    (result,) = report.results
    assert report.profiles[0].state == "measured"
    assert len(result.tokenize_ms) == len(result.model_ms) == len(result.samples_ms) == 6
    for total, tokenize, model in zip(
        result.samples_ms, result.tokenize_ms, result.model_ms, strict=True
    ):
        assert 0 < tokenize < total
        assert 0 < model < total
        assert tokenize + model <= total + 1e-4
    assert set(result.stages) == {"tokenize", "model", "answer"}


def test_stages_are_those_of_the_call_and_add_up_over_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that only the model's own readings move: 1 s for each."""
    ticks = iter(range(10**6))
    with load(bundle()) as model:
        monkeypatch.setattr("edgeformer.runtime.calls.time.perf_counter", lambda: next(ticks))
        monkeypatch.setattr("edgeformer.runtime.text.CHUNK_TEXTS", 2)
        model.classify(["good", "bad", "very good", "boring", "film"])
        call = model.last_call
    assert (call.tokenize_seconds, call.model_seconds) == (3, 3)  # three pieces of two texts


def test_several_lengths_batches_and_threads_make_a_matrix() -> None:
    told: list[str] = []
    report = benchmark(
        bundle(),
        tokens=(8, 16),
        batch=(1, 2),
        threads=(1, 4096),
        iterations=1,
        progress=told.append,
    )
    available = available_threads(4096)
    threads = [1] if available == 1 else [1, available]
    wanted = [(n, tokens, batch) for n in threads for tokens in (8, 16) for batch in (1, 2)]
    assert [(r.threads, r.tokens, r.batch) for r in report.results] == wanted
    assert len(set(told)) == len(told) == len(wanted)
    assert any("4096 threads were asked for" in note for note in report.notes)
    page = benchmark_text(report)
    for result in report.results:
        cells = [result.variant, str(result.threads), str(result.tokens), str(result.batch)]
        if len(threads) == 1:
            del cells[1]
        lines = [line.replace("(void)", "").split() for line in page.splitlines()]
        assert any(line[: len(cells)] == cells for line in lines)


def test_a_busy_machine_makes_figures_void(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two readings the CPUs work 9 s for others."""
    real, seconds = benchmarking.read_state, iter(range(0, 10**6, 10))

    def busy() -> MachineState:
        now = next(seconds)
        return replace(real(), clock_seconds=now, busy_seconds=0.9 * now, own_seconds=0.0)

    monkeypatch.setattr(benchmarking, "read_state", busy)
    machine = replace(benchmarking.describe_machine(), affinity_cpus=1)
    monkeypatch.setattr(benchmarking, "describe_machine", lambda: machine)
    report = benchmark(TINY_BUNDLE, engines=("numpy-fp32",), iterations=1)
    assert report.void
    assert report.void_reasons[0] == "other work took 90% of the CPUs"
    assert report.results[0].void_reasons == ("other work took 90% of the CPUs",)
    data = json.loads(dump_report(report))
    assert data["void"] is True
    assert data["results"][0]["void"] is True
    page = benchmark_text(report)
    assert "VOID: other work took 90% of the CPUs" in page
    assert "numpy-fp32 (void)" in page


def test_a_quiet_machine_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    real = benchmarking.read_state
    quiet = replace(real(), busy_seconds=1.0, own_seconds=0.0, throttling=(), stolen_seconds=0.0)
    seconds = iter(range(0, 10**6, 10))
    monkeypatch.setattr(
        benchmarking, "read_state", lambda: replace(quiet, clock_seconds=next(seconds))
    )
    report = benchmark(TINY_BUNDLE, engines=("numpy-fp32",), iterations=1)
    assert not report.void
    assert "VOID" not in benchmark_text(report)


def test_every_installed_engine_is_measured_in_a_process_of_its_own() -> None:
    report = benchmark(TINY_BUNDLE, iterations=2)
    states = {result.variant: result.state for result in report.results}
    wanted = {
        f"{engine}-{precision}": "missing" if missing_engine(engine) else "measured"
        for engine in ENGINES
        for precision in ("fp32", "int8")
    }
    assert states == wanted
    assert (report.workload, report.results[0].batch) == ("arrays", 1)
    assert all(result.stages == {} for result in report.results)
    page = benchmark_text(report)
    for result in report.results:
        if result.state == "measured":
            row = next(line for line in page.splitlines() if line.startswith(f"{result.variant} "))
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


def test_rounds_are_processes_with_the_other_points_in_between() -> None:
    told: list[str] = []
    report = benchmark(bundle(), tokens=(8, 16), iterations=3, rounds=2, progress=told.append)
    short, long = "numpy-int8, 8 tokens", "numpy-int8, 16 tokens"
    assert told == [short, long, f"{short}, again (2)", f"{long}, again (2)"]
    for result in report.results:
        assert result.round_calls == (2, 2)  # as many in each, three at least in all
        assert len(result.samples_ms) == len(result.model_ms) == 4
    with pytest.raises(UsageError, match="rounds"):
        benchmark(bundle(), rounds=0)


def test_a_result_of_several_processes_is_none_of_them_alone() -> None:
    parts = [
        replace(
            made_result("numpy-int8"),
            samples_ms=(p50,) * 5,
            tokenize_ms=(),
            model_ms=(),
            cold_start_ms=cold,
            peak_rss_mb=peak,
            end_rss_mb=100.0 + peak,
            warm_rss_mb=100.0,
            void_reasons=reasons,
        )
        for p50, cold, peak, reasons in (
            (10.0, 900.0, 7.0, ()),
            (10.2, 500.0, 9.0, ("busy",)),
            (10.1, 600.0, 8.0, ("busy",)),
        )
    ]
    found = joined(parts)
    assert (found.p50_ms, found.round_p50_ms) == (10.1, (10.0, 10.2, 10.1))
    assert (found.cold_start_ms, found.peak_rss_mb, found.growth_mb) == (600.0, 9.0, 9.0)
    assert found.void_reasons == ("busy",)
    assert disagreements([found]) == ()  # 2 %
    failed = replace(parts[1], state="failed", error="died", samples_ms=())
    assert joined([parts[0], failed]) == failed
    apart = joined([parts[0], replace(parts[1], samples_ms=(10.4,) * 5)])
    (note,) = disagreements([found, apart])
    assert "numpy-int8 by 3.9%; a repetition may differ as much" in note


def test_a_report_says_where_its_rounds_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process is slower than the one before: 1, 2, 3 ms."""
    run, calls = benchmarking.run_worker, itertools.count(1)

    def slower(module: str, request: Any) -> Any:
        outcome = run(module, request)
        assert outcome.answer is not None
        times = [float(next(calls))] * len(outcome.answer["samples_ms"])
        return replace(outcome, answer={**outcome.answer, "samples_ms": times})

    monkeypatch.setattr(benchmarking, "run_worker", slower)
    report = benchmark(TINY_BUNDLE, engines=("numpy-fp32",), iterations=3, rounds=3)
    (note,) = [note for note in report.notes if "separate processes" in note]
    assert "numpy-fp32 by 100.0%" in note
    assert note in benchmark_text(report)


def test_warm_up_ends_when_two_windows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    window = benchmark_worker.WINDOW_RUNS
    times = iter([9.0] * window + [3.0] * window + [2.0] * window + [2.01] * window + [7.0])
    monkeypatch.setattr(benchmark_worker, "timed_ms", lambda call: next(times))
    assert benchmark_worker.warm_up(lambda: None) == (4 * window, True)
    assert next(times) == 7.0


def test_a_warm_up_that_never_settles_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    doubling = iter(float(2**n) for n in range(10_000))
    monkeypatch.setattr(benchmark_worker, "timed_ms", lambda call: next(doubling))
    monkeypatch.setattr(benchmark_worker, "WARMUP_SECONDS", 0.0)
    assert benchmark_worker.warm_up(lambda: None) == (2 * benchmark_worker.WINDOW_RUNS, False)


def test_the_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    samples = benchmark_worker._samples
    assert len(samples(lambda: calls.append(1), 3)) == len(calls) == 3
    monkeypatch.setattr(benchmark_worker, "SAMPLE_SECONDS", 0.0)
    assert len(samples(lambda: None, None)) == benchmark_worker.MIN_SAMPLES
    monkeypatch.setattr(benchmark_worker, "SAMPLE_SECONDS", 600.0)
    assert len(samples(lambda: None, None)) == benchmark_worker.MAX_SAMPLES
    assert len(samples(lambda: None, None, None, 3)) == benchmark_worker.MAX_SAMPLES / 3


def test_notes_say_which_figures_to_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    governed = replace(benchmarking.read_state(), governor="ondemand")
    monkeypatch.setattr(benchmarking, "read_state", lambda: governed)
    run = benchmarking.run_worker

    def shaky(module: str, request: Any) -> Any:
        outcome = run(module, request)
        assert outcome.answer is not None
        return replace(outcome, answer={**outcome.answer, "stable": False})

    monkeypatch.setattr(benchmarking, "run_worker", shaky)
    notes = benchmark(TINY_BUNDLE, engines=("numpy-fp32",), iterations=1).notes
    assert any("had not settled" in note and "numpy-fp32" in note for note in notes)
    assert any("governor ondemand" in note for note in notes)


def test_the_command_line_takes_lists_and_writes_reports(tmp_path: Path) -> None:
    files = [tmp_path / f"report{form}" for form in (".json", ".md", ".html")]
    options = ["--engine", "numpy-fp32,numpy-int8", "--threads", "1", "--iterations", "2", "--json"]
    for file in files:
        options += ["--report", str(file)]
    result = CliRunner().invoke(commands, ["benchmark", str(TINY_BUNDLE), *options])
    assert result.exit_code == 0, result.output
    assert parse_report(files[0].read_bytes()) == parse_report(result.stdout)
    for file in files:
        assert "numpy-int8" in file.read_text(encoding="utf-8").replace("\\", "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tokens", "16,x"], "numbers of at least 1"),
        (["--tokens", "16,"], "numbers of at least 1"),
        (["--batch", "0"], "numbers of at least 1"),
        (["--report", "x.pdf"], ".json, .md or .html"),
        (["--report", "no/such/folder/x.json"], "no folder"),
        (["--report", "README.md"], "exists"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarking, "run_worker", lambda *arguments: pytest.fail("measured"))
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(commands, ["benchmark", str(TINY_BUNDLE), *options])
    assert result.exit_code != 0
    assert says in f"{result.exception} {result.output}"
