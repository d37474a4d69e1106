"""What the commands share: options, progress, and how results and remarks are printed."""

import difflib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from edgeformer.errors import UsageError

if TYPE_CHECKING:
    from edgeformer.converters.stages import Stage


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Most threads to use. Default: the profile's."
)
progress_option = click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress on stderr. Default: where stderr is a terminal.",
)


def split_names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """``a,b`` as a tuple without repetitions; None stays. A callback of options."""
    if value is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not names:
        raise click.BadParameter("names, separated by commas", ctx, parameter)
    return names


def name_pairs(option: str, text: str | None) -> dict[str, str]:
    """``a=b,c=d`` as a dict; UsageError for anything else."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or key in found:
            raise UsageError(f"{option} {text!r}: {part!r} is not NAME=NAME", hint="write a=b,c=d")
        found[key] = value
    return found


class Commands(click.Group):
    """A group that suggests the nearest command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of that name. Raises UsageError naming the nearest one."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known = self.list_commands(ctx)
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the commands are: {', '.join(known)}"
            raise UsageError(f"no command {name!r}", hint=hint)
        return super().resolve_command(ctx, args)


class Progress:
    """Lines on stderr about what is being done, or silence."""

    def __init__(self, wanted: bool | None) -> None:
        self._shown = sys.stderr.isatty() if wanted is None else wanted
        self._open = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self._end_line("")

    def stage(self, stage: "Stage") -> None:
        """A stage of a conversion starts or ends."""
        if stage.seconds is None:
            self.step(stage.name)
        else:
            self._end_line(f"{stage.seconds:8.1f} s")

    def step(self, name: str) -> None:
        """Something starts, and with it whatever was being done before has ended."""
        self._end_line("")
        if self._shown:
            click.echo(f"{name:<40}", err=True, nl=False)
            self._open = True

    def _end_line(self, text: str) -> None:
        if self._open:
            click.echo(text, err=True)
            self._open = False


def print_result(data: Any, text: str, as_json: bool) -> None:
    """Print a command's result on stdout, as JSON or as text."""
    if as_json:
        from edgeformer.plain_json import finite

        click.echo(json.dumps(finite(data), indent=1, default=str))
    else:
        click.echo(text)


def say(text: str) -> None:
    """Print a remark on stderr."""
    click.echo(text, err=True)
