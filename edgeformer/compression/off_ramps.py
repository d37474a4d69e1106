"""Off-ramps while they are trained: how they get onto a student, and what it then answers.

With the backbone frozen, what ramps read of a text never changes: it is computed once, and a step
is a few small products.
"""

from dataclasses import replace

import torch
from torch import nn

from edgeformer.compression import distributed
from edgeformer.compression.batches import Batch
from edgeformer.compression.batching import every_example
from edgeformer.compression.feeding import Feed
from edgeformer.compression.objective import Asked, mixed_precision, model_inputs
from edgeformer.compression.optimizing import seed_of
from edgeformer.compression.recipe import Stage
from edgeformer.errors import UsageError
from edgeformer.models.build import HeadConfig
from edgeformer.models.exits import ExitClassifier, with_exits
from edgeformer.models.heads import SequenceClassifier

_MOST_STATES_BYTES = 1 << 30
"""States of more texts than fit here are computed again in every step."""


def put_exits(
    student: nn.Module, head: HeadConfig, pooling: str, seed: int
) -> tuple[nn.Module, HeadConfig]:
    """The student with exits, and the settings of its head; as they are if it has exits already.

    Args:
        student: a classifier.
        head: settings of its head.
        pooling: what new ramps read.
        seed: of their weights.

    Raises:
        UsageError: a model that is no classifier of texts.
        ModelError: one of a single layer or class.
    """
    if isinstance(student, ExitClassifier):
        return student, head
    if not isinstance(student, SequenceClassifier):
        raise UsageError(
            f"early exits are for classifiers of texts built on an Encoder, not for a"
            f" {type(student).__name__}",
            hint="the recipe finetune makes a classifier of an encoder",
        )
    generator = torch.Generator().manual_seed(seed_of(seed, "exits"))
    made = with_exits(student, generator, pooling)
    return made, replace(head, exits=True, exit_pooling=pooling)


def check_exits(student: nn.Module, stage: Stage, problem_type: str) -> None:
    """What a stage and a student's exits forbid.

    Raises:
        UsageError: labels that do not exclude each other, or exits that a stage would leave behind.
    """
    if stage.exits and problem_type == "multi_label":
        raise UsageError(
            "a text leaves early when one class is clear, and this model's classes do not exclude"
            " each other",
            hint="early exits are for a single label",
        )
    trains = bool(stage.steps or stage.epochs)
    if trains and not stage.exits and isinstance(student, ExitClassifier):
        raise UsageError(
            f"the stage {stage.name!r} would change what the exits of this model read, and not"
            " train them",
            hint='put the exits on last (recipe exits), or give the stage exits = "joint"',
        )


def exit_asker(
    student: ExitClassifier, stage: Stage, states: torch.Tensor | None, bf16: bool
) -> Asked:
    """How the student is asked where exits are trained: for ``logits``, float (batch, classes),
    and ``exits``, (batch, ramps, classes).

    Args:
        student: with exits.
        stage: its ``exits`` says what is trained.
        states: of every example, where they are known: ``all_states_read``.
        bf16: multiply the backbone's matrices in bfloat16.
    """

    def answers(states: torch.Tensor) -> dict[str, torch.Tensor]:
        *early, last = student.logits_of(states.unbind(1))
        return {"logits": last, "exits": torch.stack(early, dim=1)}

    def joint(batch: Batch, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return answers(states_read(student, batch, bf16))

    def frozen(batch: Batch, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        student.encoder.eval()
        with torch.no_grad():
            states = states_read(student, batch, bf16)
        return answers(states)

    if stage.exits == "joint":
        return joint
    if states is None:
        return frozen

    def known(batch: Batch, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return answers(states[rows].to(batch["attention_mask"].device))

    return known


def states_are_known(student: ExitClassifier, stage: Stage, feed: Feed, steps: int) -> bool:
    """What ramps read of all texts is worth keeping: it does not change, it fits, and each text is
    read at least once."""
    config = student.encoder.config
    size = 4 * len(feed.tokenized) * config.num_layers * config.hidden_size
    unchanged = stage.exits == "frozen" and feed.mask_words is None
    return unchanged and steps >= feed.steps_per_epoch and size <= _MOST_STATES_BYTES


def states_read(student: ExitClassifier, batch: Batch, bf16: bool = False) -> torch.Tensor:
    """What ramps and classifier read, float32 (batch, layers, hidden)."""
    inputs = model_inputs(student, batch)
    with mixed_precision(batch, bf16):
        layers = student.states_read(**inputs)
    return torch.stack(layers, dim=1).float()


@torch.no_grad()
def all_states_read(student: ExitClassifier, feed: Feed, bf16: bool = False) -> torch.Tensor:
    """``states_read`` of every example, (examples, layers, hidden), on the CPU, in eval mode."""
    config, device = student.encoder.config, student.classifier.weight.device
    states = torch.zeros(len(feed.tokenized), config.num_layers, config.hidden_size)
    student.encoder.eval()
    for rows, batch in every_example(feed.tokenized, feed.settings):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        states[rows] = states_read(student, batch, bf16).cpu()
    return distributed.summed(states)
