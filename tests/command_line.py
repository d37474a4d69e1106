"""Calling the command line from tests: in this process, or as a process of its own."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeformer.cli.main import main

ROOT = Path(__file__).parent.parent


class Edgeformer:
    """Calls ``main`` in this process; (exit code, stdout, stderr)."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capfd, self._monkeypatch = capfd, monkeypatch

    def __call__(self, *arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capfd.readouterr()
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as exit_info:
                main([str(argument) for argument in arguments])
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = self._capfd.readouterr()
        assert isinstance(exit_info.value.code, int)
        return exit_info.value.code, out, err


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """A real process of the command line."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(
        [sys.executable, "-m", "edgeformer", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **{**streams, **options},
    )


def is_error(code: int, out: str, err: str, *, exit_code: int, says: str) -> bool:
    """An error on stderr alone, in the house's form, without a traceback."""
    assert (code, out) == (exit_code, "")
    assert err.startswith("error: ")
    assert "\n  -> " in err
    assert "Traceback" not in err
    assert says in err
    return True


def process_result(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err
