"""Scores of units agree with what they are defined to be, and find what does not matter.

What a user would lose: a pruned model whose best heads went first. Oracles: finite differences,
gradients of PyTorch on other tensors, sums by hand, and a model with units known to be useless.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeformer.compression.batches import Batch, Outputs, answer
from edgeformer.compression.gating import gated
from edgeformer.compression.masks import add_masks
from edgeformer.compression.scores import METHODS, score
from edgeformer.compression.selection import keep_best
from edgeformer.compression.slimming import slim
from edgeformer.compression.units import UNIT_KINDS, Values, places, unit_counts
from edgeformer.errors import ModelError, UsageError
from tests.compressible import batch_for, tiny


def cross_entropy(outputs: Outputs, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(outputs["logits"], batch["labels"])


def labelled(name: str, seed: int = 0, lengths: tuple[int, ...] = (9, 4, 1, 6)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    batch = batch_for(name, lengths, seed)
    return {**batch, "labels": torch.randint(3, (len(lengths),), generator=generator)}


def close(ours: Values, reference: Values, tolerance: float = 1e-4) -> bool:
    assert len(ours) == len(reference)
    assert all(values.dtype == torch.float32 for values in ours)
    assert max(float(values.abs().max()) for values in reference) > 1e-6
    return all(
        torch.allclose(a, b.float(), rtol=tolerance, atol=tolerance * float(b.abs().max()))
        for a, b in zip(ours, reference, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert", "heads"),
        ("uneven", "heads"),
        ("albert", "heads"),
        ("mpnet", "heads"),
        ("mobilebert", "neurons"),
        ("vit", "layers"),
        ("albert", "layers"),
        ("mobilebert", "embedding_dims"),
        ("bert", "tokens"),
    ],
)
@pytest.mark.parametrize("per_example", [True, False])
def test_gate_taylor_is_the_slope_of_the_loss(name: str, kind: str, per_example: bool) -> None:
    """Central differences of the loss, of each example or of each batch, in float64."""
    model = tiny(name, "classification").double()
    batches = [
        {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
        for batch in (labelled(name, 0), labelled(name, 1, (5, 3)))
    ]
    ours = score(model, kind, "gate_taylor", batches, cross_entropy, per_example=per_example)
    parts = [
        {k: v[i : i + 1] for k, v in b.items()} for b in batches for i in range(len(b["labels"]))
    ]
    parts = parts if per_example else batches
    expected = []
    step = 1e-5
    for place, count in enumerate(unit_counts(model, kind)):
        slopes = torch.zeros(count)
        for unit in range(count):
            for part in parts:
                ends = []
                for sign in (1, -1):
                    gates = [torch.ones(n, dtype=torch.float64) for n in unit_counts(model, kind)]
                    gates[place][unit] += sign * step
                    with torch.no_grad(), gated(model, {kind: tuple(gates)}):
                        ends.append(float(cross_entropy(answer(model, part), part)))
                slopes[unit] += abs(ends[0] - ends[1]) / (2 * step) / len(parts)
        expected.append(slopes)
    assert close(ours, tuple(expected), 1e-3)


def test_gate_taylor_of_heads_is_attention_times_its_gradient() -> None:
    """The second form of equation 2 of arXiv 1905.10650, without any gate."""
    model, batch = tiny("bert", "classification"), labelled("bert")
    contexts: list[torch.Tensor] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        contexts.append(inputs[0])

    handles = [
        layer.attention.output.register_forward_pre_hook(note) for layer in model.encoder.layers
    ]
    cross_entropy(answer(model, batch), batch).backward()
    for handle in handles:
        handle.remove()
    expected = []
    for context in contexts:
        product = (context * context.grad).detach().unflatten(-1, (4, 4)).sum((1, 3))
        expected.append((product * len(product)).abs().mean(0))
    ours = score(model, "heads", "gate_taylor", [batch], cross_entropy)
    assert close(ours, tuple(expected))


def gradients(model: Any, batches: list[Batch]) -> list[dict[str, torch.Tensor]]:
    """For each batch the gradients that ``backward`` writes."""
    found = []
    for batch in batches:
        model.zero_grad()
        cross_entropy(answer(model, batch), batch).backward()
        found.append(
            {n: p.grad.clone() for n, p in model.encoder.named_parameters() if p.grad is not None}
        )
    model.zero_grad()
    return found


def test_movement_by_hand() -> None:
    model = tiny("bert", "classification")
    batches = [labelled("bert", 0), labelled("bert", 1)]
    found = gradients(model, batches)
    weights = {name: p.detach() for name, p in model.encoder.named_parameters()}
    total = {n: -sum(g[n] for g in found) * w for n, w in weights.items() if n in found[0]}
    heads = score(model, "heads", "movement", batches, cross_entropy)
    at = "layers.1.attention"
    rows = slice(8, 12)  # head 2 of width 4
    by_hand = total[f"{at}.output.weight"][:, rows].sum()
    for part in ("query", "key", "value"):
        by_hand += total[f"{at}.{part}.weight"][rows].sum() + total[f"{at}.{part}.bias"][rows].sum()
    assert torch.allclose(heads[1][2], by_hand, rtol=1e-4, atol=1e-7)
    neurons = score(model, "neurons", "movement", batches, cross_entropy)
    at = "layers.2.feed_forward"
    by_hand = total[f"{at}.up.weight"].sum(1) + total[f"{at}.up.bias"]
    by_hand += total[f"{at}.down.weight"].sum(0)
    assert close((neurons[2],), (by_hand,))
    (tokens,) = score(model, "tokens", "movement", batches, cross_entropy)
    assert close((tokens,), (total["embeddings.tokens.weight"].sum(1),))
    (layers,) = score(model, "layers", "movement", batches, cross_entropy)
    by_hand = sum(v.sum() for n, v in total.items() if n.startswith("layers.1."))
    assert torch.allclose(layers[1], by_hand, rtol=1e-3, atol=1e-6)


def test_neuron_taylor_by_hand() -> None:
    model = tiny("mobilebert", "classification")
    batches = [labelled("mobilebert", 0), labelled("mobilebert", 1)]
    weights = {name: p.detach() for name, p in model.encoder.named_parameters()}
    incoming, both = [], []
    for (name,) in (place.modules for place in places(model, "neurons")):
        into, out = torch.zeros(1), torch.zeros(1)
        for found in gradients(model, batches):
            up = (weights[f"{name}.up.weight"] * found[f"{name}.up.weight"]).sum(1)
            up = up + weights[f"{name}.up.bias"] * found[f"{name}.up.bias"]
            down = weights[f"{name}.down.weight"] * found[f"{name}.down.weight"]
            into, out = into + up.abs() / 2, out + down.sum(0).abs() / 2
        incoming.append(into)
        both.append(into + out)
    assert close(score(model, "neurons", "neuron_taylor", batches, cross_entropy), tuple(incoming))
    ours = score(model, "neurons", "neuron_taylor_both", batches, cross_entropy)
    assert close(ours, tuple(both))


def test_what_comes_out_of_a_neuron_is_its_gate() -> None:
    """The sum of w * dL/dw behind a neuron equals dL/dgate: two ways to one number."""
    model = tiny("bert", "classification")
    batches = [labelled("bert", 0), labelled("bert", 1)]
    both = score(model, "neurons", "neuron_taylor_both", batches, cross_entropy)
    into = score(model, "neurons", "neuron_taylor", batches, cross_entropy)
    gates = score(model, "neurons", "gate_taylor", batches, cross_entropy, per_example=False)
    assert close(tuple(b - i for b, i in zip(both, into, strict=True)), gates)


def test_magnitude_by_hand() -> None:
    model = tiny("mobilebert")
    encoder, layer = model.encoder, model.encoder.layers[1]
    attention = layer.attention
    parts = [m.weight[2:4] for m in (attention.query, attention.key, attention.value)]
    parts += [m.bias[2:4] for m in (attention.query, attention.key, attention.value)]
    parts.append(attention.output.weight[:, 2:4])
    expected = torch.cat([part.detach().flatten() for part in parts]).norm()
    assert torch.allclose(score(model, "heads", "magnitude")[1][1], expected)
    feed = layer.stacked[0].feed_forward
    expected = torch.cat([feed.up.weight[5], feed.up.bias[5:6], feed.down.weight[:, 5]]).norm()
    assert torch.allclose(score(model, "neurons", "magnitude")[2][5], expected)
    table, projection = encoder.token_table, encoder.embeddings.projection.weight
    read = [projection[:, column] for column in (2, 8, 14)]  # 6 columns, for three neighbours
    expected = torch.cat([table[:, 2], *read]).norm()
    assert torch.allclose(score(model, "embedding_dims", "magnitude")[0][2], expected)
    assert torch.allclose(score(model, "tokens", "magnitude")[0], table.norm(dim=1))
    expected = torch.cat([p.flatten() for p in layer.parameters()]).norm()
    assert torch.allclose(score(model, "layers", "magnitude")[0][1], expected)


def test_relative_positions_count_for_their_head() -> None:
    model = tiny("mpnet")
    before = score(model, "heads", "magnitude")[0]
    with torch.no_grad():
        model.encoder.relative_positions.table.weight[:, 1] += 5
    (after,) = score(model, "heads", "magnitude")
    assert torch.equal(after != before, torch.tensor([False, True, False, False]))


@pytest.mark.parametrize("name", ["bert", "albert", "vit"])
def test_cosine_is_of_real_tokens(name: str) -> None:
    """Texts without padding, one by one, through the layers by hand."""
    model = tiny(name)
    batches = [batch_for(name, (9, 4), 0), batch_for(name, (1, 3, 2), 1)]
    (ours,) = score(model, "layers", "cosine", batches)
    cosines: list[list[torch.Tensor]] = [[], [], []]
    encoder = model.encoder
    for batch in batches:
        for row in range(len(next(iter(batch.values())))):
            if name == "vit":
                hidden = encoder.embeddings(batch["pixel_values"][row : row + 1])
            else:
                length = int(batch["attention_mask"][row].sum())
                alone = {k: v[row : row + 1, :length] for k, v in batch.items()}
                hidden = encoder.embeddings(
                    alone["input_ids"],
                    alone["attention_mask"],
                    torch.arange(length),
                    alone["token_type_ids"],
                )
            for position, group in enumerate(encoder.config.groups):
                after = encoder.layers[group](hidden, None)
                cosines[position].append(F.cosine_similarity(hidden[0], after[0], dim=-1))
                hidden = after
    expected = torch.stack([1 - torch.cat(values).mean() for values in cosines])
    assert close((ours,), (expected.detach(),))


def test_random_scores_repeat_with_their_seed() -> None:
    model = tiny("bert")
    first, again = (score(model, "neurons", "random") for _ in range(2))
    other = score(model, "neurons", "random", generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({float(v) for values in first for v in values}) == 36


@pytest.mark.parametrize("method", sorted(METHODS))
def test_scoring_leaves_the_model_as_it_was(method: str) -> None:
    model = tiny("bert", "classification").train()
    model.classifier.eval()
    model.encoder.embeddings.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.no_grad():
        for kind in METHODS[method]:
            if kind != "embedding_dims":
                values = score(model, kind, method, [labelled("bert")], cross_entropy)
                assert tuple(map(len, values)) == unit_counts(model, kind)
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert frozen == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())


def test_frozen_weights_are_scored_like_others() -> None:
    model, batch = tiny("bert", "classification"), labelled("bert")
    for kind in ("tokens", "heads"):
        free = score(model.requires_grad_(True), kind, "movement", [batch], cross_entropy)
        frozen = score(model.requires_grad_(False), kind, "movement", [batch], cross_entropy)
        assert all(torch.equal(a, b) for a, b in zip(free, frozen, strict=True))


def planted(seed: int) -> tuple[Any, dict[str, Values]]:
    """A classifier of which some heads and neurons do nothing, though their weights are large; and
    which ones do something."""
    model = tiny("bert", "classification", seed)
    generator = torch.Generator().manual_seed(seed)
    useful: dict[str, list[torch.Tensor]] = {"heads": [], "neurons": []}
    with torch.no_grad():
        for layer in model.encoder.layers:
            heads = torch.rand(4, generator=generator) < 0.5
            heads[0] = True
            rows = (~heads).repeat_interleave(4)
            for part in (layer.attention.query, layer.attention.key):
                part.weight[rows] *= 4
            layer.attention.output.weight[:, rows] *= 4
            layer.attention.value.weight[rows] = 0
            layer.attention.value.bias[rows] = 0
            neurons = torch.rand(12, generator=generator) < 0.5
            neurons[0] = True
            layer.feed_forward.up.bias[~neurons] = -30  # gelu of anything here is 0
            layer.feed_forward.down.weight[:, ~neurons] *= 4
            useful["heads"].append(heads)
            useful["neurons"].append(neurons)
    return model, {kind: tuple(masks) for kind, masks in useful.items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("heads", "gate_taylor"),
        ("neurons", "gate_taylor"),
        ("neurons", "neuron_taylor"),
        ("neurons", "neuron_taylor_both"),
    ],
)
def test_units_that_do_nothing_are_found(kind: str, method: str, seed: int) -> None:
    model, useful = planted(seed)
    batches = [labelled("bert", i) for i in range(3)]
    count = sum(int(mask.sum()) for mask in useful[kind])
    scores = score(model, kind, method, batches, cross_entropy)
    keep = keep_best(scores, count=count)
    assert all(torch.equal(a, b) for a, b in zip(keep, useful[kind], strict=True))
    by_size = keep_best(score(model, kind, "magnitude"), count=count)
    assert not all(torch.equal(a, b) for a, b in zip(by_size, useful[kind], strict=True))


def trained() -> Any:
    """A classifier that learned whether token 5 or token 6 stands in a text, and which of them."""
    model = tiny("bert", "classification", 3).train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(120):
        optimiser.zero_grad()
        batch = with_tokens(step)
        cross_entropy(answer(model, batch), batch).backward()
        optimiser.step()
    return model.eval()


def with_tokens(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(1000 + seed)
    ids = torch.randint(7, 30, (64, 8), generator=generator)
    labels = torch.randint(3, (64,), generator=generator)
    places_ = torch.randint(1, 8, (64,), generator=generator)
    ids[torch.arange(64), places_] = torch.where(labels < 2, 5 + labels, ids[:, 1])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def test_scores_beat_random_at_an_equal_budget() -> None:
    """Half of the heads, and of the neurons, of a trained model go: by rank, or by chance."""
    model = trained()
    calibration, test = [with_tokens(-1 - i) for i in range(4)], with_tokens(-9)

    def loss_after(kind: str, scores: Values) -> float:
        small = slim(model, {kind: keep_best(scores, fraction=0.5)})
        with torch.no_grad():
            return float(cross_entropy(answer(small, test), test))

    with torch.no_grad():
        before = float(cross_entropy(answer(model, test), test))
    assert before < 0.1, "it must have learned the task"
    for kind, method in (
        ("heads", "gate_taylor"),
        ("neurons", "gate_taylor"),
        ("neurons", "neuron_taylor"),
        ("neurons", "neuron_taylor_both"),
    ):
        ranked = loss_after(kind, score(model, kind, method, calibration, cross_entropy))
        by_chance = [
            loss_after(
                kind, score(model, kind, "random", generator=torch.Generator().manual_seed(seed))
            )
            for seed in range(7)
        ]
        assert ranked < sorted(by_chance)[3], f"{method} of {kind}: {ranked} against {by_chance}"


def test_scores_that_cannot_be_computed_are_refused() -> None:
    model, batch = tiny("bert", "classification"), labelled("bert")
    for kind, method, word in (
        ("heads", "importance", "gate_taylor"),
        ("wings", "random", "heads"),
        ("heads", "neuron_taylor", "neurons"),
        ("heads", "cosine", "layers"),
    ):
        with pytest.raises(UsageError, match=word):
            score(model, kind, method, [batch], cross_entropy)
    for method in ("gate_taylor", "movement"):
        with pytest.raises(UsageError, match="batches"):
            score(model, "heads", method, [], cross_entropy)
        with pytest.raises(UsageError, match="loss"):
            score(model, "heads", method, [batch])
    with pytest.raises(ModelError, match="columns"):
        score(model, "embedding_dims", "magnitude")

    def broken(outputs: Outputs, batch: Batch) -> torch.Tensor:
        return cross_entropy(outputs, batch) * float("nan")

    with pytest.raises(ModelError, match="not finite"):
        score(model, "heads", "gate_taylor", [batch], broken)
    add_masks(model.encoder.layers, "magnitude")
    with pytest.raises(UsageError, match="masked"):
        score(model, "heads", "magnitude")


def test_each_kind_has_a_method_and_each_method_a_kind() -> None:
    assert {kind for kinds in METHODS.values() for kind in kinds} == set(UNIT_KINDS)
