"""The commands that answer, look and choose: run, inspect, tune, doctor."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgeformer import cli_text
from edgeformer.cli_common import (
    Progress,
    finite,
    json_option,
    print_result,
    progress_option,
    say,
    threads_option,
)
from edgeformer.errors import BundleError, EngineError, InputError, UsageError

if TYPE_CHECKING:
    from edgeformer.runtime.model import Model

STDIN_BATCH = 32


@click.command()
@click.argument("bundle")
@click.argument("text", required=False)
@click.option("--pair", metavar="TEXT", help="Second text, for classifiers of pairs.")
@click.option("--engine", default="auto", show_default=True, help="Engine or variant to use.")
@threads_option
@click.option("--top-k", type=click.IntRange(min=1), help="Labels of each text.  [default: 1]")
@json_option
def run(
    bundle: str,
    text: str | None,
    pair: str | None,
    engine: str,
    threads: int | None,
    top_k: int | None,
    as_json: bool,
) -> None:
    """Answer TEXT with BUNDLE: an embedding, labels or tagged spans.

    With - for TEXT, or without it, every line of stdin is a text. An answer is one line (tagged
    spans: a line for each, and an empty line after each text of stdin); --json prints one object
    a line.
    """
    from edgeformer.runtime import load

    batches = _stdin_batches(text) if text in (None, "-") else [[text or ""]]
    truncated = 0
    with load(bundle, engine, threads) as model:
        for name, reason in model.skipped:
            say(f"note: {name} was skipped: {reason}")
        _check_run_options(model, pair, top_k)
        several_lines = model.manifest.model.task == "token-classification" and text in (None, "-")
        for batch in batches:
            answers = _answers(model, batch, pair, top_k or 1)
            for one, (data, shown) in zip(batch, answers, strict=True):
                if as_json:
                    row = {"text": one, "variant": "+".join(model.last_call.variants), **data}
                    shown = json.dumps(finite(row))
                click.echo(shown + "\n" if several_lines and not as_json else shown)
            truncated += model.last_call.truncated_texts
        for notice in model.notices:
            say(f"note: {notice}")
    if truncated:
        longest = model.manifest.model.max_length
        say(f"note: {truncated} of the texts did not fit and were cut to {longest} tokens")


def _stdin_batches(text: str | None) -> Iterator[list[str]]:
    """Lines of stdin, some at a time; on a terminal one by one, as they are typed."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if sys.stdin is None or (terminal and text is None):
        raise UsageError(
            "no text", hint="give a TEXT, or - to type lines: edgeformer run BUNDLE TEXT"
        )
    size = 1 if terminal else STDIN_BATCH
    batch: list[str] = []
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            batch.append(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError:
            raise InputError(
                f"line {number} of stdin is not UTF-8",
                hint="convert it first: iconv -f latin1 -t utf-8",
            ) from None
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _check_run_options(model: "Model", pair: str | None, top_k: int | None) -> None:
    task = model.manifest.model.task
    if task == "module":
        raise UsageError(
            "this bundle takes arrays, not texts",
            hint="in Python: edgeformer.runtime.load(PATH).run(name=array, ...)",
        )
    if task != "classification" and (pair is not None or top_k is not None):
        raise UsageError(
            f"--pair and --top-k are for classification; this model's task is {task}",
            hint="leave them out",
        )


def _answers(
    model: "Model", texts: list[str], pair: str | None, top_k: int
) -> Iterator[tuple[dict[str, Any], str]]:
    """For each text its answer as plain data and as a line of text."""
    task = model.manifest.model.task
    if task == "embedding":
        for vector in model.embed(texts):
            values = [float(f"{value:.9g}") for value in vector]
            yield {"embedding": values}, cli_text.vector_text(values)
    elif task == "classification":
        pairs = None if pair is None else [pair] * len(texts)
        for labels in model.classify(texts, pairs, top_k=top_k):
            yield {"labels": [asdict(label) for label in labels]}, cli_text.labels_text(labels)
    else:
        for spans in model.tag(texts):
            yield {"spans": [asdict(span) for span in spans]}, cli_text.spans_text(spans)


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

    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    installed = {name for name in ENGINES if missing_engine(name) is None}
    data = {"path": bundle, "manifest": asdict(manifest), "installed": sorted(installed)}
    text = cli_text.bundle_text(bundle, manifest, installed)
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

    The table is written beside BUNDLE; run and load() go by it on this machine, text by text.
    """
    from edgeformer.tuning import tune as run_tuning
    from edgeformer.tuning_text import tuning_text

    with Progress(progress) as shown:
        tuning = run_tuning(
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
@progress_option
@json_option
def doctor(progress: bool | None, as_json: bool) -> None:
    """Test every engine on this machine, and say what to install or change."""
    from edgeformer.doctor import diagnose

    with Progress(progress) as shown:
        diagnosis = diagnose(shown.step)
    print_result(diagnosis.as_dict(), cli_text.doctor_text(diagnosis), as_json)
    if not diagnosis.healthy:
        failing = [check.engine for check in diagnosis.engines if check.state == "fails"]
        what = f"installed, but not usable: {', '.join(failing)}" if failing else "no engine works"
        raise EngineError(what, hint="follow the lines marked -> above")
