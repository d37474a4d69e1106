"""Compare the compression recipes, each with its teacher and its control.

    python -m benchmarks.compress --sst2 FOLDER [--recipes A,B] [--seeds 0,1,2] [--scale S]
    python -m benchmarks.compress --data trec                 # without SST-2: packaged texts
    python -m benchmarks.compress --sst2 FOLDER --times       # how fast what is there answers
    python -m benchmarks.compress --sst2 FOLDER --publish     # into docs/measured/compress

Hours; `--minutes N` begins no new run after N. A run that is interrupted goes on where it was, and
what is done stays done: one JSON for each recipe and seed in WORK/DATA/results, and a page of them
all. NAME may be a recipe of ours or the path of a TOML file.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.compress import page, times
from benchmarks.compress.catalogue import ORDER, recipe_source
from benchmarks.compress.controls import Control, controls, write_recipe
from benchmarks.compress.data import PACKAGED, Files, prepare
from benchmarks.compress.result import (
    TEACHER,
    TIMES,
    Result,
    read_result,
    read_results,
    write_json,
    write_result,
    write_text,
)
from benchmarks.compress.run import Job, write_job
from edgeformer.compression.recipe_file import load_recipe
from edgeformer.errors import EdgeFormerError
from edgeformer.pipeline import default_model

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "measured" / "compress"


def main() -> None:
    """Run what was asked for, and write the page."""
    args = _arguments()
    for name in [args.data] if args.data else ["sst2"] if args.sst2 else PACKAGED:
        folder = args.work / name
        files = prepare(name, args.sst2, folder / "data")
        if args.times:
            _measure_times(folder)
        elif not args.publish:
            _run_all(args, files, folder)
        if read_results(folder / "results"):
            _write_page(args, folder)
        else:
            print(f"no result of {name} yet, so no page", file=sys.stderr)


def _measure_times(folder: Path) -> None:
    results = read_results(folder / "results")
    if not results:
        raise SystemExit(f"nothing to time in {folder}: run without --times first")
    write_json(times.measure(folder, results), folder / "results" / TIMES)


def _run_all(args: argparse.Namespace, files: Files, folder: Path) -> None:
    limit = time.monotonic() + 60 * args.minutes
    base = args.base or default_model()
    plan = [(recipe, seed) for seed in args.seeds for recipe in (TEACHER, *args.recipes)]
    teacher: Path | None = None
    for name, seed in dict.fromkeys((n, 0 if n == TEACHER else s) for n, s in plan):
        if time.monotonic() > limit:
            print(f"{args.minutes:g} minutes are over", file=sys.stderr)
            return
        if name == TEACHER:
            job = _job(args, files, folder, name, name, seed)
            if _run_once(replace(job, model=base, scale=args.teacher_scale)) is None:
                raise SystemExit("without a teacher there is nothing to compress")
            teacher = job.folder / "model"
            continue
        assert teacher is not None
        job = _job(args, files, folder, Path(name).stem, recipe_source(name), seed)
        job = replace(job, model=teacher)
        job = replace(job, teacher=teacher)
        result = _run_once(job)
        if result is not None and not args.no_controls:
            _run_controls(job, result, folder)


def _run_controls(job: Job, result: Result, folder: Path) -> None:
    """The controls of a recipe, unless another recipe with the same ones had them run."""
    recipe = load_recipe(job.recipe)
    steps = [(stage.name, stage.steps) for stage in result.stages]
    layers = read_result(job.results / f"{TEACHER}-0.json").layers
    names = {}
    for control in controls(recipe, job.scale, steps, layers, job.seed):
        own = _control_job(job, control, folder)
        if _run_once(own) is not None:
            names[control.kind] = control.run
    write_result(replace(result, controls=names), job.results)


def _control_job(job: Job, control: Control, folder: Path) -> Job:
    own = folder / "runs" / f"{control.run}-{job.seed}"
    own.mkdir(parents=True, exist_ok=True)
    write_recipe(control.recipe, own / "recipe.toml")
    return replace(
        job,
        folder=own,
        run=control.run,
        recipe=str(own / "recipe.toml"),
        scale=control.scale,
        converted=False,
    )


def _job(
    args: argparse.Namespace, files: Files, folder: Path, run: str, recipe: str, seed: int
) -> Job:
    return Job(
        files=files,
        folder=folder / "runs" / f"{run}-{seed}",
        run=run,
        recipe=recipe,
        seed=seed,
        scale=args.scale,
        model=Path(),
        teacher=None,
        converted=True,
        bf16=args.bf16,
        results=folder / "results",
    )


def _run_once(job: Job) -> Result | None:
    """The result, from its file if it is of the same recipe and scale; None if the run failed."""
    path = job.results / f"{job.run}-{job.seed}.json"
    try:
        digest = load_recipe(job.recipe).digest
    except EdgeFormerError as error:
        raise SystemExit(f"{error}\n{error.hint}") from None
    if path.exists():
        known = read_result(path)
        if (known.digest, known.scale) == (digest, job.scale):
            return known
    _forget_others(job, digest)
    command = [sys.executable, "-m", "benchmarks.compress.run", str(write_job(job))]
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        print(f"{job.run} failed with {done.returncode}; going on", file=sys.stderr)
        return None
    return read_result(path)


def _forget_others(job: Job, digest: str) -> None:
    """Take away what a folder holds of a recipe that has changed since."""
    import shutil

    stamp, made_from = job.folder / "made-from", f"{digest} {job.scale} {job.bf16}"
    if not stamp.exists() or stamp.read_text(encoding="ascii") != made_from:
        for old in ("model", "model.training", "bundle.edge"):
            shutil.rmtree(job.folder / old, ignore_errors=True)
        job.folder.mkdir(parents=True, exist_ok=True)
        stamp.write_text(made_from, encoding="ascii")


def _write_page(args: argparse.Namespace, folder: Path) -> None:
    if not args.publish:
        write_text(page.markdown([folder / "results"]), folder / "compress.md")
        print(folder / "compress.md")
        return
    target = PUBLISHED / folder.name
    for path in sorted((folder / "results").glob("*.json")):
        write_text(path.read_text(encoding="utf-8"), target / path.name)
    write_text(page.markdown(page.published(PUBLISHED)), PUBLISHED.with_suffix(".md"))
    print(PUBLISHED.with_suffix(".md"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names, seeds = _list_of(str), _list_of(int)
    parser.add_argument("--sst2", type=Path, metavar="FOLDER", help="train.tsv and dev.tsv")
    parser.add_argument("--data", choices=("sst2", *PACKAGED), help="one set instead of all")
    parser.add_argument("--recipes", type=names, default=ORDER, metavar="A,B", help="which")
    parser.add_argument("--seeds", type=seeds, default=(0,), metavar="0,1", help="of students")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of every stage's steps")
    parser.add_argument("--teacher-scale", type=float, default=1.0, help="the same, of the teacher")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin none after")
    parser.add_argument("--no-controls", action="store_true", help="recipes alone")
    parser.add_argument("--bf16", action="store_true", help="matrices in bfloat16 in training")
    parser.add_argument("--base", type=Path, help="model to fine-tune; the embedded default")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compress")
    parser.add_argument("--times", action="store_true", help="measure how fast; a quiet machine")
    parser.add_argument("--publish", action="store_true", help="copy results, write the page")
    return parser.parse_args()


def _list_of(kind: type) -> "object":
    def read(text: str) -> tuple[object, ...]:
        return tuple(kind(part) for part in text.split(","))

    return read


if __name__ == "__main__":
    main()
