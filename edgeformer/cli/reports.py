"""The commands that judge: eval on labelled data, compare bundles or reports."""

import click

from edgeformer.cli.common import (
    Progress,
    json_option,
    name_pairs,
    print_result,
    progress_option,
    threads_option,
)
from edgeformer.cli.ssh import ssh_options, the_board
from edgeformer.errors import UsageError


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
    help="Texts that do not fit. Default: window for questions, else truncate.",
)
@click.option("--exit", "exit_rule", metavar="auto|T", help="Texts may leave early, as in run.")
@click.option("--save-predictions", metavar="FILE", help="Write the answers, one a line: .jsonl.")
@click.option("--force", is_flag=True, help="Overwrite the predictions file.")
@click.option("--add-to", metavar="REPORT.json", help="Report of benchmark to add the figure to.")
@threads_option
@ssh_options
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
    on_long: str | None,
    exit_rule: str | None,
    save_predictions: str | None,
    force: bool,
    add_to: str | None,
    threads: int | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Measure how right BUNDLE is on the labelled rows of DATA (.jsonl, .csv, .tsv).

    On the host, BUNDLE may be a checkpoint folder. --against compares on the same rows. --ssh
    answers on a board.
    """
    from edgeformer.evaluation.evaluate import evaluate as run_evaluation
    from edgeformer.evaluation.evaluate import make_columns
    from edgeformer.evaluation.records import add_to_report, check_report
    from edgeformer.evaluation.text import evaluation_text

    if add_to is not None:
        check_report(add_to, bundle)
    with Progress(progress) as shown, the_board(shown.step, bundle, data) as board:
        report = (board.evaluate if board else run_evaluation)(
            bundle,
            data,
            engine=engine,
            threads=threads,
            against=against,
            columns=make_columns(name_pairs("--columns", columns)),
            labels_map=name_pairs("--labels-map", labels_map),
            minimums=_minimums(least),
            on_long=on_long or "",
            exit=exit_rule,
            save_predictions=save_predictions,
            force=force,
            progress=shown.step,
        )
    if add_to is not None:
        add_to_report(add_to, report)
    print_result(report.as_dict(), evaluation_text(report), as_json)
    report.check()


@click.command()
@click.argument("contenders", nargs=-1, metavar="A B...")
@click.option("--engine", help="Engine or variant of the bundles.  [default: auto]")
@click.option("--texts", metavar="FILE", help="Texts to answer: .jsonl .csv .txt. Default: ours.")
@click.option("--measure", is_flag=True, help="Time the bundles, in turns.")
@click.option("--tokens", type=click.IntRange(min=1), help="Length of the text to time.")
@click.option("--starts", type=click.IntRange(min=6), help="Processes of each.  [default: 6]")
@click.option("--fail-if", metavar="CONDITION", multiple=True, help="Exit 3 if so: 'p50>+10%'.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@threads_option
@progress_option
@json_option
def compare(
    contenders: tuple[str, ...],
    engine: str | None,
    texts: str | None,
    measure: bool,
    tokens: int | None,
    starts: int | None,
    fail_if: tuple[str, ...],
    markdown: bool,
    threads: int | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Compare bundles, or reports of benchmark (.json), with the first of them.

    --fail-if takes p50, p90, p95, p99, mean, cold, load, size or rss, > or <, and a change from the
    first (+10%, -5%) or a value (25ms, 30MB); it may be repeated.
    """
    from edgeformer.comparison.compare import are_reports, compare_bundles
    from edgeformer.comparison.conditions import parse_conditions
    from edgeformer.comparison.reports import compare_reports
    from edgeformer.comparison.text import bundle_text, report_text

    conditions = parse_conditions(fail_if)
    if are_reports(contenders):
        if measure or (engine, texts, tokens, starts, threads) != (None,) * 5:
            raise UsageError(
                "reports are compared as they are: only bundles can be run",
                hint="leave out --measure, --engine, --texts, --tokens, --starts and --threads",
            )
        found = compare_reports(contenders, conditions)
        print_result(found.as_dict(), report_text(found, markdown), as_json)
        return found.check()
    if not measure and (tokens, starts) != (None, None):
        raise UsageError("--tokens and --starts are of a timing", hint="add --measure")
    with Progress(progress) as shown:
        bundles = compare_bundles(
            contenders,
            engine=engine or "auto",
            threads=threads,
            texts=texts,
            measure=measure,
            tokens=tokens,
            starts=starts,
            conditions=conditions,
            progress=shown.step,
        )
    print_result(bundles.as_dict(), bundle_text(bundles, markdown), as_json)
    return bundles.check()
