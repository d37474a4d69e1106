"""What a trace shows is what the model computes: a distillation on wrong states teaches nothing.

The oracle is transformers' output_hidden_states and output_attentions (eager) with every tensor
random, on texts without padding; ours gets the same texts padded in one batch.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from edgeformer.compression.dropout import dropout
from edgeformer.compression.gating import gated
from edgeformer.compression.traces import (
    Trace,
    attention_probabilities,
    attention_scores,
    traced,
)
from edgeformer.errors import ModelError
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.config import EncoderConfig
from edgeformer.models.encoder import Encoder
from tests.test_encoder import padded_batch
from tests.test_families import IMAGE_SIZES, assert_close, ours_of, padded, text_model, texts_of
from tests.tiny_models import randomise

UNEVEN = EncoderConfig(
    vocab_size=40,
    hidden_size=16,
    num_heads=(3, 1, 3),
    head_dim=4,
    intermediate_sizes=(8, 5, 8),
    max_positions=24,
    layer_groups=(0, 1, 0),
)


def uneven_model(task: str = "embedding", **changes: Any) -> Any:
    model = make_model(replace(UNEVEN, **changes), HeadConfig(task, num_labels=3)).eval()
    randomise(model, 0)
    return model


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}),
        ("distilbert", {}),
        ("electra", {}),
        ("mpnet", {}),
        ("albert", {"num_hidden_layers": 4, "num_hidden_groups": 2}),
        ("mobilebert", {}),
        ("mobilebert", {"use_bottleneck_attention": True}),
    ],
    ids=str,
)
def test_states_of_a_text_equal_transformers(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = text_model(family, "embedding", seed=4, **changes)
    model.set_attn_implementation("eager")
    ours = ours_of(model, "embedding", tmp_path)
    texts = texts_of(model.config, (9, 12, 4, 1))
    with traced(ours) as inside, torch.no_grad():
        ours(**padded(texts, pad=1, longer=3))
    for row, text in enumerate(texts):
        with torch.no_grad():
            expected = model(**text, output_hidden_states=True, output_attentions=True)
        length = text["input_ids"].shape[1]
        assert len(inside.hidden) == len(expected.hidden_states)
        for state, wanted in zip(inside.hidden, expected.hidden_states, strict=True):
            assert_close(state[row, :length], wanted[0])
        assert len(inside.queries) == len(expected.attentions)
        for layer, wanted in enumerate(expected.attentions):
            found = attention_probabilities(inside, layer)[row, :, :length]
            assert float((found[..., :length] - wanted[0]).abs().max()) <= 1e-5
            assert float(found[..., length:].abs().sum()) == 0, "attention to padding"
    assert inside.mask.sum(1).tolist() == [9, 12, 4, 1]
    assert inside.final is inside.hidden[-1]


@pytest.mark.parametrize("name", ["ViTModel", "DeiTModel", "Dinov2Model"])
def test_states_of_an_image_equal_transformers(name: str, tmp_path: Path) -> None:
    """Pre-norm encoders: states are the layers' outputs, ``final`` is what the head reads."""
    model_class: Any = getattr(transformers, name)
    model = model_class(model_class.config_class(**IMAGE_SIZES)).eval()
    model.set_attn_implementation("eager")
    randomise(model, 2)
    ours = ours_of(model, "embedding", tmp_path)
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with traced(ours) as inside, torch.no_grad():
        ours(images)
        expected = model(images, output_hidden_states=True, output_attentions=True)
    for state, wanted in zip(inside.hidden, expected.hidden_states, strict=True):
        assert_close(state, wanted)
    for layer, wanted in enumerate(expected.attentions):
        assert_close(attention_probabilities(inside, layer), wanted)
    assert_close(inside.final, expected.last_hidden_state)
    assert not torch.allclose(inside.final, inside.hidden[-1], atol=1e-3)
    assert inside.mask.all() and inside.mask.shape == inside.final.shape[:2]


def test_values_and_probabilities_make_what_attention_writes() -> None:
    """Also in layers of uneven heads of which two share weights, in the order in which they ran."""
    model = uneven_model()
    contexts = []
    handles = [
        layer.attention.output.register_forward_pre_hook(lambda _, args: contexts.append(args[0]))
        for layer in model.encoder.layers
    ]
    batch = padded_batch(40, (7, 3))
    with traced(model) as inside, torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    assert [state.shape[1] for state in inside.queries] == [3, 1, 3]
    for layer, context in enumerate(contexts):
        mixed = attention_probabilities(inside, layer) @ inside.values[layer]
        found = mixed.transpose(1, 2).flatten(2)
        assert_close(found[0], context[0])
        assert_close(found[1, :3], context[1, :3])


def test_scores_are_scaled_and_carry_the_relative_bias() -> None:
    model = uneven_model(num_heads=(3, 3), intermediate_sizes=(8, 8), layer_groups=())
    biased = uneven_model(
        num_heads=(3, 3), intermediate_sizes=(8, 8), layer_groups=(), relative_buckets=8
    )
    batch = padded_batch(40, (7,))
    for each in (model, biased):
        with traced(each) as inside, torch.no_grad():
            each(**batch)
        query, key = inside.queries[1][0, 2, 4], inside.keys[1][0, 2, 6]
        expected = float(query @ key) / 2.0
        if each is biased:
            bias = each.encoder.relative_positions(7, torch.device("cpu")).detach()
            expected += float(bias[0, 2, 4, 6])
        assert float(attention_scores(inside, 1)[0, 2, 4, 6]) == pytest.approx(expected, abs=1e-5)


def test_a_forward_replaces_the_states_of_the_one_before() -> None:
    model = uneven_model()
    long, short = padded_batch(40, (9, 4)), padded_batch(40, (3,))
    with traced(model) as inside, torch.no_grad():
        assert inside.hidden == []
        model(**long)
        first = list(inside.hidden)
        model(**short)
        assert [len(states) for states in (inside.hidden, inside.queries, inside.values)] == [
            4,
            3,
            3,
        ]
        assert {tuple(state.shape) for state in inside.hidden} == {(1, 3, 16)}
        assert first[0].shape == (2, 9, 16)
    with torch.no_grad():
        model(**long)
    assert inside.hidden[0].shape == (1, 3, 16), "outside the block nothing is observed"


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_stays_on_the_model() -> None:
    """A hook that stays would hold memory and break a later conversion."""
    model = uneven_model()
    batch = padded_batch(40, (7, 3))
    with torch.no_grad():
        (plain,) = model(**batch).values()
        with traced(model):
            (observed,) = model(**batch).values()
    assert torch.equal(plain, observed)
    with pytest.raises(RuntimeError, match="stop"), traced(model):
        raise RuntimeError("stop")
    assert hooks_of(model) == 0


def test_only_what_is_asked_for_is_kept() -> None:
    model = uneven_model()
    with traced(model, attention=False) as states, traced(model, hidden=False) as heads:
        model(**padded_batch(40, (7, 3)))
    assert (len(states.hidden), len(states.queries)) == (4, 0)
    assert (len(heads.hidden), len(heads.queries)) == (0, 3)
    assert heads.mask.sum() == states.mask.sum() == 10


def test_a_trace_shows_what_gates_and_dropout_leave() -> None:
    model = uneven_model()
    passed_by = (torch.tensor([1.0, 0.0, 1.0]),)
    batch = padded_batch(40, (7, 3))
    with gated(model, {"layers": passed_by}), traced(model) as inside, torch.no_grad():
        model(**batch)
    assert torch.equal(inside.hidden[2], inside.hidden[1])
    assert not torch.allclose(inside.hidden[3], inside.hidden[2], atol=1e-3)
    with torch.random.fork_rng(), dropout(model.train(), 0.5), traced(model) as inside:
        torch.manual_seed(0)
        model(**batch)
    assert float((inside.hidden[0] == 0).float().mean()) == pytest.approx(0.5, abs=0.15)


def test_losses_on_states_reach_the_parameters() -> None:
    model = uneven_model("classification")
    with traced(model) as inside:
        model(**padded_batch(40, (7, 3)))
    (inside.hidden[1].sum() + attention_scores(inside, 2).sum()).backward()
    assert model.encoder.embeddings.tokens.weight.grad is not None
    assert float(model.encoder.layers[1].attention.value.weight.grad.abs().sum()) > 0
    assert model.classifier.weight.grad is None


def test_an_encoder_alone_is_traced_and_other_modules_are_refused() -> None:
    encoder = Encoder(UNEVEN).eval()
    with traced(encoder) as inside, torch.no_grad():
        hidden = encoder(**padded_batch(40, (5,)))
    assert inside.final is hidden
    with pytest.raises(ModelError, match="Linear is not built"), traced(nn.Linear(2, 2)):
        pass
    assert Trace().hidden == []
