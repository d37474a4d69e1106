"""Write docs/help.md: what every `--help` prints.

python -m tools.make_help
"""

from collections.abc import Iterator
from pathlib import Path

import click

from edgeformer.cli.main import commands

PAGE = Path(__file__).parent.parent / "docs" / "help.md"
_WIDTH = 88


def help_page() -> str:
    """The page as Markdown, one section for each command."""
    sections = [f"## {name}\n\n```text\n{text}\n```\n" for name, text in _helps("edgeformer")]
    head = "# Command line\n\nMade from `--help` by `python -m tools.make_help`.\n"
    return "\n".join([head, *sections])


def _helps(
    name: str, command: click.Command = commands, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """(full name, help) of a command and of all below it."""
    width = {"terminal_width": _WIDTH, "max_content_width": _WIDTH}
    short = name.rpartition(" ")[2]
    context = command.make_context(short, [], parent, resilient_parsing=True, **width)  # type: ignore[arg-type]
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None:
                yield from _helps(f"{name} {below}", found, context)


if __name__ == "__main__":
    PAGE.write_text(help_page(), encoding="utf-8")
