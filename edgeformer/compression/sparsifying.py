"""The weight masks of a stage, and what its sparsity is at each step."""

from collections.abc import Callable, Sequence

from torch import nn

from edgeformer.compression.masks import add_masks, masked_weights, set_sparsity
from edgeformer.compression.recipe import Sparsity, Stage
from edgeformer.compression.schedules import Constant, Cubic, Linear, Schedule
from edgeformer.errors import UsageError


def put_masks(student: nn.Module, stages: Sequence[Stage], number: int) -> None:
    """Put on the masks of a stage: its own, and those that hold the zeros of earlier ones.

    Raises:
        UsageError: a part that the student has not, or that would have two masks.
    """
    methods = {name: s.method for s in stages[number].sparsity for name in s.modules}
    for stage in stages[:number]:
        for sparsity in stage.sparsity:
            methods |= {name: "fixed" for name in sparsity.modules if name not in methods}
    for name, method in methods.items():
        add_masks(_module(student, name), method)


def sparsity_schedule(
    student: nn.Module, sparsities: Sequence[Sparsity], steps: int
) -> Callable[[int], float]:
    """What is to be called before each step: it changes the masks, and returns the share of zeros.

    Args:
        student: with its masks on.
        sparsities: of the stage.
        steps: of the stage.
    """
    each = [_one_schedule(student, sparsity, steps) for sparsity in sparsities]
    sizes = [
        sum(masked_weights(_module(student, name)) for name in sparsity.modules)
        for sparsity in sparsities
    ]

    def before_step(step: int) -> float:
        shares = [schedule(step) for schedule in each]
        zeros = sum(share * size for share, size in zip(shares, sizes, strict=True))
        return zeros / max(1, sum(sizes))

    return before_step


def _one_schedule(student: nn.Module, sparsity: Sparsity, steps: int) -> Callable[[int], float]:
    modules, every = [_module(student, name) for name in sparsity.modules], sparsity.every
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


def _module(student: nn.Module, name: str) -> nn.Module:
    try:
        return student.get_submodule(name)
    except AttributeError as error:
        raise UsageError(
            f"the student has no part to make sparse: {error}",
            hint='modules are like "encoder.layers" and "encoder.embeddings.tokens"',
        ) from None
