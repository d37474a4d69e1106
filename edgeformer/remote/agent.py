"""The far end of a connection: keeps a folder on the board, runs the worker, and cleans up.

The source of this file travels on ssh's command line and is the first thing that runs there, on
whatever Python there is, before any other file of EdgeFormer has come. So it imports the standard
library only, and its syntax is one that Python 3.0 can read, to say that it is too old (target.py
puts that in front).

Stdin brings lines of JSON, some followed by the bytes of a file; an empty line only says that the
other end still lives, and gets an answer that says the same. Stdout takes lines that begin with
``MARK``, so that what a login shell prints is not mistaken for them. The end of stdin, however it
comes, ends everything: what runs is killed, the folder is removed. Where the link is gone and
nobody says so, silence does the same.
"""

import compileall
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

MARK = "edgeformer-board "
CHUNK_BYTES = 1 << 16


class Gone(Exception):
    """The other end has left, or says nothing any more."""


class Inlet:
    """What comes in on stdin, read no further than asked for."""

    def __init__(self, silence_seconds: float) -> None:
        self._silence = silence_seconds
        self._heard = time.monotonic()
        self._held = b""

    def fill(self) -> None:
        """Take what comes within a second. Raises Gone at the end, or after too long a silence."""
        if select.select([0], [], [], min(1.0, self._silence))[0]:
            data = os.read(0, CHUNK_BYTES)
            if not data:
                raise Gone
            self._held += data
            self._heard = time.monotonic()
        self.check()

    def check(self) -> None:
        """Raises Gone after too long a silence."""
        if time.monotonic() - self._heard > self._silence:
            raise Gone

    def answer(self) -> None:
        """Answer the other end's signs of life, which are empty lines between two orders."""
        orders = self._held.lstrip(b"\n")
        if len(orders) < len(self._held):
            say({"alive": True})
        self._held = orders

    def line(self) -> Any:
        """The next order, parsed."""
        while True:
            self.answer()
            line, newline, rest = self._held.partition(b"\n")
            if newline:
                self._held = rest
                return json.loads(line)
            self.fill()

    def copy(self, size: int, target: IO[bytes]) -> None:
        """The next ``size`` bytes into ``target``."""
        while size:
            if not self._held:
                self.fill()
            part, self._held = self._held[:size], self._held[size:]
            target.write(part)
            size -= len(part)


def say(message: Any) -> None:
    """One message to the other end."""
    forward(json.dumps(message).encode("ascii"))


def forward(line: bytes) -> None:
    """One message that is JSON already."""
    data = memoryview(MARK.encode("ascii") + line + b"\n")
    while data:
        data = data[os.write(1, data) :]


def facts(folder: Path) -> Any:
    """What the other end decides by: who this is, what is installed, and how much fits."""
    version = None
    if importlib.util.find_spec("numpy"):
        try:
            version = importlib.metadata.version("numpy")
        except importlib.metadata.PackageNotFoundError:
            version = ""
    return {
        "host": socket.gethostname(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "numpy": version,
        "folder": str(folder),
        "free_bytes": shutil.disk_usage(folder).free,
    }


def run(folder: Path, request: Any, inlet: Inlet) -> None:
    """Run the worker on a request and forward what it says, until it ends."""
    before = os.environ.get("PYTHONPATH")
    code = str(folder / "code")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeformer.remote.worker"],
        cwd=folder / "work",
        env={
            **os.environ,
            "PYTHONPATH": code + os.pathsep + before if before else code,
            "TMPDIR": str(folder / "tmp"),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a group of its own, which ends as a whole
    )
    try:
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError):  # it died at once: its status says how
            process.stdin.write(json.dumps(request).encode("ascii"))
            process.stdin.close()
        _follow(process.stdout, inlet)
        say({"ended": process.wait()})
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _follow(output: IO[bytes], inlet: Inlet) -> None:
    """Forward a worker's lines while watching the other end."""
    held = b""
    while True:
        ready = select.select([0, output.fileno()], [], [], 1.0)[0]
        if 0 in ready:
            inlet.fill()
            inlet.answer()
        inlet.check()
        if output.fileno() in ready:
            data = os.read(output.fileno(), CHUNK_BYTES)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                forward(line)


def obey(folder: Path, inlet: Inlet) -> None:
    """Do what is asked, one after the other. Raises Gone when there is nobody any more."""
    while True:
        order = inlet.line()
        if "put" in order:
            target = folder / order["put"]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                inlet.copy(order["size"], file)
        elif "compile" in order:  # as an installation does: imports are part of a cold start
            compileall.compile_dir(str(folder / order["compile"]), quiet=2)
        elif "run" in order:
            run(folder, order["run"], inlet)
        elif "drop" in order:
            shutil.rmtree(folder / order["drop"], ignore_errors=True)
            (folder / order["drop"]).mkdir()


def remove(folder: Path) -> bool:
    """Remove a folder into which a process that was just killed may still write."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return True
        time.sleep(0.1)
    return False


def leave(number: int, frame: Any) -> None:
    """A signal ends this as the end of stdin does."""
    raise Gone


def main(silence_seconds: float, parent: str) -> None:
    """Serve one connection. ``parent``: where the folder is made; empty for the system's choice."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    folder = None
    try:
        where = str(Path(parent).expanduser()) if parent else None
        folder = Path(tempfile.mkdtemp(prefix="edgeformer-", dir=where))
        for name in ("code", "work", "tmp"):
            (folder / name).mkdir()
        say({"hello": facts(folder)})
        obey(folder, Inlet(silence_seconds))
    except Gone:
        pass
    except OSError as error:  # a full disk, above all
        with contextlib.suppress(OSError):
            say({"broken": error.strerror or str(error), "errno": error.errno})
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        removed = folder is None or remove(folder)
        with contextlib.suppress(OSError):
            say({"bye": removed})


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
