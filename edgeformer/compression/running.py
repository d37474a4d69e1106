"""A recipe carried out: stage after stage, from a teacher to a student.

    student, results = run_recipe(setup, options)

What was interrupted goes on from the saved state when ``resume`` is set.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgeformer.compression import distributed
from edgeformer.compression.batches import Batch
from edgeformer.compression.binding import bind_losses, make_projections, used_projections
from edgeformer.compression.checkpointing import read_state, save_state
from edgeformer.compression.dropout import dropout
from edgeformer.compression.feeding import Feed
from edgeformer.compression.layer_drop import layer_drop
from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.masks import bake
from edgeformer.compression.measuring import answers
from edgeformer.compression.model_config import num_layers_of
from edgeformer.compression.objective import Objective
from edgeformer.compression.off_ramps import (
    all_states_read,
    check_exits,
    exit_asker,
    put_exits,
    states_are_known,
)
from edgeformer.compression.optimizing import seed_of
from edgeformer.compression.pruning import prune
from edgeformer.compression.recipe import Recipe, Stage
from edgeformer.compression.run_state import RunState, StageResult, packed, unpacked
from edgeformer.compression.soft_spans import (
    Priced,
    SoftSpans,
    harden,
    put_spans,
    span_schedule,
    within_soft_spans,
)
from edgeformer.compression.sparsifying import put_masks, sparsity_schedule
from edgeformer.compression.stages import PlannedStage, plan_stages, stage_steps
from edgeformer.compression.trainer import Objective as Minimised
from edgeformer.compression.trainer import StageRun, Step, TrainingOptions, train
from edgeformer.compression.training_log import TrainingLog
from edgeformer.models.build import HeadConfig
from edgeformer.models.encoder import Encoder
from edgeformer.models.exits import ExitClassifier

_NO_STEP: Callable[[Step], None] = lambda step: None  # noqa: E731
_NO_SPANS: Callable[[int], None] = lambda step: None  # noqa: E731


@dataclass(frozen=True)
class Setup:
    """What a recipe is carried out on.

    Attributes:
        recipe: what to do.
        teacher: of edgeformer.models, on the device, in eval mode.
        student: as it is before the first stage, on the device.
        head: settings of the student's head.
        problem_type: of the labels.
        feed: the data of a stage in batches; its settings say the batch size.
        state_file: where the state is saved; its folder exists.
        log_file: what each step did, as JSON lines.
        belongs_to: what must be the same when the training goes on: names and digests.
        scale: factor of every stage's steps.
    """

    recipe: Recipe
    teacher: nn.Module
    student: nn.Module
    head: HeadConfig
    problem_type: str
    feed: Callable[[Stage], Feed]
    state_file: Path
    log_file: Path
    belongs_to: dict[str, str]
    scale: float = 1.0

    @property
    def planned(self) -> tuple[PlannedStage, ...]:
        """The stages in their order."""
        return plan_stages(self.recipe, num_layers_of(self.student))


def run_recipe(
    setup: Setup,
    options: TrainingOptions,
    *,
    resume: bool = False,
    on_step: Callable[[Step], None] = _NO_STEP,
) -> tuple[nn.Module, tuple[StageResult, ...]]:
    """Train the student.

    Args:
        setup: recipe, models and data.
        options: how.
        resume: go on from the saved state.
        on_step: called after each step, in process 0.

    Returns:
        The student in eval mode, and what each stage was.

    Raises:
        TrainingError: it diverged, no memory was left, or the state is missing, damaged or of
            another training.
        UsageError: losses or cuts that do not fit the models.
    """
    projections = make_projections(setup.recipe, setup.student, setup.teacher, options.seed)
    state = RunState(setup.student, setup.head, projections.to(options.device))
    stages = tuple(planned.stage for planned in setup.planned)
    if resume:
        data = read_state(setup.state_file, setup.belongs_to)
        state = unpacked(data, state, stages)
    _check_all(setup, state)
    with TrainingLog(setup.log_file, after=(state.stage, state.step)) as log:
        while state.stage < len(stages):
            result = _run_stage(setup, options, state, log, on_step)
            state.next_stage(result)
            _save(setup, state)
    distributed.wait_for_all()
    return state.student.eval(), state.done


def _run_stage(
    setup: Setup,
    options: TrainingOptions,
    state: RunState,
    log: TrainingLog,
    on_step: Callable[[Step], None],
) -> StageResult:
    stages = tuple(planned.stage for planned in setup.planned)
    stage, began = stages[state.stage], time.monotonic() - state.seconds
    if stage.exits and state.step == 0:
        state.student, state.head = put_exits(
            state.student, state.head, stage.exit_pooling, options.seed
        )
    feed = setup.feed(stage)
    steps = stage_steps(stage, feed.steps_per_epoch, setup.scale)
    if stage.prune and state.step == 0:
        state.student = _pruned(setup, stage, state, options)
    if not steps:
        return StageResult(stage.name, 0, None, time.monotonic() - began)
    if state.step == 0:
        put_masks(state.student, stages, state.stage)
        put_spans(state.student, stage, state.projections)

    def after_step(step: Step) -> None:
        state.loss = step.loss
        log.write(state.stage, step)
        if not distributed.rank():
            on_step(step)

    def save(step: int, optimizer: dict[str, Any]) -> None:
        state.step, state.optimizer = step, optimizer
        state.seconds = time.monotonic() - began
        _save(setup, state)

    with _stage_run(setup, options, state, feed, steps) as run:
        train(
            run,
            options,
            start=state.step,
            optimizer_state=state.optimizer,
            on_step=after_step,
            save=save,
        )
    bake(state.student)
    if stage.span is not None:
        state.student = harden(state.student, _spans_of(state))
        del state.projections["spans"]
    return StageResult(stage.name, steps, state.loss, time.monotonic() - began)


@contextmanager
def _stage_run(
    setup: Setup, options: TrainingOptions, state: RunState, feed: Feed, steps: int
) -> Iterator[StageRun]:
    """Everything that a stage needs while it trains: regularisers on, models watched."""
    planned = setup.planned[state.stage]
    stage, student = planned.stage, state.student
    losses = bind_losses(
        setup.recipe, planned, student, setup.teacher, state.projections, setup.problem_type
    )
    teacher = setup.teacher if any(LOSS_KINDS[b.loss.kind].teacher for b in losses) else None
    logits = None
    if teacher is not None and teacher_is_known(stage, feed, steps):
        logits = answers(teacher, feed.tokenized, feed.settings)
        logits = distributed.summed(logits)
    asked = None
    if stage.exits:
        assert isinstance(student, ExitClassifier)
        known = states_are_known(student, stage, feed, steps)
        states = all_states_read(student, feed, options.bf16) if known else None
        asked = exit_asker(student, stage, states, options.bf16)
    objective = Objective(losses, student, teacher, logits, options.bf16, asked)
    minimised: Minimised = objective
    mask_weights, limit_spans = sparsity_schedule(student, stage.sparsity, steps), _NO_SPANS
    if stage.span is not None:
        spans = _spans_of(state)
        minimised = Priced(objective, spans, stage.span.penalty)
        limit_spans = span_schedule(spans, stage.span, steps)

    def before_step(step: int) -> float:
        limit_spans(step)
        return mask_weights(step)

    with ExitStack() as stack:
        encoder = student.get_submodule("encoder")
        if isinstance(encoder, Encoder):
            stack.enter_context(dropout(student, stage.dropout))
            # The encoder's own mode counts: below frozen exits it does not train.
            stack.enter_context(layer_drop(encoder, stage.layer_drop))
        if stage.span is not None:
            stack.enter_context(within_soft_spans(student, _spans_of(state)))
        stack.enter_context(objective.watching())
        yield StageRun(
            stage=stage,
            number=state.stage,
            steps=steps,
            student=student,
            objective=minimised,
            feed=feed,
            projections=used_projections(stage, state.projections),
            before_step=before_step,
        )


def _spans_of(state: RunState) -> SoftSpans:
    spans = state.projections["spans"]
    assert isinstance(spans, SoftSpans)
    return spans


def teacher_is_known(stage: Stage, feed: Feed, steps: int) -> bool:
    """The teacher's logits of all texts are worth knowing beforehand: nothing else of it is
    compared, the texts stay as they are, and each is seen at least once."""
    kinds = [LOSS_KINDS[loss.kind] for loss in stage.losses]
    only_logits = {kind.reads for kind in kinds} <= {"logits", "exits"}
    only_logits &= any(kind.teacher for kind in kinds)
    return only_logits and feed.mask_words is None and steps >= feed.steps_per_epoch


def _pruned(setup: Setup, stage: Stage, state: RunState, options: TrainingOptions) -> nn.Module:
    feed = setup.feed(Stage(name=stage.name, batch_size=stage.batch_size))
    # Every process scores on the same texts, so that as many processes as you like decide alike.
    feed = replace(feed, settings=replace(feed.settings, rank=0, world=1))
    batches = [_some_batches(feed, cut.examples, options) for cut in stage.prune]
    seed = seed_of(options.seed, state.stage, "prune")
    return prune(state.student, stage.prune, batches, setup.problem_type, seed)


def _some_batches(feed: Feed, examples: int, options: TrainingOptions) -> Iterator[Batch]:
    """The first batches of labelled texts, until so many examples are seen."""
    seen = 0
    for rows in feed.rows(0):
        if seen >= min(examples, len(feed.tokenized)):
            return
        seen += len(rows)
        batch = feed.batch(rows, 0)
        yield {name: tensor.to(options.device) for name, tensor in batch.items()}


def _check_all(setup: Setup, state: RunState) -> None:
    """Find the stage whose losses cannot be bound before the first one has trained for hours."""
    for planned in setup.planned[state.stage :]:
        check_exits(state.student, planned.stage, setup.problem_type)
        cuts = any(cut.units in ("heads", "layers") for cut in planned.stage.prune)
        if cuts or planned.stage.span is not None:
            return  # from here on the student is another one
        bind_losses(
            setup.recipe,
            planned,
            state.student,
            setup.teacher,
            state.projections,
            setup.problem_type,
        )


def _save(setup: Setup, state: RunState) -> None:
    if not distributed.rank():
        save_state(setup.state_file, setup.belongs_to, packed(state))
