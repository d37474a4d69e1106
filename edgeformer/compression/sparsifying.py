"""The weight masks of a stage, and what its sparsity is at each step."""

from collections.abc import Callable, Sequence

from torch import nn

from edgeformer.compression.masks import add_masks, set_sparsity
from edgeformer.compression.optimizing import seed_of
from edgeformer.compression.recipe import Sparsity, Stage
from edgeformer.compression.schedules import Constant, Cubic, Linear, Schedule
from edgeformer.errors import UsageError


def put_masks(student: nn.Module, stages: Sequence[Stage], number: int, seed: int = 0) -> None:
    """Put on the masks of a stage: its own, or those that hold the zeros of an earlier one.

    Args:
        student: without masks.
        stages: of the training.
        number: of the stage.
        seed: of masks that are drawn by lot; it does not matter where they are loaded then.

    Raises:
        UsageError: a part that the student has not.
    """
    earlier = [stage.sparsity for stage in stages[: number + 1] if stage.sparsity is not None]
    if not earlier:
        return
    own = stages[number].sparsity
    for place, module in enumerate(_modules(student, earlier[-1])):
        drawn = seed_of(seed, number, "masks", place)
        add_masks(module, "fixed" if own is None else own.method, drawn)


def sparsity_schedule(
    student: nn.Module, sparsity: Sparsity | None, steps: int
) -> Callable[[int], float]:
    """What is to be called before each step: it changes the masks, and returns the share of zeros.

    Args:
        student: with its masks on.
        sparsity: of the stage.
        steps: of the stage.
    """
    if sparsity is None:
        return lambda step: 0.0
    modules, every = _modules(student, sparsity), sparsity.every
    schedule, end = _schedule(sparsity, steps)

    def share_at(step: int) -> float:
        return schedule(step if step >= end else step - step % every)

    def before_step(step: int) -> float:
        share = share_at(step)
        if step == 0 or share != share_at(step - 1):
            for module in modules:
                set_sparsity(module, share)
        return share

    return before_step


def _schedule(sparsity: Sparsity, steps: int) -> tuple[Schedule, int]:
    """The schedule, and the step from which on it has its target, at the latest the last one."""
    if sparsity.schedule == "constant":
        return Constant(sparsity.target), 0
    last = min(round(sparsity.end * steps), steps - 1)
    first = min(round(sparsity.start * steps), last)
    kind = Linear if sparsity.schedule == "linear" else Cubic
    return kind(0.0, sparsity.target, last_step=last, first_step=first), last


def _modules(student: nn.Module, sparsity: Sparsity) -> list[nn.Module]:
    try:
        return [student.get_submodule(name) for name in sparsity.modules]
    except AttributeError as error:
        raise UsageError(
            f"the student has no part to make sparse: {error}",
            hint='modules are like "encoder.layers" and "encoder.embeddings.tokens"',
        ) from None
