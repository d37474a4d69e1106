"""The options of `convert` about early exits."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from edgeformer.cli.common import split_names
from edgeformer.errors import UsageError


def _split_layers(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...]:
    names = split_names(ctx, parameter, value) or ()
    if not all(name.isdecimal() for name in names):
        raise click.BadParameter("numbers of layers, separated by commas", ctx, parameter)
    return tuple(int(name) for name in names)


_OPTIONS = (
    click.option(
        "--exits", metavar="DATA", help="Labelled texts to calibrate the exits of MODEL on."
    ),
    click.option(
        "--exit-criterion",
        default="entropy",
        show_default=True,
        help="entropy, probability or patience.",
    ),
    click.option("--exit-predictor", is_flag=True, help="Predict where unsure texts leave."),
    click.option(
        "--exit-layers",
        metavar="A,B",
        callback=_split_layers,
        help="Layers after which texts may leave. Default: all.",
    ),
)


def exit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_exit_options(
    exits: str | None,
    criterion: str,
    predictor: bool,
    max_latency_ms: float | None,
    others: Mapping[str, str | None],
) -> None:
    """Options that go together.

    Args:
        exits, criterion, predictor: as typed.
        max_latency_ms: of a search.
        others: the other options of a search, by their names.

    Raises:
        UsageError: settings of a calibration without its texts, or in a search; or a search with
            exits and no data to judge them by.
    """
    if exits is None:
        if predictor or criterion != "entropy":
            name = "--exit-predictor" if predictor else "--exit-criterion"
            raise UsageError(f"{name} is for a calibration of exits", hint="add --exits DATA")
        return
    if others["--eval"] is not None:  # a search
        if predictor or criterion != "entropy":
            name = "--exit-predictor" if predictor else "--exit-criterion"
            raise UsageError(
                f"{name} is for one conversion: a search calibrates exits by their entropy",
                hint="leave it out, or leave out --eval",
            )
        return
    searched = [name for name, value in others.items() if value is not None]
    if max_latency_ms is not None:
        searched.append("--max-latency-ms")
    if searched:
        raise UsageError(
            f"{searched[0]} is for a search to a budget, and without --eval DATA the option --exits"
            " calibrates one conversion",
            hint="add --eval DATA, other texts than those of --exits; or leave one out",
        )
