"""Keep what native libraries write to stdout and stderr away from the user, until it matters.

    with captured_output() as log:
        model = load()                  # C++ logs, warnings, progress bars
    log.tail()                          # the last lines, for an error message

LiteRT logs through the file descriptors, past Python, and has no switch for it. File descriptors
belong to the whole process: keep what runs inside short where other threads may be writing.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# One at a time: two overlapping captures would restore each other's file.
_LOCK = threading.RLock()


class CapturedLog:
    """What was written while the capture lasted."""

    def __init__(self) -> None:
        self.text = ""

    def tail(self, lines: int = 20) -> str:
        """The last non-empty ``lines``, without terminal colours; empty if nothing was said."""
        said = [line.rstrip() for line in _ANSI.sub("", self.text).splitlines() if line.strip()]
        return "\n".join(said[-lines:])


class _Stream:
    """Stands in for sys.stdout or sys.stderr.

    A logging handler made during the capture keeps this object for good, so afterwards it passes
    everything on to the stream it stood in for.
    """

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


@contextlib.contextmanager
def captured_output() -> Iterator[CapturedLog]:
    """Collect everything written to stdout and stderr, by Python or by native code."""
    log = CapturedLog()
    with _LOCK, _memory_file() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _descriptors(file), _python_streams(file):
                yield log
        finally:
            file.seek(0)
            log.text = file.read().decode("utf-8", "replace")


def _memory_file() -> BinaryIO:
    """A file without a name; on Linux not even a temporary folder is touched."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("edgeformer-log"), "w+b")  # noqa: PTH123
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def _descriptors(file: BinaryIO) -> Iterator[None]:
    saved: dict[int, int] = {}
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed, as in a daemon: nothing to keep quiet
            saved[descriptor] = os.dup(descriptor)
    try:
        for descriptor in saved:
            os.dup2(file.fileno(), descriptor)
        yield
    finally:
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def _python_streams(file: BinaryIO) -> Iterator[None]:
    original = sys.stdout, sys.stderr
    with open(os.dup(file.fileno()), "w", encoding="utf-8", errors="replace") as text:  # noqa: PTH123
        stand_ins = tuple(_Stream(text) for _ in original)
        sys.stdout, sys.stderr = stand_ins
        try:
            yield
        finally:
            sys.stdout, sys.stderr = original
            for stand_in, stream in zip(stand_ins, original, strict=True):
                stand_in.target = stream
