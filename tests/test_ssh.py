"""Measuring on a board: a real ssh, a real sshd on loopback, and a Python with NumPy only.

What a loopback cannot show is stubbed, and each such test says so: a Python that is too old, a
NumPy that is too old, and a link that goes silent (a proxy that stops forwarding).
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeformer.errors import (
    BundleError,
    DataError,
    EdgeFormerError,
    InputError,
    RemoteError,
    UsageError,
)
from edgeformer.evaluation.evaluate import evaluate
from edgeformer.remote.board import Board, connect
from edgeformer.report.files import read_report
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.manifest import FileRecord
from edgeformer.runtime.manifest_json import dump_manifest
from edgeformer.runtime.tuned import table_path
from tests import labelled_bundles, tiny_bundles
from tests.command_line import Edgeformer, is_error, process_result, start
from tests.exit_models import exit_bundle
from tests.ssh_server import Server, running, soon


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture(scope="module")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("sshd")) as started:
        yield started


@pytest.fixture(scope="module")
def board(other_server: Server) -> Iterator[Board]:
    """One connection for all the tests that only measure; the server of the others gets clean."""
    with call(other_server) as connected:
        yield connected


@pytest.fixture
def edgeformer(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def call(server: Server, **settings: Any) -> Board:
    return connect("board", **{"config": server.config, "python": str(server.python), **settings})


def options(server: Server) -> tuple[object, ...]:
    return ("--ssh", "board", "--ssh-config", server.config, "--ssh-python", server.python)


def refused(server: Server, **settings: Any) -> EdgeFormerError:
    """The error of a call that must fail, after which the board must be clean."""
    with pytest.raises(EdgeFormerError) as caught, call(server, **settings):
        pytest.fail("the call succeeded")
    assert caught.value.hint
    assert server.is_clean()
    return caught.value


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    rows = zip(labelled_bundles.TEXTS, labelled_bundles.SENTIMENT * 99, strict=False)
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    return path


def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / bundle.name))


# What a user gets


def test_the_command_writes_a_report_here_that_says_whose_figures_it_holds(
    server: Server, edgeformer: Edgeformer, tmp_path: Path
) -> None:
    bundle, file, page = tiny_bundles.bundle(), tmp_path / "report.json", tmp_path / "report.md"
    settings = ("--iterations", 3, "--tokens", "8,16", "--progress")
    files = ("--report", file, "--report", page)
    code, out, err = edgeformer("benchmark", bundle, *settings, *files, *options(server))
    assert (code, server.is_clean()) == (0, True)
    report = read_report(file)
    assert report.host == f"{socket.gethostname()} (board)"
    assert report.host in out
    assert "(board" in page.read_text()
    assert [(r.tokens, len(r.samples_ms)) for r in report.results] == [(8, 3), (16, 3)]
    assert report.bundle.path == str(bundle)
    assert "onnx" not in report.versions  # the board's, which has numpy only
    steps = [line.split("...")[0].strip() for line in err.splitlines()]
    assert any("calling board" in step for step in steps)
    assert any("numpy-int8, 16 tokens" in step for step in steps)


def test_an_engine_that_the_board_lacks_is_reported_as_the_runtime_reports_it(
    board: Board, tmp_path: Path
) -> None:
    """As on a CPU for which an engine has no wheel: the others are measured all the same."""
    bundle = copied(tiny_bundles.bundle(), tmp_path)
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    onnx = replace(manifest.variants[0], id="onnx-int8", engine="onnx")
    variants = (*manifest.variants, onnx)
    changed = replace(manifest, variants=variants, engines=("numpy", "onnx"))
    (bundle / "manifest.json").write_bytes(dump_manifest(changed))
    report = board.benchmark(bundle, iterations=3, tokens=8)
    assert [result.state for result in report.results] == ["measured", "missing"]
    assert "edgeformer[onnx]" in report.results[1].hint


def test_exits_are_timed_there_on_texts_from_here_or_on_ours(board: Board, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a film\nanother film\n")
    settings: dict[str, Any] = {"exit": "0.69", "iterations": 1, "tokens": 8}
    for texts, dataset in ((file, "2 texts of texts.txt"), (None, "64 of EdgeFormer's own")):
        report = board.benchmark(exit_bundle(), texts=texts, **settings)
        (run,) = report.exits
        assert run.dataset.startswith(dataset) and run.error == ""
        assert sum(run.texts) == (2 if texts else 64) and run.times is not None
    with pytest.raises(InputError, match="has no exits"):
        board.benchmark(tiny_bundles.bundle(), **settings)


def test_an_evaluation_there_gives_the_figures_of_one_here(
    board: Board, labelled: Path, tmp_path: Path
) -> None:
    bundle = labelled_bundles.bundle()
    near, far = tmp_path / "near.jsonl", tmp_path / "far.jsonl"
    here = evaluate(bundle, labelled, against="numpy-fp32", save_predictions=near)
    settings: dict[str, Any] = {"against": "numpy-fp32", "minimums": {"": 0.1}}
    there = board.evaluate(bundle, labelled, save_predictions=far, **settings)
    for ours, theirs in zip(_rows(near), _rows(far), strict=True):
        assert ours.pop("scores") == pytest.approx(theirs.pop("scores"), abs=1e-6)
        assert ours == theirs
    assert (there.metrics, there.classes, there.against) == (
        here.metrics,
        here.classes,
        here.against,
    )
    assert (there.model, there.data, there.digest) == (str(bundle), str(labelled), here.digest)
    assert f"answered on {board.name}" in there.notes
    by_file = board.evaluate(bundle, labelled, against=near)
    assert by_file.against and by_file.against.same_answers == 1.0
    assert str(near) in by_file.against.against


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_minimum_that_the_board_misses_is_exit_code_3(
    server: Server, edgeformer: Edgeformer, labelled: Path
) -> None:
    bundle = labelled_bundles.bundle()
    code, out, err = edgeformer("eval", bundle, labelled, "--min", "1.5", *options(server))
    assert code == 3
    assert "MISSED" in out
    assert "is below 1.5" in err


def test_the_table_of_a_tuning_comes_back_beside_the_bundle(board: Board, tmp_path: Path) -> None:
    bundle = copied(tiny_bundles.bundle(), tmp_path)
    tuning = board.tune(bundle, seconds=2, threads=1, force=True)
    assert tuning.path == table_path(bundle)
    written = json.loads(tuning.path.read_text())
    assert written["tables"][0]["lengths"][0]["variant"] == "numpy-int8"
    assert tuning.tables[0].main.variant == "numpy-int8"
    assert set(written["versions"]) == {"numpy"}  # the board's
    assert any(board.name in note for note in tuning.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == [bundle.name, tuning.path.name]


def test_nothing_is_sent_for_a_table_that_cannot_be_written_here(
    board: Board, tmp_path: Path
) -> None:
    other = tmp_path / "notes.json"
    other.write_text("{}")
    with pytest.raises(UsageError, match="is not a tuned table"):
        board.tune(tiny_bundles.bundle(), output=other)


def test_the_doctor_looks_at_the_board(server: Server, edgeformer: Edgeformer) -> None:
    code, out, err = edgeformer("doctor", "--json", *options(server))
    found = {check["engine"]: check["state"] for check in json.loads(out)["engines"]}
    assert found == {"onnx": "not installed", "tflite": "not installed", "numpy": "works"}
    assert code == 0
    assert f"on {socket.gethostname()} (board)" in err


# What goes wrong there reads as what goes wrong here


def test_an_error_of_the_board_has_its_class_and_the_names_of_this_side(
    board: Board, labelled: Path, tmp_path: Path
) -> None:
    bundle = labelled_bundles.bundle()
    labelled.write_text('{"text": "the film", "label": "purple"}\n')
    with pytest.raises(DataError, match="no label 'purple'") as caught:
        board.evaluate(bundle, labelled)
    assert caught.value.message.startswith(f"on board: {labelled}, line 1: ")
    with pytest.raises(UsageError, match="no engine or variant 'tflite'"):
        board.benchmark(bundle, engines=("tflite",))
    broken = copied(tiny_bundles.bundle(), tmp_path)
    next(broken.glob("numpy-*/*")).write_bytes(b"")
    with pytest.raises(BundleError, match=f"on board: .*{broken.name}|on board: numpy-int8"):
        board.benchmark(broken)
    # and the connection still serves
    assert board.benchmark(tiny_bundles.bundle(), iterations=3, tokens=8).measured


def test_what_cannot_be_sent_is_refused_before_it_runs(board: Board, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.edge"):
        board.benchmark(tmp_path / "none.edge")
    with pytest.raises(UsageError, match="needs PyTorch"):
        board.evaluate(tiny_bundles.checkpoint(), tmp_path / "none.tsv")
    with pytest.raises(UsageError, match=r"no file .*none\.tsv"):
        board.evaluate(tiny_bundles.bundle(), tmp_path / "none.tsv")


def test_a_worker_that_is_killed_is_an_error_that_says_so(
    other_server: Server, board: Board
) -> None:
    """As by a board that runs out of memory."""

    def kill(name: str) -> None:
        if name == "numpy-int8":
            for worker in _running(other_server, b"edgeformer.remote.worker"):
                os.kill(worker, signal.SIGKILL)

    with pytest.raises(RemoteError, match="died with signal 9") as caught:
        board.benchmark(tiny_bundles.bundle(), iterations=1000000, progress=kill)
    assert caught.value.hint == "edgeformer doctor --ssh board"
    assert soon(lambda: not _running(other_server, b"edgeformer.benchmarking.worker"))


def _running(server: Server, words: bytes) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            ours = words in file.read_bytes()
            if ours and str(server.temporary).encode() in (file.parent / "environ").read_bytes():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


# Boards that cannot be called, or will not do


def test_a_host_that_does_not_answer_is_named(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    error = refused(server, config=server.client("closed", Port=port))
    assert error.message.startswith("board cannot be reached")
    assert "Connection refused" in error.message


def test_a_key_that_opens_nothing_is_named(server: Server) -> None:
    other = server.client("wrong-key", IdentityFile=str(server.folder / "host_key"))
    error = refused(server, config=other)
    assert error.message == "board does not let us in: no key that it accepts"
    assert f"ssh-copy-id -F {other} board" in error.hint


def test_a_host_key_that_is_unknown_or_another_is_never_asked_about(server: Server) -> None:
    nobody = server.folder / "nobody"
    nobody.write_text("")
    error = refused(server, config=server.client("unknown", UserKnownHostsFile=str(nobody)))
    assert "host key of board is not known" in error.message
    kind, key, *_ = (server.folder / "user_key.pub").read_text().split()
    changed = server.folder / "changed"
    changed.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    error = refused(server, config=server.client("other-key", UserKnownHostsFile=str(changed)))
    assert "another host key than the one that is known" in error.message
    assert f'-R "[127.0.0.1]:{server.port}"' in error.hint.replace("'", '"')


def test_a_board_without_python_is_named(server: Server) -> None:
    error = refused(server, python="python3.99")
    assert "no 'python3.99' that it can run" in error.message
    assert "--ssh-python" in error.hint


def test_a_board_with_an_old_python_is_named(server: Server) -> None:
    """A stub: this Python, which says that it is another."""
    old = server.folder / "old-python"
    code = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    old.chmod(0o755)
    error = refused(server, python=str(old))
    assert error.message == "board has Python 3.9.2, and 3.11 is the oldest that will do"


def test_a_board_without_numpy_or_with_an_old_one_is_named(server: Server) -> None:
    """The old one is a stub: its name and version."""
    folder = server.folder / "bare"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = str(folder / "bin/python3")
    assert refused(server, python=python).message == "the Python of board has no numpy"
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "numpy").mkdir()
    (site / "numpy/__init__.py").write_text("")
    (site / "numpy-1.19.5.dist-info").mkdir()
    (site / "numpy-1.19.5.dist-info/METADATA").write_text("Name: numpy\nVersion: 1.19.5\n")
    assert "board has numpy 1.19.5" in refused(server, python=python).message


def test_a_folder_that_does_not_exist_there_is_named(server: Server) -> None:
    error = refused(server, folder="/no/such/folder")
    assert "cannot write its folder" in error.message
    assert "--ssh-folder" in error.hint


def test_what_a_login_shell_prints_is_not_taken_for_an_answer(server: Server) -> None:
    talkative = server.folder / "talkative"
    talkative.write_text(f'#!/bin/sh\necho "Welcome!"\nexec {server.python} "$@"\n')
    talkative.chmod(0o755)
    with call(server, python=str(talkative)) as board:
        assert board.facts.host == socket.gethostname()


def test_a_machine_without_ssh_says_what_to_install(
    server: Server, edgeformer: Edgeformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = edgeformer("benchmark", tiny_bundles.bundle(), *options(server))
    assert is_error(*found, exit_code=2, says="no `ssh` on this machine")


def test_the_options_of_a_board_need_a_board(edgeformer: Edgeformer) -> None:
    found = edgeformer("doctor", "--ssh-python", "python3.11")
    assert is_error(*found, exit_code=2, says="--ssh-python is of a board")


# A full disk


@pytest.fixture
def small_disk(server: Server, tmp_path: Path) -> Iterator[str]:
    """A Python of the board that sees a file system of 2 MB where its files go."""
    disk = server.folder / "disk"
    disk.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size=2m tmpfs {disk}"
    words = ["unshare", "-rm", "sh", "-c", mount]
    if shutil.which("unshare") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: unshare -rm")
    python = server.folder / "small-python"
    inside = f'{mount} && TMPDIR={disk} exec {server.python} "$@"'
    python.write_text(f"#!/bin/sh\nexec unshare -rm sh -c '{inside}' sh \"$@\"\n")
    python.chmod(0o755)
    yield str(python)


def large(tmp_path: Path, size: int) -> Path:
    """A bundle with one file more, of ``size`` bytes."""
    bundle = copied(tiny_bundles.bundle(), tmp_path)
    (bundle / "large").write_bytes(bytes(size))
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    record = FileRecord(size, hashlib.sha256(bytes(size)).hexdigest())
    changed = replace(manifest, files={**manifest.files, "large": record})
    (bundle / "manifest.json").write_bytes(dump_manifest(changed))
    return bundle


def test_a_bundle_that_does_not_fit_is_not_sent(
    server: Server, small_disk: str, tmp_path: Path
) -> None:
    bundle = large(tmp_path, 3_000_000)
    with pytest.raises(RemoteError, match=r"MB free in .* must be copied there") as caught:  # noqa: SIM117
        with call(server, python=small_disk) as board:
            board.benchmark(bundle)
    assert "--ssh-folder" in caught.value.hint
    assert server.is_clean()


def test_a_disk_that_is_full_in_the_middle_is_named(
    server: Server, small_disk: str, tmp_path: Path
) -> None:
    """It fits by what the board said at first, but the package has taken its part since."""
    with pytest.raises(RemoteError, match="the disk of board is full") as caught:  # noqa: SIM117
        with call(server, python=small_disk) as board:
            board.benchmark(large(tmp_path, 1_500_000))
    assert "--ssh-folder" in caught.value.hint
    assert server.is_clean()


# Endings


def test_ctrl_c_leaves_nothing_on_either_side(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    settings = ("--iterations", 1000000, "--tokens", 8, "--progress", "--report", file)
    words = (*settings, *options(server))
    process = start("benchmark", tiny_bundles.bundle(), *words, process_group=0)
    assert soon(lambda: bool(_running(server, b"edgeformer.benchmarking.worker")))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: ssh must not die of it first
    code, out, err = process_result(process)
    assert (code, out) == (130, "")
    assert err.endswith("interrupted\n")
    assert server.is_clean()
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_killed_leaves_nothing_there(server: Server) -> None:
    process = start("benchmark", tiny_bundles.bundle(), "--iterations", 1000000, *options(server))
    assert soon(lambda: bool(_running(server, b"edgeformer.benchmarking.worker")))
    process.kill()
    process_result(process)
    assert server.is_clean()


def test_a_link_that_drops_is_an_error_and_the_board_cleans_up(server: Server) -> None:
    before = set(server.sessions())

    def cut(name: str) -> None:
        if name == "numpy-int8":
            for session in set(server.sessions()) - before:
                os.kill(session, signal.SIGKILL)

    with pytest.raises(RemoteError, match="the link to board dropped") as caught:  # noqa: SIM117
        with call(server) as connected:
            connected.benchmark(tiny_bundles.bundle(), iterations=1000000, progress=cut)
    assert "try again" in caught.value.hint
    assert server.is_clean()


class Proxy:
    """Forwards one connection, until it is told to swallow everything."""

    def __init__(self, port: int) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.silent = threading.Event()
        self._far = port
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        near, _ = self._listening.accept()
        far = socket.create_connection(("127.0.0.1", self._far))
        self._ends = [near, far]
        for ends in ((near, far), (far, near)):
            self._threads.append(threading.Thread(target=self._forward, args=ends))
            self._threads[-1].start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if not self.silent.is_set():
                    target.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (*self._ends, self._listening):
            end.close()


def test_a_link_that_goes_silent_is_given_up_on_both_sides(server: Server) -> None:
    """A stub of the network: nobody closes anything, but nothing arrives any more."""
    proxy = Proxy(server.port)
    alias = f"[127.0.0.1]:{server.port}"
    config = server.client("proxy", Port=str(proxy.port), HostKeyAlias=alias)

    def silence(name: str) -> None:
        if name == "numpy-int8":
            proxy.silent.set()

    try:
        with pytest.raises(RemoteError, match="the link to board dropped"):  # noqa: SIM117
            with call(server, config=config, silence_seconds=2.0) as connected:
                connected.benchmark(tiny_bundles.bundle(), iterations=1000000, progress=silence)
        assert soon(lambda: not list(server.temporary.iterdir()))
    finally:
        proxy.close()
    assert server.is_clean()
