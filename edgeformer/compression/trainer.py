"""The one trainer: it carries out one stage of a recipe.

Whatever is drawn at random in a step is drawn from the seed, the stage, the step and the process
alone. So a training that was interrupted and goes on from its last state ends with the same
weights, bit for bit, and the state holds no generators.
"""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from edgeformer.compression import distributed
from edgeformer.compression.batches import Batch
from edgeformer.compression.feeding import Feed
from edgeformer.compression.optimizing import (
    choose_trained,
    learning_rate_factor,
    make_optimizer,
    seed_of,
    set_learning_rate,
    warmup_steps,
)
from edgeformer.compression.recipe import Stage
from edgeformer.errors import TrainingError


class Objective(Protocol):
    """What a stage minimises."""

    def __call__(self, batch: Batch, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted losses of a batch by name, float () each; their sum is minimised."""


@dataclass(frozen=True)
class TrainingOptions:
    """How a recipe is carried out on this machine; the result depends on the seed alone.

    Attributes:
        device: where the models are.
        seed: of everything that is drawn at random.
        micro_batch: examples in memory at once, in each process; 0 for a whole batch. Gradients
            of the pieces are summed.
        bf16: multiply matrices in bfloat16.
        save_seconds: save the state that often.
    """

    device: torch.device
    seed: int = 0
    micro_batch: int = 0
    bf16: bool = False
    save_seconds: float = 60.0


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        stage: name of the stage.
        step: counted from 1.
        steps: of the stage.
        loss: sum of ``parts``.
        parts: weighted losses by name, the mean over the batch.
        learning_rate: of the stage, at this step; multipliers and the own rates of scores and spans
            left out.
        sparsity: share of masked weights that are zero.
        seconds: of this step.
        tokens_per_second: tokens of texts, padding not counted, in this process.
        peak_memory_mb: highest so far, of the process or of the GPU, in MB (1e6 bytes).
    """

    stage: str
    step: int
    steps: int
    loss: float
    parts: dict[str, float]
    learning_rate: float
    sparsity: float
    seconds: float
    tokens_per_second: float
    peak_memory_mb: float


@dataclass(frozen=True)
class StageRun:
    """One stage, ready to train.

    Attributes:
        stage: its settings.
        number: of the stage, for seeds.
        steps: of the optimizer.
        student: trained, in place.
        objective: what is minimised.
        feed: batches.
        projections: trained beside the student.
        before_step: changes masks; returns the share of masked weights that are zero.
    """

    stage: Stage
    number: int
    steps: int
    student: nn.Module
    objective: Objective
    feed: Feed
    projections: nn.Module
    before_step: Callable[[int], float] = lambda step: 0.0


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
SaveState = Callable[[int, dict[str, Any]], None]
"""Called with the steps done and the optimizer's state."""


def train(
    run: StageRun,
    options: TrainingOptions,
    *,
    start: int = 0,
    optimizer_state: dict[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
    save: SaveState = lambda step, state: None,
) -> None:
    """Train the student of a stage.

    Args:
        run: the stage.
        options: how.
        start: steps done already.
        optimizer_state: of the optimizer after them.
        on_step: called after each step.
        save: called every ``options.save_seconds`` after a step, in process 0.

    Raises:
        TrainingError: a loss or a gradient that is no number (the weights are those of the step
            before), or no memory left.
        UsageError: a pattern in ``stage.train`` that finds no parameter.
    """
    of_spans = run.stage.span.learning_rate / run.stage.learning_rate if run.stage.span else 1.0
    everything = {
        name: of_spans if name.startswith("spans.") else 1.0
        for name, _ in run.projections.named_parameters()
    }
    parts = [(run.student, choose_trained(run.student, run.stage)), (run.projections, everything)]
    optimizer = make_optimizer(parts, run.stage)
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    clock = _SaveClock(options.save_seconds, save)
    run.student.train()
    try:
        for step, rows in zip(range(start, run.steps), run.feed.rows(start), strict=False):
            with _explained(run, step, options):
                on_step(_one_step(run, options, optimizer, step, rows))
            clock.after(step + 1, optimizer)
    finally:
        run.student.eval()
        run.student.requires_grad_(True)


def _one_step(
    run: StageRun,
    options: TrainingOptions,
    optimizer: torch.optim.AdamW,
    step: int,
    rows: torch.Tensor,
) -> Step:
    began = time.perf_counter()
    seed = seed_of(options.seed, run.number, step, distributed.rank())
    torch.manual_seed(seed)
    factor = learning_rate_factor(step, run.steps, warmup_steps(run.stage, run.steps))
    set_learning_rate(optimizer, factor)
    sparsity = run.before_step(step)
    parts, tokens = _gradients(run, options, rows, seed)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = list(parts)
    losses = distributed.sum_gradients(parameters, torch.stack(list(parts.values())))
    norm = nn.utils.clip_grad_norm_(parameters, run.stage.clip or float("inf"))
    *values, length = [*losses.tolist(), float(norm)]
    _check_finite(run, step, dict(zip(names, values, strict=True)), length)
    optimizer.step()
    optimizer.zero_grad()
    seconds = time.perf_counter() - began
    return Step(
        stage=run.stage.name,
        step=step + 1,
        steps=run.steps,
        loss=sum(values),
        parts=dict(zip(names, values, strict=True)),
        learning_rate=run.stage.learning_rate * factor,
        sparsity=sparsity,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        peak_memory_mb=peak_memory_mb(options.device),
    )


def _gradients(
    run: StageRun, options: TrainingOptions, rows: torch.Tensor, seed: int
) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of this process's rows, piece by piece; the losses, detached, and the tokens.

    A piece counts by its share of all rows, so that the sums over pieces and processes are the
    mean over the batch.
    """
    total: dict[str, torch.Tensor] = {}
    tokens, everyone = 0, len(rows) * distributed.world_size()
    for number, piece in enumerate(torch.split(rows, options.micro_batch or len(rows))):
        batch = run.feed.batch(piece, seed + number)
        tokens += int(batch["attention_mask"].sum())
        batch = {name: tensor.to(options.device) for name, tensor in batch.items()}
        share = len(piece) / everyone
        parts = {name: part * share for name, part in run.objective(batch, piece).items()}
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, part in parts.items():
            part = part.detach()
            total[name] = total[name] + part if name in total else part
    return total, tokens


def _check_finite(run: StageRun, step: int, parts: dict[str, float], length: float) -> None:
    values = {**parts, "length of the gradient": length}
    wrong = [name for name, value in values.items() if not abs(value) < float("inf")]
    if wrong:
        raise TrainingError(
            f"stage {run.stage.name!r}, step {step + 1} of {run.steps}: not a number any more:"
            f" {', '.join(f'{name} is {values[name]}' for name in wrong)}",
            hint=f"lower learning_rate (now {run.stage.learning_rate:g}) or raise warmup_share of"
            " the stage; the last good state is kept",
        )


@contextmanager
def _explained(run: StageRun, step: int, options: TrainingOptions) -> Iterator[None]:
    """Turn the many errors of no memory left into one that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(
            words in str(error).lower() for words in _NO_MEMORY
        ):
            raise
        now = options.micro_batch or run.feed.settings.size // run.feed.settings.world
        raise TrainingError(
            f"stage {run.stage.name!r}, step {step + 1}: no memory left for {now} texts at once",
            hint=f"--micro-batch {max(now // 2, 1)} has the same result in less memory; so has, at"
            " the cost of long texts, a lower max_length",
        ) from error


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far, of the GPU or of the process, in MB (1e6 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


class _SaveClock:
    """Saves now and then, and never spends more than a twentieth of the time on it."""

    def __init__(self, seconds: float, save: SaveState) -> None:
        self._seconds = seconds
        self._save = save
        self._next = time.monotonic() + seconds

    def after(self, step: int, optimizer: torch.optim.AdamW) -> None:
        """Save if it is time."""
        began = time.monotonic()
        if began < self._next or distributed.rank():
            return
        self._save(step, optimizer.state_dict())
        took = time.monotonic() - began
        self._next = began + took + (max(self._seconds, 20 * took) if self._seconds else 0.0)
