"""The commands that measure and show what was measured: benchmark, report."""

import click

from edgeformer.cli.common import Progress, json_option, print_result, progress_option, say
from edgeformer.cli.ssh import doctor_hint, ssh_options, the_board
from edgeformer.errors import EngineError


def _numbers(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """``16,64`` as numbers of at least 1, each once; None stays."""
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    if not all(word.isdigit() and int(word) >= 1 for word in words):
        raise click.BadParameter("numbers of at least 1, separated by commas", ctx, parameter)
    return tuple(dict.fromkeys(int(word) for word in words))


@click.command()
@click.argument("bundle")
@click.option(
    "--engine", "engines", metavar="A,B", multiple=True, help="Engines or variants. Default: all."
)
@click.option("--text", help="Text of each call. Default: sentences of ours.")
@click.option(
    "--tokens", metavar="N,M", callback=_numbers, help="Lengths of the texts.  [default: 128]"
)
@click.option("--batch", metavar="N,M", callback=_numbers, help="Texts of one call.  [default: 1]")
@click.option(
    "--iterations", type=click.IntRange(min=1), help="Timed calls. Default: 3 seconds' worth."
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="Processes that make them. Default: 3, or 1 with --iterations.",
)
@click.option(
    "--threads",
    metavar="N,M",
    callback=_numbers,
    help="Most threads to use. Default: the profile's.",
)
@click.option("--per-layer", is_flag=True, help="Also find where the time goes.")
@click.option("--exit", "exit_rule", metavar="auto|T", help="Also time texts that may leave early.")
@click.option("--texts", metavar="FILE", help="Texts for --exit: .jsonl .csv .txt. Default: ours.")
@click.option(
    "--report",
    "files",
    metavar="FILE",
    multiple=True,
    help="File to write: .json, .md or .html; may be repeated.",
)
@click.option("--force", is_flag=True, help="Overwrite reports.")
@ssh_options
@progress_option
@json_option
def benchmark(
    bundle: str,
    engines: tuple[str, ...],
    text: str | None,
    tokens: tuple[int, ...] | None,
    batch: tuple[int, ...] | None,
    iterations: int | None,
    rounds: int | None,
    threads: tuple[int, ...] | None,
    per_layer: bool,
    exit_rule: str | None,
    texts: str | None,
    files: tuple[str, ...],
    force: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Measure BUNDLE on this machine, or over --ssh on a board, each engine in a fresh process.

    Several threads, lengths and batches, separated by commas, make a matrix.
    """
    from edgeformer.benchmarking.benchmark import benchmark as run_benchmark
    from edgeformer.benchmarking.text import benchmark_text
    from edgeformer.report.files import check_outputs, write_reports

    check_outputs(files, force)
    names = tuple(name.strip() for given in engines for name in given.split(","))
    with Progress(progress) as shown, the_board(shown.step, bundle) as board:
        report = (board.benchmark if board else run_benchmark)(
            bundle,
            engines=names,
            text=text,
            tokens=tokens,
            batch=batch,
            iterations=iterations,
            rounds=rounds,
            threads=threads,
            per_layer=per_layer,
            exit=exit_rule,
            texts=texts,
            progress=shown.step,
        )
    for file in files:
        write_reports([report], file, force)
    print_result(report.as_dict(), benchmark_text(report), as_json)
    bad = ("failed", "missing") if engines else ("failed",)
    wrong = [result.variant for result in report.results if result.state in bad]
    wrong += [f"the exits of {run.variant}" for run in report.exits if not run.measured]
    if wrong or not report.measured:
        what = ", ".join(dict.fromkeys(wrong)) or "any engine of the bundle"
        raise EngineError(f"could not measure {what}", hint=doctor_hint())


@click.command("report")
@click.argument("files", metavar="REPORT.json...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="FILE", required=True, help="File to write: .html, .md or .json."
)
@click.option("--force", is_flag=True, help="Overwrite it.")
def show_reports(files: tuple[str, ...], output: str, force: bool) -> None:
    """Show reports of `benchmark`, one or several beside each other, as one page.

    The page is a single file that opens offline; .json takes one report only.
    """
    from edgeformer.report.files import check_outputs, read_report, write_reports

    check_outputs((output,), force)
    write_reports([read_report(file) for file in files], output, force)
    say(f"wrote {output}")
