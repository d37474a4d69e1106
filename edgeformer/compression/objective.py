"""What a stage minimises: both models asked, watched where a loss looks inside, and compared.

objective = Objective(losses, student, teacher)
with objective.watching():
    parts = objective(batch, rows)            # {"logit_kl": 0.41, "labels": 0.66}
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from edgeformer.compression.batches import Batch
from edgeformer.compression.loss_kinds import LOSS_KINDS
from edgeformer.compression.losses import BoundLoss, Seen, Side
from edgeformer.compression.model_config import config_of
from edgeformer.compression.traces import Trace, traced
from edgeformer.models.bilstm import BiLstmEncoder
from edgeformer.models.encoder import Encoder
from edgeformer.models.heads import SequenceClassifier

Asked = Callable[[Batch, torch.Tensor], dict[str, torch.Tensor]]
"""A batch and the numbers of its examples, int64 (batch,), to a model's answer by name."""


class Objective:
    """The sum of a stage's losses; see ``trainer.Objective``.

    Args:
        losses: bound ones.
        student: trained, in train mode while it is.
        teacher: in eval mode; None where no loss needs one.
        teacher_logits: the teacher's logits of every example, float (examples, classes), where they
            are known; the teacher is then not asked.
        bf16: run both models in bfloat16 where that is safe (torch's autocast).
        asked: how the student is asked; None for its outputs.
    """

    def __init__(
        self,
        losses: tuple[BoundLoss, ...],
        student: nn.Module,
        teacher: nn.Module | None = None,
        teacher_logits: torch.Tensor | None = None,
        bf16: bool = False,
        asked: Asked | None = None,
    ) -> None:
        self._losses = losses
        self._names = _names(losses)
        self._student = student
        self._teacher = teacher if teacher_logits is None else None
        self._teacher_logits = teacher_logits
        self._bf16 = bf16
        self._asked = asked or (lambda batch, rows: ask(student, batch, bf16))
        self._traces = Trace(), Trace()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look inside both models while the context is open, if a loss does.

        Whatever changes the student's forward (dropout, skipped layers) is to be entered before.
        """
        reads = {LOSS_KINDS[bound.loss.kind].reads for bound in self._losses}
        with ExitStack() as stack:
            if reads - {"logits", "exits"}:
                student, teacher = (
                    stack.enter_context(_watched(model, reads))
                    for model in (self._student, self._teacher)
                )
                self._traces = student, teacher
            yield

    def __call__(self, batch: Batch, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted losses by name, float () each.

        Args:
            batch: inputs and labels, on the models' device.
            rows: int64 (batch,), numbers of the examples.
        """
        teacher = Side({}, self._traces[1], _pooling(self._teacher))
        if self._teacher_logits is not None:
            known = self._teacher_logits[rows].to(batch["attention_mask"].device)
            teacher = replace(teacher, answer={"logits": known})
        elif self._teacher is not None:
            with torch.no_grad():
                teacher = replace(teacher, answer=ask(self._teacher, batch, self._bf16))
        student = Side(self._asked(batch, rows), self._traces[0], _pooling(self._student))
        seen = Seen(batch, student, teacher)
        return {n: bound(seen) for n, bound in zip(self._names, self._losses, strict=True)}


def _pooling(model: nn.Module | None) -> str:
    return model.pooling if isinstance(model, SequenceClassifier) else "cls"


def ask(model: nn.Module, batch: Batch, bf16: bool = False) -> dict[str, torch.Tensor]:
    """A model's answer to the entries of a batch that are its inputs, float32 by name."""
    with mixed_precision(batch, bf16):
        answer = model(**model_inputs(model, batch))
    return {name: tensor.float() for name, tensor in answer.items()}


def model_inputs(model: nn.Module, batch: Batch) -> Batch:
    """The entries of a batch that are inputs of a model."""
    names = config_of(model).input_names
    return {name: batch[name] for name in names if name in batch}


def mixed_precision(batch: Batch, bf16: bool) -> AbstractContextManager[Any]:
    """In which matrices are multiplied in bfloat16, on the device of a batch; or nothing."""
    device = batch["attention_mask"].device.type
    return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()


@contextmanager
def _watched(model: nn.Module | None, reads: set[str]) -> Iterator[Trace]:
    """The trace of a model, for losses that read such things of it."""
    encoder = getattr(model, "encoder", None)
    if model is not None and isinstance(encoder, Encoder):
        with traced(model, bool(reads & {"hidden", "text"}), "attention" in reads) as trace:
            yield trace
        return
    trace = Trace()
    if not isinstance(encoder, BiLstmEncoder):
        yield trace
        return

    def keep_last(_: nn.Module, __: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        trace.final = output[1].unsqueeze(1)

    handle = encoder.register_forward_hook(keep_last)
    try:
        yield trace
    finally:
        handle.remove()


def _names(losses: tuple[BoundLoss, ...]) -> list[str]:
    """The kinds, numbered where one occurs twice."""
    names: list[str] = []
    for bound in losses:
        before = sum(other.loss.kind == bound.loss.kind for other in losses[: len(names)])
        names.append(f"{bound.loss.kind}_{before + 1}" if before else bound.loss.kind)
    return names
