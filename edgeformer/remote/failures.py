"""Why a call failed, in words: pure functions from what ssh and the board said to an error."""

import errno
import re
from typing import Any

from edgeformer import errors
from edgeformer.errors import EdgeFormerError, RemoteError, UsageError
from edgeformer.remote.target import Target

OLDEST_NUMPY = (1, 24)
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, a quota
_LINES = 3
_SSH_FAILED, _NOT_FOUND = 255, (126, 127)


def no_client() -> UsageError:
    """There is no ssh on this machine."""
    return UsageError(
        "there is no `ssh` on this machine to call the board with",
        hint="sudo apt install openssh-client",
    )


def not_connected(target: Target, python: str, status: int, said: str) -> EdgeFormerError:
    """ssh ended before the board answered.

    Args:
        target: who was called.
        python: that was to run there.
        status: ssh's exit status: 255 for its own failures, else what the board's shell gave.
        said: stderr of ssh and of the board.
    """
    if status < 0:  # we lost patience
        return RemoteError(
            f"{target} does not answer", hint=f"see whether this does: ssh {target.typed} true"
        )
    if status == _SSH_FAILED:
        return _ssh_failed(target, said)
    if status in _NOT_FOUND or "not found" in said.lower():
        return RemoteError(
            f"{target} has no {python!r} that it can run",
            hint="sudo apt install python3 python3-numpy there; --ssh-python PATH names another",
        )
    return RemoteError(
        f"{target} answered, but not as Python does (status {status})" + _tail(said),
        hint=f"see what this prints: ssh {target.typed} {python} --version",
    )


def _ssh_failed(target: Target, said: str) -> EdgeFormerError:
    """ssh's own failures, by what it says of them; the first that fits."""
    host = target.login.rpartition("@")[2]
    offered = re.search(r"ssh-keygen -f .* -R .*", said)  # Debian's ssh prints it
    removal = offered[0].strip() if offered else f"ssh-keygen -R {host}"
    known: tuple[tuple[str, str, str], ...] = (
        (
            "HOST IDENTIFICATION HAS CHANGED",
            f"{target} shows another host key than the one that is known: it was set up anew, or"
            " somebody else answers",
            f"if you know why: {removal}, then ssh {target.typed} once",
        ),
        (
            "Host key verification failed",
            f"the host key of {target} is not known here, and nobody is asked",
            f"ssh {target.typed} once, and compare the key that it shows",
        ),
        (
            "Permission denied",
            f"{target} does not let us in: no key that it accepts",
            f"ssh-copy-id {target.typed}; a password is never asked for (BatchMode)",
        ),
        (
            "Could not resolve hostname",
            f"no host of the name {host!r} is known",
            "check the name; its IP address does too",
        ),
        (
            "onfig",
            f"ssh does not take its configuration{_tail(said)}",
            f"see what this prints: ssh {target.typed} true",
        ),
    )
    for sign, message, hint in known:
        if sign in said:
            return RemoteError(message, hint=hint)
    return RemoteError(
        f"{target} cannot be reached{_tail(said)}",
        hint=f"is it on, and does it run an ssh server? Try: ssh {target.typed} true",
    )


def not_fit(target: Target, hello: dict[str, Any]) -> RemoteError | None:
    """What the board lacks, by its first words; None if nothing."""
    other = "--ssh-python PATH names another Python"
    if "old" in hello:
        return RemoteError(
            f"{target} has Python {hello['old']}, and 3.11 is the oldest that will do",
            hint=f"install a newer system or Python there; {other}",
        )
    version = hello["numpy"]
    if version is None:
        return RemoteError(
            f"the Python of {target} has no numpy",
            hint=f"sudo apt install python3-numpy there; {other}",
        )
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdecimal())
    if numbers and numbers < OLDEST_NUMPY:
        return RemoteError(
            f"{target} has numpy {version}, and 1.24 is the oldest that will do",
            hint=f"install a newer one in a venv there; {other}",
        )
    return None


def dropped(target: Target, said: str) -> RemoteError:
    """The link went while the board was at work."""
    return RemoteError(
        f"the link to {target} dropped{_tail(said)}",
        hint="nothing was written here, and the board removes its folder by itself; try again",
    )


def died(target: Target, status: int, said: str) -> RemoteError:
    """The worker on the board ended without an answer."""
    how = f"died with signal {-status}" if status < 0 else f"ended with status {status}"
    return RemoteError(
        f"on {target}, what measures {how} and gave no answer" + _tail(said),
        hint=f"edgeformer doctor --ssh {target}",
    )


def broken(target: Target, folder: str, number: int | None, words: str) -> RemoteError:
    """A file or folder of the board could not be written."""
    if number in FULL:
        return RemoteError(f"the disk of {target} is full ({folder})", hint=_ELSEWHERE)
    return RemoteError(f"{target} cannot write its folder ({folder}): {words}", hint=_ELSEWHERE)


_ELSEWHERE = "make room there, or name a folder on a larger disk: --ssh-folder PATH"


def too_large(target: Target, folder: str, need_bytes: int, free_bytes: int) -> RemoteError:
    """What must be sent does not fit there."""
    return RemoteError(
        f"{target} has {free_bytes / 1e6:.1f} MB free in {folder}, and {need_bytes / 1e6:.1f} MB"
        " must be copied there",
        hint=_ELSEWHERE,
    )


def as_there(kind: str, message: str, hint: str) -> EdgeFormerError:
    """An error that was raised on the board, of the same class, so with the same exit code."""
    found = getattr(errors, kind, RemoteError)
    is_ours = isinstance(found, type) and issubclass(found, EdgeFormerError)
    error: EdgeFormerError = (found if is_ours else RemoteError)(message, hint=hint)
    return error


def _tail(said: str) -> str:
    """The last lines, under the message."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in lines[-_LINES:])
