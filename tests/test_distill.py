"""The losses of distillation are what their papers write, and padding never moves one of them.

Oracles: torch.nn.functional, scipy, and loops in NumPy over one text, one head and one token at a
time.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.compression.distill_attention import (
    attention_cross_entropy,
    attention_kl,
    attention_score_mse,
    relation_kl,
    relation_scores,
)
from edgeformer.compression.distill_hidden import (
    hidden_cosine,
    hidden_mse,
    mean_transfer,
    normalized_hidden_mse,
    patient_mse,
    variance_transfer,
)
from edgeformer.compression.distill_logits import (
    IGNORED_LABEL,
    logit_kl,
    logit_mse,
    mixed_label_cross_entropy,
    soft_cross_entropy,
)
from edgeformer.compression.layer_maps import LAYER_MAPS, attention_pairs, layer_map
from edgeformer.compression.traces import attention_scores, traced
from edgeformer.errors import ModelError, UsageError
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.config import EncoderConfig
from tests.tiny_models import randomise

Tensors = tuple[torch.Tensor, torch.Tensor]


def two(*shape: int, seed: int = 0) -> Tensors:
    """A student's and a teacher's tensor, in float64 so that oracles agree to many digits."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher.requires_grad_()


def mask_of(lengths: tuple[int, ...], width: int) -> torch.Tensor:
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


def number(loss: torch.Tensor) -> float:
    assert loss.shape == ()
    return float(loss.detach())


def arrays(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


# --- logits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0])
def test_logit_losses_of_texts(temperature: float) -> None:
    student, teacher = two(5, 3)
    rows = [scipy.special.softmax(x / temperature, axis=1) for x in arrays(student, teacher)]
    pairs = list(zip(*rows, strict=True))
    kl = np.mean([scipy.stats.entropy(t, s) for s, t in pairs]) * temperature**2
    assert number(logit_kl(student, teacher, temperature)) == pytest.approx(kl)
    cross = np.mean([-(t * np.log(s)).sum() for s, t in pairs]) * temperature**2
    assert number(soft_cross_entropy(student, teacher, temperature)) == pytest.approx(cross)
    batchmean = F.kl_div(
        torch.from_numpy(np.log(rows[0])), torch.from_numpy(rows[1]), reduction="batchmean"
    )
    assert kl == pytest.approx(number(batchmean) * temperature**2)
    assert number(logit_mse(student, teacher)) == pytest.approx(
        number(F.mse_loss(student, teacher))
    )


def test_soft_cross_entropy_has_the_gradient_of_the_kl() -> None:
    student, teacher = two(4, 3)
    (first,) = torch.autograd.grad(logit_kl(student, teacher, 3.0), student)
    (second,) = torch.autograd.grad(soft_cross_entropy(student, teacher, 3.0), student)
    assert torch.allclose(first, second)


def test_the_gradient_keeps_its_size_at_a_high_temperature() -> None:
    """Hinton et al., equation 4: with T² it tends to (z_s - z_t) / classes of centred logits."""
    student, teacher = two(1, 4)
    (gradient,) = torch.autograd.grad(logit_kl(student, teacher, 1e4), student)
    centred = (student - student.mean()) - (teacher - teacher.mean())
    assert torch.allclose(gradient, centred / 4, atol=1e-3)


def test_logits_of_tokens_are_averaged_over_those_that_are_there() -> None:
    student, teacher = two(2, 4, 3)
    mask = mask_of((4, 1), 4)
    kept = [x[mask.bool()] for x in (student, teacher)]
    for loss in (logit_kl, soft_cross_entropy, logit_mse):
        assert number(loss(student, teacher, mask=mask)) == pytest.approx(number(loss(*kept)))


def test_mixed_labels() -> None:
    student, teacher = two(2, 4, 5)
    labels = torch.full((2, 4), IGNORED_LABEL)
    labels[0, 1], labels[1, 3] = 4, 0
    rows = []
    for i, j in ((0, 1), (1, 3)):
        s, t = arrays(student[i, j], teacher[i, j])
        target = 0.5 * np.eye(5)[int(labels[i, j])] + 0.5 * scipy.special.softmax(t)
        rows.append(-(target * scipy.special.log_softmax(s)).sum())
    found = number(mixed_label_cross_entropy(student, teacher, labels))
    assert found == pytest.approx(np.mean(rows))
    hard = F.cross_entropy(student.flatten(0, 1), labels.flatten())
    labels_alone = mixed_label_cross_entropy(student, teacher, labels, teacher_share=0.0)
    assert number(labels_alone) == pytest.approx(number(hard))
    nothing = torch.full_like(labels, IGNORED_LABEL)
    assert number(mixed_label_cross_entropy(student, teacher, nothing)) == 0.0


def test_logits_that_cannot_be_compared() -> None:
    student, teacher = two(4, 3)
    with pytest.raises(ModelError, match=r"\(4, 3\) and \(4, 2\)"):
        logit_kl(student, teacher[:, :2])
    with pytest.raises(UsageError, match="above 0, not 0"):
        logit_kl(student, teacher, 0)
    with pytest.raises(UsageError, match="one logit") as caught:
        soft_cross_entropy(student[:, :1], teacher[:, :1])
    assert "mean squared" in caught.value.hint
    assert number(logit_mse(student[:, :1], teacher[:, :1])) > 0


# --- hidden states ------------------------------------------------------------------------------


def tokens_of(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> Any:
    """NumPy rows of the tokens that are there, student and teacher."""
    for i, j in mask.nonzero().tolist():
        yield arrays(student[i, j], teacher[i, j])


def test_hidden_losses_token_by_token() -> None:
    student, teacher = two(3, 5, 6)
    mask = mask_of((5, 2, 1), 5)
    pairs = list(tokens_of(student, teacher, mask))
    assert len(pairs) == 8
    mse = np.mean([((s - t) ** 2).mean() for s, t in pairs])
    assert number(hidden_mse(student, teacher, mask)) == pytest.approx(mse)
    normalized = np.mean(
        [((scipy.stats.zscore(s) - scipy.stats.zscore(t)) ** 2).mean() for s, t in pairs]
    )
    assert number(normalized_hidden_mse(student, teacher, mask)) == pytest.approx(normalized)
    means = np.mean([(s.mean() - t.mean()) ** 2 for s, t in pairs])
    assert number(mean_transfer(student, teacher, mask)) == pytest.approx(means)
    variances = np.mean([abs(s.var() - t.var()) for s, t in pairs])
    assert number(variance_transfer(student, teacher, mask)) == pytest.approx(variances)
    cosine = np.mean([scipy.spatial.distance.cosine(s, t) for s, t in pairs])
    assert number(hidden_cosine(student, teacher, mask)) == pytest.approx(cosine)


def test_hidden_losses_without_a_mask_are_torchs() -> None:
    student, teacher = two(3, 6)
    assert number(hidden_mse(student, teacher)) == pytest.approx(
        number(F.mse_loss(student, teacher))
    )
    cosine = F.cosine_embedding_loss(student, teacher, torch.ones(3))
    assert number(hidden_cosine(student, teacher)) == pytest.approx(number(cosine))


def test_a_projection_stands_between_and_learns() -> None:
    student, _ = two(2, 4, 3)
    _, teacher = two(2, 4, 6)
    projection = torch.nn.Linear(3, 6).double()
    mask = mask_of((4, 2), 4)
    loss = hidden_mse(student, teacher, mask, projection)
    expected = hidden_mse(student @ projection.weight.T + projection.bias, teacher, mask)
    assert number(loss) == pytest.approx(number(expected))
    loss.backward()
    assert projection.weight.grad is not None and float(projection.weight.grad.abs().sum()) > 0
    with pytest.raises(ModelError, match="differ in shape") as caught:
        hidden_mse(student, teacher, mask)
    assert "projection" in caught.value.hint


def test_statistics_of_other_widths_can_be_compared() -> None:
    student, _ = two(2, 4, 3)
    _, teacher = two(2, 4, 6)
    assert number(mean_transfer(student, teacher)) > 0
    with pytest.raises(ModelError, match="tokens"):
        variance_transfer(student, teacher[:, :3])


def test_patient_states_are_those_of_the_first_token() -> None:
    student, teacher = two(3, 5, 6)
    units = [
        x[:, 0] / np.linalg.norm(x[:, 0], axis=1, keepdims=True) for x in arrays(student, teacher)
    ]
    expected = ((units[0] - units[1]) ** 2).mean()
    assert number(patient_mse(student, teacher)) == pytest.approx(expected)
    raw = F.mse_loss(student[:, 0], teacher[:, 0])
    assert number(patient_mse(student, teacher, normalized=False)) == pytest.approx(number(raw))
    # |u - v|² = 2 - 2 cos(u, v), here averaged over 6 channels.
    cosines = [1 - scipy.spatial.distance.cosine(s, t) for s, t in zip(*units, strict=True)]
    assert expected == pytest.approx((2 - 2 * np.mean(cosines)) / 6)


# --- attention ----------------------------------------------------------------------------------


def score_rows(student: torch.Tensor, teacher: torch.Tensor, lengths: tuple[int, ...]) -> Any:
    """NumPy rows of scores, student and teacher, of one head and one token, cut to the text."""
    for i, length in enumerate(lengths):
        for head in range(student.shape[1]):
            for query in range(length):
                where = (i, head, query, slice(length))
                yield arrays(student[where], teacher[where])


def test_attention_losses_row_by_row() -> None:
    student, teacher = two(3, 2, 5, 5)
    lengths = (5, 2, 1)
    mask = mask_of(lengths, 5)
    pairs = list(score_rows(student, teacher, lengths))
    assert len(pairs) == 16
    rows = [[scipy.special.softmax(x) for x in pair] for pair in pairs]
    kl = np.mean([scipy.stats.entropy(t, s) for s, t in rows])
    assert number(attention_kl(student, teacher, mask)) == pytest.approx(kl)
    cross = np.mean([-(t * np.log(s)).sum() for s, t in rows])
    assert number(attention_cross_entropy(student, teacher, mask)) == pytest.approx(cross)
    entries = np.concatenate([s - t for s, t in pairs])
    mse = np.mean(entries**2)
    assert number(attention_score_mse(student, teacher, mask)) == pytest.approx(mse)


def test_score_mse_of_full_texts_is_that_of_tinyberts_code() -> None:
    """It zeroes scores of -100 and less, and takes torch's mean squared error over all entries."""
    student, teacher = two(2, 3, 4, 4)
    full = attention_score_mse(student, teacher, mask_of((4, 4), 4))
    assert number(full) == pytest.approx(number(F.mse_loss(student, teacher)))
    mask = mask_of((4, 2), 4)
    added = (1 - mask[:, None, None]) * -10000.0
    theirs = [torch.where(x + added <= -1e2, 0.0, x + added) for x in (student, teacher)]
    both = mask[:, None, :, None] * mask[:, None, None, :]
    squares = (theirs[0] - theirs[1]).square() * both
    expected = number(squares.sum()) / (3 * int(both.sum()))
    assert number(attention_score_mse(student, teacher, mask)) == pytest.approx(expected)


def test_value_relations_keep_the_heads() -> None:
    student, _ = two(2, 3, 5, 4)
    _, teacher = two(2, 3, 5, 8)
    lengths = (5, 2)
    rows = []
    for i, length in enumerate(lengths):
        for head in range(3):
            s, t = (
                scipy.special.softmax(x @ x.T / math.sqrt(x.shape[1]), axis=1)
                for x in arrays(student[i, head, :length], teacher[i, head, :length])
            )
            rows += [scipy.stats.entropy(tt, ss) for ss, tt in zip(s, t, strict=True)]
    found = number(relation_kl(student, teacher, mask_of(lengths, 5)))
    assert found == pytest.approx(np.mean(rows))


def test_relation_heads_split_the_joined_heads_again() -> None:
    """MiniLMv2: 2 heads of 6 and 3 heads of 8 both become 4 relation heads, of 3 and of 6."""
    student, _ = two(2, 2, 5, 6)
    _, teacher = two(2, 3, 5, 8)
    lengths = (5, 2)
    rows = []
    for i, length in enumerate(lengths):
        joined = [
            np.concatenate(list(x[:, :length]), axis=1) for x in arrays(student[i], teacher[i])
        ]
        assert [x.shape[1] for x in joined] == [12, 24]
        for part in range(4):
            cut = [x[:, part * x.shape[1] // 4 : (part + 1) * x.shape[1] // 4] for x in joined]
            s, t = (scipy.special.softmax(x @ x.T / math.sqrt(x.shape[1]), axis=1) for x in cut)
            rows += [scipy.stats.entropy(tt, ss) for ss, tt in zip(s, t, strict=True)]
    found = relation_kl(student, teacher, mask_of(lengths, 5), relation_heads=4)
    assert number(found) == pytest.approx(np.mean(rows))
    with pytest.raises(ModelError, match="2 heads of 6 are 12 channels, which 5"):
        relation_scores(student, 5)
    with pytest.raises(ModelError, match="12 channels, which 0"):
        relation_scores(student, 0)


def test_other_numbers_of_heads_are_an_error_that_says_what_serves() -> None:
    student, _ = two(2, 2, 5, 5)
    _, teacher = two(2, 3, 5, 5)
    for loss in (attention_kl, attention_cross_entropy, attention_score_mse):
        with pytest.raises(ModelError, match="attention scores") as caught:
            loss(student, teacher, mask_of((5, 2), 5))
        assert "relation_heads" in caught.value.hint


# --- all losses ---------------------------------------------------------------------------------

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def mixed(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mixed_label_cross_entropy(student, teacher, torch.where(mask != 0, 1, IGNORED_LABEL))


def patient(student: torch.Tensor, teacher: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return patient_mse(student, teacher)


def warm(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return logit_kl(student, teacher, 2.0, mask)


def soft(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return soft_cross_entropy(student, teacher, 2.0, mask)


def split_again(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return relation_kl(student, teacher, mask, relation_heads=3)


OF_ROWS: tuple[Loss, ...] = (
    warm,
    soft,
    logit_mse,
    mixed,
    hidden_mse,
    normalized_hidden_mse,
    mean_transfer,
    variance_transfer,
    hidden_cosine,
    patient,
)
OF_SCORES: tuple[Loss, ...] = (attention_kl, attention_cross_entropy, attention_score_mse)
OF_HEADS: tuple[Loss, ...] = (relation_kl, split_again)
ALL = [
    *((loss, "rows") for loss in OF_ROWS),
    *((loss, "scores") for loss in OF_SCORES),
    *((loss, "heads") for loss in OF_HEADS),
]


def states_of(kind: str, batch: int, width: int, seed: int) -> Tensors:
    shapes = {"rows": (width, 6), "scores": (3, width, width), "heads": (3, width, 4)}
    return two(batch, *shapes[kind], seed=seed)


def longer(states: torch.Tensor, kind: str, by: int, fill: float) -> torch.Tensor:
    """The same states with padding of ``fill`` behind each text."""
    amounts = {"rows": (0, 0, 0, by), "scores": (0, by, 0, by), "heads": (0, 0, 0, by)}
    return F.pad(states, amounts[kind], value=fill)


@pytest.mark.parametrize(("loss", "kind"), ALL, ids=lambda x: getattr(x, "__name__", x))
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    by=st.integers(1, 4),
    fill=st.sampled_from([0.0, -3.0, 1e4]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=15, deadline=None)
def test_padding_changes_neither_loss_nor_gradient(
    loss: Loss, kind: str, lengths: list[int], by: int, fill: float, seed: int
) -> None:
    """What stands in the padding has no meaning, and how much there is depends on batch mates."""
    width = max(lengths)
    student, teacher = states_of(kind, len(lengths), width, seed)
    mask = mask_of(tuple(lengths), width)
    plain = loss(student, teacher, mask)
    (gradient,) = torch.autograd.grad(plain, student)
    wide = [longer(x, kind, by, fill) for x in (student, teacher)]
    padded = loss(wide[0], wide[1], F.pad(mask, (0, by)))
    assert number(padded) == pytest.approx(number(plain), rel=1e-9)
    (again,) = torch.autograd.grad(padded, student)
    assert torch.allclose(again, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("loss", "kind"), ALL, ids=lambda x: getattr(x, "__name__", x))
def test_what_padding_holds_is_never_read(loss: Loss, kind: str) -> None:
    student, teacher = states_of(kind, 2, 5, seed=1)
    mask = mask_of((5, 2), 5)
    expected = loss(student, teacher, mask)
    with torch.no_grad():
        for states in (student, teacher):
            rows = states if kind == "rows" else states.transpose(1, 2)
            rows[1, 2:] = torch.randn(rows[1, 2:].shape, dtype=rows.dtype)
            if kind == "scores":
                states[1, ..., 2:] = 77.0
    assert number(loss(student, teacher, mask)) == pytest.approx(number(expected))


@pytest.mark.parametrize(("loss", "kind"), ALL, ids=lambda x: getattr(x, "__name__", x))
def test_only_the_student_learns(loss: Loss, kind: str) -> None:
    student, teacher = states_of(kind, 2, 5, seed=2)
    loss(student, teacher, mask_of((5, 3), 5)).backward()
    assert teacher.grad is None
    assert student.grad is not None and float(student.grad.abs().sum()) > 0


@pytest.mark.parametrize(("loss", "kind"), ALL, ids=lambda x: getattr(x, "__name__", x))
def test_gradients_are_those_of_finite_differences(loss: Loss, kind: str) -> None:
    student, teacher = states_of(kind, 2, 3, seed=3)
    mask = mask_of((3, 2), 3)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, mask), (student,))


ZERO_AT_THE_TEACHER = [
    pair for pair in ALL if pair[0] not in (soft, mixed, attention_cross_entropy)
]


@pytest.mark.parametrize(
    ("loss", "kind"), ZERO_AT_THE_TEACHER, ids=lambda x: getattr(x, "__name__", x)
)
def test_a_student_like_its_teacher_has_nothing_to_learn(loss: Loss, kind: str) -> None:
    student, other = states_of(kind, 2, 5, seed=4)
    mask = mask_of((5, 3), 5)
    assert number(loss(student, student.detach(), mask)) == pytest.approx(0.0, abs=1e-12)
    assert number(loss(student, other, mask)) > 1e-3


@pytest.mark.parametrize(
    ("loss", "kind"),
    [pair for pair in ALL if pair[0] is not patient],  # which reads the first token always
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_batch_of_nothing_costs_nothing(loss: Loss, kind: str) -> None:
    student, teacher = states_of(kind, 2, 4, seed=5)
    found = loss(student, teacher, torch.zeros(2, 4, dtype=torch.long))
    found.backward()
    assert number(found) == 0.0
    assert student.grad is not None and not student.grad.isnan().any()


def test_losses_of_a_model_do_not_depend_on_padding() -> None:
    """From ids to loss: a narrower student of fewer heads, traced beside its teacher."""
    sizes = {"vocab_size": 40, "head_dim": 4, "max_positions": 24}
    teacher, student = (
        make_model(
            EncoderConfig(
                hidden_size=width,
                num_heads=(width // 4,) * layers,
                intermediate_sizes=(16,) * layers,
                **sizes,
            ),
            HeadConfig("classification", num_labels=3),
        ).eval()
        for width, layers in ((16, 4), (8, 2))
    )
    randomise(teacher, 0)
    randomise(student, 1)
    projection = torch.nn.Linear(8, 16)
    ids = torch.randint(1, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = mask_of((6, 3), 6)
    found = []
    for by in (0, 5):
        batch = {"input_ids": F.pad(ids * mask, (0, by)), "attention_mask": F.pad(mask, (0, by))}
        with traced(student) as small, traced(teacher) as large, torch.no_grad():
            logits, targets = student(**batch)["logits"], teacher(**batch)["logits"]
            losses = [logit_kl(logits, targets, 2.0)]
            for s, t in layer_map("uniform", 2, 4):
                losses.append(hidden_mse(small.hidden[s], large.hidden[t], small.mask, projection))
            for s, t in attention_pairs(layer_map("top", 2, 4)):
                for ours, theirs in ((small.queries, large.queries), (small.values, large.values)):
                    losses.append(relation_kl(ours[s], theirs[t], small.mask, relation_heads=2))
                scores = attention_scores(large, t)
                losses.append(attention_kl(scores.flip(1), scores, large.mask))
        found.append(torch.stack(losses))
    assert found[0].shape == (7,) and float(found[0].min()) > 0
    assert torch.allclose(found[0], found[1], rtol=1e-5)


# --- layer maps ---------------------------------------------------------------------------------


def test_layer_maps_of_the_papers() -> None:
    assert layer_map("uniform", 4, 12) == ((0, 0), (1, 3), (2, 6), (3, 9), (4, 12))
    assert layer_map("uniform", 3, 3) == ((0, 0), (1, 1), (2, 2), (3, 3))
    assert layer_map("skip", 6, 12) == ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))
    assert layer_map("last", 6, 12) == ((1, 7), (2, 8), (3, 9), (4, 10), (5, 11))
    assert layer_map("top", 6, 12) == ((6, 12),)
    assert layer_map("explicit", 3, 5, [(3, 4), (0, 0)]) == ((3, 4), (0, 0))


def test_layers_of_attention_are_those_of_tinyberts_code() -> None:
    """There student layer i, counted from 0, learns from teacher layer i * k + k - 1."""
    pairs = attention_pairs(layer_map("uniform", 4, 12))
    assert pairs == tuple((i, i * 3 + 3 - 1) for i in range(4))
    with pytest.raises(UsageError, match=r"no attention: pair \(0, 2\)"):
        attention_pairs(((0, 2),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("upper", 2, 4), "'upper'"),
        (("uniform", 5, 12), "12 is none of 5"),
        (("uniform", 4, 2), "2 is none of 4"),
        (("skip", 5, 12), "12 is none of 5"),
        (("skip", 1, 12), "leaves out the last layer"),
        (("last", 1, 12), "leaves out the last layer"),
        (("last", 4, 3), "at least 4 layers, not 3"),
        (("top", 0, 3), "needs layers"),
        (("top", 2, 3, [(1, 1)]), "makes its own"),
        (("explicit", 2, 3), "needs pairs"),
        (("explicit", 2, 3, [(3, 1)]), r"no pair \(3, 1\)"),
        (("explicit", 2, 3, [(1, -1)]), r"no pair \(1, -1\)"),
        (("explicit", 2, 3, [(1, 2), (1, 2)]), "twice"),
    ],
)
def test_layer_maps_that_cannot_be(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        layer_map(*arguments)


@given(st.sampled_from(LAYER_MAPS[:-1]), st.integers(1, 9), st.integers(1, 30))
def test_a_layer_map_is_in_range_and_in_order(kind: str, students: int, teachers: int) -> None:
    try:
        pairs = layer_map(kind, students, teachers)
    except UsageError:
        return
    assert all(0 <= s <= students and 0 <= t <= teachers for s, t in pairs)
    assert [s for s, _ in pairs] == sorted({s for s, _ in pairs})
    assert [t for _, t in pairs] == sorted({t for _, t in pairs})
