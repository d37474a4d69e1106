"""checkpoint -> compress -> checkpoint: a recipe applied to a model folder.

    report = edgeformer.compress(
        "./my-classifier", recipe="edge_small", train="train.tsv", evaluate="dev.tsv",
        output="./small",
    )

The result is a checkpoint folder that ``edgeformer.convert`` takes like any other. While it is
made, ``OUTPUT.training`` holds the state from which an interrupted training goes on.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.errors import UsageError

if TYPE_CHECKING:
    from edgeformer.compressing.inputs import Inputs
    from edgeformer.compressing.request import Request
    from edgeformer.compression.examples import Columns
    from edgeformer.compression.measuring import Quality, Size
    from edgeformer.compression.plan import Plan
    from edgeformer.compression.run_state import StageResult
    from edgeformer.compression.running import Setup
    from edgeformer.compression.trainer import Step, TrainingOptions
    from edgeformer.models.checkpoint import LoadedModel

REPORT_FILE = "compression.json"
STATE_FILE = "state.pt"
LOG_FILE = "training.jsonl"


@dataclass(frozen=True)
class CompressionReport:
    """What was made, and what it cost.

    Attributes:
        path: the new checkpoint folder.
        recipe: name of the recipe.
        paper: which it follows.
        before: size of the model that was given.
        after: size of the new one.
        teacher: quality of the model that was given; None without evaluation texts, or where it had
            no head for the task.
        student: quality of the new one.
        stages: what was done, with its seconds.
        peak_memory_mb: of the process or of the GPU, in MB (1e6 bytes).
        notices: sentences that a user should read.
        exits: accuracy of the new model after each layer, first to last; empty without evaluation
            texts or exits.
    """

    path: Path
    recipe: str
    paper: str
    before: "Size"
    after: "Size"
    teacher: "Quality | None"
    student: "Quality | None"
    stages: "tuple[StageResult, ...]"
    peak_memory_mb: float
    notices: tuple[str, ...] = ()
    exits: tuple[float, ...] = ()


def compress(
    model: str | os.PathLike[str],
    *,
    recipe: str,
    train: "str | os.PathLike[str] | Iterable[Mapping[str, Any]]",
    output: str | os.PathLike[str],
    evaluate: "str | os.PathLike[str] | Iterable[Mapping[str, Any]] | None" = None,
    texts: str | os.PathLike[str] | None = None,
    student: str | os.PathLike[str] | None = None,
    columns: "Columns | None" = None,
    seed: int = 0,
    scale: float = 1.0,
    micro_batch: int = 0,
    bf16: bool | None = None,
    device: str | None = None,
    save_seconds: float = 60.0,
    resume: bool = False,
    force: bool = False,
    progress: "Callable[[Step], None] | None" = None,
) -> CompressionReport:
    """Make a model small by a recipe.

    Args:
        model: folder of a fine-tuned classifier, the teacher; or for the recipe ``finetune`` also
            of an embedding model, which gets a new head.
        recipe: name of a built-in recipe, or path of a TOML file (docs/recipes.md).
        train: labelled training texts: .jsonl, .csv or .tsv, or rows.
        output: folder to write.
        evaluate: labelled texts on which both models are measured, never trained on.
        texts: file of texts without labels, for recipes that read such; None takes the training
            texts.
        student: folder of a model to start from, instead of one made from the teacher.
        columns: which columns of ``train`` and ``evaluate`` hold what.
        seed: of everything random.
        scale: factor of every stage's steps, for a quick look.
        micro_batch: examples in memory at once; 0 for a whole batch. The result is the same.
        bf16: multiply matrices in bfloat16; None does so on a GPU that can.
        device: ``cpu``, ``cuda``, ``cuda:1``; None for the GPU where there is one.
        save_seconds: save the state that often.
        resume: go on with an interrupted training.
        force: overwrite the output, and forget an interrupted training.
        progress: called with a ``trainer.Step`` after each step.

    Returns:
        What was made. Under torchrun every process returns it, and process 0 writes the folder.

    Raises:
        UsageError: a name or path that is wrong, an output that exists, a recipe that does not go
            with the model.
        ModelError: a checkpoint that cannot be loaded or compressed.
        DataError: texts that cannot be read or do not fit the model.
        TrainingError: the training diverged, ran out of memory, or cannot go on.
    """
    output = Path(output)
    folder = output.with_name(output.name + ".training")
    _check_output(output, folder, resume, force)
    from edgeformer.compressing.inputs import prepare
    from edgeformer.compressing.request import make_request
    from edgeformer.compression import distributed
    from edgeformer.compression.recipe_file import load_recipe
    from edgeformer.compression.running import run_recipe

    request = make_request(
        model, train, evaluate, texts, student, columns, seed, scale, micro_batch, bf16, device
    )
    chosen = load_recipe(recipe)
    with distributed.joined():
        inputs = prepare(request, chosen)
        setup, options = _setup(inputs, request, folder)
        options = replace(options, save_seconds=save_seconds)
        with _training_folder(folder, again=force and not resume):
            module, stages = run_recipe(
                setup, options, resume=resume, on_step=progress or (lambda step: None)
            )
        report, made = _report(inputs, module, stages, output)
        if not distributed.rank():
            _write(report, made, inputs, folder)
        distributed.wait_for_all()
    return report


def plan_compression(request: "Request", recipe: str) -> "Plan":
    """What ``compress`` would do: a dry run, which writes nothing that stays.

    Args:
        request: models, texts and settings.
        recipe: as for ``compress``.

    Raises:
        As ``compress``.
    """
    import tempfile

    from edgeformer.compressing.inputs import prepare
    from edgeformer.compression.measuring import size_of
    from edgeformer.compression.plan import make_plan
    from edgeformer.compression.recipe_file import load_recipe

    inputs = prepare(request, load_recipe(recipe))
    with tempfile.TemporaryDirectory() as folder:
        setup, options = _setup(inputs, request, Path(folder))
        before = size_of(inputs.given.module)
        return make_plan(setup, options, before, (*inputs.notices, *inputs.recipe.export))


def recipe_of(folder: Path) -> str:
    """Name of the recipe that made a checkpoint folder; empty if none did."""
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(report.get("recipe", "")) if isinstance(report, dict) else ""


def _check_output(output: Path, folder: Path, resume: bool, force: bool) -> None:
    if output.exists() and not force:
        raise UsageError(f"{output} exists already", hint="name another folder, or use --force")
    if (folder / STATE_FILE).exists() and not resume and not force:
        raise UsageError(
            f"{folder} holds an interrupted training",
            hint="--resume goes on with it, --force starts again",
        )


@contextmanager
def _training_folder(folder: Path, again: bool) -> Iterator[None]:
    """The folder of the state; it goes again if an error comes before there is a state."""
    from edgeformer.compression import distributed

    if not distributed.rank():
        if again:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    distributed.wait_for_all()
    try:
        yield
    except BaseException:
        if not distributed.rank() and not (folder / STATE_FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _setup(inputs: "Inputs", request: "Request", folder: Path) -> "tuple[Setup, TrainingOptions]":
    import torch

    from edgeformer.compression.running import Setup
    from edgeformer.compression.trainer import TrainingOptions

    can_bf16 = inputs.device.type == "cuda" and torch.cuda.is_bf16_supported()
    options = TrainingOptions(
        device=inputs.device,
        seed=request.seed,
        micro_batch=request.micro_batch,
        bf16=can_bf16 if request.bf16 is None else request.bf16,
    )
    setup = Setup(
        recipe=inputs.recipe,
        teacher=inputs.teacher.module,
        student=inputs.student.module,
        head=inputs.student.head,
        problem_type=inputs.teacher.problem_type,
        feed=inputs.data.feed,
        state_file=folder / STATE_FILE,
        log_file=folder / LOG_FILE,
        belongs_to=inputs.digests,
        scale=request.scale,
    )
    return setup, options


def _report(
    inputs: "Inputs", module: Any, stages: "tuple[StageResult, ...]", output: Path
) -> "tuple[CompressionReport, LoadedModel]":
    from edgeformer.compressing.inputs import exits_measured, measured, with_module
    from edgeformer.compression.measuring import size_of
    from edgeformer.compression.trainer import peak_memory_mb
    from edgeformer.models.exits import ExitClassifier

    head = inputs.student.head
    if isinstance(module, ExitClassifier):
        head = replace(head, exits=True, exit_pooling=module.exit_pooling)
    made = with_module(inputs.student, module, head)
    report = CompressionReport(
        path=output,
        recipe=inputs.recipe.name,
        paper=inputs.recipe.paper,
        before=size_of(inputs.given.module),
        after=size_of(made.module),
        teacher=measured(inputs, inputs.given) if inputs.had_head else None,
        student=measured(inputs, made),
        stages=stages,
        peak_memory_mb=peak_memory_mb(inputs.device),
        notices=(*inputs.notices, *inputs.recipe.export),
        exits=exits_measured(inputs, made),
    )
    return report, made


def _write(report: CompressionReport, made: "LoadedModel", inputs: "Inputs", folder: Path) -> None:
    """The checkpoint, the report and the log, in one folder that appears when it is whole."""
    from edgeformer.compression.recipe import recipe_data
    from edgeformer.models.saving import save_checkpoint

    new = save_checkpoint(made, folder / "model", force=True)
    said = {**asdict(report), "settings": recipe_data(inputs.recipe), "digests": inputs.digests}
    text = json.dumps(said, indent=1, default=str)
    (new / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(folder / LOG_FILE, new / LOG_FILE)
    if report.path.exists():
        shutil.rmtree(report.path)
    new.rename(report.path)
    shutil.rmtree(folder)
