"""The losses of a recipe, each computed from what student and teacher answered to a batch.

The formulas are in distill_logits.py, distill_hidden.py and distill_attention.py; here they get
their tensors. Losses with a layer map are the mean over its pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.compression import distill_attention, distill_hidden, distill_logits
from edgeformer.compression.batches import Batch
from edgeformer.compression.distill_logits import IGNORED_LABEL
from edgeformer.compression.layer_maps import LayerMap, attention_pairs
from edgeformer.compression.recipe import Loss
from edgeformer.compression.traces import Trace, attention_scores
from edgeformer.errors import UsageError
from edgeformer.models.heads import pool


@dataclass(frozen=True)
class Side:
    """What a model answered to a batch, and what it computed on the way.

    Attributes:
        answer: outputs by name, float32; ``exits`` are the logits of the off-ramps, (batch, ramps,
            classes).
        trace: empty where no loss looks inside.
        pooling: what its classifier reads of the last states, ``cls`` or ``mean``.
    """

    answer: Mapping[str, torch.Tensor]
    trace: Trace = field(default_factory=Trace)
    pooling: str = "cls"

    @property
    def logits(self) -> torch.Tensor:
        """Float (batch, classes), or (batch, sequence, classes)."""
        return self.answer["logits"]

    def hidden(self, index: int) -> torch.Tensor:
        """States of ``layer_maps``: 0 for the embeddings'; float (batch, sequence, hidden)."""
        return self.trace.hidden[index].float()

    def text(self, mask: torch.Tensor) -> torch.Tensor:
        """One vector of each text: the embedding, or what a classifier reads (the state of the
        first token or the mean of all, the last states of a BiLSTM); float (batch, size).

        Args:
            mask: of the batch, integers (batch, sequence).
        """
        if "embedding" in self.answer:
            return self.answer["embedding"]
        return pool(self.trace.final.float(), mask, self.pooling, normalized=False)


@dataclass(frozen=True)
class Seen:
    """Everything that a loss may look at.

    Attributes:
        batch: inputs and labels.
        student: its side.
        teacher: its side; without answers where no loss needs it.
    """

    batch: Batch
    student: Side
    teacher: Side

    @property
    def mask(self) -> torch.Tensor:
        """Integers (batch, sequence), 0 for padding."""
        return self.batch["attention_mask"]


@dataclass(frozen=True)
class BoundLoss:
    """A loss of a recipe with all that it needs.

    Attributes:
        loss: as the recipe has it.
        pairs: of a student's and a teacher's states, for losses with a layer map.
        projection: from the student's width to the teacher's, None for none.
        problem_type: of the labels: ``single_label`` or ``regression``.
    """

    loss: Loss
    pairs: LayerMap = ()
    projection: nn.Module | None = None
    problem_type: str = "single_label"

    def __call__(self, seen: Seen) -> torch.Tensor:
        """The weighted loss, float ()."""
        return _COMPUTE[self.loss.kind](self, seen) * self.loss.weight


def label_loss(logits: torch.Tensor, labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """The loss on labels: cross-entropy, or for regression the mean squared error.

    Args:
        logits: float (batch, classes), or (batch, sequence, classes).
        labels: int64 (batch,) or (batch, sequence), ``IGNORED_LABEL`` where there is none; for
            regression float (batch,).
        problem_type: ``single_label`` or ``regression``.

    Raises:
        UsageError: labels that do not exclude each other.
    """
    if problem_type == "regression":
        return F.mse_loss(logits.squeeze(-1), labels)
    if problem_type == "multi_label":
        raise UsageError(
            "training data have one label for each text, and this model's classes do not exclude"
            " each other",
            hint="use a recipe without the loss 'labels', such as one with logit_mse alone",
        )
    flat = labels.flatten()
    total = F.cross_entropy(
        logits.flatten(0, -2), flat, ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / (flat != IGNORED_LABEL).sum().clamp(min=1)


def _labels(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    return label_loss(seen.student.logits, seen.batch["labels"], bound.problem_type)


def _counted(seen: Seen) -> torch.Tensor | None:
    """Which logits are compared: of tokens those with a label, or else all that are there."""
    if seen.student.logits.dim() < 3:
        return None
    labels = seen.batch.get("labels")
    return seen.mask if labels is None or labels.dim() < 2 else labels != IGNORED_LABEL


def _logit_kl(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    pair = seen.student.logits, seen.teacher.logits
    return distill_logits.logit_kl(*pair, bound.loss.temperature, _counted(seen))


def _soft_cross_entropy(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    pair = seen.student.logits, seen.teacher.logits
    return distill_logits.soft_cross_entropy(*pair, bound.loss.temperature, _counted(seen))


def _logit_mse(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    return distill_logits.logit_mse(seen.student.logits, seen.teacher.logits, _counted(seen))


def _mixed_labels(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    return distill_logits.mixed_label_cross_entropy(
        seen.student.logits, seen.teacher.logits, seen.batch["labels"], bound.loss.teacher_share
    )


def _exit_labels(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    """The sum over all ramps (DeeBERT, arXiv 2004.12993, section 3.2, without its last layer)."""
    labels, kind = seen.batch["labels"], bound.problem_type
    ramps = seen.student.answer["exits"].unbind(1)
    return torch.stack([label_loss(logits, labels, kind) for logits in ramps]).sum()


def _exit_logit_kl(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    """The sum over all ramps; they learn from the last layer, which does not learn from them
    (FastBERT, Liu et al., arXiv 2004.02178, section 3.2)."""
    last, ramps = seen.student.logits.detach(), seen.student.answer["exits"].unbind(1)
    temperature = bound.loss.temperature
    return torch.stack([distill_logits.logit_kl(r, last, temperature) for r in ramps]).sum()


_Hidden = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _of_hidden(compare: _Hidden) -> Callable[[BoundLoss, Seen], torch.Tensor]:
    """The mean of ``compare(student, teacher, mask)`` over pairs of hidden states."""

    def compute(bound: BoundLoss, seen: Seen) -> torch.Tensor:
        each = [
            compare(seen.student.hidden(s), seen.teacher.hidden(t), seen.mask)
            for s, t in bound.pairs
        ]
        return torch.stack(each).mean()

    return compute


def _hidden_mse(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    def compare(s: torch.Tensor, t: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return distill_hidden.hidden_mse(s, t, mask, bound.projection)

    return _of_hidden(compare)(bound, seen)


def _patient_mse(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    def compare(s: torch.Tensor, t: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return distill_hidden.patient_mse(s, t, bound.loss.normalized)

    return _of_hidden(compare)(bound, seen)


def _text_mse(bound: BoundLoss, seen: Seen) -> torch.Tensor:
    return distill_hidden.hidden_mse(
        seen.student.text(seen.mask), seen.teacher.text(seen.mask), None, bound.projection
    )


def _of_scores(compare: _Hidden) -> Callable[[BoundLoss, Seen], torch.Tensor]:
    """The mean of ``compare(student, teacher, mask)`` over pairs of attention scores."""

    def compute(bound: BoundLoss, seen: Seen) -> torch.Tensor:
        each = [
            compare(
                attention_scores(seen.student.trace, s).float(),
                attention_scores(seen.teacher.trace, t).float(),
                seen.mask,
            )
            for s, t in attention_pairs(bound.pairs)
        ]
        return torch.stack(each).mean()

    return compute


def _relation(name: str) -> Callable[[BoundLoss, Seen], torch.Tensor]:
    """The mean of relations between ``queries``, ``keys`` or ``values`` over pairs of layers."""

    def compute(bound: BoundLoss, seen: Seen) -> torch.Tensor:
        each = [
            distill_attention.relation_kl(
                getattr(seen.student.trace, name)[s].float(),
                getattr(seen.teacher.trace, name)[t].float(),
                seen.mask,
                bound.loss.relation_heads or None,
            )
            for s, t in attention_pairs(bound.pairs)
        ]
        return torch.stack(each).mean()

    return compute


_COMPUTE: dict[str, Callable[[BoundLoss, Seen], torch.Tensor]] = {
    "labels": _labels,
    "logit_kl": _logit_kl,
    "soft_cross_entropy": _soft_cross_entropy,
    "logit_mse": _logit_mse,
    "mixed_labels": _mixed_labels,
    "hidden_mse": _hidden_mse,
    "normalized_hidden_mse": _of_hidden(distill_hidden.normalized_hidden_mse),
    "mean_transfer": _of_hidden(distill_hidden.mean_transfer),
    "variance_transfer": _of_hidden(distill_hidden.variance_transfer),
    "hidden_cosine": _of_hidden(distill_hidden.hidden_cosine),
    "patient_mse": _patient_mse,
    "attention_kl": _of_scores(distill_attention.attention_kl),
    "attention_cross_entropy": _of_scores(distill_attention.attention_cross_entropy),
    "attention_score_mse": _of_scores(distill_attention.attention_score_mse),
    "query_relation": _relation("queries"),
    "key_relation": _relation("keys"),
    "value_relation": _relation("values"),
    "text_mse": _text_mse,
    "exit_labels": _exit_labels,
    "exit_logit_kl": _exit_logit_kl,
}
