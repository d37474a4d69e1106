"""Tuning: the choice follows the rule, load() uses the file, and nothing is half-written."""

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import EngineError, UsageError
from edgeformer.machine import MachineState
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import missing_engine
from edgeformer.runtime.manifest_json import dump_manifest
from edgeformer.runtime.tuned import Choice, Table, read_table, table_path
from edgeformer.tuning import race as tuning_race
from edgeformer.tuning import tune as tuning
from edgeformer.tuning.choice import (
    MARGIN,
    MIN_ROUNDS,
    Candidate,
    Times,
    Work,
    chance,
    clearly_faster,
    make_table,
)
from edgeformer.tuning.race import Measured, Proof, Race, prove
from edgeformer.tuning.text import tuning_text
from edgeformer.tuning.tune import thread_counts, tune
from edgeformer.tuning.works import length_limits, make_works, mixed_lengths
from tests.command_line import Edgeformer, is_error, process_result, start
from tests.tiny_bundles import bundle

ROOT = Path(__file__).parent.parent
A2, A1 = Choice("a-int8", 2), Choice("a-int8", 1)
B2, B1 = Choice("b-int8", 2), Choice("b-int8", 1)
WORKS = [Work(1, 16, None), Work(1, 64, None), Work(8, 64, None)]


def candidates(engine: str = "onnx", exact: bool = False) -> list[Candidate]:
    found = [Candidate(c, "tflite", exact) for c in (A2, A1)]
    return found + [Candidate(c, engine, exact) for c in (B2, B1)]


def times(**medians: list[float]) -> Times:
    """Seven rounds of each of A2, A1, B2, B1, with a drift that hits all alike."""
    choices = {"a2": A2, "a1": A1, "b2": B2, "b1": B1}
    return {
        choices[name]: [[ms * (1 + 0.5 * r) for ms in row] for r in range(7)]
        for name, row in medians.items()
    }


# The rule


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_sign_test_is_scipys(counts: tuple[int, int]) -> None:
    wins, rounds = counts
    oracle = scipy.stats.binomtest(wins, rounds, alternative="greater").pvalue
    assert chance(wins, rounds) == pytest.approx(oracle)


def test_what_is_clear() -> None:
    level = [0.0] * MIN_ROUNDS
    assert clearly_faster([math.log(1 - MARGIN) - 1e-9] * MIN_ROUNDS, level)
    assert not clearly_faster([math.log(1 - MARGIN) + 1e-9] * MIN_ROUNDS, level)
    assert not clearly_faster([-1.0] * (MIN_ROUNDS - 1), level[1:])  # too few rounds
    assert not clearly_faster([-1.0] * (MIN_ROUNDS - 1) + [0.1], level)


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_within_noise_the_profiles_order_holds(random: Any) -> None:
    """Rounds that differ by chance alone: the median decides nothing."""
    noisy = {
        c: [[random.uniform(1, 1.02) for _ in WORKS] for _ in range(9)] for c in (A2, A1, B2, B1)
    }
    table = make_table(2, candidates(), WORKS, noisy)
    assert table == Table(2, ((16, A2), (64, A2)))


def test_the_fastest_wins_whatever_the_drift() -> None:
    measured = times(a2=[10, 10, 10], a1=[11, 11, 11], b2=[9, 9, 9], b1=[8, 8, 8])
    assert make_table(2, candidates(), WORKS, measured) == Table(2, ((16, B1), (64, B1)))
    assert make_table(1, candidates(), WORKS, measured) == Table(1, ((16, B1), (64, B1)))
    faster_a2 = {**measured, A2: times(a2=[7, 7, 7])[A2]}
    assert make_table(2, candidates(), WORKS, faster_a2).main == A2
    assert make_table(1, candidates(), WORKS, faster_a2).main == B1  # within its limit


def test_short_and_long_texts_go_apart_on_one_number_of_threads_each() -> None:
    measured = times(a2=[10, 3, 3], a1=[3, 9, 9], b2=[9, 10, 10], b1=[2, 10, 10])
    assert make_table(2, candidates(), WORKS, measured).lengths == ((16, B1), (64, A2))
    # a-int8 on one thread would be nearly as fast for short texts, but a-int8 is on two already
    measured = times(a2=[10, 3, 3], a1=[2, 9, 9], b2=[9, 10, 10], b1=[9, 10, 10])
    lengths = make_table(2, candidates(), WORKS, measured).lengths
    assert {choice.threads for _, choice in lengths if choice.variant == "a-int8"} == {2}


def test_a_batch_goes_elsewhere_only_between_exact_variants() -> None:
    """Else the answer to a text would depend on what else is in the call."""
    measured = times(a2=[5, 5, 9], b1=[6, 6, 6])
    some = [c for c in candidates(exact=False) if c.choice in measured]
    assert make_table(2, some, WORKS, measured) == Table(2, ((16, A2), (64, A2)))
    exact = [replace(c, exact=True) for c in some]
    assert make_table(2, exact, WORKS, measured) == Table(2, ((16, A2), (64, A2)), ((8, B1),))
    one = [replace(c, exact=c.choice == A2) for c in some]
    assert make_table(2, one, WORKS, measured).batches == ()


def test_numpy_shares_a_process_on_one_thread_only() -> None:
    measured = times(a2=[9, 5, 5], a1=[9, 5, 5], b2=[3, 9, 9], b1=[4, 9, 9])
    assert make_table(2, candidates("onnx"), WORKS, measured).lengths == ((16, B2), (64, A2))
    assert make_table(2, candidates("numpy"), WORKS, measured).lengths == ((16, B1), (64, A2))
    main = times(a2=[3, 9, 9], a1=[3, 9, 9], b2=[9, 3, 3], b1=[99, 30, 30])
    assert make_table(2, candidates("numpy"), WORKS, main).choices == (B2,)


# What is timed


def test_every_bucket_and_every_middle_is_timed() -> None:
    with open_bundle(bundle("embedding", ("int8", "fp32"))) as opened:
        manifest = opened.manifest
        works = make_works(opened)
    assert length_limits(manifest) == [16, 24, 32, 40, 48]  # 48 is what the model takes
    program = replace(manifest.variants[0].programs["main"], buckets=(20, 40))
    variant = replace(manifest.variants[0], programs={"main": program})
    assert length_limits(replace(manifest, variants=(variant,))) == [20, 30, 40, 44, 48]
    for work in works:
        assert work.ids is not None
        assert len(work.ids) == work.texts
        assert max(map(len, work.ids)) == work.tokens
    assert [work.texts for work in works] == [1, 1, 1, 1, 1, 8, 32]
    (arrays,) = make_works(open_bundle(TINY_BUNDLE))
    assert arrays == Work(1, 1, None)


@given(st.sampled_from([8, 32]), st.integers(3, 20), st.integers(3, 512))
def test_mixed_lengths_are_mixed_and_in_range(texts: int, shortest: int, longest: int) -> None:
    lengths = mixed_lengths(texts, shortest, longest)
    top = max(shortest, longest)
    assert (len(lengths), min(lengths), max(lengths)) == (texts, shortest, top)
    if top > 4 * shortest:
        assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))
        below = sum(1 for n in lengths if n <= math.sqrt(shortest * top))
        assert abs(below - texts / 2) <= 1  # as many below the geometric mean as above


def test_thread_counts() -> None:
    assert [thread_counts(n) for n in (1, 2, 3, 4, 6)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4],
        [1, 2, 4, 6],
    ]


# The whole


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_race, "MAX_ROUNDS", MIN_ROUNDS)


@pytest.fixture
def two_variants(tmp_path: Path, few_rounds: None) -> Path:
    """A bundle of its own, so that a table can lie beside it."""
    path = tmp_path / "model.edge"
    path.symlink_to(bundle("embedding", ("int8", "fp32")))
    return path


TIMED = Measured("numpy-int8", 1, "timed", "", (1.0, 2.0), 50.0)
FOUND: dict[str, Any] = {
    "tables": (Table(1, ((16, Choice("numpy-fp32", 1)),)),),
    "works": ((1, 16), (8, 48)),
    "measured": (TIMED, Measured("onnx-int8", 1, "missing", "not installed")),
    "proofs": (),
    "gains": (1.25,),
    "rounds": 5,
    "notes": (),
}


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For tests of what surrounds the measuring: it finds FOUND, and takes no time."""
    found = dict(FOUND)
    monkeypatch.setattr(tuning, "_measure", lambda *arguments: found)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_was_tuned_is_what_load_uses(two_variants: Path) -> None:
    before, told = files(two_variants.resolve()), []
    tuned = tune(two_variants, seconds=60, threads=1, force=True, progress=told.append)
    assert tuned.path == table_path(two_variants) == two_variants.with_name("model.edge.tuned.json")
    assert files(two_variants.resolve()) == before
    assert [p.name for p in two_variants.parent.iterdir()].count("model.edge.tuned.json") == 1
    assert len(list(two_variants.parent.iterdir())) == 2
    (table,) = tuned.tables
    with open_bundle(two_variants) as opened:
        assert read_table(tuned.path, opened.manifest, 1) == (table, "")
    with load(two_variants, threads=1) as model:
        assert model.notices == ()
        assert model.variant.id == table.main.variant
        model.embed(["a film", "the film was very good and very bad and boring" * 3])
    data = json.loads(tuned.path.read_text())
    assert data["measured"]["rounds"] == tuned.rounds >= MIN_ROUNDS
    measured = {row["variant"]: row for row in data["measured"]["measured"]}
    assert list(measured) == ["numpy-int8", "numpy-fp32"]
    for row in measured.values():
        assert row["state"] in ("timed", "slow")
        assert len(row["median_ms"]) == len(data["measured"]["works"])
        assert all(ms > 0 for ms in row["median_ms"])
        assert row["peak_rss_mb"] > 10
    page = tuning_text(tuned)
    assert table.main.variant in page
    assert str(tuned.path) in page
    assert "numpy-int8, 1 thread" in told
    assert any(step.startswith("round 5") for step in told)


def test_every_engine_of_an_arrays_bundle_is_timed(tmp_path: Path, few_rounds: None) -> None:
    tuned = tune(TINY_BUNDLE, output=tmp_path / "t.json", seconds=60, threads=1, force=True)
    states = {m.variant: m.state for m in tuned.measured}
    for name, state in states.items():
        assert (state == "missing") == (missing_engine(name.split("-")[0]) is not None)
        assert state in ("timed", "slow", "missing")
    assert tuned.works == ((1, 1),)
    with load(TINY_BUNDLE, threads=1, tuned=tmp_path / "t.json") as model:
        assert (model.notices, model.variant.id) == ((), tuned.tables[0].main.variant)


def test_a_variant_that_is_wrong_here_is_left_out_and_named(
    tmp_path: Path, few_rounds: None
) -> None:
    """numpy-fp32 loses weights, and its manifest calls that right."""
    path = tmp_path / "wrong.edge"
    shutil.copytree(bundle("embedding", ("int8", "fp32")), path)
    with open_bundle(path) as opened:
        manifest = opened.manifest
    plan = bytearray((path / "numpy-fp32/model.plan").read_bytes())
    half = len(plan) // 2
    plan[half : half + 4000] = bytes(4000)  # weights become zeros
    record = replace(
        manifest.files["numpy-fp32/model.plan"], sha256=hashlib.sha256(plan).hexdigest()
    )
    (path / "numpy-fp32/model.plan").write_bytes(plan)
    changed = replace(manifest, files={**manifest.files, "numpy-fp32/model.plan": record})
    (path / "manifest.json").write_bytes(dump_manifest(changed))
    tuned = tune(path, seconds=60, threads=1, force=True)
    results = {m.variant: m for m in tuned.measured}
    assert results["numpy-fp32"].state == "failed"
    assert "self-test" in results["numpy-fp32"].error
    assert {c.variant for table in tuned.tables for c in table.choices} == {"numpy-int8"}
    assert "numpy-fp32@1: failed: self-test" in tuning_text(tuned)


def test_a_dying_engine_is_named_and_the_others_are_tuned(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
    )
    arguments = ["-o", str(tmp_path / "t.json"), "--seconds", "60", "--threads", "1", "--force"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeformer", "tune", str(TINY_BUNDLE), *arguments, "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["variant"]: row for row in json.loads(done.stdout)["measured"]}
    assert "SIGILL" in rows["onnx-fp32"]["error"]
    assert rows["onnx-fp32"]["state"] == "failed"
    assert {rows[f"numpy-{p}"]["state"] for p in ("fp32", "int8")} <= {"timed", "slow"}


def test_several_engines_are_proved_in_one_process(tmp_path: Path) -> None:
    """The proof runs the table as load would, beside its main choice alone."""
    path = bundle("embedding", ("int8", "fp32"))
    table = Table(1, ((16, Choice("numpy-fp32", 1)), (48, Choice("numpy-int8", 1))))
    with open_bundle(path) as opened:
        works = make_works(opened)[:3]
        proof = tuning._prove(opened, table, works)
    assert proof.threads == 1
    assert 0.2 < proof.speedup < 5
    assert proof.peak_rss_mb > proof.alone_peak_rss_mb > 10
    nothing = prove(path, table, tmp_path / "none.json", works, 0.0)
    assert not nothing.kept  # above its memory budget, however fast
    lost = prove(tmp_path, table, tmp_path / "none.json", works, math.inf)
    assert lost == Proof(1, 0.0, False, 0.0, 0.0)


def test_a_table_that_does_not_prove_itself_becomes_that_of_its_main_engine(
    two_variants: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Table(1, ((16, Choice("numpy-fp32", 1)), (48, Choice("numpy-int8", 1))))
    monkeypatch.setattr(tuning, "make_table", lambda *arguments: split)
    for kept in (True, False):
        proof = Proof(1, 1.5, kept, 99.0, 50.0)
        monkeypatch.setattr(tuning, "_prove", lambda *arguments, proof=proof: proof)
        tuned = tune(two_variants, seconds=60, threads=1, force=True)
        assert tuned.tables == (split if kept else split.alone(),)
        assert ("kept" in tuning_text(tuned)) == kept


# Refusals


QUIET = MachineState("2026-01-01", "performance", 2000, 2000, 40.0, (), 0.0, 1000)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (replace(QUIET, load_1min=99.0), "load 99.0"),
        (replace(QUIET, throttling=("under-voltage",)), "held back: under-voltage"),
    ],
)
def test_a_busy_or_throttled_machine_is_not_measured(
    two_variants: Path,
    unmeasured: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    state: MachineState,
    says: str,
) -> None:
    monkeypatch.setattr(tuning, "read_state", lambda: state)
    with pytest.raises(EngineError, match=says) as caught:
        tune(two_variants)
    assert "--force" in caught.value.hint
    assert not table_path(two_variants).exists()
    tuned = tune(two_variants, threads=1, force=True)
    assert says in tuned.notes[0]


def test_a_machine_that_is_throttled_meanwhile_is_not_believed(
    two_variants: Path, unmeasured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([QUIET, replace(QUIET, throttling=("throttled",))])
    monkeypatch.setattr(tuning, "read_state", lambda: next(states))
    with pytest.raises(EngineError, match="held back: throttled"):
        tune(two_variants, seconds=60, threads=1)
    assert not table_path(two_variants).exists()


def test_a_clock_that_follows_the_work_is_noted_only(
    two_variants: Path, unmeasured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what Raspberry Pi OS does by default."""
    monkeypatch.setattr(tuning, "read_state", lambda: replace(QUIET, governor="ondemand"))
    assert "governor ondemand" in tune(two_variants, seconds=60, threads=1).notes[0]


def race(works: list[Work], first_ms: list[float]) -> Race:
    found = Race(Path("x"), works)
    found.workers[A1] = None  # type: ignore[assignment]
    found.first_ms[A1] = first_ms
    return found


def test_what_does_not_fit_into_the_time_is_left_out() -> None:
    found = race(WORKS, [100.0, 200.0, 5000.0])
    assert found.fit(MIN_ROUNDS * 0.35) == [WORKS[2]]
    assert (found.works, found.first_ms) == (WORKS[:2], {A1: [100.0, 200.0]})
    with pytest.raises(EngineError, match="time does not do"):
        race(WORKS, [100.0, 200.0, 5000.0]).fit(0.2)
    assert race(WORKS, [100.0, 200.0, 5000.0]).fit(60.0) == []


def test_too_little_time_is_an_error_and_leaves_nothing(two_variants: Path) -> None:
    before = _descendants(os.getpid())
    with pytest.raises(EngineError, match="time does not do") as caught:
        tune(two_variants, seconds=1e-9, threads=1, force=True)
    assert _descendants(os.getpid()) == before
    assert "--seconds" in caught.value.hint
    assert not table_path(two_variants).exists()


def test_no_other_file_is_replaced(two_variants: Path, tmp_path: Path) -> None:
    precious = tmp_path / "thesis.json"
    precious.write_text('{"chapters": []}')
    with pytest.raises(UsageError, match="not a tuned table"):
        tune(two_variants, output=precious, force=True)
    with pytest.raises(UsageError, match="cannot write"):
        tune(two_variants, output=tmp_path / "no" / "such.json", force=True)
    assert precious.read_text() == '{"chapters": []}'


def test_a_damaged_table_beside_the_bundle_is_replaced(
    two_variants: Path, unmeasured: dict[str, Any]
) -> None:
    table_path(two_variants).write_text("{")
    tuned = tune(two_variants, threads=1, force=True)
    with load(two_variants, threads=1) as model:
        assert (model.notices, model.variant.id) == ((), "numpy-fp32")
    assert tune(two_variants, output=tuned.path, force=True).path == tuned.path


def test_a_file_that_cannot_be_finished_leaves_the_one_before(
    two_variants: Path, unmeasured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    table_path(two_variants).write_text("before")
    monkeypatch.setattr(json, "dumps", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tune(two_variants, threads=1, force=True)
    assert table_path(two_variants).read_text() == "before"
    assert len(list(two_variants.parent.iterdir())) == 2


def test_an_interrupted_tuning_leaves_nothing(two_variants: Path) -> None:
    arguments = ("tune", two_variants, "--force", "--progress", "--seconds", "60")
    process = start(*arguments, start_new_session=True)
    assert process.stderr is not None
    seen = ""
    while "round 1" not in seen:
        character = process.stderr.read(1)
        assert character, f"it ended before its first round: {seen}"
        seen += character
    children = _descendants(process.pid)
    assert children
    process.send_signal(signal.SIGINT)
    code, out, err = process_result(process)
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert [p.name for p in two_variants.parent.iterdir()] == ["model.edge"]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _descendants(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this kernel does not list a process's children")
    return [int(child) for child in path.read_text().split()]


def test_the_command(
    two_variants: Path,
    unmeasured: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unmeasured["notes"] = ("left out",)
    command = Edgeformer(capfd, monkeypatch)
    monkeypatch.setattr(tuning, "read_state", lambda: QUIET)
    code, out, err = command("tune", two_variants, "--threads", "1")
    assert (code, err) == (0, "note: left out\n")
    assert "1 text of 16              1.00" in out
    assert "8 texts up to 48          2.00" in out
    assert "onnx-int8@1: missing: not installed" in out
    assert "at most 1 thread: numpy-fp32@1, 1.25 x as fast as the profile's first" in out
    code, out, err = command("tune", two_variants, "-o", two_variants.parent / "t.json", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["path"].endswith("t.json")
    assert data["tables"][0]["lengths"] == [[16, {"variant": "numpy-fp32", "threads": 1}]]
    code, out, err = command("tune", two_variants.parent / "none.edge")
    assert is_error(code, out, err, exit_code=2, says="no bundle")
    assert command("tune", two_variants, "--seconds", "0")[0] == 2
    monkeypatch.setattr(tuning, "read_state", lambda: replace(QUIET, load_1min=99.0))
    code, out, err = command("tune", two_variants)
    assert is_error(code, out, err, exit_code=1, says="load 99.0")
    assert command("tune", two_variants, "--force")[0] == 0
