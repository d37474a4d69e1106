"""Losses between hidden states of a student and those of its teacher.

Pure functions of tensors: states of one layer each, float (..., hidden), (batch, sequence, hidden)
as a rule, with a mask (batch, sequence); vectors of whole texts, (batch, hidden), need no mask. A
loss is the mean over tokens that are there, and its gradient reaches the student alone (and a
projection that stands between).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from edgeformer.compression.rows import check_alike, row_mean, token_rows

_HINT = (
    "states of other width need a loss with a projection, or one on attention or relations; else"
    " give both the same texts"
)
_EPS = 1e-12

Projection = Callable[[torch.Tensor], torch.Tensor]
"""From the student's width to the teacher's: a trained ``torch.nn.Linear``, as a rule."""


def hidden_mse(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor | None = None,
    projection: Projection | None = None,
) -> torch.Tensor:
    """Mean squared difference of states, over tokens and channels.

    TinyBERT, arXiv 1909.10351, equation 8, and equation 9 where the states are those of the
    embeddings. The release uses one projection for all layers. Also of vectors of whole texts:
    Reimers and Gurevych, arXiv 2004.09813, section 2.

    Args:
        student: float (..., hidden).
        teacher: float (..., hidden).
        mask: integers or bool (...), 0 for padding; None without padding.
        projection: applied to the student's rows; None for states of one width.

    Returns:
        float (), at least 0.

    Raises:
        ModelError: the shapes differ, after the projection if there is one.
    """
    projected = student if projection is None else projection(student)
    rows, targets = _rows(projected, teacher, mask)
    return row_mean((rows - targets).square().mean(-1))


def normalized_hidden_mse(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """``hidden_mse`` of states that are first brought to mean 0 and variance 1 in each token.

    MobileBERT's feature map transfer (L_FMT), arXiv 2004.02984, section 3.4: a LayerNorm without
    parameters takes out what ``mean_transfer`` and ``variance_transfer`` compare. Args and Raises
    as of ``hidden_mse``.
    """
    rows, targets = _rows(student, teacher, mask)
    width = rows.shape[-1:]
    rows, targets = F.layer_norm(rows, width, eps=_EPS), F.layer_norm(targets, width, eps=_EPS)
    return row_mean((rows - targets).square().mean(-1))


def mean_transfer(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared difference of the means along the channels, the mean over tokens.

    MobileBERT, section 3.4 and the authors' code, where its weight is 5000. It keeps the scale of
    states without LayerNorm in order, which ``normalized_hidden_mse`` does not see. Both states are
    of matching layers, each against its own teacher layer.

    Args:
        student: float (..., hidden).
        teacher: float (..., hidden); another width is no error.
        mask: integers or bool (...), 0 for padding; None without padding.

    Returns:
        float (), at least 0.

    Raises:
        ModelError: not of the same tokens.
    """
    rows, targets = _rows_of_any_width(student, teacher, mask)
    return row_mean((rows.mean(-1) - targets.mean(-1)).square())


def variance_transfer(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Absolute difference of the variances along the channels, the mean over tokens.

    As ``mean_transfer``; its weight is 5 in the authors' code. The variance divides by the width.
    """
    rows, targets = _rows_of_any_width(student, teacher, mask)
    return row_mean((_variance(rows) - _variance(targets)).abs())


def hidden_cosine(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """1 minus the cosine of the angle between both states, the mean over tokens.

    DistilBERT, arXiv 1910.01108, section 2 (L_cos, on the last layer). Args and Raises as of
    ``hidden_mse``.

    Returns:
        float (), from 0 to 2.
    """
    rows, targets = _rows(student, teacher, mask)
    return row_mean(1.0 - F.cosine_similarity(rows, targets, dim=-1))


def patient_mse(
    student: torch.Tensor, teacher: torch.Tensor, normalized: bool = True
) -> torch.Tensor:
    """Mean squared difference of the first tokens' states, each divided by its length.

    Sun et al., "Patient Knowledge Distillation", arXiv 1908.09355, section 3.2 (L_PT). As in the
    authors' code the squares are averaged over channels, which is what their weights of 10 to 1000
    stand before; the paper writes a sum.

    Args:
        student: float (batch, sequence, hidden); a text starts with [CLS].
        teacher: float (batch, sequence, hidden).
        normalized: divide by the length; False compares raw states.

    Returns:
        float (), at least 0.

    Raises:
        ModelError: the shapes differ.
    """
    check_alike(student, teacher, "hidden states", _HINT)
    first, target = student[:, 0], teacher[:, 0].detach()
    if normalized:
        first, target = F.normalize(first, dim=-1), F.normalize(target, dim=-1)
    return row_mean((first - target).square().mean(-1))


def _rows(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    check_alike(student, teacher, "hidden states", _HINT)
    return token_rows(student, mask), token_rows(teacher.detach(), mask)


def _rows_of_any_width(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    check_alike(student[..., 0], teacher[..., 0], "tokens", "give both the same texts")
    return token_rows(student, mask), token_rows(teacher.detach(), mask)


def _variance(rows: torch.Tensor) -> torch.Tensor:
    return (rows - rows.mean(-1, keepdim=True)).square().mean(-1)
