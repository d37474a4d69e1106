"""The losses a recipe can name: what each reads, and which options it has. Imports no torch."""

from dataclasses import dataclass

_MAPPED = ("layer_map", "pairs")


@dataclass(frozen=True)
class LossKind:
    """What a recipe may say of a loss.

    Attributes:
        reads: of student and teacher: ``logits``, ``hidden`` states, ``attention``, one vector of
            the ``text``; of the student the logits of its ``exits``.
        options: keys of ``recipe.Loss`` that it has, besides kind and weight.
        teacher: it compares with a teacher.
        labels: it needs labelled texts (or hidden words).
        equal_width: student and teacher need states of one width, unless it is projected.
        equal_heads: student and teacher need as many heads each.
    """

    reads: str
    options: tuple[str, ...] = ()
    teacher: bool = True
    labels: bool = False
    equal_width: bool = False
    equal_heads: bool = False


LOSS_KINDS = {
    "labels": LossKind("logits", teacher=False, labels=True),
    "logit_kl": LossKind("logits", ("temperature",)),
    "soft_cross_entropy": LossKind("logits", ("temperature",)),
    "logit_mse": LossKind("logits"),
    "mixed_labels": LossKind("logits", ("teacher_share",), labels=True),
    "hidden_mse": LossKind("hidden", (*_MAPPED, "projected"), equal_width=True),
    "normalized_hidden_mse": LossKind("hidden", _MAPPED, equal_width=True),
    "mean_transfer": LossKind("hidden", _MAPPED),
    "variance_transfer": LossKind("hidden", _MAPPED),
    "hidden_cosine": LossKind("hidden", _MAPPED, equal_width=True),
    "patient_mse": LossKind("hidden", (*_MAPPED, "normalized"), equal_width=True),
    "attention_kl": LossKind("attention", _MAPPED, equal_heads=True),
    "attention_cross_entropy": LossKind("attention", _MAPPED, equal_heads=True),
    "attention_score_mse": LossKind("attention", _MAPPED, equal_heads=True),
    "query_relation": LossKind("attention", (*_MAPPED, "relation_heads")),
    "key_relation": LossKind("attention", (*_MAPPED, "relation_heads")),
    "value_relation": LossKind("attention", (*_MAPPED, "relation_heads")),
    "text_mse": LossKind("text", ("projected",)),
    "exit_labels": LossKind("exits", teacher=False, labels=True),
    "exit_logit_kl": LossKind("exits", ("temperature",), teacher=False),
}
"""By the name that a recipe writes as ``kind``; losses.py computes them."""
