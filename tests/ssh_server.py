"""A real sshd on loopback, and a bare board behind it: Python and NumPy, nothing else.

The server has a host key, a port and an authorized key of its own; ~/.ssh is neither read nor
written. It runs as whoever runs the tests. Run by root, sshd wants its privilege separation user
and folder, which its Debian package brings; started by anybody else it needs neither.
"""

import contextlib
import functools
import getpass
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """A running sshd.

    Attributes:
        folder: of its files.
        config: of the client; it knows the server as ``board``.
        port: on 127.0.0.1.
        temporary: the board's $TMPDIR, which must be empty when a connection has ended.
        python: of the board.
        process: the listening sshd.
    """

    folder: Path
    config: Path
    port: int
    temporary: Path
    python: Path
    process: "subprocess.Popen[bytes]"

    def client(self, name: str, **changes: str) -> Path:
        """A client's configuration with some of its lines changed."""
        path = self.folder / name
        lines = self.config.read_text().splitlines()
        kept = [line for line in lines if line.split()[0] not in changes]
        new = [f"  {key} {value}" for key, value in changes.items()]
        path.write_text("\n".join([*kept, *new]) + "\n")
        return path

    def sessions(self) -> list[int]:
        """Process ids of the connections, each served by an sshd of its own."""
        return [pid for pid, parent in _parents().items() if parent == self.process.pid]

    def is_clean(self) -> bool:
        """True as soon as no connection, process and file is left, False if that never happens."""
        return soon(
            lambda: (
                not (
                    self.sessions()
                    or list(self.temporary.iterdir())
                    or _processes_with(f"TMPDIR={self.temporary}")
                )
            )
        )


def soon(condition: Callable[[], bool]) -> bool:
    """True as soon as ``condition`` holds, False if it does not within some seconds."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _processes_with(variable: str) -> list[int]:
    """Processes whose environment begins a variable so: those that a connection started."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found


def _parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text(errors="replace")
            found[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    return found


@functools.cache
def program() -> str | None:
    """Path of sshd, which only starts by its whole path; None without one."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin")


def skip_reason() -> str:
    """Why no server can run here; empty if one can."""
    if sys.platform != "linux":
        return "the tests over ssh look into /proc"
    if program() is None or shutil.which("ssh") is None:
        return "no sshd here: apt-get install openssh-server openssh-client"
    return ""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server whose files lie in ``folder``; skips the test where none can run."""
    if reason := skip_reason():
        pytest.skip(reason)
    for name in ("host_key", "user_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    temporary = folder / "tmp"
    temporary.mkdir()
    python = _board_python(folder / "python")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = folder / "sshd_config"
    settings.write_text(_sshd_config(folder, port, temporary))
    if os.getuid() == 0:
        with contextlib.suppress(OSError):
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = program()
    assert sshd
    log = folder / "sshd.log"
    with log.open("wb") as errors:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(settings)], stderr=errors)
    try:
        _wait_until_it_listens(process, port, log)
        config = folder / "config"
        config.write_text(_client_config(folder, port))
        yield Server(folder, config, port, temporary, python, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _sshd_config(folder: Path, port: int, temporary: Path) -> str:
    return f"""ListenAddress 127.0.0.1
Port {port}
HostKey {folder / "host_key"}
AuthorizedKeysFile {folder / "user_key.pub"}
PidFile none
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv TMPDIR={temporary}
"""


def _client_config(folder: Path, port: int) -> str:
    """It accepts one host key, offers one key, and reads nothing else."""
    known = folder / "known_hosts"
    kind, key, *_ = (folder / "host_key.pub").read_text().split()
    known.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    return f"""Host board
  HostName 127.0.0.1
  Port {port}
  User {getpass.getuser()}
  IdentityFile {folder / "user_key"}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {known}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as line:
            if line.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    pytest.skip(f"sshd does not run here: {log.read_text(errors='replace').strip()[-300:]}")


def _board_python(folder: Path) -> Path:
    """A Python of its own, with NumPy and no other package."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = folder / "bin" / "python3"
    site = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for top in {file.parts[0] for file in importlib.metadata.files("numpy") or ()}:
        if top.startswith("numpy"):
            source = Path(str(importlib.metadata.distribution("numpy").locate_file(top)))
            (site / top).symlink_to(source.resolve())
    return python
