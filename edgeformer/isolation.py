"""Run a function in a fresh process of its own, and survive its death.

An engine's native code can die with a signal (an instruction the CPU does not have, memory that
runs out), and two engines in one process disturb each other's thread pools. So the doctor and the
benchmark ask a worker: JSON in on stdin, JSON out on stdout. Standard library only.

    outcome = run_worker("edgeformer.doctor", {"engine": "onnx"})    # parent
    if __name__ == "__main__": serve(answer)                         # edgeformer/doctor.py
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeformer.errors import EdgeFormerError

_STDERR_LINES = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a worker.

    Attributes:
        answer: what it answered; None if it died or failed.
        failure: why there is no answer, one or two lines.
        hint: what to type next, if the worker knew.
        started: ``time.perf_counter()`` just before the process was started; the clock is the
            system's, so a worker's own readings compare with it.
    """

    answer: dict[str, Any] | None
    failure: str
    hint: str
    started: float


def run_worker(
    module: str, request: Mapping[str, Any], timeout_seconds: float | None = None
) -> Outcome:
    """Run ``python -m module --worker`` on ``request`` and wait for its answer.

    Args:
        module: a module that calls ``serve`` when run as a script.
        request: plain JSON data.
        timeout_seconds: kill it after this time; None to wait for ever.
    """
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, "--worker"],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        return Outcome(None, f"did not answer within {timeout_seconds:g} s", "", started)
    if done.returncode < 0:
        return Outcome(None, f"died with signal {_signal(-done.returncode)}", "", started)
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        tail = "\n".join(done.stderr.strip().splitlines()[-_STDERR_LINES:])
        why = f"ended with status {done.returncode} and no answer"
        return Outcome(None, f"{why}\n{tail}" if tail else why, "", started)
    return Outcome(reply["answer"], reply["failure"], reply["hint"], started)


def serve(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Be a worker: read the request, call ``function``, write the answer or the failure.

    Whatever native libraries print on stdout goes to stderr, so the answer stays readable.
    """
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    reply: dict[str, Any] = {"answer": None, "failure": "", "hint": ""}
    try:
        reply["answer"] = function(json.load(sys.stdin))
    except EdgeFormerError as error:
        reply.update(failure=error.message, hint=error.hint)
    except Exception as error:  # any other failure of an engine is what we are here to report
        reply["failure"] = f"{type(error).__name__}: {error}"
    json.dump(reply, private)
    private.close()


def _signal(number: int) -> str:
    meaning = {
        signal.SIGILL: "it uses an instruction that this CPU does not have",
        signal.SIGKILL: "killed, perhaps for lack of memory",
        signal.SIGSEGV: "it touched memory that is not its own",
    }
    try:
        name = signal.Signals(number)
    except ValueError:
        return str(number)
    return f"{name.name} ({meaning[name]})" if name in meaning else name.name


def _environment() -> dict[str, str]:
    """This process's environment, with EdgeFormer importable where it runs from a source tree."""
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        before = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{before}{os.pathsep}{root}" if before else root
    return environment
