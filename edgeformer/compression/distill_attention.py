"""Losses between what a student's tokens attend to and what its teacher's do.

Pure functions of tensors of one layer each: scores before the softmax, float (batch, heads, query,
key), from ``traces.attention_scores``; or queries, keys or values, float (batch, heads, sequence,
head_dim), from a ``Trace``. With a mask (batch, sequence), keys of padding get no attention and
rows of padding are not counted. A loss is the mean over heads and tokens that are there, and its
gradient reaches the student alone.

Students need as many heads as the teacher, or relations with as many ``relation_heads`` as both can
be split into.
"""

import math

import torch
import torch.nn.functional as F

from edgeformer.compression.rows import check_alike, masked_log_softmax, row_mean
from edgeformer.errors import ModelError

_HINT = (
    "a student needs as many heads as its teacher here; relations with relation_heads serve any"
    " number"
)


def attention_kl(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(teacher's attention || student's), the mean over heads and query tokens.

    MiniLM, arXiv 2002.10957, section 3.1 (L_AT, of the last layer).

    Args:
        student: scores, float (batch, heads, query, key).
        teacher: the same.
        mask: integers or bool (batch, sequence), 0 for padding.

    Returns:
        float (), at least 0.

    Raises:
        ModelError: the shapes differ.
    """
    log_student, log_teacher, there = _log_attention(student, teacher, mask)
    each = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return _mean_over_rows_and_heads(each, there)


def attention_cross_entropy(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the student's attention under the teacher's, over heads and query tokens.

    MobileBERT's attention transfer in the authors' code; the paper (arXiv 2004.02984, section 3.4,
    L_AT) writes the KL, which differs by the teacher's entropy, a constant. Args and Raises as of
    ``attention_kl``.
    """
    log_student, log_teacher, there = _log_attention(student, teacher, mask)
    return _mean_over_rows_and_heads(-log_teacher.exp() * log_student, there)


def attention_score_mse(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Mean squared difference of the scores, over heads and pairs of tokens.

    TinyBERT, arXiv 1909.10351, equation 7. The authors' code takes scores of padding as 0 on both
    sides and divides by all entries; here padding is not counted, so that it changes nothing.

    Args and Raises as of ``attention_kl``.
    """
    check_alike(student, teacher, "attention scores", _HINT)
    tokens = mask != 0
    rows, targets = _query_rows(student, tokens), _query_rows(teacher.detach(), tokens)
    there = _keys_of_rows(tokens)
    squares = torch.where(there, rows - targets, 0.0).square()
    pairs = there.sum().clamp(min=1) * student.shape[1]
    return squares.sum() / pairs


def relation_kl(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor,
    relation_heads: int | None = None,
) -> torch.Tensor:
    """KL between relations: how similar each token's vector is to all others, in each head.

    Relations are softmax(X Xᵀ / sqrt(width of a head)). X is the values of the last layer in MiniLM
    (arXiv 2002.10957, section 3.2, L_VR); queries, keys and values, a loss each, in MiniLMv2 (arXiv
    2012.15828, section 3.1), where heads are joined and split again into ``relation_heads``.

    Args:
        student: float (batch, heads, sequence, head_dim).
        teacher: float (batch, heads, sequence, head_dim), of any width.
        mask: integers or bool (batch, sequence), 0 for padding.
        relation_heads: heads to split both into; None keeps the model's own.

    Returns:
        float (), at least 0.

    Raises:
        ModelError: the widths cannot be split so, or the numbers of heads differ.
    """
    return attention_kl(
        relation_scores(student, relation_heads), relation_scores(teacher, relation_heads), mask
    )


def relation_scores(states: torch.Tensor, relation_heads: int | None = None) -> torch.Tensor:
    """X Xᵀ / sqrt(width of a head), before the softmax.

    Args:
        states: float (batch, heads, sequence, head_dim).
        relation_heads: heads to split into; None keeps ``heads``.

    Returns:
        float (batch, relation_heads, sequence, sequence).

    Raises:
        ModelError: heads * head_dim cannot be split so.
    """
    if relation_heads is not None:
        states = _split_again(states, relation_heads)
    return (states @ states.transpose(-1, -2)) / math.sqrt(states.shape[-1])


def _split_again(states: torch.Tensor, heads: int) -> torch.Tensor:
    joined = states.transpose(1, 2).flatten(2)
    width = joined.shape[-1]
    if heads < 1 or width % heads:
        raise ModelError(
            f"{states.shape[1]} heads of {states.shape[3]} are {width} channels, which"
            f" {heads} relation heads cannot share evenly",
            hint="choose relation_heads that divides the channels of both models",
        )
    return joined.view(*joined.shape[:2], heads, width // heads).transpose(1, 2)


def _log_attention(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities (tokens, heads, key) of both, and which keys are there (tokens, 1, key)."""
    check_alike(student, teacher, "attention scores", _HINT)
    tokens = mask != 0
    there = _keys_of_rows(tokens)
    log_student = masked_log_softmax(_query_rows(student, tokens), there)
    log_teacher = masked_log_softmax(_query_rows(teacher.detach(), tokens), there)
    return log_student, log_teacher, there


def _query_rows(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(batch, heads, query, key) to (tokens, heads, key), without queries of padding."""
    return scores.transpose(1, 2)[tokens]


def _keys_of_rows(tokens: torch.Tensor) -> torch.Tensor:
    """For each query token, which keys of its text are there: bool (tokens, 1, key)."""
    batch, length = tokens.shape
    return tokens[:, None].expand(batch, length, length)[tokens].unsqueeze(1)


def _mean_over_rows_and_heads(each: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return row_mean(torch.where(there, each, 0.0)) / each.shape[1]
