"""Evened out channels: the same answers to the last bit, and int8 that no outlier ruins."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgeformer.converters.fake_int8 import FakeInt8
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.equalizing import equalize
from edgeformer.models.folding import without_no_norms
from tests.mobilebert_models import plant_outliers
from tests.test_folding import BATCH, CONFIGS, HEADS, MOBILE, answer, model_of
from tests.tiny_models import randomise

TAGGER = HeadConfig("token-classification", num_labels=3)
BARE = HeadConfig("classification", num_labels=3, activation="")


@pytest.mark.parametrize("head", [*HEADS, TAGGER, BARE], ids=lambda head: head.task)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_answers_stay_to_the_last_bit(name: str, head: HeadConfig) -> None:
    model = model_of(CONFIGS[name], head)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    folded = without_no_norms(model)
    expected, weights = answer(folded), folded.state_dict()
    equalize(folded)
    assert torch.equal(answer(folded), expected)
    assert any(not torch.equal(weights[key], t) for key, t in folded.state_dict().items())
    after = model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def planted(size: float) -> nn.Module:
    """A classifier of 100 and 50 channels, two and one of which are far out."""
    config = replace(
        MOBILE,
        hidden_size=100,
        bottleneck_size=52,
        head_dim=13,
        intermediate_sizes=(60,) * 6,
        embedding_size=32,
    )
    model = make_model(config, HeadConfig("classification", num_labels=3)).eval()
    randomise(model, 4)
    if size > 1:
        plant_outliers(model, size)
    return model


def int8_error(model: nn.Module) -> float:
    """How far int8 in every linear map and table moves the answers, relatively."""
    expected = answer(model)
    with FakeInt8(model, {name for name, p in model.named_parameters() if p.ndim == 2}):
        moved = answer(model)
    return float((moved - expected).norm() / expected.norm())


def test_planted_channels_are_the_same_model_in_float32() -> None:
    expected = answer(planted(1))
    assert float((answer(planted(64)) - expected).abs().max()) <= 1e-5
    with torch.no_grad():
        hidden = planted(64).get_submodule("encoder")(**BATCH)
    assert float(hidden.abs().max()) > 20


def test_outliers_ruin_int8_only_until_they_are_evened_out() -> None:
    benign, wild = without_no_norms(planted(1)), without_no_norms(planted(64))
    usual, ruined = int8_error(benign), int8_error(wild)
    equalize(wild)
    repaired = int8_error(wild)
    assert ruined > 10 * usual
    assert repaired < 2 * usual


def test_channels_that_are_never_active_or_never_read_do_no_harm() -> None:
    model = planted(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "feed_forward.up" in name:
                parameter[:3] = 0.0
            if "feed_forward.down.weight" in name:
                parameter[:, 5:8] = 0.0
    folded = without_no_norms(model)
    expected = answer(folded)
    equalize(folded)
    assert all(bool(torch.isfinite(p).all()) for p in folded.parameters())
    assert torch.equal(answer(folded), expected)
