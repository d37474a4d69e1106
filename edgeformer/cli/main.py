"""The command line: parse, call one function, print. click appears in the cli files only.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong request,
3 a threshold was missed, 130 interrupted. An error is `error: what happened` and `-> what to type
next`; EDGEFORMER_DEBUG=1 shows the traceback instead. Everything but click and the standard
library is imported inside the commands, so that `edgeformer --help` answers at once.
"""

import os
import shlex
import signal
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from edgeformer import __version__
from edgeformer.cli import text as cli_text
from edgeformer.cli.common import (
    Commands,
    Progress,
    json_option,
    name_pairs,
    print_result,
    progress_option,
    say,
    split_names,
)
from edgeformer.cli.compress import compress, recipes
from edgeformer.cli.device import doctor, inspect, tune
from edgeformer.cli.exits import check_exit_options, exit_options
from edgeformer.cli.measure import benchmark, show_reports
from edgeformer.cli.reports import compare, evaluate
from edgeformer.cli.run import run
from edgeformer.cli.search import budget_options, is_search, print_search
from edgeformer.cli.ssh import chosen_target, ssh_options, the_board
from edgeformer.errors import EdgeFormerError, UsageError


@click.group(
    cls=Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="edgeformer %(version)s")
def commands() -> None:
    """Transformer encoders on small machines: compress, convert, verify, run, measure."""


@commands.command()
@click.argument("model", required=False)
@click.option("--profile", required=True, metavar="NAME|FILE", help="Device profile.")
@click.option("-o", "--output", required=True, metavar="PATH", help="Bundle to write.")
@click.option(
    "--engines",
    metavar="A,B",
    callback=split_names,
    help="Of onnx, tflite, numpy. Default: profile's.",
)
@click.option(
    "--precision",
    metavar="A,B",
    callback=split_names,
    help="Of int8, fp32, fp16. Default: profile's.",
)
@click.option(
    "--task",
    metavar="NAME",
    help="embedding, classification, token-classification, question-answering or fill-mask."
    " Default: the checkpoint's.",
)
@click.option("--max-length", type=click.IntRange(min=3), help="Most tokens of one text.")
@click.option("--calibration", metavar="FILE", help="Texts like those to come: .jsonl .csv .txt.")
@click.option("--golden", metavar="FILE", help="Texts of the self-test. Default: ours.")
@exit_options
@budget_options
@ssh_options
@click.option("--zip", "zip_file", is_flag=True, help="Write one file instead of a folder.")
@click.option("--force", is_flag=True, help="Overwrite; write even if a tolerance is missed.")
@progress_option
@json_option
def convert(
    model: str | None,
    profile: str,
    output: str,
    engines: tuple[str, ...] | None,
    precision: tuple[str, ...] | None,
    task: str | None,
    max_length: int | None,
    calibration: str | None,
    golden: str | None,
    exits: str | None,
    exit_criterion: str,
    exit_predictor: bool,
    exit_layers: tuple[int, ...],
    max_drop: float | None,
    max_latency_ms: float | None,
    data: str | None,
    train: str | None,
    columns: str | None,
    labels_map: str | None,
    zip_file: bool,
    force: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Convert MODEL, a Hugging Face folder, to a verified bundle for a device.

    Without MODEL the embedded default, all-MiniLM-L6-v2, is taken. With --exits the exits of MODEL
    are calibrated, and --max-drop is what they may cost. With a budget (--max-drop,
    --max-latency-ms) one variant is searched that holds it, measured here or over --ssh; exit code
    3 and no bundle if none does. With --exits and --eval exits are among what is tried.
    """
    others = {"--eval": data, "--train": train, "--columns": columns, "--labels-map": labels_map}
    others["--ssh"] = chosen_target()
    check_exit_options(exits, exit_criterion, exit_predictor, max_latency_ms, others)
    if (exits is None or data is not None) and is_search(max_drop, max_latency_ms, others):
        if exit_layers:
            raise UsageError(
                "--exit-layers is for one conversion, not for a search", hint="leave it out"
            )
        if task is not None:
            raise UsageError(
                "--task is not for a search: it takes the checkpoint's own task",
                hint="leave it out",
            )
        from edgeformer.evaluation.evaluate import make_columns
        from edgeformer.searching.search import search

        with Progress(progress) as shown, the_board(shown.step) as board:
            found = search(
                model,
                profile=profile,
                output=Path(output),
                max_drop=max_drop,
                max_latency_ms=max_latency_ms,
                data=data,
                train=train,
                exits=exits,
                columns=make_columns(name_pairs("--columns", columns)),
                labels_map=name_pairs("--labels-map", labels_map),
                engines=engines,
                precisions=precision,
                max_length=max_length,
                calibration=calibration,
                golden=golden,
                zip_file=zip_file,
                force=force,
                measure=board.benchmark if board else None,
                progress=shown.step,
            )
        return print_search(found, as_json)
    from edgeformer.pipeline import convert as run_conversion

    with Progress(progress) as shown:
        report = run_conversion(
            model,
            profile=profile,
            output=Path(output),
            engines=engines,
            precisions=precision,
            task=task,
            max_length=max_length,
            calibration=calibration,
            golden=golden,
            exits=exits,
            max_drop=0.5 if max_drop is None else max_drop,
            exit_criterion=exit_criterion,
            exit_predictor=exit_predictor,
            exit_layers=exit_layers,
            zip_file=zip_file,
            force=force,
            progress=shown.stage,
        )
    for notice in report.notices:
        say(f"note: {notice}")
    print_result(asdict(report), cli_text.conversion_text(report), as_json)
    where = shlex.quote(str(report.path))
    example = cli_text.run_example(report.manifest)
    if example:
        say(f"next: edgeformer run {where} {example}")
    say(f"next: edgeformer benchmark {where}")


@commands.group(cls=Commands, no_args_is_help=False)
def profiles() -> None:
    """List the device profiles, or show one."""


@profiles.command("list")
@json_option
def list_profiles(as_json: bool) -> None:
    """One line for each built-in profile."""
    from edgeformer.device_profiles.profile import load_profile, profile_names

    found = [load_profile(name) for name in profile_names()]
    print_result([asdict(profile) for profile in found], cli_text.profiles_table(found), as_json)


@profiles.command("show")
@click.argument("name", metavar="NAME|FILE")
@json_option
def show_profile(name: str, as_json: bool) -> None:
    """Every key of a profile, as TOML, with what it inherits."""
    from edgeformer.device_profiles.profile import load_profile

    data = asdict(load_profile(name))
    print_result(data, cli_text.toml_text(data), as_json)


_COMMANDS = (
    *(compress, recipes, run, benchmark, show_reports, evaluate, compare),
    *(tune, inspect, doctor),
)
for command in _COMMANDS:
    commands.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of `edgeformer`; always ends the process with the exit code."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: list[str] | None) -> int:
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character says so
            stream.reconfigure(errors="backslashreplace")
    try:  # click itself ends with 1 and in silence where the reader of a pipe has left
        code = commands.main(arguments, prog_name="edgeformer", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return 130
    except Exception as error:
        if os.environ.get("EDGEFORMER_DEBUG"):
            raise
        return _report(error)


def _report(error: Exception) -> int:
    """Print an error as two lines; its exit code."""
    code = 1
    if isinstance(error, EdgeFormerError):
        message, hint, code = error.message, error.hint, error.exit_code
    elif isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "edgeformer"
        message, hint, code = error.format_message(), f"{path} --help", error.exit_code
    elif isinstance(error, OSError):
        message, hint = str(error), ""
    else:
        message = f"{type(error).__name__}: {error}"
        hint = "this is a bug; EDGEFORMER_DEBUG=1 shows where"
    say(f"error: {message}")
    if hint:
        say(f"  -> {hint}")
    return code


def _terminated(number: int, frame: types.FrameType | None) -> NoReturn:
    """Leave through the ``finally`` clauses, so that nothing half-written stays."""
    sys.exit(128 + number)
