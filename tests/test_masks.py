"""Masks on weights: exactly the share that was asked for, the right weights, the right gradients.

What a user would lose: a model that is less sparse than its report says, or whose zeros fill up
again in fine-tuning. Oracles: numpy, autograd by hand, torch.nn.utils.prune, scipy.
"""

import copy
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

from edgeformer.compression.hard_concrete import HardConcrete
from edgeformer.compression.masks import (
    MASK_METHODS,
    SMALLEST_SHARE,
    add_masks,
    bake,
    kept_weights,
    set_sparsity,
    sparsities,
    sparsity,
)
from edgeformer.compression.shrinkage import proximal_step, reweighting, soft_threshold
from edgeformer.errors import UsageError
from tests.compressible import batch_for, tiny
from tests.tiny_models import randomise


def linear(rows: int = 6, columns: int = 8, seed: int = 0) -> nn.Linear:
    module = nn.Linear(columns, rows)
    randomise(module, seed)
    return module


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_smallest_weights_are_masked(rows: int, columns: int, share: float, seed: int) -> None:
    """As torch.nn.utils.prune chooses them, but for the floor."""
    module = linear(rows, columns, seed)
    reference = copy.deepcopy(module)
    add_masks(module, "magnitude")
    set_sparsity(module, share)
    kept = kept_weights(rows * columns, share)
    assert int((module.weight != 0).sum()) == kept
    prune.l1_unstructured(reference, "weight", amount=rows * columns - kept)
    assert torch.equal(module.weight, reference.weight)


@pytest.mark.parametrize(
    ("size", "share", "kept"),
    [(1000, 0.0, 1000), (1000, 0.75, 250), (1000, 1.0, 5), (1000, 0.999, 5), (3, 1.0, 1)],
)
def test_of_each_matrix_something_stays(size: int, share: float, kept: int) -> None:
    assert kept_weights(size, share) == kept
    assert kept >= SMALLEST_SHARE * size


def test_each_matrix_has_its_own_sparsity() -> None:
    model = tiny("bert", "classification")
    tables = ("embeddings.tokens", "embeddings.positions")
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    names = add_masks(model.encoder.layers, "magnitude")
    assert len(names) == 3 * 6
    set_sparsity(model.encoder.layers, 0.75)
    for name, share in sparsities(model.encoder.layers).items():
        size = model.encoder.layers.get_submodule(name).weight.numel()
        assert share == pytest.approx(0.75, abs=0.5 / size + 1e-6)
    assert [sparsities(model.encoder)[name] for name in tables] == [0, 0]
    add_masks(model.encoder.embeddings.tokens, "magnitude")
    set_sparsity(model.encoder.embeddings.tokens, 0.6)
    assert sparsities(model.encoder)["embeddings.tokens"] == pytest.approx(0.6, abs=1e-3)
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    zeros, sizes = sum(int((w == 0).sum()) for w in matrices), [w.numel() for w in matrices]
    assert sparsity(model) == pytest.approx(zeros / sum(sizes))
    bake(model)
    assert all(torch.equal(dense[n], p) for n, p in model.named_parameters() if p.dim() == 1)


def test_a_masked_weight_has_no_gradient_and_may_come_back() -> None:
    module = linear()
    add_masks(module, "magnitude")
    set_sparsity(module, 0.5)
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    plain = module.weight.detach().clone().requires_grad_()
    expected = torch.autograd.grad(F.linear(inputs, plain, module.bias).square().sum(), plain)[0]
    module(inputs).square().sum().backward()
    original = module.parametrizations.weight.original
    assert torch.equal(original.grad, expected * (plain != 0))
    with torch.no_grad():
        smallest = original.abs().argmin()
        original.view(-1)[smallest] = 9.0
    assert float(module.weight.detach().view(-1)[smallest]) == 0, "until masks are chosen anew"
    set_sparsity(module, 0.5)
    assert float(module.weight.detach().view(-1)[smallest]) == 9


def test_gradients_of_movement_go_straight_through() -> None:
    """dL/dS = dL/dW' * W for all weights, dL/dW = dL/dW' * M: arXiv 2005.07683, section 4."""
    module = linear()
    add_masks(module, "movement")
    parametrization = module.parametrizations.weight
    original, scores = parametrization.original, parametrization[0].scores
    randomise(parametrization[0], 3)
    set_sparsity(module, 0.25)
    kept = np.argsort(-scores.detach().numpy(), axis=None)[: kept_weights(48, 0.25)]
    mask = np.zeros(48, dtype=bool)
    mask[kept] = True
    mask = mask.reshape(6, 8)
    assert np.array_equal(module.weight.detach().numpy(), np.where(mask, original.detach(), 0))
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    effective = module.weight.detach().clone().requires_grad_()
    loss = F.linear(inputs, effective, module.bias).square().sum()
    (by_effective,) = torch.autograd.grad(loss, effective)
    module(inputs).square().sum().backward()
    assert torch.allclose(scores.grad, by_effective * original.detach(), rtol=1e-5)
    assert torch.allclose(original.grad, by_effective * torch.from_numpy(mask), rtol=1e-5)


def test_movement_keeps_what_training_needs() -> None:
    """The target reads the inputs whose weights start small: magnitude drops them, movement not."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    target = inputs[:, :4].sum(1, keepdim=True)
    losses = {}
    for method in ("magnitude", "movement"):
        module = nn.Linear(8, 1, bias=False)
        module.weight.data = torch.tensor([[0.1] * 4 + [1.0] * 4])
        add_masks(module, method)
        parameters = dict(module.named_parameters())
        groups = [
            {"params": [p for n, p in parameters.items() if n.endswith("scores")], "lr": 0.05},
            {"params": [p for n, p in parameters.items() if not n.endswith("scores")], "lr": 0.005},
        ]
        optimiser = torch.optim.SGD([group for group in groups if group["params"]])
        for step in range(60):
            set_sparsity(module, 0.5 * min(1, step / 20))
            optimiser.zero_grad()
            loss = F.mse_loss(module(inputs), target)
            loss.backward()
            optimiser.step()
        set_sparsity(module, 0.5)
        losses[method] = F.mse_loss(module(inputs), target).item()
    assert losses["movement"] < 0.5 * losses["magnitude"]


@pytest.mark.parametrize("method", MASK_METHODS)
def test_baking_leaves_a_plain_model_with_the_same_answers(method: str) -> None:
    model, batch = tiny("albert", "classification"), batch_for("albert")
    parameters = {id(p) for p in model.parameters()}
    names = list(model.state_dict())
    if method == "fixed":
        for p in model.encoder.layers.parameters():
            p.data[p.abs() < 0.1] = 0
    add_masks(model.encoder.layers, method)
    if method == "movement":
        for module in model.modules():
            if parametrize.is_parametrized(module):
                randomise(module.parametrizations["weight"][0], 1)
    if method != "fixed":
        set_sparsity(model, 0.7)
    with torch.no_grad():
        expected = model(**batch)["logits"]
        with parametrize.cached():
            assert torch.equal(model(**batch)["logits"], expected)
    shares = sparsities(model)
    bake(model)
    assert list(model.state_dict()) == names
    assert {id(p) for p in model.parameters()} == parameters, "an optimiser still holds them"
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert sparsities(model) == shares and max(shares.values()) > 0.4
    with torch.no_grad():
        assert torch.equal(model(**batch)["logits"], expected)
    bake(model)  # nothing left to do


def test_fixed_zeros_outlive_an_optimiser_that_moves_everything() -> None:
    """Gordon et al., step 3: fine-tuning leaves the pattern of zeros as it is."""
    model, batch = tiny("bert", "classification"), batch_for("bert")
    add_masks(model.encoder.layers, "magnitude")
    set_sparsity(model.encoder.layers, 0.6)
    bake(model)
    zeros = {n: p == 0 for n, p in model.encoder.layers.named_parameters() if p.dim() == 2}
    before = {n: p.detach().clone() for n, p in model.encoder.layers.named_parameters()}
    add_masks(model.encoder.layers, "fixed")
    with pytest.raises(UsageError, match="fixed"):
        set_sparsity(model.encoder.layers, 0.7)
    optimiser = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    with torch.no_grad():  # what momentum from before would do
        for p in model.parameters():
            p.add_(0.01)
    for _ in range(3):
        optimiser.zero_grad()
        model(**batch)["logits"].square().sum().backward()
        optimiser.step()
    bake(model)
    after = dict(model.encoder.layers.named_parameters())
    for name, zero in zeros.items():
        assert torch.equal(after[name] == 0, zero)
        assert not torch.equal(after[name], before[name])


def test_masks_are_part_of_the_state() -> None:
    """Training that was interrupted goes on with its masks."""
    for method in ("magnitude", "movement"):
        first, second = linear(seed=1), linear(seed=2)
        for module in (first, second):
            add_masks(module, method)
        if method == "movement":
            randomise(first.parametrizations["weight"][0], 4)
        set_sparsity(first, 0.5)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.weight, second.weight)
        assert sparsity(second) == 0.5
        assert torch.equal(copy.deepcopy(first).weight, first.weight)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: add_masks(linear(), "lottery"), "magnitude"),
        (lambda: add_masks(nn.LayerNorm(3), "magnitude"), "no matrix"),
        (lambda: set_sparsity(linear(), 0.5), "add_masks|has a mask"),
        (lambda: set_sparsity(linear(), 1.5), "0 to 1"),
    ],
)
def test_masks_that_cannot_be(act: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        act()


def test_a_second_mask_is_refused_before_the_first_matrix() -> None:
    model = tiny("bert")
    add_masks(model.encoder.layers[2], "magnitude")
    with pytest.raises(UsageError, match=r"layers\.2"):
        add_masks(model.encoder, "movement")
    assert not parametrize.is_parametrized(model.encoder.layers[0].attention.query)


@given(st.floats(-3, 3), st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_soft_threshold_is_the_proximal_operator(value: float, threshold: float) -> None:
    """It minimises (x - v)^2 / 2 + t |x|, says scipy."""
    best = scipy.optimize.minimize_scalar(
        lambda x: 0.5 * (x - value) ** 2 + threshold * abs(x), bounds=(-4, 4), method="bounded"
    ).x
    ours = float(soft_threshold(torch.tensor(value, dtype=torch.float64), threshold))
    assert ours == pytest.approx(best, abs=1e-4)


def test_a_proximal_step_zeroes_the_small_weights_first() -> None:
    weight = nn.Parameter(torch.tensor([0.01, -0.5, 2.0]))
    alpha = reweighting(weight, epsilon=0.1)
    assert alpha.tolist() == pytest.approx([1 / 0.11, 1 / 0.6, 1 / 2.1])
    proximal_step([weight], [alpha], strength=0.02)
    assert weight.tolist() == pytest.approx([0.0, -0.5 + 0.02 / 0.6, 2 - 0.02 / 2.1])
    assert weight.tolist()[0] == 0.0 and weight.requires_grad


def test_hard_concrete_gates_open_as_often_as_they_say() -> None:
    gates = HardConcrete()
    logits = torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0])
    generator = torch.Generator().manual_seed(0)
    draws = gates.sample(logits.expand(40_000, -1), generator)
    assert float(draws.min()) == 0.0 and float(draws.max()) == 1.0
    said = gates.open_probability(logits)
    error = (said * (1 - said) / 40_000).sqrt()
    assert bool(((draws > 0).float().mean(0) - said).abs().le(4 * error + 1e-4).all())
    # arXiv 1910.06360: the penalty is sigma(alpha - beta ln(-gamma / zeta)).
    by_hand = 1 / (1 + math.exp(-(1.0 - 2 / 3 * math.log(0.1 / 1.1))))
    assert float(said[3]) == pytest.approx(by_hand)
    assert gates.settled(torch.tensor([-9.0, 0.0, 9.0])).tolist() == pytest.approx([0, 0.5, 1])


def test_gradients_reach_the_logits_of_hard_concrete_gates() -> None:
    """A gate whose unit costs more than it helps closes; one that helps opens."""
    gates = HardConcrete()
    logits = nn.Parameter(torch.zeros(2))
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam([logits], 0.1)
    for _ in range(200):
        optimiser.zero_grad()
        helps = gates.sample(logits, generator)[0]
        loss = (1 - helps) ** 2 + 0.1 * gates.open_probability(logits).sum()
        loss.backward()
        optimiser.step()
    assert gates.settled(logits.detach()).tolist() == [1.0, 0.0]
