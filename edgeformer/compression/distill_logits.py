"""Losses between the logits of a student and those of its teacher.

Pure functions of tensors. Logits are float (..., classes); where they are of tokens, a mask of the
shape ``...`` says which are there. A loss is the mean over rows (texts, or tokens that are there)
of what a row costs, and its gradient reaches the student alone. The loss on labels is
``torch.nn.functional.cross_entropy``.
"""

import torch
import torch.nn.functional as F

from edgeformer.compression.rows import check_alike, row_mean, token_rows
from edgeformer.errors import UsageError

IGNORED_LABEL = -100
"""Label of a position that is not counted, as in ``torch.nn.functional.cross_entropy``."""
_HINT = "both need the same classes in the same order, and the same texts"


def logit_kl(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """T² KL(softmax(teacher / T) || softmax(student / T)), the mean over rows.

    Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, equation 1 and
    section 2; T² keeps the gradient's size when T changes. DistilBERT (arXiv 1910.01108, section 2)
    and PKD (arXiv 1908.09355, section 3.1) use it. The mean is over rows, torch's ``batchmean``.
    The authors' code of PKD divides by the number of classes too: divide its weight likewise.

    Args:
        student: float (..., classes).
        teacher: float (..., classes).
        temperature: T, above 0.
        mask: integers or bool (...), 0 for rows that are not counted; None counts all.

    Returns:
        float (), at least 0.

    Raises:
        ModelError: the shapes differ.
        UsageError: a temperature of 0 or less, or a single class.
    """
    student, teacher = _softened(student, teacher, temperature, mask)
    each = F.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True
    )
    return row_mean(each) * temperature**2


def soft_cross_entropy(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """T² times the cross-entropy of softmax(student / T) under softmax(teacher / T).

    TinyBERT, arXiv 1909.10351, equation 10 (T = 1 there; the paper has no factor T²). It is
    ``logit_kl`` plus a constant, so both have the same gradient.

    Args and Raises as of ``logit_kl``.

    Returns:
        float (), at least T² times the teacher's entropy.
    """
    student, teacher = _softened(student, teacher, temperature, mask)
    each = -teacher.softmax(-1) * student.log_softmax(-1)
    return row_mean(each) * temperature**2


def logit_mse(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared difference of logits, over rows and classes.

    Tang et al., arXiv 1903.12136, section 3.2 (L_distill, which sums over classes). It serves any
    kind of label: regression has one logit, and classes that do not exclude each other have no
    softmax.

    Args:
        student: float (..., classes).
        teacher: float (..., classes).
        mask: integers or bool (...), 0 for rows that are not counted; None counts all.

    Returns:
        float (), at least 0.

    Raises:
        ModelError: the shapes differ.
    """
    check_alike(student, teacher, "logits", _HINT)
    difference = token_rows(student, mask) - token_rows(teacher.detach(), mask)
    return row_mean(difference.square().mean(-1))


def mixed_label_cross_entropy(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, teacher_share: float = 0.5
) -> torch.Tensor:
    """Cross-entropy under a mix of the label and the teacher's distribution, at temperature 1.

    MobileBERT's pre-training distillation (L_PD), arXiv 2004.02984, section 3.4, with equal shares:
    the target of a masked position is ``(1 - share) * one_hot(label) + share * softmax(teacher)``.

    Args:
        student: float (..., classes).
        teacher: float (..., classes).
        labels: int64 (...), ``IGNORED_LABEL`` where a position is not counted.
        teacher_share: between 0 (labels alone) and 1 (the teacher alone).

    Returns:
        float (), the mean over counted positions; 0 without any.

    Raises:
        ModelError: the shapes differ.
    """
    check_alike(student, teacher, "logits", _HINT)
    counted = labels != IGNORED_LABEL
    log_student = token_rows(student, counted).log_softmax(-1)
    soft = token_rows(teacher.detach(), counted).softmax(-1)
    hard = F.one_hot(labels[counted], student.shape[-1]).to(soft.dtype)
    target = (1.0 - teacher_share) * hard + teacher_share * soft
    return row_mean(-target * log_student)


def _softened(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Counted rows of both, (rows, classes), divided by the temperature."""
    check_alike(student, teacher, "logits", _HINT)
    if not temperature > 0:
        raise UsageError(f"a temperature must be above 0, not {temperature}")
    if student.shape[-1] < 2:
        raise UsageError(
            "one logit has no distribution: its softmax is always 1",
            hint="use the mean squared difference of logits for regression",
        )
    rows, targets = token_rows(student, mask), token_rows(teacher.detach(), mask)
    return rows / temperature, targets / temperature
