"""The optimizer of a stage: which parameters, with what learning rate, at which step."""

import hashlib
import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from edgeformer.compression.recipe import Stage, Trained
from edgeformer.errors import UsageError


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Factor of the highest learning rate: linear up to 1, then linear down to 0.

    Devlin et al., arXiv 1810.04805, appendix A.2. Neither the first step nor the last one is lost
    to a rate of 0.

    Args:
        step: counted from 0.
        steps: of the stage.
        warmup: steps in which the rate rises.
    """
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(steps - warmup, 1)


def warmup_steps(stage: Stage, steps: int) -> int:
    """Steps in which the learning rate rises."""
    return math.ceil(stage.warmup_share * steps)


def choose_trained(student: nn.Module, stage: Stage) -> dict[str, float]:
    """Name and multiplier of each parameter that a stage trains; the others are frozen.

    The first entry of ``stage.train`` that is found in a name decides; without entries everything
    is trained, or of exits that are trained alone those. Sets ``requires_grad``.

    Raises:
        UsageError: a pattern that finds nothing, or nothing that would be trained.
    """
    names = [name for name, _ in student.named_parameters()]
    train = (Trained(r"^exits\."),) if stage.exits == "frozen" else stage.train
    for entry in train:
        if not any(re.search(entry.parameters, name) for name in names):
            raise UsageError(
                f"stage {stage.name!r}: no parameter's name contains {entry.parameters!r}",
                hint=f"names are like {names[0]}, {names[-1]}",
            )
    trained: dict[str, float] = {}
    for name, parameter in student.named_parameters():
        found = [t.multiplier for t in train if re.search(t.parameters, name)]
        if name.endswith(".scores") and (found or not train):
            found = [_score_multiplier(stage)]
        parameter.requires_grad_(bool(found) or not train)
        if parameter.requires_grad:
            trained[name] = found[0] if found else 1.0
    return trained


def _score_multiplier(stage: Stage) -> float:
    """Of the scores of movement pruning, which have a learning rate of their own."""
    rates = [s.score_learning_rate for s in stage.sparsity if s.method == "movement"]
    return rates[0] / stage.learning_rate if rates else 1.0


def make_optimizer(
    parts: Sequence[tuple[nn.Module, dict[str, float]]], stage: Stage
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) without decay of biases and norms.

    Args:
        parts: modules, each with the multipliers of its trained parameters by name.
        stage: learning rate and decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module, trained in parts:
        for name, parameter in module.named_parameters():
            if name in trained:
                # Biases and the weights of norms are the parameters of one dimension.
                decay = stage.weight_decay if parameter.dim() > 1 else 0.0
                groups.setdefault((trained[name], decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": decay,
                "lr": stage.learning_rate * multiplier,
                "highest": stage.learning_rate * multiplier,
            }
            for (multiplier, decay), parameters in groups.items()
        ],
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to ``factor`` times its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor


def seed_of(*parts: int | str) -> int:
    """A seed for one purpose, step and process: as different as the parts are."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")
