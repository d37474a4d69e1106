"""Folded NoNorms: the same answers with less to compute; a wrong fold is a wrong model."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.config import EncoderConfig
from edgeformer.models.folding import without_no_norms
from edgeformer.models.norms import NoNorm, ResidualScale
from tests.bilstm_models import padded
from tests.tiny_models import randomise, tiny_vocabulary

MOBILE = EncoderConfig(
    vocab_size=len(tiny_vocabulary()),
    hidden_size=32,
    num_heads=(4, 4),
    head_dim=4,
    intermediate_sizes=(24,) * 6,
    max_positions=48,
    activation="relu",
    embedding_size=16,
    embedding_projection="tokens",
    trigram=True,
    norm="no_norm",
    bottleneck_size=16,
    stacked_ffns=3,
)
PLAIN: dict[str, Any] = {"embedding_size": 0, "embedding_projection": "none", "trigram": False}
CONFIGS = {
    "mobilebert": MOBILE,
    "tiny": replace(MOBILE, bottleneck_readers="all"),
    "teacher": replace(
        MOBILE, bottleneck_readers="none", intermediate_sizes=(24,) * 2, stacked_ffns=1
    ),
    "no bottleneck": replace(MOBILE, bottleneck_size=0, head_dim=8),
    "no projection": replace(MOBILE, **PLAIN),
    "sum projected": replace(MOBILE, embedding_projection="sum", trigram=False),
    "one type": replace(MOBILE, type_vocab_size=1, task_type_vocab_size=3),
    "no types": replace(MOBILE, type_vocab_size=0),
    "uneven and tied": replace(
        MOBILE,
        num_heads=(4, 1, 4),
        intermediate_sizes=(24, 8, 16, 5, 6, 7, 24, 8, 16),
        layer_groups=(0, 1, 0),
    ),
}
HEADS = (
    HeadConfig("embedding", normalized=False),
    HeadConfig("classification", num_labels=3),
    HeadConfig("fill-mask", activation="relu", narrows=False),
)
BATCH = padded([9, 4, 1])


def model_of(config: EncoderConfig, head: HeadConfig = HEADS[0]) -> nn.Module:
    model = make_model(config, head).eval()
    randomise(model, 3)
    return model


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        (value,) = model(**BATCH).values()
    return value * BATCH["attention_mask"][..., None] if value.ndim == 3 else value


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.task)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_answers_stay(name: str, head: HeadConfig) -> None:
    model = model_of(CONFIGS[name], head)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    expected = answer(model)
    folded = without_no_norms(model)
    bound = 1e-5 * max(1.0, float(expected.abs().max()))
    assert float((answer(folded) - expected).abs().max()) <= bound
    left = [m for m in folded.modules() if isinstance(m, NoNorm)]
    assert len(left) == ("projec" in name)  # that of embeddings whose tables others may use
    after = model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_nothing_is_copied_that_stays() -> None:
    model = model_of(MOBILE)
    folded = without_no_norms(model)
    mine, theirs = dict(model.named_parameters()), dict(folded.named_parameters())
    same = {name for name in mine if mine[name] is theirs.get(name)}
    assert "encoder.embeddings.tokens.weight" in same
    assert "encoder.layers.0.attention.query.weight" in same
    assert "encoder.layers.0.attention.output.weight" not in same


def test_a_model_of_layer_norms_is_left_alone() -> None:
    model = model_of(replace(MOBILE, norm="layer_norm"))
    assert without_no_norms(model) is model
    plain = nn.Linear(2, 2)
    assert without_no_norms(plain) is plain


def test_less_is_left_to_compute() -> None:
    """Of a layer: two bottlenecks as linear maps, one product and one sum for each residual."""
    config = replace(MOBILE, num_heads=(4,), intermediate_sizes=(24,) * 3)
    counts = []
    for module in (model_of(config), without_no_norms(model_of(config))):
        program = torch.export.export(module, (), BATCH)
        nodes = Counter(str(node.target).removeprefix("aten.") for node in program.graph.nodes)
        counts.append((nodes["mul.Tensor"], nodes["add.Tensor"], nodes["linear.default"]))
    residuals = 1 + config.stacked_ffns + 1  # attention, feed-forward blocks, the way back
    bottlenecks, embeddings = 2, 1
    muls, adds, linears = counts[0]
    assert counts[1] == (
        muls - bottlenecks - embeddings,
        adds - bottlenecks - embeddings - residuals,
        linears,
    )


def test_what_is_left_of_a_norm_is_a_scaled_residual() -> None:
    added, residual = torch.randn(2, 4), torch.randn(2, 4)
    weight = nn.Parameter(torch.randn(4))
    torch.testing.assert_close(ResidualScale(weight)(added, residual), added + weight * residual)
