"""A tuned bundle: each text goes where the table says, and no table and no engine spoils a call."""

import json
import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import EngineError, InputError
from edgeformer.runtime import Model, load, loading
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import Engine, missing_engine, open_engine
from edgeformer.runtime.manifest import Manifest
from edgeformer.runtime.tuned import Choice, Table, belongs_to, read_table, table_path
from edgeformer.tuning.tune import table_data
from tests.command_line import Edgeformer
from tests.tiny_bundles import bundle

BOTH = ("int8", "fp32")
INT8, FP32 = Choice("numpy-int8", 1), Choice("numpy-fp32", 1)  # the first is the profile's
SHORT, LONG = "a film", "the film was not very good and the other one was not very bad at all"
SPLIT = Table(1, ((8, FP32), (48, INT8)))
REASONS = {"boring": RuntimeError("no more"), "memory": MemoryError("none")}


class Counted:
    """An engine that remembers its calls, and fails or lies on request."""

    def __init__(self, engine: Engine, name: str, log: "Log") -> None:
        self._engine, self._name, self._log = engine, name, log
        self.threads = engine.threads

    def run(self, program: str, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        self._log.add(self._name, "run")
        answer = self._engine.run(program, inputs)
        return {k: -v for k, v in answer.items()} if self._name in self._log.liars else answer

    def encode(self, batch: RaggedBatch) -> dict[str, NDArray[Any]]:
        self._log.add(self._name, "encode", tuple(batch.lengths.tolist()))
        if self._name in self._log.failing:
            raise self._log.failing[self._name]
        return self._engine.encode(batch)

    def close(self) -> None:
        self._log.add(self._name, "close")
        self._engine.close()


class Log:
    """What every engine was asked, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, Exception] = {}
        self.liars: set[str] = set()
        self.shared: list[bool] = []
        self._lock = threading.Lock()

    def add(self, *call: Any) -> None:
        with self._lock:
            self.calls.append(call)

    def encoded(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(call[0], call[2]) for call in self.calls if call[1] == "encode"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    found = Log()

    def open_counted(opened: Any, variant: Any, threads: int, shared: bool = False) -> Any:
        found.shared.append(shared)
        return Counted(open_engine(opened, variant, threads, shared), variant.id, found)

    monkeypatch.setattr(loading, "open_engine", open_counted)
    return found


@pytest.fixture(scope="module")
def embedder() -> Path:
    return bundle("embedding", BOTH)


def manifest_of(path: Path) -> Manifest:
    with open_bundle(path) as opened:
        return opened.manifest


def write_table(path: Path, bundle_path: Path, *tables: Table, **changes: Any) -> Path:
    data = {"schema_version": 1, **belongs_to(manifest_of(bundle_path))}
    data["tables"] = [table_data(table) for table in tables]
    path.write_text(json.dumps(data | changes), encoding="ascii")
    return path


@pytest.fixture
def tuned(tmp_path: Path, embedder: Path) -> Iterator[Callable[..., Model]]:
    """Loads the embedder with a table written for it."""
    models = []

    def load_tuned(table: Table = SPLIT, **options: Any) -> Model:
        file = write_table(tmp_path / "tuned.json", embedder, table)
        models.append(load(embedder, tuned=file, **options))
        return models[-1]

    yield load_tuned
    for model in models:
        model.close()


def alone(path: Path, variant: str, texts: list[str], verb: str = "embed") -> Any:
    with load(path, variant) as model:
        return getattr(model, verb)(texts)


# Where calls go


def test_short_texts_go_to_one_engine_and_long_ones_to_another(
    tuned: Callable[..., Model], log: Log, embedder: Path
) -> None:
    model = tuned()
    assert model.notices == ()
    short, long = model.embed(SHORT), model.embed(LONG)
    assert [name for name, _ in log.encoded()] == ["numpy-fp32", "numpy-int8"]
    np.testing.assert_array_equal(short, alone(embedder, "numpy-fp32", [SHORT])[0])
    np.testing.assert_array_equal(long, alone(embedder, "numpy-int8", [LONG])[0])
    assert not np.array_equal(short, alone(embedder, "numpy-int8", [SHORT])[0])


@pytest.mark.parametrize("task", ["embedding", "classification", "token-classification"])
def test_a_mixed_batch_is_shared_out_and_put_together_in_order(tmp_path: Path, task: str) -> None:
    path = bundle(task, BOTH)
    texts = [LONG, SHORT, "", LONG + " boring", SHORT + " was", LONG]
    verb = {"embedding": "embed", "classification": "classify"}.get(task, "tag")
    file = write_table(tmp_path / "t.json", path, SPLIT)
    with load(path, tuned=file) as model:
        together = getattr(model, verb)(texts)
        assert model.last_call.variants == ("numpy-int8", "numpy-fp32")
        for text, answer in zip(texts, together, strict=True):
            number = len(model.tokenizer.encode(text))
            expected = alone(path, "numpy-fp32" if number <= 8 else "numpy-int8", [text], verb)[0]
            if task == "embedding":
                np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-6)
            else:
                got = [(a.score, getattr(a, "name", "") or a.label) for a in answer]
                want = [(a.score, getattr(a, "name", "") or a.label) for a in expected]
                assert [name for _, name in got] == [name for _, name in want]
                np.testing.assert_allclose([s for s, _ in got], [s for s, _ in want], rtol=1e-4)


def test_an_engine_is_opened_and_self_tested_when_it_is_first_needed(
    tuned: Callable[..., Model], log: Log
) -> None:
    model = tuned()
    assert {call[:2] for call in log.calls} == {("numpy-fp32", "run")}  # the golden texts
    model.embed([SHORT, SHORT])
    assert len({call[0] for call in log.calls}) == 1
    log.calls.clear()
    model.embed([LONG])
    model.embed([LONG])
    steps = [call[1] for call in log.calls if call[0] == "numpy-int8"]
    assert steps == ["run"] * (len(steps) - 2) + ["encode", "encode"]
    assert len(steps) > 2
    assert log.shared == [True, True]


def test_one_engine_has_its_process_for_itself(tuned: Callable[..., Model], log: Log) -> None:
    model = tuned(SPLIT.alone())
    model.embed([SHORT, LONG])
    assert log.shared == [False]
    assert model.variant.id == "numpy-fp32"


def test_whole_batches_go_to_their_own_engine(tuned: Callable[..., Model], log: Log) -> None:
    table = Table(1, ((48, INT8),), ((8, FP32), (32, INT8)))
    model = tuned(table)
    for texts, expected in [(1, INT8), (2, INT8), (3, FP32), (15, FP32), (17, INT8), (99, INT8)]:
        model.embed([SHORT] * texts)
        assert log.encoded()[-1] == (expected.variant, (4,) * texts)
    assert model.embed([]).shape == (0, 32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 600), max_size=40),
    st.lists(st.tuples(st.integers(1, 512), st.sampled_from("abc")), min_size=1, max_size=6),
)
def test_every_text_goes_to_the_first_limit_that_holds_it(
    lengths: list[int], rows: list[tuple[int, str]]
) -> None:
    limits = {limit: Choice(name, 1) for limit, name in sorted(rows)}
    table = Table(1, tuple(limits.items()))
    parts = table.parts(np.array(lengths, np.intp))
    found: dict[int, Choice] = {}
    for choice, texts in parts:
        found |= dict.fromkeys(range(len(lengths)) if texts is None else texts.tolist(), choice)
    for i, length in enumerate(lengths):
        assert found[i] == limits[min([n for n in limits if n >= length], default=max(limits))]
    assert len(found) == len(lengths)
    assert len({choice for choice, _ in parts}) == len(parts)


def test_the_table_of_the_largest_limit_that_is_allowed_is_used(
    tmp_path: Path, embedder: Path
) -> None:
    one, four = Table(1, ((8, FP32),)), Table(4, ((8, replace(INT8, threads=3)),))
    file = write_table(tmp_path / "t.json", embedder, one, four)
    manifest = manifest_of(embedder)
    assert read_table(file, manifest, 1) == (one, "")
    assert read_table(file, manifest, 3) == (one, "")
    assert read_table(file, manifest, 9) == (four, "")
    write_table(file, embedder, four)
    table, notice = read_table(file, manifest, 2)
    assert table is None
    assert "no table for 2 threads" in notice


def test_a_named_engine_knows_no_table(tuned: Callable[..., Model]) -> None:
    assert tuned(engine="numpy-int8").variant.id == "numpy-int8"
    assert tuned(engine="numpy").variant.id == "numpy-int8"


def test_the_table_beside_the_bundle_is_found(tmp_path: Path, embedder: Path) -> None:
    copy = Path(shutil.copytree(embedder, tmp_path / "copy.edge"))
    assert table_path(f"{copy}/") == tmp_path / "copy.edge.tuned.json"
    write_table(table_path(copy), copy, Table(1, ((48, FP32),)))
    with load(copy, threads=1) as model:
        assert (model.variant.id, model.notices) == ("numpy-fp32", ())
    with load(copy, threads=1, tuned=None) as model:
        assert (model.variant.id, model.notices) == ("numpy-int8", ())


# Tables that do not hold


def rows(*lengths: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Content of a file with one table of these (tokens, variant, threads)."""
    found = [{"tokens": n, "variant": v, "threads": t} for n, v, t in lengths]
    return {"tables": [{"threads": 1, "lengths": found, "batches": []}]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bundle": "0" * 64}, "another bundle"),
        ({"machine": {"cpu_model": "Cortex-A72", "cpus": 4}}, "another machine (Cortex-A72, 4 CPU"),
        ({"machine": "x86"}, "another machine"),
        ({"versions": {"numpy": "1.24.0"}}, "other versions"),
        ({"schema_version": 2}, "schema 2"),
        ({"schema_version": "1"}, "not a table"),
        ({"tables": []}, "no table for"),
        ({"tables": None}, "list is missing"),
        ({"tables": [{"threads": 1, "lengths": [], "batches": []}]}, "without lengths"),
        ({"tables": [[]]}, "threads must be a number"),
        (rows((8, "numpy-fp32", 1), (8, "numpy-int8", 1)), "must ascend"),
        (rows((9, "numpy-fp32", 1), (8, "numpy-int8", 1)), "must ascend"),
        (rows((8, "numpy-fp32", 2)), "above the limit of 1"),
        (rows((8, "numpy-fp32", True)), "threads must be a number"),
        (rows((0, "numpy-fp32", 1)), "tokens must be a number"),
        (rows((8, "tflite-int8", 1)), "no variant 'tflite-int8'"),
        (rows((8, ["numpy-fp32"], 1)), "no variant"),
    ],
)
def test_a_stale_or_wrong_table_is_ignored_with_a_notice(
    tmp_path: Path, embedder: Path, changes: dict[str, Any], says: str
) -> None:
    file = write_table(tmp_path / "t.json", embedder, SPLIT, **changes)
    with load(embedder, tuned=file) as model:
        assert model.variant.id == "numpy-int8"  # the profile's order
        (notice,) = model.notices
        assert says in notice
        assert "t.json was ignored" in notice
        assert "edgeformer tune" in notice


@pytest.mark.parametrize("what", ["folder", "fifo", "dangling link", "large", "bytes", "deep"])
def test_what_is_no_file_of_ours_is_ignored(tmp_path: Path, embedder: Path, what: str) -> None:
    file = tmp_path / "t.json"
    if what == "folder":
        file.mkdir()
    elif what == "fifo":
        os.mkfifo(file)  # opening it would wait for ever
    elif what == "dangling link":
        file.symlink_to(tmp_path / "nowhere")
    else:
        good = write_table(file, embedder, SPLIT).read_bytes()
        content = {"large": good + b" " * 2_000_000, "bytes": b"\xff\x00{", "deep": b"[" * 100_000}
        file.write_bytes(content[what])
    table, notice = read_table(file, manifest_of(embedder), 1)
    assert table is None
    assert "was ignored" in notice


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_table_can_do_harm(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One value of a good table is replaced by any other: it is still a good table, or ignored."""
    path = bundle("embedding", BOTH)
    manifest = manifest_of(path)
    file = tmp_path_factory.getbasetemp() / "fuzzed.json"
    content = json.loads(write_table(file, path, SPLIT).read_text())
    node: Any = content
    while True:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(JSON)
    file.write_text(json.dumps(content))
    table, notice = read_table(file, manifest, 1)
    assert (table is None) == bool(notice)
    if table is not None:
        assert table.threads == 1
        for choice in table.choices:
            assert choice.variant in ("numpy-int8", "numpy-fp32")
            assert choice.threads == 1
        for choice, _ in table.parts(np.array([1, 5, 500], np.intp)):
            assert choice in table.choices


def test_the_notice_goes_to_stderr(
    tmp_path: Path,
    embedder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Path(shutil.copytree(embedder, tmp_path / "copy.edge"))
    table_path(copy).write_text("{")
    code, out, err = Edgeformer(capfd, monkeypatch)("run", copy, SHORT, "--json")
    assert (code, json.loads(out)["variant"]) == (0, "numpy-int8")
    assert err.startswith("note: copy.edge.tuned.json was ignored: it cannot be read")
    write_table(table_path(copy), copy, SPLIT)
    stdin = f"{LONG}\n{SHORT}\n".encode()
    code, out, err = Edgeformer(capfd, monkeypatch)("run", copy, "-", "--json", stdin=stdin)
    assert (code, err) == (0, "")
    assert {json.loads(line)["variant"] for line in out.splitlines()} == {"numpy-int8+numpy-fp32"}


# Engines that do not work


def test_an_engine_that_fails_is_replaced_once_and_named(
    tuned: Callable[..., Model], log: Log, embedder: Path
) -> None:
    model = tuned()
    log.failing["numpy-int8"] = RuntimeError("out of luck")
    vectors = model.embed([LONG, SHORT])
    np.testing.assert_array_equal(vectors[0], alone(embedder, "numpy-fp32", [LONG])[0])
    (notice,) = model.notices
    assert notice == ("numpy-int8 failed (RuntimeError: out of luck): numpy-fp32 answers instead")
    assert ("numpy-int8", "close") in log.calls
    model.embed(LONG)
    assert log.encoded()[-1][0] == "numpy-fp32"
    log.failing["numpy-fp32"] = RuntimeError("that one too")
    with pytest.raises(RuntimeError, match="that one too"):
        model.embed(LONG)
    assert len(model.notices) == 1


def test_without_a_table_the_next_of_the_profile_takes_over(log: Log, embedder: Path) -> None:
    with load(embedder, tuned=None) as model:
        log.failing["numpy-int8"] = MemoryError("none left")
        model.embed(SHORT)
        assert model.variant.id == "numpy-fp32"
        assert model.last_call.variants == ("numpy-fp32",)
        assert "numpy-int8 failed (MemoryError: none left)" in model.notices[0]


def test_an_engine_asked_for_by_name_is_not_replaced(log: Log, embedder: Path) -> None:
    with load(embedder, "numpy-int8") as model:
        log.failing["numpy-int8"] = RuntimeError("out of luck")
        with pytest.raises(RuntimeError, match="out of luck"):
            model.embed(SHORT)
        assert model.notices == ()


def test_a_wrong_input_is_no_failure_of_the_engine(tuned: Callable[..., Model], log: Log) -> None:
    model = tuned()
    log.failing["numpy-fp32"] = InputError("an id is outside")
    with pytest.raises(InputError):
        model.embed(SHORT)
    with pytest.raises(InputError):
        model.run(nonsense=1)
    assert model.notices == ()


def test_a_closed_model_opens_nothing(tuned: Callable[..., Model], log: Log) -> None:
    model = tuned()
    model.close()
    for text in (SHORT, LONG):
        with pytest.raises(EngineError, match="closed"):
            model.embed(text)
    assert model.notices == ()


def test_a_wrong_engine_is_refused_by_name_before_it_answers(
    tuned: Callable[..., Model], log: Log, embedder: Path
) -> None:
    model = tuned()
    log.liars.add("numpy-int8")
    vector = model.embed(LONG)
    np.testing.assert_array_equal(vector, alone(embedder, "numpy-fp32", [LONG])[0])
    (notice,) = model.notices
    assert notice.startswith("numpy-int8 was refused: self-test")
    assert ("numpy-int8", "close") in log.calls


def test_a_table_whose_main_engine_is_wrong_is_not_believed(
    tuned: Callable[..., Model], log: Log
) -> None:
    log.liars.add("numpy-fp32")
    model = tuned()
    assert model.variant.id == "numpy-int8"
    assert [name for name, _ in model.skipped] == ["numpy-fp32"]
    model.embed([SHORT, LONG])
    assert {name for name, _ in log.encoded()} == {"numpy-int8"}
    assert model.notices == ()  # it is not tried again


# Threads


@pytest.mark.parametrize("failing", [False, True])
def test_eight_threads_get_what_one_gets(
    tuned: Callable[..., Model], log: Log, failing: bool
) -> None:
    texts = [[SHORT], [LONG], [SHORT, LONG, ""], [LONG] * 3]
    if failing:
        log.failing["numpy-int8"] = RuntimeError("out of luck")
    alone = tuned()
    expected = [alone.embed(text) for text in texts]
    model = tuned()
    log.calls.clear()
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for i in range(20):
            which = (number + i) % len(texts)
            np.testing.assert_array_equal(model.embed(texts[which]), expected[which])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(model.notices) == int(failing)
    assert len(log.shared) == 4  # both variants, by both models, once each
    assert log.calls.count(("numpy-int8", "close")) == int(failing)


def test_a_pool_that_shares_its_process_does_not_spin() -> None:
    if missing_engine("onnx"):
        pytest.skip("onnxruntime is not installed")
    with open_bundle(TINY_BUNDLE) as opened:
        variant = opened.manifest.variant("onnx-fp32")
        for shares, expected in ((True, "0"), (False, None)):
            engine: Any = open_engine(opened, variant, 2, shares)
            (session,) = engine._sessions.values()
            options = session.get_session_options()
            name = "session.intra_op.allow_spinning"
            if expected is None:
                with pytest.raises(RuntimeError):
                    options.get_session_config_entry(name)
            else:
                assert options.get_session_config_entry(name) == expected
            engine.close()


# Long lists


def test_memory_does_not_grow_with_the_list_beyond_the_answers(
    embedder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeformer.runtime.text.CHUNK_TEXTS", 16)

    def peak_bytes(texts: int) -> int:
        tracemalloc.start()
        try:
            answer = model.embed([LONG] * texts)
            return tracemalloc.get_traced_memory()[1] - 2 * answer.nbytes
        finally:
            tracemalloc.stop()

    with load(embedder, tuned=None) as model:
        model.embed([LONG] * 16)
        few, many = peak_bytes(32), peak_bytes(512)
    assert many - few < 512 * 200  # the tokens of all texts at once take five times that


@pytest.mark.parametrize("task", ["embedding", "classification", "token-classification"])
def test_a_long_list_is_answered_like_its_pieces(
    monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    texts = [SHORT, LONG * 9, "", "boring", LONG, LONG * 30, SHORT]
    verb = {"embedding": "embed", "classification": "classify"}.get(task, "tag")
    with load(bundle(task, BOTH), tuned=None) as model:
        for on_long in ("truncate", "window"):
            whole = getattr(model, verb)(texts, on_long=on_long)
            stats = model.last_call
            for size in (1, 3, 7):
                monkeypatch.setattr("edgeformer.runtime.text.CHUNK_TEXTS", size)
                pieces = getattr(model, verb)(texts, on_long=on_long)
                assert model.last_call == stats
                if task == "embedding":
                    np.testing.assert_allclose(pieces, whole, rtol=1e-4, atol=1e-6)
                else:
                    assert [len(p) for p in pieces] == [len(w) for w in whole]
                    first = [p[0] for p in pieces if p]
                    assert [repr(a).split("score")[0] for a in first] == [
                        repr(w[0]).split("score")[0] for w in whole if w
                    ]
            monkeypatch.undo()
        with pytest.raises(InputError, match="text 5 has"):
            monkeypatch.setattr("edgeformer.runtime.text.CHUNK_TEXTS", 2)
            getattr(model, verb)([*[SHORT] * 5, LONG * 9], on_long="error")
