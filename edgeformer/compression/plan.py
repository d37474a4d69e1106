"""A dry run: what a recipe would do to a model, how small it would get, and how long that takes."""

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgeformer.compression.binding import bind_losses, make_projections, used_projections
from edgeformer.compression.feeding import Feed
from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.measuring import Size, size_of
from edgeformer.compression.model_config import num_layers_of
from edgeformer.compression.objective import Asked, Objective, ask
from edgeformer.compression.off_ramps import exit_asker, put_exits, states_are_known
from edgeformer.compression.optimizing import choose_trained
from edgeformer.compression.pruning import by_rule, chosen
from edgeformer.compression.recipe import DROPPED_LAYERS, Stage
from edgeformer.compression.running import Setup, teacher_is_known
from edgeformer.compression.scores import random_scores
from edgeformer.compression.slimming import slim
from edgeformer.compression.stages import PlannedStage, stage_steps
from edgeformer.compression.trainer import StageRun, Step, TrainingOptions, train
from edgeformer.models.exits import ExitClassifier

_TIMED_STEPS = 4


@dataclass(frozen=True)
class PlannedWork:
    """One stage before it is carried out.

    Attributes:
        name: of the stage.
        steps: of the optimizer.
        epochs: passes over its data.
        trained: values that it trains.
        seconds: expected, from a few steps on this machine; scores of cuts are not counted.
    """

    name: str
    steps: int
    epochs: float
    trained: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a recipe would do.

    Attributes:
        recipe: its name.
        paper: which it follows.
        before: size of the model that was given.
        after: size of the student in the end. Which units go is not known yet, only how many; so
            the heads and neurons of single layers are one possibility.
        stages: what would be done.
        seconds: of all stages together.
        notices: sentences that a user should read.
    """

    recipe: str
    paper: str
    before: Size
    after: Size
    stages: tuple[PlannedWork, ...]
    seconds: float
    notices: tuple[str, ...] = ()


def make_plan(
    setup: Setup, options: TrainingOptions, before: Size, notices: tuple[str, ...]
) -> Plan:
    """Look at every stage, and train each for a few steps on a copy of the student.

    Raises:
        UsageError: losses or cuts that do not fit the models.
        TrainingError: no memory for a step.
    """
    student, work = setup.student, []
    timed: dict[int, float] = {}
    for planned in setup.planned:
        student = _cut_at_random(student, planned.stage)
        if planned.stage.exits:
            student, _ = put_exits(student, setup.head, planned.stage.exit_pooling, options.seed)
        feed = setup.feed(planned.stage)
        steps = stage_steps(planned.stage, feed.steps_per_epoch, setup.scale)
        if steps and planned.number not in timed:
            timed[planned.number] = _seconds_of_a_step(setup, options, planned, student, feed)
        seconds = timed.get(planned.number, 0.0) * steps
        if teacher_is_known(planned.stage, feed, steps):
            seconds += _seconds_of_a_batch(setup.teacher, feed) * feed.steps_per_epoch
        if _states_are_known(student, planned.stage, feed, steps):
            seconds += _seconds_of_a_batch(student, feed) * feed.steps_per_epoch
        work.append(
            PlannedWork(
                name=planned.stage.name,
                steps=steps,
                epochs=steps / feed.steps_per_epoch,
                trained=_trained(student, planned.stage) if steps else 0,
                seconds=seconds,
            )
        )
    return Plan(
        recipe=setup.recipe.name,
        paper=setup.recipe.paper,
        before=before,
        after=size_of(student),
        stages=tuple(work),
        seconds=sum(stage.seconds for stage in work),
        notices=notices,
    )


def _cut_at_random(student: nn.Module, stage: Stage) -> nn.Module:
    """As many units gone as the stage would cut."""
    keep = {}
    for cut in stage.prune:
        if cut.method in DROPPED_LAYERS:
            keep[cut.units] = by_rule(cut, num_layers_of(student))
        else:
            keep[cut.units] = chosen(random_scores(student, cut.units), cut)
    return slim(student, keep) if keep else student


def _trained(student: nn.Module, stage: Stage) -> int:
    names = choose_trained(student, stage)
    student.requires_grad_(True)
    return sum(p.numel() for name, p in student.named_parameters() if name in names)


def _seconds_of_a_step(
    setup: Setup, options: TrainingOptions, planned: PlannedStage, student: nn.Module, feed: Feed
) -> float:
    """The mean of a few steps, the first one left out, on a copy."""
    student = copy.deepcopy(student)
    projections = make_projections(setup.recipe, student, setup.teacher, options.seed)
    projections = projections.to(options.device)
    losses = bind_losses(
        setup.recipe, planned, student, setup.teacher, projections, setup.problem_type
    )
    compares = any(LOSS_KINDS[bound.loss.kind].teacher for bound in losses)
    logits = None
    if compares and teacher_is_known(planned.stage, feed, feed.steps_per_epoch):
        with torch.no_grad():
            logits = torch.zeros(len(feed.tokenized), setup.head.num_labels)
    teacher = setup.teacher if compares else None
    asked = _asked(student, planned.stage, feed, options.bf16)
    objective = Objective(losses, student, teacher, logits, options.bf16, asked)
    seconds: list[float] = []

    def note(step: Step) -> None:
        seconds.append(step.seconds)

    run = StageRun(
        stage=replace(planned.stage, sparsity=(), span=None),
        number=planned.number,
        steps=_TIMED_STEPS,
        student=student,
        objective=objective,
        feed=feed,
        projections=used_projections(replace(planned.stage, span=None), projections),
    )
    with objective.watching():
        train(run, options, on_step=note)
    return sum(seconds[1:]) / len(seconds[1:])


def _asked(student: nn.Module, stage: Stage, feed: Feed, bf16: bool) -> Asked | None:
    """How a student with exits is asked; states that would be known are zeros here."""
    if not stage.exits:
        return None
    assert isinstance(student, ExitClassifier)
    states = None
    if _states_are_known(student, stage, feed, feed.steps_per_epoch):
        config = student.encoder.config
        states = torch.zeros(len(feed.tokenized), config.num_layers, config.hidden_size)
    return exit_asker(student, stage, states, bf16)


def _states_are_known(student: nn.Module, stage: Stage, feed: Feed, steps: int) -> bool:
    return isinstance(student, ExitClassifier) and states_are_known(student, stage, feed, steps)


def _seconds_of_a_batch(model: nn.Module, feed: Feed) -> float:
    """One batch through a model, the second time."""
    rows = next(feed.rows(0))
    batch = feed.batch(rows, 0)
    device = next(model.parameters()).device
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            ask(model, {name: tensor.to(device) for name, tensor in batch.items()})
        seconds = time.perf_counter() - began
    return seconds
