"""Rows of tokens out of padded batches, and means over them.

Padding must not move a loss, neither by its numbers (which may be anything) nor by being counted.
So its rows are left out before any arithmetic, and a mean divides by the rows that are there.
"""

import torch

from edgeformer.errors import ModelError


def token_rows(states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The rows of tokens, one below the other.

    Args:
        states: (..., size).
        mask: nonzero (or True) for a token and 0 for padding, of the shape ``...`` of ``states``;
            None if all are tokens.

    Returns:
        (tokens, size).
    """
    return states.reshape(-1, states.shape[-1]) if mask is None else states[mask != 0]


def row_mean(values: torch.Tensor) -> torch.Tensor:
    """The sum of all values over the number of rows; 0 without rows.

    Args:
        values: (rows, ...), what each row costs.
    """
    return values.sum() / max(values.shape[0], 1)


def masked_log_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``log_softmax`` over the last axis without the entries whose mask is 0.

    Args:
        scores: float (..., keys).
        mask: nonzero (or True) for a token and 0 for padding; of a shape that expands to that of
            ``scores``.

    Returns:
        float (..., keys); a large negative number where the mask is 0, so that ``exp`` is 0 there
        (a row of nothing but padding is uniform instead).
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(mask == 0, lowest).log_softmax(-1)


def check_alike(student: torch.Tensor, teacher: torch.Tensor, what: str, hint: str) -> None:
    """Raises ModelError, with ``hint``, unless both have one shape."""
    if student.shape != teacher.shape:
        raise ModelError(
            f"{what} of student and teacher differ in shape: {tuple(student.shape)} and"
            f" {tuple(teacher.shape)}",
            hint=hint,
        )
