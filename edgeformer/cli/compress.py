"""The commands that make models small: compress, recipes."""

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from edgeformer.cli import text_compress as cli_text_compress
from edgeformer.cli.common import Commands, json_option, print_result, progress_option, say

if TYPE_CHECKING:
    from edgeformer.compression.trainer import Step

_SECONDS_BETWEEN_LINES = 10.0


class _TrainingProgress:
    """One line on stderr about each stage: rewritten on a terminal, now and then a new one else."""

    def __init__(self, wanted: bool | None) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = self._terminal if wanted is None else wanted
        self._stage, self._began, self._last, self._first = "", 0.0, 0.0, 0

    def step(self, step: "Step") -> None:
        """A step is done."""
        now = time.monotonic()
        if step.stage != self._stage:
            self._stage, self._began, self._first, self._last = step.stage, now, step.step, 0.0
        ends = step.step == step.steps
        wait = 0.2 if self._terminal else _SECONDS_BETWEEN_LINES
        if not self._shown or (now - self._last < wait and not ends):
            return
        self._last = now
        done = step.step - self._first
        left = (now - self._began) / done * (step.steps - step.step) if done else None
        text = cli_text_compress.step_text(step, left)
        if self._terminal:
            click.echo(f"\r\x1b[K{text}", err=True, nl=ends)
        else:
            click.echo(text, err=True)


@click.command()
@click.argument("model")
@click.option("--recipe", required=True, metavar="NAME|FILE", help="What to do.")
@click.option("--train", required=True, metavar="DATA", help="Labelled texts: .jsonl .csv .tsv.")
@click.option("-o", "--output", metavar="DIR", help="Model folder to write.")
@click.option("--eval", "evaluate", metavar="DATA", help="Labelled texts to measure both models.")
@click.option("--texts", metavar="FILE", help="Texts without labels, for recipes that read such.")
@click.option("--student", metavar="DIR", help="Model to start from. Default: as the recipe says.")
@click.option("--text-column", metavar="NAME", help="Column of the text.")
@click.option("--pair-column", metavar="NAME", help="Column of the second text.")
@click.option("--label-column", metavar="NAME", help="Column of the label.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Factor of every stage's steps, for a quick look.  [default: 1]",
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1. Default: a GPU if there is one.")
@click.option("--micro-batch", type=click.IntRange(min=1), help="Texts in memory at once.")
@click.option("--bf16/--no-bf16", default=None, help="bfloat16. Default: on a GPU that has it.")
@click.option(
    "--save-every", type=click.FloatRange(min=0), default=60.0, help="Seconds.  [default: 60]"
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training.")
@click.option("--dry-run", is_flag=True, help="Show sizes, steps and time; train nothing.")
@click.option("--force", is_flag=True, help="Overwrite; forget an interrupted training.")
@progress_option
@json_option
def compress(
    model: str,
    recipe: str,
    train: str,
    output: str | None,
    evaluate: str | None,
    texts: str | None,
    student: str | None,
    text_column: str | None,
    pair_column: str | None,
    label_column: str | None,
    seed: int,
    scale: float,
    device: str | None,
    micro_batch: int | None,
    bf16: bool | None,
    save_every: float,
    resume: bool,
    dry_run: bool,
    force: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Make MODEL small by a recipe, and write a model folder for `edgeformer convert`.

    MODEL is the folder of a fine-tuned classifier, from which the small model learns. Of an
    embedding model, --recipe finetune makes one.
    """
    from edgeformer.compressing import compress as compressing
    from edgeformer.compressing.request import make_request
    from edgeformer.compression.examples import Columns

    columns = Columns(text_column, pair_column, label_column)
    if dry_run:
        request = make_request(
            model,
            train,
            evaluate,
            texts,
            student,
            columns,
            seed,
            scale,
            micro_batch or 0,
            bf16,
            device,
        )
        plan = compressing.plan_compression(request, recipe)
        _notices(plan.notices)
        print_result(asdict(plan), cli_text_compress.plan_text(plan), as_json)
        return
    if output is None:
        raise click.UsageError("-o names the folder to write")
    shown = _TrainingProgress(progress)
    report = compressing.compress(
        model,
        recipe=recipe,
        train=train,
        output=output,
        evaluate=evaluate,
        texts=texts,
        student=student,
        columns=columns,
        seed=seed,
        scale=scale,
        micro_batch=micro_batch or 0,
        bf16=bf16,
        device=device,
        save_seconds=save_every,
        resume=resume,
        force=force,
        progress=shown.step,
    )
    if _is_first_process():
        _notices(report.notices)
        print_result(asdict(report), cli_text_compress.compression_text(report), as_json)
        say(f"next: edgeformer convert {cli_text_compress.quoted(report.path)} --profile NAME -o B")


def _is_first_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _notices(notices: tuple[str, ...]) -> None:
    for notice in notices:
        say(f"note: {notice}")


@click.group(cls=Commands, no_args_is_help=False)
def recipes() -> None:
    """List the recipes, or show one."""


@recipes.command("list")
@json_option
def list_recipes(as_json: bool) -> None:
    """One line for each built-in recipe."""
    from edgeformer.compression.recipe import recipe_data
    from edgeformer.compression.recipe_file import load_recipe, recipe_names

    found = [load_recipe(name) for name in recipe_names()]
    data = [recipe_data(recipe) for recipe in found]
    print_result(data, cli_text_compress.recipes_table(found), as_json)


@recipes.command("show")
@click.argument("name", metavar="NAME|FILE")
@json_option
def show_recipe(name: str, as_json: bool) -> None:
    """A recipe as TOML, its paper and how it differs from it first."""
    from edgeformer.compression.recipe import recipe_data
    from edgeformer.compression.recipe_file import load_recipe

    recipe = load_recipe(name)
    data: dict[str, Any] = recipe_data(recipe)
    print_result(data, cli_text_compress.recipe_text(recipe), as_json)
