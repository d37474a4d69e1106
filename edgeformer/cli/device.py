"""The commands that look and choose: inspect, tune, doctor."""

from dataclasses import asdict

import click

from edgeformer.cli import text as cli_text
from edgeformer.cli.common import (
    Progress,
    json_option,
    print_result,
    progress_option,
    say,
    threads_option,
)
from edgeformer.cli.ssh import ssh_options, the_board
from edgeformer.errors import BundleError, EngineError


@click.command()
@click.argument("bundle")
@click.option(
    "--verify", is_flag=True, help="Check every file, and answers on every installed engine."
)
@progress_option
@json_option
def inspect(bundle: str, verify: bool, progress: bool | None, as_json: bool) -> None:
    """Show what BUNDLE is, what is in it, and how near its answers are to the model's."""
    from edgeformer.inspection import verify_bundle
    from edgeformer.runtime.bundle import open_bundle
    from edgeformer.runtime.engine import ENGINES, missing_engine
    from edgeformer.stored_sizes import bundle_sizes

    with open_bundle(bundle) as opened:
        manifest, sizes = opened.manifest, bundle_sizes(opened)
    installed = {name for name in ENGINES if missing_engine(name) is None}
    data = {"path": bundle, "manifest": asdict(manifest), "installed": sorted(installed)}
    data["stored"] = {name: [asdict(row) for row in rows] for name, rows in sizes.items()}
    text = cli_text.bundle_text(bundle, manifest, installed)
    for name, rows in sizes.items():
        text += f"\n\n{cli_text.stored_text(name, rows)}"
    if not verify:
        return print_result(data, text, as_json)
    with Progress(progress) as shown:
        found = verify_bundle(bundle, shown.step)
    data["verification"] = {**asdict(found), "passed": found.passed}
    print_result(data, f"{text}\n\n{cli_text.verification_text(found)}", as_json)
    if not found.passed:
        raise BundleError(
            "the bundle did not pass:\n  " + "\n  ".join(found.problems),
            hint="copy it again, convert again, or see what `edgeformer doctor` says",
        )


@click.command()
@click.argument("bundle")
@click.option(
    "-o", "--output", metavar="FILE", help="File to write. Default: BUNDLE.tuned.json beside it."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="How long it may take, about.",
)
@click.option("--force", is_flag=True, help="Conclude on a busy or throttled machine too.")
@threads_option
@ssh_options
@progress_option
@json_option
def tune(
    bundle: str,
    output: str | None,
    seconds: float,
    force: bool,
    threads: int | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Measure which engine of BUNDLE is fastest here, and let it answer from now on.

    The table is written beside BUNDLE; run and load() go by it on this machine, text by text. Over
    --ssh it is a board that is measured, and there that the table holds.
    """
    from edgeformer.tuning.text import tuning_text
    from edgeformer.tuning.tune import tune as run_tuning

    with Progress(progress) as shown, the_board(shown.step, bundle) as board:
        tuning = (board.tune if board else run_tuning)(
            bundle,
            output=output,
            seconds=seconds,
            threads=threads,
            force=force,
            progress=shown.step,
        )
    for note in tuning.notes:
        say(f"note: {note}")
    print_result(tuning.as_dict(), tuning_text(tuning), as_json)


@click.command()
@ssh_options
@progress_option
@json_option
def doctor(progress: bool | None, as_json: bool) -> None:
    """Test every engine on this machine, or a board, and say what to install or change."""
    from edgeformer.doctor import diagnose

    with Progress(progress) as shown, the_board(shown.step) as board:
        diagnosis = board.diagnose(shown.step) if board else diagnose(shown.step)
        if board:
            say(f"on {board.name}")
    print_result(diagnosis.as_dict(), cli_text.doctor_text(diagnosis), as_json)
    if not diagnosis.healthy:
        failing = [check.engine for check in diagnosis.engines if check.state == "fails"]
        what = f"installed, but not usable: {', '.join(failing)}" if failing else "no engine works"
        raise EngineError(what, hint="follow the lines marked -> above")
