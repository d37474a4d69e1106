"""Whom to call, and the words of the call: pure functions.

    target = parse_target("pi@raspberrypi.local:2222")
    command(target, python="python3", folder=None, silence_seconds=30)

One `ssh` carries everything: no scp, no second login, no control socket that could stay behind, and
the end of its stdin is what tells the board that we have gone. All that the user's own
configuration says holds, except what would get in the way of a program: BatchMode (never a
question), no terminal, no forwarding, and no becoming the master of a shared connection (one that
is open already is used).
"""

import base64
import re
import shlex
import zlib
from dataclasses import dataclass
from pathlib import Path

from edgeformer.errors import UsageError
from edgeformer.remote.agent import MARK

CONNECT_SECONDS = 15
# Runs before the agent, of whose imports an old Python may not have all.
_OLD_PYTHON = """
import sys
if sys.version_info < (3, 11):
    print('MARK{"old": "%d.%d.%d"}' % sys.version_info[:3])
    sys.exit(0)
"""
_ALIVE_COUNT = 3


@dataclass(frozen=True)
class Target:
    """Whom to call.

    Attributes:
        login: ``host`` or ``user@host``, as ssh takes it; an alias of the configuration too.
        port: None for what the configuration says.
        config: file that ssh reads instead of ~/.ssh/config; None for that one.
    """

    login: str
    port: int | None = None
    config: str | None = None

    def __str__(self) -> str:
        return self.login if self.port is None else f"{self.login}:{self.port}"

    @property
    def typed(self) -> str:
        """As one types it after `ssh`."""
        return shlex.join([*self.options, self.login])

    @property
    def options(self) -> list[str]:
        """Of `ssh`, for configuration and port."""
        config = ["-F", self.config] if self.config is not None else []
        return [*config, *(["-p", str(self.port)] if self.port is not None else [])]


def parse_target(text: str) -> Target:
    """Read ``[user@]host[:port]``; an IPv6 address with a port is in brackets.

    Raises:
        UsageError: anything else, such as what ssh would take for an option.
    """
    user, at, rest = text.rpartition("@")
    found = re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(\d+))?|([^\s:\[\]/]+)(?::(\d+))?", rest)
    if found is None and re.fullmatch(r"[0-9A-Fa-f:.]+(%\w+)?", rest):  # a bare IPv6 address
        host, port = rest, None
    elif found:
        host, port = found[1] or found[3], found[2] or found[4]
    else:
        host, port = "", None
    bad_user = at and (not user or re.search(r"[\s'\"`;&|<>()\\$]", user))
    if not host or text.startswith("-") or host.startswith("-") or bad_user:
        raise UsageError(
            f"--ssh {text!r} is not a host to call", hint="write pi@raspberrypi.local, or HOST:PORT"
        )
    if port is not None and not 1 <= int(port) <= 65535:
        raise UsageError(f"--ssh {text!r}: no port {port}", hint="ports are 1 to 65535")
    return Target(f"{user}{at}{host}", int(port) if port else None)


def check_python(python: str) -> None:
    """Raises UsageError for what a login shell would not take as one plain word."""
    if not re.fullmatch(r"[\w./~+][\w./~+-]*", python):
        raise UsageError(
            f"--ssh-python {python!r} is not the name or path of a Python",
            hint="write python3.11, or ~/venv/bin/python3",
        )


def command(target: Target, python: str, folder: str | None, silence_seconds: float) -> list[str]:
    """The arguments of `ssh`, the first of them left out.

    Args:
        target: whom to call.
        python: on the board.
        folder: on the board, where the temporary folder is made; None for its system's choice.
        silence_seconds: after so long a silence each end takes the link for dead.
    """
    options = [
        *("BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "ClearAllForwardings=yes"),
        f"ServerAliveInterval={max(1, round(silence_seconds / _ALIVE_COUNT))}",
        *(f"ServerAliveCountMax={_ALIVE_COUNT}", "ControlMaster=no", "RemoteCommand=none"),
    ]
    return [
        *target.options,
        *(word for option in options for word in ("-o", option)),
        *("-T", "-a", "-x"),
        *("--", target.login, far_command(python, folder, silence_seconds)),
    ]


def far_command(python: str, folder: str | None, silence_seconds: float) -> str:
    """What the login shell on the board gets: words that every shell reads alike.

    The board waits twice as long as this end, so that a link that recovers finds it still there.
    """
    agent = Path(__file__).with_name("agent.py").read_text(encoding="ascii")
    source = _OLD_PYTHON.replace("MARK", MARK) + agent
    packed = base64.b64encode(zlib.compress(source.encode("ascii"), 9)).decode("ascii")
    start = f'import base64,zlib;exec(zlib.decompress(base64.b64decode("{packed}")))'
    return f"{python} -c '{start}' {2 * silence_seconds:g} {_one_word(folder or '')}"


def _one_word(folder: str) -> str:
    """A path between quotes. Raises UsageError for one that quotes cannot hold in every shell."""
    if re.search(r"['\\\n!]", folder):
        raise UsageError(f"--ssh-folder {folder!r} holds a quote or such", hint="choose another")
    return f"'{folder}'"
