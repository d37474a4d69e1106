"""What a user would lose: a race that compares unlike things, or drops a loser in silence."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks import peers
from benchmarks.peers import AUTO, BASELINE, CONTENDERS, REFERENCE, STOCK_LITERT, Contender
from benchmarks.peers.common import pooled
from benchmarks.race import environments, rounds
from benchmarks.race.environments import ContenderError, clean_environment, last_words, made_once
from benchmarks.race.goals import goals
from benchmarks.race.process import Worker
from benchmarks.race.report import markdown
from benchmarks.race.result import RaceResult, from_json, to_json
from benchmarks.race.rounds import Entrant, Row, Settings, run_field
from benchmarks.race.statistics import cosines, median, speedup
from benchmarks.race.workloads import ODD_TEXTS, Workload, accuracy_texts
from edgeformer.data import builtin_texts

MODULE = "tests.race_contender"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(Path(sys.executable), MODULE, tmp_path / "fake", 2) as found:
        yield found


# The protocol


def test_what_a_library_prints_is_no_answer(worker: Worker) -> None:
    vectors = worker.encode(["a bat", ""])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[5, 2, 2], [0, 2, 0]]


def test_warm_calls_are_left_out_and_each_other_is_a_sample(worker: Worker) -> None:
    inputs = [["sleep 0.2"], ["a"], ["sleep 0.05"]]
    answer = worker.ask({"command": "time", "inputs": inputs, "warm": 1})
    assert len(answer["ms"]) == len(answer["cpu_ms"]) == 2
    assert answer["ms"][1] >= 50  # asleep: wall time passes, CPU time does not
    assert answer["cpu_ms"][1] < 50


def test_describe_names_libraries_memory_and_choice(worker: Worker) -> None:
    about = worker.ask({"command": "describe"})
    assert about["libraries"]["numpy"] == np.__version__
    assert about["chosen"] == "the fast one"
    assert 5e6 < about["peak_rss_bytes"] < 5e9


def test_a_failure_is_told_and_the_contender_goes_on(worker: Worker) -> None:
    with pytest.raises(ContenderError, match="ValueError: no such text"):
        worker.encode(["fail"])
    with pytest.raises(ContenderError, match="no command 'fly'"):
        worker.ask({"command": "fly"})
    assert worker.encode(["a"]).shape == (1, 3)


def test_a_death_is_told(worker: Worker) -> None:
    with pytest.raises(ContenderError, match="ended with code 7"):
        worker.encode(["die"])
    with pytest.raises(ContenderError, match="ended with code 7"):
        worker.encode(["a"])


def test_a_contender_that_hangs_is_given_up(worker: Worker) -> None:
    with pytest.raises(ContenderError, match="no answer within"):
        worker.ask({"command": "encode", "texts": ["sleep 60"]}, seconds=0.2)


def test_a_stopped_contender_uses_no_cpu_and_answers_later(worker: Worker) -> None:
    worker.encode(["a"])
    worker.suspend()
    before = worker.cpu_seconds()
    with pytest.raises(ContenderError, match="no answer"):
        worker.ask({"command": "encode", "texts": ["aa"]}, seconds=0.3)
    assert worker.cpu_seconds() == before
    worker.resume()
    assert worker.ask({"command": "encode", "texts": ["a"]})["shape"] == [1, 3]


def test_no_process_is_left_even_if_it_was_stopped(tmp_path: Path) -> None:
    with Worker(Path(sys.executable), MODULE, tmp_path, 1) as found:
        found.encode(["a"])
        found.suspend()
        pid = found._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_stopped_contender_dies_with_the_race(tmp_path: Path) -> None:
    """SIGKILL of the race runs no handler, and a stopped process cannot see its input end."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom benchmarks.race.process import Worker\n"
        f"w = Worker(Path(sys.executable), {MODULE!r}, Path({str(tmp_path)!r}), 1)\n"
        "w.encode(['a'])\nw.suspend()\nprint(w._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    import subprocess

    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=environments.ROOT
    ) as race:
        assert race.stdout is not None
        pid = int(race.stdout.readline())
        race.send_signal(signal.SIGKILL)
    limit = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_nothing_chosen_by_hand_reaches_a_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "1")
    found = clean_environment(1)
    assert not {n for n in found if n.startswith(("OPENBLAS", "OMP", "PYTHONDONT"))}
    assert (found["RAYON_NUM_THREADS"], found["TOKENIZERS_PARALLELISM"]) == ("1", "false")


# Statistics


def test_the_ratio_is_paired_within_rounds() -> None:
    """The machine gets slower and slower; the ratio of the overall medians would be 20 / 12."""
    slow = [[1.9, 2.0, 9.0], [20.0], [30.0, 30.0]]
    fast = [[1.0, 1.0, 7.0], [20.0], [12.0, 12.0]]
    assert speedup(fast, slow).median == 2.0
    assert speedup(slow, fast).median == 0.5
    assert median(slow) == 20.0


def test_a_steady_ratio_has_no_interval() -> None:
    found = speedup([[1.0], [10.0], [4.0]], [[2.0], [20.0], [8.0]])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_the_interval_is_the_percentile_bootstrap() -> None:
    random = np.random.default_rng(3)
    ours = random.lognormal(0, 0.2, 25)
    theirs = random.lognormal(0.5, 0.2, 25)
    found = speedup([[x] for x in ours], [[x] for x in theirs])
    known = stats.bootstrap(
        (theirs / ours,), np.median, method="percentile", n_resamples=9999, rng=1
    ).confidence_interval
    assert found.median == pytest.approx(float(np.median(theirs / ours)))
    assert found.low == pytest.approx(known.low, rel=0.05)
    assert found.high == pytest.approx(known.high, rel=0.05)


positive = st.floats(0.01, 1e4)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=12), st.floats(0.1, 10))
def test_the_interval_holds_the_median_and_scales(
    pairs: list[tuple[float, float]], factor: float
) -> None:
    ours, theirs = [[a] for a, _ in pairs], [[b] for _, b in pairs]
    found = speedup(ours, theirs)
    assert found.low <= found.median * (1 + 1e-9) and found.median <= found.high * (1 + 1e-9)
    scaled = speedup(ours, [[b * factor] for _, b in pairs])
    assert scaled.median == pytest.approx(found.median * factor)


def test_unequal_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        speedup([[1.0]], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="0 rounds"):
        speedup([], [])


def test_cosines_of_answers_that_are_no_numbers_are_zero() -> None:
    a = np.array([[1, 0], [3, 4], [np.nan, 1], [0, 0]], np.float32)
    b = np.array([[0, 2], [6, 8], [1, 1], [1, 1]], np.float32)
    assert cosines(a, b).tolist() == [0.0, pytest.approx(1.0), 0.0, 0.0]
    with pytest.raises(ValueError, match="compared"):
        cosines(a, b[:2])


def test_pooling_ignores_padding() -> None:
    hidden = np.array([[[3.0, 0.0], [3.0, 8.0], [99.0, 99.0]]], np.float32)
    found = pooled(hidden, np.array([[1, 1, 0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8]], rtol=1e-6)


# The field


def _entrant(name: str, folder: Path, module: str = MODULE) -> Entrant:
    return Entrant(peers.contender(name), Path(sys.executable), module, folder)


def _workloads() -> list[Workload]:
    return [Workload("short", "short ones", (("a",), ("bb",), ("ccc",)), 2, 3, 0.0)]


def test_everyone_gets_the_same_calls_and_losers_stay_in_the_table(tmp_path: Path) -> None:
    entrants = [
        _entrant(REFERENCE, tmp_path),
        _entrant(BASELINE, tmp_path, "tests.no_such_contender"),
        _entrant(AUTO, tmp_path),
    ]
    settings = Settings(rounds=3, warm=1, cold_runs=2)
    texts = ["a", "abc", "x" * 50]
    rows = run_field(entrants, 1, _workloads(), texts, settings, lambda message: None)
    assert "No module named" in rows[BASELINE].failure
    for name in (REFERENCE, AUTO):
        row = rows[name]
        assert not row.failure
        assert [len(samples) for samples in row.samples_ms["short"]] == [2, 2, 2]
        assert row.cosines == pytest.approx([1, 1, 1]) == row.batch_cosines
        assert len(row.cold_ms) == len(row.cold_rss_bytes) == 2
        assert row.stopped_cpu_s == 0
        assert row.about["chosen"] == "the fast one"


class _Recorder:
    """Stands in for a Worker and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, ...]]] = []

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(command["inputs"])
        return {"ms": [1.0], "cpu_ms": [1.0]}

    def cpu_seconds(self) -> float:
        return 0.0

    def resume(self) -> None: ...

    def suspend(self) -> None: ...


def test_the_inputs_go_on_from_round_to_round() -> None:
    recorder, row = _Recorder(), Row()
    live = rounds.Live(recorder)  # type: ignore[arg-type]
    for k in range(2):
        rounds._turn(live, row, _workloads()[0], k, 1)
    assert recorder.asked == [[("ccc",), ("a",), ("bb",)], [("bb",), ("ccc",), ("a",)]]


def test_who_fails_in_a_round_leaves_and_the_others_finish(tmp_path: Path) -> None:
    loads = [
        Workload("short", "", (("a",),), 1, 3, 0.0),
        Workload("deadly", "", (("die",),), 1, 3, 0.0),
    ]
    entrants = [_entrant(REFERENCE, tmp_path)]
    rows = run_field(entrants, 1, loads, ["a"], Settings(2, 0, 1), lambda message: None)
    assert "code 7" in rows[REFERENCE].failure
    assert not rows[REFERENCE].cold_ms


# Environments and files


def test_files_are_made_once_and_never_half(tmp_path: Path) -> None:
    made: list[int] = []

    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "part").touch()
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt

    target = tmp_path / "deep" / "files"
    made_once(target, "recipe", build)
    made_once(target, "recipe", build)
    assert (target / "part").exists() and len(made) == 1
    with pytest.raises(KeyboardInterrupt):
        made_once(target, "new recipe", build)
    assert not target.exists()
    assert not list(target.parent.iterdir())
    made_once(target, "recipe", build)
    assert (target / "part").exists() and len(made) == 3


def test_a_contender_that_cannot_be_made_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Contender("race_contender", "Fake", peers.PROJECT, engine="none")
    monkeypatch.setenv(environments.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "_sources", lambda chosen: "sources")
    monkeypatch.setattr(environments, "PEERS", "tests")
    monkeypatch.setattr(rounds, "CONTENDERS", (fake,))
    environments.files_of.cache_clear()
    found, missing = rounds.enter(["race_contender"], tmp_path, (), lambda message: None)
    assert not missing
    assert (found[0].folder / "model").read_text() == "made"
    assert (found[0].folder.parent / peers.CHECKPOINT).resolve() == tmp_path
    environments.files_of.cache_clear()
    (found[0].folder.parent / "fail").touch()
    monkeypatch.setattr(environments, "_sources", lambda chosen: "other sources")
    found, missing = rounds.enter(["race_contender"], tmp_path, (), lambda message: None)
    assert not found
    assert missing == {"race_contender": "RuntimeError: the converter is broken -> install another"}
    environments.files_of.cache_clear()


def test_last_words_are_the_exception() -> None:
    assert last_words("Traceback:\n  File x\nE: bad\n  -> do this\n\n") == "E: bad -> do this"
    assert last_words("") == ""


@pytest.mark.parametrize("chosen", CONTENDERS, ids=lambda c: c.name)
def test_every_contender_is_pinned_and_has_a_script(chosen: Contender) -> None:
    folder = Path(peers.__file__).parent
    assert (folder / f"{chosen.name}.py").is_file()
    for environment in {chosen.environment, chosen.made_in}:
        lines = peers.lock_file(environment).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins and all(line.count("==") == 1 for line in pins)
    for name in (*chosen.needs, *([chosen.files_of] if chosen.files_of else [])):
        assert peers.contender(name)


def test_peers_and_ours_run_the_same_versions_of_the_engines() -> None:
    pins: dict[str, set[str]] = {}
    for environment in ("edgeformer", "onnxruntime", "litert", "openvino", "ctranslate2"):
        for line in peers.lock_file(environment).read_text(encoding="utf-8").splitlines():
            name, _, version = line.partition("==")
            if version:
                pins.setdefault(name, set()).add(version)
    for name in ("numpy", "onnxruntime", "ai-edge-litert", "tokenizers"):
        assert len(pins[name]) == 1, name


def test_the_accuracy_texts_were_not_seen_in_conversion() -> None:
    texts = accuracy_texts()
    assert len(texts) >= 200 + len(ODD_TEXTS)
    assert not {text for text, _ in builtin_texts()} & set(texts)


# The report


def _result() -> RaceResult:
    """Ours twice as fast as the peers, PyTorch half; stock LiteRT fast and wrong."""
    speed = {REFERENCE: 4.0, BASELINE: 2.0, STOCK_LITERT: 0.9, "openvino_int8": 1.6, AUTO: 1.0}
    rows = {
        name: Row(
            samples_ms={w: [[ms, ms], [ms, ms]] for w in ("short", "medium", "long", "batch")},
            cpu_ms={w: [[ms / 2, ms], [ms, ms]] for w in ("short", "medium", "long", "batch")},
            cold_ms=[100.0, 120.0, 110.0],
            cold_rss_bytes=[40_000_000, 41_000_000, 40_000_000],
            cosines=[1.0, 0.985 if name == STOCK_LITERT else 0.995],
            batch_cosines=[1.0, 0.99995],
            peak_rss_bytes=99_000_000,
            about={"libraries": {"numpy": "2"}, "pools": [{"internal_api": "openblas"}]},
        )
        for name, ms in speed.items()
    }
    rows["ctranslate2_int8"] = Row(failure="it died | badly")
    about = {"inputs": 2, "texts": 32, "calls": 1, "tokens": 12.0, "padding": 0.25}
    machine = dict.fromkeys(("cpu_model", "architecture", "affinity_cpus", "system", "python"), "x")
    us = {"embed_us": 1000.0, "bare_us": 900.0, "tokenizer_us": 30.0, "around_us": 70.0}
    each = {"new_words": 10.0, "known_words": 5.0}
    inside = {
        "engines": {"tflite": {"12": us, "128": us | {"around_us": 20.0}}},
        "numpy_kernels": {"12": {"linear 2x2": 0.996, "copy": 0.004}},
        "tokenizers": {"ours_us": each, "hf_us": {k: 2 * v for k, v in each.items()}},
    }
    return RaceResult(
        machine=machine | {"isa": ["avx2"]},
        before={"load_1min": 0.5},
        after={"load_1min": 1.5},
        settings={"rounds": 2},
        workloads={n: about | {"title": f"T {n}"} for n in ("short", "medium", "long", "batch")},
        texts=2,
        empty_process={"ms": [50.0], "rss_bytes": [27_000_000]},
        missing={"optimum_int8": "pip said no"},
        fields={1: rows},
        inside={1: inside},
    )


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "race.json"
    path.write_text(to_json(_result()), encoding="utf-8")
    assert from_json(path) == _result()
    path.write_text(json.dumps({"schema": 99}), encoding="utf-8")
    with pytest.raises(ValueError, match="schema 99"):
        from_json(path)


def test_the_best_peer_is_accurate_and_not_stock_litert() -> None:
    result = _result()
    assert result.best_peer("short", 1) == "openvino_int8"
    assert result.best_peer("short", 1, ("ctranslate2_int8",)) is None
    ratio = result.speedup(AUTO, BASELINE, "short", 1)
    assert ratio and ratio.median == 2.0
    assert result.speedup(AUTO, "ctranslate2_int8", "short", 1) is None


def test_goals_are_judged_by_what_was_measured() -> None:
    verdicts = {goal.what: goal.verdict for goal in goals(_result())}
    auto = "EdgeFormer auto against"
    assert verdicts[f"{auto} OpenVINO, int8 weights (asymmetric): T short, 1 thread"] == "yes"
    assert verdicts[f"{auto} LiteRT dynamic int8, stock: T short, 1 thread"] == "no"
    assert verdicts["auto, all lengths used"] == "yes"
    assert verdicts["EdgeFormer auto, 1 thread: min cosine"] == "yes"
    assert verdicts["Python around the tflite engine, 12 tokens"] == "no"
    assert verdicts["tokenizer against HF tokenizers, new words"] == "yes"
    assert "not measured" in verdicts.values()  # our other engines did not run


@pytest.mark.parametrize(
    ("wall", "cpu", "verdict"),
    [
        ([[1.0], [1.0]], [[1.0], [1.0]], "yes"),  # 1.6x, 1.5x is wanted
        ([[1.2], [1.2]], [[1.2], [1.2]], "no"),
        ([[1.0], [1.2]], [[1.0], [1.0]], "unclear"),  # once so, once so
        ([[1.0], [1.0]], [[1.2], [1.2]], "unclear"),  # wall and CPU time disagree
    ],
)
def test_a_goal_is_met_by_the_whole_interval_and_both_clocks(
    wall: list[list[float]], cpu: list[list[float]], verdict: str
) -> None:
    result = _result()
    auto, peer = result.fields[1][AUTO], result.fields[1]["openvino_int8"]
    peer.cpu_ms["short"] = [[1.6], [1.6]]
    auto.samples_ms["short"], auto.cpu_ms["short"] = wall, cpu
    found = next(g for g in goals(result) if "OpenVINO" in g.what and "T short" in g.what)
    assert found.verdict == verdict


def test_a_busy_machine_is_said() -> None:
    assert "The machine was busy" in markdown(_result())
    quiet = _result()
    for row in quiet.fields[1].values():
        row.cpu_ms = row.samples_ms
    assert "busy" not in markdown(quiet)


def test_the_report_names_everyone() -> None:
    text = markdown(_result())
    assert "| EdgeFormer auto | 2.00x (2.00-2.00) |" in text
    assert "0.9850 (1)" in text
    assert "CTranslate2 int8 left the race: it died" in text
    assert "Not in the race: ONNX Runtime int8, optimum's avx512_vnni: pip said no" in text
    assert "linear 2x2 99.6 %" in text and "copy" not in text
    for line in text.splitlines():
        if line.startswith("| EdgeFormer auto"):
            assert line.endswith(" |")


def test_instructions_are_labelled_as_such_and_never_as_time() -> None:
    text = markdown(_result()).split("## Executed instructions on emulated boards")[1]
    table = text.split("## Contenders")[0]
    assert "Millions of executed instructions, not time" in table
    assert "cortex-a72" in table and "cortex-a76" in table and "arm1176" not in table
    assert " ms" not in table


def test_a_race_of_one_still_reports() -> None:
    result = _result()
    alone = {BASELINE: result.fields[1][BASELINE]}
    text = markdown(replace(result, fields={1: alone}, inside={}, missing={}, empty_process={}))
    assert "1.00x (1.00-1.00)" in text
    assert "not measured" in text
