"""Run a function in a fresh process of its own, and survive its death.

An engine's native code can die with a signal (an instruction the CPU does not have, memory that
runs out), and two engines in one process disturb each other's thread pools. So the doctor and the
benchmark ask a worker: JSON in on stdin, JSON out on stdout. Standard library only.

    outcome = run_worker("edgeformer.doctor", {"engine": "onnx"})    # parent
    if __name__ == "__main__": serve(answer)                         # edgeformer/doctor.py

A Worker is such a process that answers many requests, one JSON line each (``serve_each``).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgeformer.errors import EdgeFormerError

_STDERR_LINES = 3
_NAP_SECONDS, _REST_SECONDS = 0.01, 1.0


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
        return Outcome(None, _end(done.returncode, ""), "", started)
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        return Outcome(None, _end(done.returncode, done.stderr), "", started)
    return Outcome(reply["answer"], reply["failure"], reply["hint"], started)


def _end(status: int, stderr: str) -> str:
    """How a process without an answer ended."""
    if status < 0:
        return f"died with signal {_signal(-status)}"
    tail = "\n".join(stderr.strip().splitlines()[-_STDERR_LINES:])
    why = f"ended with status {status} and no answer"
    return f"{why}\n{tail}" if tail else why


class Worker:
    """A process that answers one request after the other; ``close`` ends it at once."""

    def __init__(self, module: str) -> None:
        """Start ``python -m module --worker``, a module that calls ``serve_each`` as a script."""
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            env=_environment(),
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask(self, request: Mapping[str, Any], timeout_seconds: float | None = None) -> Outcome:
        """Its answer to ``request``; after a failure other than its own report, it has ended."""
        process, started, line = self._process, time.perf_counter(), ""
        assert process.stdin and process.stdout
        killer = threading.Timer(timeout_seconds or 0.0, process.kill)
        killer.daemon = True  # an interrupt must not leave this process waiting for it
        try:
            if timeout_seconds is not None:
                killer.start()
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it has ended: how, its status says
            pass
        finally:
            killer.cancel()
        if line.endswith("\n"):
            reply = json.loads(line)
            return Outcome(reply["answer"], reply["failure"], reply["hint"], started)
        status = process.wait()
        if timeout_seconds is not None and time.perf_counter() - started >= timeout_seconds:
            return Outcome(None, f"did not answer within {timeout_seconds:g} s", "", started)
        self._stderr.seek(0)
        stderr = self._stderr.read().decode("utf-8", "replace")
        return Outcome(None, _end(status, stderr), "", started)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            with contextlib.suppress(OSError):  # what it did not read is of no use any more
                if stream:
                    stream.close()
        self._process.wait()


def serve(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Be a worker: read the request, call ``function``, write the answer or the failure.

    Whatever native libraries print on stdout goes to stderr, so the answer stays readable.
    """
    private = private_stdout()
    json.dump(_reply(function, sys.stdin.read()), private)
    private.close()


def serve_each(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Be a Worker: ``serve`` for every line of stdin, until it ends."""
    private = private_stdout()
    for line in sys.stdin:
        private.write(json.dumps(_reply(function, line)) + "\n")
        private.flush()


def rest() -> None:
    """Wait until this process uses no CPU time any more, for a second at most: a thread pool that
    still spins would steal the CPU from the next process."""
    deadline = time.perf_counter() + _REST_SECONDS
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(_NAP_SECONDS)
        if time.process_time() - before < 0.1 * _NAP_SECONDS:
            return


def private_stdout() -> IO[str]:
    """What stdout was, for this module alone: whatever else prints there now goes to stderr."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


def _reply(function: Callable[[dict[str, Any]], dict[str, Any]], request: str) -> dict[str, Any]:
    reply: dict[str, Any] = {"answer": None, "failure": "", "hint": ""}
    try:
        reply["answer"] = function(json.loads(request))
    except EdgeFormerError as error:
        reply.update(failure=error.message, hint=error.hint)
    except Exception as error:  # any other failure of an engine is what we are here to report
        reply["failure"] = f"{type(error).__name__}: {error}"
    return reply


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
