"""One `ssh` process, and the messages that go through it.

    with Link(arguments, silence_seconds=30) as link:
        link.send({"put": "work/a.txt", "size": 3}, path)
        link.receive()

ssh runs in a session of its own, so that Ctrl-C does not kill it before the board has cleaned up.
Its stderr goes to a file: a shared connection that outlives it would hold a pipe open.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from edgeformer.remote.agent import CHUNK_BYTES, MARK

CLOSE_SECONDS = 10.0


class Link:
    """A connection. A context manager; leaving it ends ssh, and with it all that runs there.

    Attributes:
        status: ssh's exit status, None while it runs.
    """

    def __init__(self, arguments: Sequence[str], silence_seconds: float) -> None:
        """Start ssh; ``receive`` tells whether it got through.

        Args:
            arguments: the program and its arguments.
            silence_seconds: the board's signs of life are asked for three times in so long, and
                waited for twice as long.
        """
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)  # a link that is stuck must not hold us
        self._patience = 2 * silence_seconds
        self._held = b""
        self._turn = threading.Lock()
        self._closed = threading.Event()
        beat = threading.Thread(target=self._beat, args=(silence_seconds / 3,), daemon=True)
        beat.start()

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def status(self) -> int | None:
        """How ssh ended."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """What ssh and the board wrote on stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read().decode("utf-8", "replace")

    def send(self, order: Any, file: Path | None = None) -> None:
        """Send an order, and a file of ``order["size"]`` bytes.

        Raises:
            BrokenPipeError: there is nobody; ``receive`` may still have the reason.
        """
        with self._turn:
            self._write(json.dumps(order).encode("ascii") + b"\n")
            if file is None:
                return
            left = order["size"]
            with file.open("rb") as source:
                while left:
                    chunk = source.read(min(left, CHUNK_BYTES))
                    if not chunk:
                        raise OSError(f"{file} became shorter while it was sent")
                    self._write(chunk)
                    left -= len(chunk)

    def receive(self) -> dict[str, Any] | None:
        """The next message of the board; None when there are no more, and ssh has ended.

        A board that gives no sign of life for too long is given up.
        """
        while (line := self._line()) is not None:
            if line.startswith(MARK.encode("ascii")):
                message: dict[str, Any] = json.loads(line[len(MARK) :])
                if "alive" not in message:
                    return message
        self._process.wait()
        return None

    def _line(self) -> bytes | None:
        """The next whole line, whoever wrote it; None at the end."""
        while b"\n" not in self._held:
            if not select.select([self._out], [], [], self._patience)[0]:
                self._kill()
                return None
            data = os.read(self._out, CHUNK_BYTES)
            if not data:
                return None
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line

    def close(self) -> None:
        """End the connection; waits a little for the board to clean up."""
        self._closed.set()
        assert self._process.stdin and self._process.stdout
        try:
            if self._turn.acquire(timeout=1.0):  # else a beat waits for a link that is stuck
                self._turn.release()
                self._process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(CLOSE_SECONDS)
        finally:
            self._kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._stderr.close()

    def _beat(self, seconds: float) -> None:
        """Say now and then that this end lives."""
        while not self._closed.wait(seconds):
            with self._turn, contextlib.suppress(OSError):
                if not self._closed.is_set():
                    self._write(b"\n")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                if not select.select([], [self._in], [], self._patience)[1]:
                    self._kill()
                    raise BrokenPipeError from None

    def _kill(self) -> None:
        """End ssh and what it started, such as a ProxyCommand."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
