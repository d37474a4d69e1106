"""The options of `convert` that make it a search to a budget, and what it prints then."""

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from edgeformer.cli.common import print_result, say
from edgeformer.errors import UsageError

if TYPE_CHECKING:
    from edgeformer.searching.search import SearchReport

_OPTIONS = (
    click.option(
        "--max-drop", type=float, metavar="POINTS", help="Search: most points lost on --eval."
    ),
    click.option(
        "--max-latency-ms", type=float, metavar="MS", help="Search: largest p50 of one text."
    ),
    click.option("--eval", "data", metavar="DATA", help="Search: labelled rows to judge by."),
    click.option("--train", metavar="DATA", help="Search: texts that smaller models learn from."),
    click.option("--columns", metavar="A=B,...", help="Of text, pair, label: names in DATA."),
    click.option("--labels-map", metavar="A=B,...", help="Label A of DATA is the model's B."),
)


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of a search, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def is_search(
    max_drop: float | None, max_latency_ms: float | None, others: Mapping[str, str | None]
) -> bool:
    """True if a budget was given; ``others`` are the other options of a search by their names.

    Raises:
        UsageError: some of these without a budget.
    """
    if max_drop is not None or max_latency_ms is not None:
        return True
    for name, value in others.items():
        if value is not None:
            raise UsageError(
                f"{name} is for a search to a budget",
                hint="add --max-drop POINTS, --max-latency-ms MS, or both",
            )
    return False


def print_search(report: "SearchReport", as_json: bool) -> None:
    """The table on stdout; what to type next on stderr; raises where nothing fits."""
    from edgeformer.searching.text import search_text

    print_result(report.as_dict(), search_text(report), as_json)
    report.check()
    where = shlex.quote(str(report.path))
    if report.chosen is not None and report.trials[report.chosen].candidate.exits:
        say(f"next: edgeformer run {where} TEXT --exit auto")
    say(f"next: edgeformer benchmark {where}")
