"""The parts of a connection by themselves, without a server: words, files, and both of its ends."""

import ast
import errno
import inspect
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeformer import benchmark, evaluate, remote, tune
from edgeformer.doctor import diagnose
from edgeformer.errors import EdgeFormerError, RemoteError, ThresholdError, UsageError
from edgeformer.remote import answers, failures
from edgeformer.remote.agent import MARK
from edgeformer.remote.board import Board
from edgeformer.remote.link import Link
from edgeformer.remote.package import check_bundle, package_files, parcel, sent_files
from edgeformer.remote.target import Target, check_python, command, far_command, parse_target
from tests.bundles import FILES, write_bundle
from tests.ssh_server import soon

PI = Target("pi@raspberrypi", 2222)


# Whom to call


@pytest.mark.parametrize(
    ("text", "login", "port"),
    [
        ("raspberrypi.local", "raspberrypi.local", None),
        ("pi@192.168.1.7:2222", "pi@192.168.1.7", 2222),
        ("pi@[fe80::1%eth0]:22", "pi@fe80::1%eth0", 22),
        ("[::1]", "::1", None),
        ("fe80::1", "fe80::1", None),
        ("me@work@host", "me@work@host", None),
    ],
)
def test_targets_are_read_as_ssh_users_write_them(text: str, login: str, port: int | None) -> None:
    assert parse_target(text) == Target(login, port)


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=x", "pi@-oX", "pi@", "@host", "host:0", "host:70000", "host:x", "a b",
     "ssh://host", "pi;ls@host", "host\n"],
)  # fmt: skip
def test_what_is_no_host_is_never_given_to_ssh(text: str) -> None:
    with pytest.raises(UsageError, match="--ssh"):
        parse_target(text)


@given(st.text(max_size=30))
def test_no_target_becomes_an_option_of_ssh(text: str) -> None:
    try:
        target = parse_target(text)
    except UsageError:
        return
    words = command(target, "python3", None, 30)
    assert words[words.index("--") + 1] == target.login
    assert not target.login.startswith("-")


@pytest.mark.parametrize("python", ["python3; rm x", "-c", "a b", "$(id)", ""])
def test_a_python_is_one_plain_word(python: str) -> None:
    with pytest.raises(UsageError, match="--ssh-python"):
        check_python(python)


def test_ssh_takes_the_options_that_it_is_given() -> None:
    """ssh itself says what it will do: no question, no forwarding, the port of the target."""
    ssh = shutil.which("ssh")
    if ssh is None:
        pytest.skip("no ssh here: apt-get install openssh-client")
    words = command(replace(PI, config="/dev/null"), "python3", None, 30)
    done = subprocess.run([ssh, "-G", *words], capture_output=True, text=True, check=True)
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert (found["user"], found["hostname"], found["port"]) == ("pi", "raspberrypi", "2222")
    assert (found["batchmode"], found["clearallforwardings"]) == ("yes", "yes")
    assert (found["serveraliveinterval"], found["serveralivecountmax"]) == ("10", "3")


# What went wrong, by what ssh says


@pytest.mark.parametrize(
    ("status", "said", "message", "hint"),
    [
        (255, "ssh: Could not resolve hostname x: Name or service not known", "no host of the name",
         "IP address"),
        (255, "ssh: connect to host x port 22: No route to host", "No route to host", "is it on"),
        (255, "pi@x: Permission denied (publickey,password).", "does not let us in",
         "ssh-copy-id -p 2222 pi@raspberrypi"),
        (255, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "another host key", "ssh-keygen -R raspberrypi, then"),
        (255, "Host key verification failed.", "is not known here", "ssh -p 2222 pi@raspberrypi"),
        (255, "c: line 1: Bad configuration option: x", "does not take its config", "ssh -p"),
        (127, "bash: line 1: python3: command not found", "no 'python3'", "apt install python3"),
        (1, "python3: Command not found.", "no 'python3'", "--ssh-python"),
        (1, "This account is not available.", "not as Python does", "python3 --version"),
        (-9, "", "does not answer", "ssh -p 2222"),
    ],
)  # fmt: skip
def test_a_failed_call_says_why_and_what_to_type(
    status: int, said: str, message: str, hint: str
) -> None:
    error = failures.not_connected(PI, "python3", status, said)
    assert message in error.message
    assert hint in error.hint


def test_an_error_keeps_its_exit_code_on_the_way_and_nothing_else_is_made() -> None:
    assert isinstance(failures.as_there("ThresholdError", "m", "h"), ThresholdError)
    for name in ("SystemExit", "annotations", "no_such"):
        assert type(failures.as_there(name, "m", "h")) is RemoteError


def test_a_full_disk_is_told_from_other_failures() -> None:
    assert "is full" in failures.broken(PI, "/tmp/x", errno.ENOSPC, "No space left").message
    assert "Permission" in failures.broken(PI, "/tmp/x", errno.EACCES, "Permission").message


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_nonsense_from_a_board_is_one_error(data: Any) -> None:
    readers = (answers.read_report, answers.read_evaluation, answers.read_diagnosis)
    for read in readers:
        with pytest.raises(EdgeFormerError):
            read(data)
    with pytest.raises(EdgeFormerError):
        answers.read_tuning(data, Path("x"))


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (benchmark, Board.benchmark),
        (evaluate, Board.evaluate),
        (tune, Board.tune),
        (diagnose, Board.diagnose),
    ],
)
def test_a_board_takes_what_the_function_here_takes(here: Any, there: Any) -> None:
    """So that code which measures takes either, and no new option is lost over ssh."""
    ours, theirs = (list(inspect.signature(verb).parameters) for verb in (here, there))
    assert ["self", *ours] == theirs


# What is sent


def _module(there: str) -> str:
    name = there.removeprefix("code/").removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def _imported(path: Path, known: set[str]) -> Iterator[str]:
    """What a module imports of ours when it runs, wherever in it that stands."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        todo += () if typing_only else ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgeformer"):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known
            yield from inside or {str(node.module)}


def test_everything_that_runs_on_a_board_is_sent_and_nothing_of_the_host() -> None:
    """Followed from the worker through every import; what needs PyTorch ends the path."""
    sent = {_module(there): path for there, path in package_files() if path.suffix == ".py"}
    host = {"edgeformer.checkpoint_model"}
    todo, seen = ["edgeformer.remote.worker"], set()
    # started by name, each in a process of its own
    todo += ["edgeformer.benchmarking.worker", "edgeformer.tuning.worker"]
    todo += ["edgeformer.benchmarking.exit_worker"]
    todo += ["edgeformer.profiling.profile_worker"]
    while todo:
        name = todo.pop()
        if name in seen | host:
            continue
        seen.add(name)
        assert name in sent, f"{name} is needed on a board"
        todo += _imported(sent[name], set(sent))
    folders = {name.split(".")[1] for name in sent if "." in name}
    assert not folders & {"converters", "models", "recipes", "cli", "pipeline"}
    assert parcel(package_files()).total_bytes < 1_500_000


def test_a_folder_that_is_no_bundle_is_never_read_through(tmp_path: Path) -> None:
    """`--ssh` with `/` for a bundle must not send a disk."""
    (tmp_path / "notes.txt").write_text("x")
    for check in (check_bundle, lambda path: list(sent_files(path, "work"))):
        with pytest.raises(EdgeFormerError, match=r"is not a bundle|no manifest"):
            check(tmp_path)


def test_of_a_bundle_only_what_its_manifest_lists_is_sent(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a.edge")
    (tmp_path / "a.edge/notes.txt").write_text("x")
    found = {there for there, _ in sent_files(tmp_path / "a.edge", "work")}
    assert found == {f"work/a.edge/{name}" for name in (*FILES, "manifest.json")}


# The far end


def test_every_login_shell_starts_it(tmp_path: Path) -> None:
    """Every one that is installed here; sh always is."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for shell in filter(shutil.which, ("sh", "bash", "dash", "zsh", "fish", "csh", "tcsh")):
        words = [shell, "-c", far_command(sys.executable, str(folder), 30)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        hello, bye = _messages(done.stdout)
        assert Path(hello["hello"]["folder"]).parent == folder
        assert bye == {"bye": True}
        assert not list(folder.iterdir())


def _messages(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(MARK)) for line in output.decode().splitlines()]


def test_an_old_python_can_read_its_source() -> None:
    source = Path(str(remote.__file__)).with_name("agent.py").read_text()
    ast.parse(source, feature_version=(3, 4))


def test_an_old_python_says_that_it_is_old() -> None:
    found = 0
    for minor in range(4, 11):
        words = ["sh", "-c", far_command(f"python3.{minor}", None, 30)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode == 0:  # else there is none
            found += 1
            (message,) = _messages(done.stdout)
            assert message["old"].startswith(f"3.{minor}.")
    if not found:
        pytest.skip("no Python older than 3.11 here")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The far end, which waits two seconds for a sign of life."""
    words = ["sh", "-c", "exec " + far_command(sys.executable, str(tmp_path), 1.0)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    assert b"hello" in process.stdout.readline()
    yield process
    process.kill()
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_it_leaves_when_nobody_says_anything(
    agent: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    """A link that is cut in the air ends nothing by itself: the board's disk would fill."""
    assert list(tmp_path.iterdir())
    assert agent.wait(20) == 0
    assert not list(tmp_path.iterdir())


def test_it_stays_while_somebody_lives(agent: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    assert agent.stdin and agent.stdout
    for _ in range(6):
        time.sleep(0.5)
        agent.stdin.write(b"\n")
        agent.stdin.flush()
        assert json.loads(agent.stdout.readline().removeprefix(MARK.encode())) == {"alive": True}
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["half a file", "SIGTERM", "SIGHUP"])
def test_it_cleans_up_whatever_ends_it(
    agent: "subprocess.Popen[bytes]", tmp_path: Path, ending: str
) -> None:
    assert agent.stdin and agent.stdout
    agent.stdin.write(json.dumps({"put": "work/model", "size": 100}).encode() + b"\nhalf")
    agent.stdin.flush()
    if ending.startswith("SIG"):
        agent.send_signal(getattr(signal, ending))
    else:
        agent.stdin.close()
    assert _messages(agent.stdout.read()) == [{"bye": True}]
    assert not list(tmp_path.iterdir())


# The near end


def test_a_board_that_is_silent_is_given_up() -> None:
    with Link(["sh", "-c", f"echo '{MARK}{{\"hello\": 1}}'; sleep 60"], 0.2) as link:
        assert link.receive() == {"hello": 1}
        assert link.receive() is None
        assert link.status == -signal.SIGKILL


def test_a_board_that_only_has_nothing_to_say_is_not_given_up(tmp_path: Path) -> None:
    """A long measurement without a word: both ends go on living by their signs of life."""
    over = threading.Event()
    with Link(["sh", "-c", far_command(sys.executable, str(tmp_path), 1.0)], 1.0) as link:
        assert "hello" in (link.receive() or {})

        def end() -> None:
            over.set()
            link.send({"run": {}})  # whose worker was never sent: it dies at once

        threading.Timer(4.0, end).start()
        assert link.receive() == {"ended": 1}
        assert over.is_set()


def test_a_link_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(1 << 20))
    with Link(["sleep", "60"], 0.2) as link, pytest.raises(BrokenPipeError):
        link.send({"put": "x", "size": 1 << 20}, file)


def test_closing_ends_a_process_that_does_not_end_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it started, as ssh starts a ProxyCommand."""
    monkeypatch.setattr("edgeformer.remote.link.CLOSE_SECONDS", 0.1)
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $$ $! > {pids}; echo '{MARK}{{}}'; wait"
    with Link(["sh", "-c", script], 30) as link:
        assert link.receive() == {}
    ours, child = pids.read_text().split()
    assert not Path(f"/proc/{ours}").exists()
    assert soon(lambda: _has_ended(Path(f"/proc/{child}/stat")))


def _has_ended(stat: Path) -> bool:
    try:
        return " Z " in stat.read_text()  # nobody has asked for its status yet
    except OSError:
        return True
