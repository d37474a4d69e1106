"""The commands that judge: eval on labelled data, compare bundles or reports."""

import click

from edgeformer.cli_common import (
    Progress,
    json_option,
    print_result,
    progress_option,
    threads_option,
)
from edgeformer.errors import UsageError


def _pairs(option: str, text: str | None) -> dict[str, str]:
    """``a=b,c=d`` as a dict; UsageError for anything else."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or key in found:
            raise UsageError(f"{option} {text!r}: {part!r} is not NAME=NAME", hint="write a=b,c=d")
        found[key] = value
    return found


def _minimums(values: tuple[str, ...]) -> dict[str, float]:
    """``accuracy=0.9`` or ``0.9`` as numbers by name, the empty name for the main figure."""
    found: dict[str, float] = {}
    for text in values:
        name, equals, number = text.rpartition("=")
        try:
            found[name.strip()] = least = float(number)
        except ValueError:
            least = float("nan")
        if least != least or (equals and not name.strip()):
            raise UsageError(f"--min {text!r} is not a number", hint="write accuracy=0.9, or 0.9")
    return found


@click.command("eval")
@click.argument("bundle")
@click.argument("data")
@click.option("--engine", default="auto", show_default=True, help="Engine or variant to use.")
@click.option("--against", metavar="WHAT", help="Predictions, bundle, checkpoint or variant.")
@click.option("--min", "least", multiple=True, metavar="[NAME=]VALUE", help="Exit 3 if below.")
@click.option("--columns", metavar="A=B,...", help="Of text, pair, label: their names in DATA.")
@click.option("--labels-map", metavar="A=B,...", help="Label A of DATA is the model's B.")
@click.option(
    "--on-long",
    type=click.Choice(["truncate", "window", "error"]),
    default="truncate",
    show_default=True,
    help="What to do with texts that do not fit.",
)
@click.option("--save-predictions", metavar="FILE", help="Write the answers, one a line: .jsonl.")
@click.option("--force", is_flag=True, help="Overwrite that file.")
@threads_option
@progress_option
@json_option
def evaluate(
    bundle: str,
    data: str,
    engine: str,
    against: str | None,
    least: tuple[str, ...],
    columns: str | None,
    labels_map: str | None,
    on_long: str,
    save_predictions: str | None,
    force: bool,
    threads: int | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Measure how right BUNDLE is on the labelled rows of DATA (.jsonl, .csv, .tsv).

    On the host, BUNDLE may be a checkpoint folder. --against compares on the same rows.
    """
    from edgeformer.evaluation import evaluate as run_evaluation
    from edgeformer.evaluation import make_columns
    from edgeformer.evaluation_text import evaluation_text

    with Progress(progress) as shown:
        report = run_evaluation(
            bundle,
            data,
            engine=engine,
            threads=threads,
            against=against,
            columns=make_columns(_pairs("--columns", columns)),
            labels_map=_pairs("--labels-map", labels_map),
            minimums=_minimums(least),
            on_long=on_long,
            save_predictions=save_predictions,
            force=force,
            progress=shown.step,
        )
    print_result(report.as_dict(), evaluation_text(report), as_json)
    report.check()
