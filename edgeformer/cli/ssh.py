"""The options of the commands that can measure on a board: --ssh and what belongs to it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeformer.errors import UsageError

if TYPE_CHECKING:
    from edgeformer.remote.board import Board

_KEY = "edgeformer.ssh"


def _keep(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Kept beside the command's own arguments; ``the_board`` reads it."""
    ctx.meta.setdefault(_KEY, {})[parameter.name] = value


def ssh_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ssh, --ssh-config, --ssh-python and --ssh-folder."""
    options = (
        ("--ssh", "[USER@]HOST[:PORT]", "Do it on this board, over ssh."),
        ("--ssh-config", "FILE", "Configuration of ssh. Default: ~/.ssh/config."),
        ("--ssh-python", "PATH", "Python of the board. Default: python3."),
        ("--ssh-folder", "PATH", "Folder of the board for files. Default: its $TMPDIR or /tmp."),
    )
    for name, metavar, text in reversed(options):
        add = click.option(name, metavar=metavar, help=text, expose_value=False, callback=_keep)
        command = add(command)
    return command


def chosen_target() -> str | None:
    """What --ssh names; None without it. Raises UsageError for its companions alone."""
    given = click.get_current_context().meta[_KEY]
    others = [name for name, value in given.items() if name != "ssh" and value is not None]
    if given["ssh"] is None and others:
        option = f"--{others[0].replace('_', '-')}"
        raise UsageError(f"{option} is of a board", hint="name it with --ssh USER@HOST")
    target: str | None = given["ssh"]
    return target


def the_board(
    progress: Callable[[str], None], bundle: str | None = None, data: str | None = None
) -> "contextlib.AbstractContextManager[Board | None]":
    """A connection to the board that --ssh names, or None without it.

    Raises:
        UsageError, BundleError: nobody is called for what can be seen to fail here.
        RemoteError: the board cannot be reached, or will not do.
    """
    target = chosen_target()
    if target is None:
        return contextlib.nullcontext()
    from edgeformer.remote.board import connect
    from edgeformer.remote.package import check_bundle, check_file

    if bundle is not None:
        check_bundle(Path(bundle))
    if data is not None:
        check_file(Path(data))

    given = click.get_current_context().meta[_KEY]
    return connect(
        target,
        python=given["ssh_python"] or "python3",
        config=given["ssh_config"],
        folder=given["ssh_folder"],
        progress=progress,
    )


def doctor_hint() -> str:
    """How to ask the doctor about the machine that was measured."""
    target = chosen_target()
    return f"edgeformer doctor --ssh {target}" if target else "edgeformer doctor"
