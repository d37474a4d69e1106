"""A worker process answers, fails, dies or hangs, and its parent always hears which."""

import time
from pathlib import Path

import pytest

from edgeformer.isolation import Worker, run_worker

HEAD = "import os, signal, sys, time\nfrom edgeformer.errors import EngineError\n"
HEAD += "from edgeformer.isolation import serve\n"


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module ``fake_worker`` that a worker process will find."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "fake_worker.py"


def test_the_answer_survives_noise_on_stdout(worker: Path) -> None:
    worker.write_text(
        HEAD
        + "def f(request):\n"
        + "    os.system('echo native noise')\n"
        + "    print('python noise')\n"
        + "    return {'doubled': 2 * request['n'], 'clock': time.perf_counter()}\n"
        + "serve(f)\n"
    )
    before = time.perf_counter()
    outcome = run_worker("fake_worker", {"n": 21})
    assert outcome.answer is not None
    assert outcome.answer["doubled"] == 42
    assert before <= outcome.started < outcome.answer["clock"] < time.perf_counter()
    assert (outcome.failure, outcome.hint) == ("", "")


@pytest.mark.parametrize(
    ("body", "failure", "hint"),
    [
        ("raise EngineError('no such thing', hint='pip install it')", "no such thing", "pip"),
        ("raise ZeroDivisionError('odd')", "ZeroDivisionError: odd", ""),
        ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL (it uses an instruction", ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL (killed, perhaps for lack of mem", ""),
        ("os.kill(os.getpid(), signal.SIGUSR1)", "died with signal SIGUSR1", ""),
        ("os._exit(3)", "ended with status 3 and no answer", ""),
        ("sys.stderr.write('last words\\n'); sys.stderr.flush(); os._exit(0)", "last words", ""),
    ],
)
def test_every_failure_has_a_name(worker: Path, body: str, failure: str, hint: str) -> None:
    worker.write_text(f"{HEAD}def f(request):\n    {body}\nserve(f)\n")
    outcome = run_worker("fake_worker", {})
    assert outcome.answer is None
    assert failure in outcome.failure
    assert hint in outcome.hint


def test_a_worker_that_hangs_is_ended(worker: Path) -> None:
    worker.write_text("import time\ntime.sleep(600)\n")
    outcome = run_worker("fake_worker", {}, timeout_seconds=0.5)
    assert outcome.answer is None
    assert outcome.failure == "did not answer within 0.5 s"


EACH = "import os, signal, sys, time\nfrom edgeformer.isolation import serve_each\n"


def test_a_worker_answers_again_and_again(worker: Path) -> None:
    worker.write_text(
        EACH
        + "seen = []\n"
        + "def f(request):\n"
        + "    print('noise')\n"
        + "    seen.append(request['n'])\n"
        + "    return {'sum': sum(seen)} if request['n'] else {'bad': 1 / 0}\n"
        + "serve_each(f)\n"
    )
    with Worker("fake_worker") as started:
        assert started.ask({"n": 2}).answer == {"sum": 2}
        assert started.ask({"n": 0}).failure == "ZeroDivisionError: division by zero"
        assert started.ask({"n": 3}, timeout_seconds=60).answer == {"sum": 5}
        process = started._process
    assert process.returncode is not None


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("os.kill(os.getpid(), signal.SIGILL)", "died with signal SIGILL (it uses an instruction"),
        ("sys.exit('last words')", "ended with status 1 and no answer\nlast words"),
        ("os._exit(3)", "ended with status 3 and no answer"),
        ("time.sleep(600)", "did not answer within 0.5 s"),
    ],
)
def test_how_a_worker_ended_has_a_name(worker: Path, body: str, failure: str) -> None:
    worker.write_text(f"{EACH}def f(request):\n    {body}\nserve_each(f)\n")
    with Worker("fake_worker") as started:
        outcome = started.ask({}, timeout_seconds=0.5 if "sleep" in body else None)
        assert outcome.answer is None
        assert failure in outcome.failure
        assert started.ask({}).answer is None  # it stays ended, and says so
