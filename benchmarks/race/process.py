"""The parent's side of a worker: ask, wait with a limit, stop it while others compute."""

import base64
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.race.environments import ROOT, ContenderError, clean_environment, last_words

_TICKS = os.sysconf("SC_CLK_TCK")


class Worker:
    """A live contender. It runs only between ``resume`` and ``suspend``."""

    def __init__(self, python: Path, module: str, folder: Path, threads: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._rest = b""
        self.started = time.perf_counter()
        command = [str(python), "-m", "benchmarks.race.worker", module, str(folder), str(threads)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=clean_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, command: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            ContenderError: it failed, died or did not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(self._last_words()) from None
        answer: dict[str, Any] = json.loads(self._line(seconds))
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (texts, hidden)."""
        answer = self.ask({"command": "encode", "texts": list(texts)})
        raw = base64.b64decode(answer["float32"])
        return np.frombuffer(raw, "<f4").reshape(answer["shape"])

    def suspend(self) -> None:
        """Stop every thread of it: a pool that spins would take a CPU from the next one."""
        self._process.send_signal(signal.SIGSTOP)
        while _state(self._process.pid) not in "TZX":
            time.sleep(0.0005)

    def resume(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """CPU time of all its threads since it started, in steps of a clock tick."""
        fields = _stat(self._process.pid)
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def close(self) -> None:
        """End the process, stopped or not."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        limit = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = limit - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise ContenderError(f"no answer within {seconds:.0f} s")
            part = os.read(self._process.stdout.fileno(), 1 << 20)
            if not part:
                raise ContenderError(self._last_words())
            self._rest += part
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        words = last_words(self._errors.read().decode(errors="replace"))
        return f"its process ended with code {code}: {words}"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third, the state, on: a name may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()


def _state(pid: int) -> str:
    return _stat(pid)[0]
