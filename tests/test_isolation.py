"""A worker process answers, fails, dies or hangs, and its parent always hears which."""

import time
from pathlib import Path

import pytest

from edgeformer.isolation import run_worker

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
