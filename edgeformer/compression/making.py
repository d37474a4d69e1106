"""The student of a recipe, as it is before the first stage."""

import math
from dataclasses import replace

import torch
from torch import nn

from edgeformer.compression.factorize import (
    even_ranks,
    factorize_embedding,
    factorize_linears,
    low_rank,
)
from edgeformer.compression.layer_choice import keep_layers
from edgeformer.compression.optimizing import seed_of
from edgeformer.compression.recipe import Student
from edgeformer.compression.selection import keep_listed
from edgeformer.compression.students import copy_from_teacher, new_student, take_layers
from edgeformer.compression.tying import tie_layers
from edgeformer.compression.units import Values, encoder_of
from edgeformer.errors import UsageError
from edgeformer.models.bilstm import BiLstmConfig
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.config import EncoderConfig
from edgeformer.models.encoder import Encoder
from edgeformer.models.heads import SequenceClassifier


def make_student(
    student: Student, teacher: nn.Module, head: HeadConfig, seed: int
) -> tuple[nn.Module, HeadConfig]:
    """A student with what it takes from its teacher.

    Args:
        student: how.
        teacher: of edgeformer.models. It is left as it is.
        head: settings of the teacher's head.
        seed: of new weights.

    Returns:
        The student on the teacher's device, in eval mode, and the settings of its head.

    Raises:
        UsageError: sizes that make no student of this teacher, or ``reads`` for another task.
        ModelError: the teacher is not an Encoder of EdgeFormer.
    """
    device = next(teacher.parameters()).device
    head = _head(student, teacher, head)
    if student.kind in ("same", "layers"):
        made = _from_teacher(student, teacher).to(device)
        if isinstance(made, SequenceClassifier):
            made.pooling = head.text_reads
        return made, head
    encoder = encoder_of(teacher)
    if student.kind == "bilstm":
        made, head = _bilstm(student, encoder, head, seed)
        return made.to(device), head
    generator = torch.Generator().manual_seed(seed_of(seed, "student"))
    is_mobile = student.kind == "mobilebert"
    config = (_mobile_config if is_mobile else _sized_config)(student, encoder.config)
    made = new_student(config, head, generator).to(device)
    copy_from_teacher(made, teacher)
    _start_table(encoder_of(made), encoder)
    return made, head


def _head(student: Student, teacher: nn.Module, head: HeadConfig) -> HeadConfig:
    if student.reads and not isinstance(teacher, SequenceClassifier):
        raise UsageError(
            f"reads = {student.reads!r} is for classifiers of texts, and the teacher is a"
            f" {type(teacher).__name__}",
            hint="the recipe finetune makes a classifier of an encoder",
        )
    return replace(head, text_reads=student.reads or head.text_reads)


def num_layers(student: Student, teachers: int) -> int:
    """Layers of the student of a teacher with so many."""
    if student.layer_numbers:
        return len(student.layer_numbers)
    if student.layer_share:
        return max(1, math.floor(student.layer_share * teachers + 0.5))
    return student.layers or teachers


def _from_teacher(student: Student, teacher: nn.Module) -> nn.Module:
    depth = encoder_of(teacher).config.num_layers
    stay = num_layers(student, depth)
    if stay > depth:
        raise UsageError(f"the student would have {stay} layers, and its teacher has {depth}")
    keep = layers_that_stay(student.drop, depth, stay)
    made = take_layers(teacher, student.layer_numbers or keep[0].nonzero().flatten().tolist())
    if student.tied:
        made = tie_layers(made, (0,) * stay)
    if student.linear_share:
        ranks = even_ranks(encoder_of(made).config, student.linear_share)
        made = factorize_linears(made, ranks)
    return factorize_embedding(made, student.embedding_size) if student.embedding_size else made


def layers_that_stay(drop: str, layers: int, stay: int) -> Values:
    """Bool (layers,), as one place.

    Args:
        drop: which go, of ``recipe.DROPPED_LAYERS``.
        layers: how many there are.
        stay: how many stay.

    Raises:
        UsageError: a rule that cannot drop as many.
    """
    if drop == "between":
        return keep_listed(layers, evenly_spaced(layers, stay))
    return keep_layers(drop, layers, stay)


def evenly_spaced(layers: int, stay: int) -> tuple[int, ...]:
    """Positions from the first layer to the last one, as even as whole numbers can be.

    Of 12 layers 6: 0, 2, 4, 7, 9, 11, as DistilBERT has it (arXiv 1910.01108).
    """
    if stay == 1:
        return (0,)
    return tuple(math.floor(i * (layers - 1) / (stay - 1) + 0.5) for i in range(stay))


def _sized_config(student: Student, teacher: EncoderConfig) -> EncoderConfig:
    depth = num_layers(student, teacher.num_layers)
    hidden = student.hidden_size or teacher.hidden_size
    heads = student.num_heads or max(teacher.num_heads)
    if hidden % heads:
        raise UsageError(
            f"a hidden_size of {hidden} does not divide among {heads} heads",
            hint="set num_heads, or a hidden_size that is a multiple of the teacher's heads",
        )
    narrow = student.embedding_size and student.embedding_size != hidden
    return replace(
        teacher,
        hidden_size=hidden,
        num_heads=(heads,) * depth,
        attention_spans=(),
        head_dim=hidden // heads,
        intermediate_sizes=(student.intermediate_size or max(teacher.intermediate_sizes),) * depth,
        embedding_size=student.embedding_size if narrow else 0,
        embedding_projection="tokens" if narrow else "none",
        layer_groups=(),
        bottleneck_size=0,
        stacked_ffns=1,
        trigram=False,
    )


def _mobile_config(student: Student, teacher: EncoderConfig) -> EncoderConfig:
    """MobileBERT's shape (arXiv 2004.02984, table 1) between states as wide as the teacher's."""
    depth = num_layers(student, teacher.num_layers)
    heads = student.num_heads or max(teacher.num_heads)
    width = student.intermediate_size or 4 * student.bottleneck_size
    return replace(
        teacher,
        hidden_size=student.hidden_size or teacher.hidden_size,
        num_heads=(heads,) * depth,
        attention_spans=(),
        head_dim=max(1, student.bottleneck_size // heads),
        intermediate_sizes=(width,) * (depth * student.stacked_ffns),
        stacked_ffns=student.stacked_ffns,
        bottleneck_size=student.bottleneck_size,
        bottleneck_readers="query_key",
        embedding_size=student.embedding_size,
        embedding_projection="tokens",
        trigram=True,
        norm="no_norm",
        activation="relu",
        layer_groups=(),
    )


@torch.no_grad()
def _start_table(student: Encoder, teacher: Encoder) -> None:
    """Give a narrow token table the closest matrix of its rank to the teacher's table.

    The map behind it starts as the other factor, its rows for neighbours (trigrams) as zeros.
    """
    ours, theirs = student.config, teacher.config
    same_width = ours.hidden_size == theirs.hidden_size == theirs.token_size
    if ours.embedding_projection != "tokens" or not same_width or theirs.trigram:
        return
    table, projection = low_rank(teacher.token_table, ours.token_size)
    assert student.embeddings.projection is not None
    linear = student.embeddings.projection
    assert isinstance(linear, nn.Linear)
    student.token_table.copy_(table)
    linear.weight.zero_()
    middle = ours.token_size if ours.trigram else 0
    linear.weight[:, middle : middle + ours.token_size] = projection.t()


def _bilstm(
    student: Student, teacher: Encoder, head: HeadConfig, seed: int
) -> tuple[nn.Module, HeadConfig]:
    """A BiLSTM of Tang et al.'s sizes (arXiv 1903.12136, section 4.3) unless the recipe has others.

    Its token table starts as the teacher's, or as the closest matrix of its width.
    """
    if teacher.token_table.shape[1] < student.embedding_size:
        raise UsageError(
            f"the teacher's token table is {teacher.token_table.shape[1]} wide, and the student's"
            f" would be {student.embedding_size}"
        )
    config = BiLstmConfig(
        vocab_size=teacher.config.vocab_size,
        embedding_size=student.embedding_size or teacher.config.token_size,
        hidden_size=student.hidden_size or 150,
        intermediate_size=student.intermediate_size or 200,
    )
    head = replace(head, activation="relu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "student"))
        made = make_model(config, head).eval()
    table = teacher.token_table.detach()
    if config.embedding_size < table.shape[1]:
        table, _ = low_rank(table, config.embedding_size)
    with torch.no_grad():
        made.get_parameter("encoder.tokens.weight").copy_(table)
    return made, head
