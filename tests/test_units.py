"""Gates, and the smaller model without what they switch off.

What a user would lose: a pruned model that does not answer as the gated one whose accuracy was
measured, or that cannot be saved and converted like any other.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.compression.gating import gated
from edgeformer.compression.layer_drop import layer_drop, matched_rate
from edgeformer.compression.masks import add_masks
from edgeformer.compression.selection import keep_best
from edgeformer.compression.slimming import new_ids, slim, sort_units
from edgeformer.compression.units import UNIT_KINDS, Values, places, unit_counts
from edgeformer.errors import ModelError, UsageError
from edgeformer.models.attention import additive_mask
from edgeformer.models.build import parameter_shapes
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.heads import pool
from edgeformer.models.saving import save_checkpoint
from edgeformer.pipeline import convert
from tests.compressible import CONFIGS, HEADS, TEXT_CONFIGS, batch_for, tiny
from tests.test_family_conversion import PROFILE, check_embeddings
from tests.tiny_models import add_sentence_files, save_folder, tiny_model

SUPPORTED = {
    name: tuple(
        kind
        for kind in UNIT_KINDS
        if (kind != "tokens" or config.vocab_size)
        and (kind != "embedding_dims" or config.embedding_projection == "tokens")
    )
    for name, config in CONFIGS.items()
}

FAMILIES = ["bert", "distilbert", "albert", "mobilebert", "mpnet"]


def answer(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        (output,) = model(**batch).values()
    return torch.as_tensor(output)


def assert_equal(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    bound = 1e-5 * max(1.0, float(reference.abs().max()))
    assert float((ours - reference).abs().max()) <= bound


def random_keep(counts: tuple[int, ...], share: float, generator: torch.Generator) -> Values:
    """Each unit stays with probability ``share``; one more of each place does."""
    masks = []
    for count in counts:
        mask = torch.rand(count, generator=generator) < share
        mask[torch.randint(count, (1,), generator=generator)] = True
        masks.append(mask)
    return tuple(masks)


def with_new_ids(batch: dict[str, torch.Tensor], keep: torch.Tensor) -> tuple[Any, Any]:
    """The batch with every token one that stays, in old ids and in new ones."""
    staying = keep.nonzero().flatten()
    old = staying[batch["input_ids"] % len(staying)]
    return {**batch, "input_ids": old}, {**batch, "input_ids": new_ids(keep)[old]}


@given(
    name=st.sampled_from(sorted(CONFIGS)),
    task=st.sampled_from(sorted(HEADS)),
    kinds=st.sets(st.sampled_from(UNIT_KINDS), min_size=1),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_a_slim_model_answers_as_the_gated_one(
    name: str, task: str, kinds: set[str], share: float, seed: int
) -> None:
    if CONFIGS[name].image_size and task not in ("embedding", "classification"):
        task = "embedding"
    kinds &= set(SUPPORTED[name])
    if task == "fill-mask" and name == "factorised":
        kinds -= {"embedding_dims"}
    model = tiny(name, task, seed % 7)
    generator = torch.Generator().manual_seed(seed)
    keep = {kind: random_keep(unit_counts(model, kind), share, generator) for kind in kinds}
    before = copy.deepcopy(model.state_dict())
    small = slim(model, keep)
    batch = new = batch_for(name, seed=seed)
    if "tokens" in keep:
        batch, new = with_new_ids(batch, keep["tokens"][0])
    with gated(model, keep):
        expected = answer(model, batch)
    if "tokens" in keep and task == "fill-mask":
        expected = expected[..., keep["tokens"][0]]
    assert_equal(answer(small, new), expected)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    head = HEADS[task]
    if name.startswith("mobilebert"):
        head = replace(head, narrows=False)
    if name == "deit":
        head = replace(head, image_reads="cls_and_teacher")
    shapes = {key: tensor.shape for key, tensor in small.named_parameters()}
    assert shapes == parameter_shapes(small.encoder.config, head), "its settings say its sizes"
    assert unit_counts(small, "layers") == (len(small.encoder.config.num_heads),)
    for kind in kinds - {"layers"}:
        if "layers" not in kinds:
            left = tuple(int(mask.sum()) for mask in keep[kind])
            assert unit_counts(small, kind) == left


@pytest.mark.parametrize("name", ["mobilebert", "mobilebert-plain"])
@pytest.mark.parametrize("kinds", [("embedding_dims",), ("tokens",), ("tokens", "embedding_dims")])
def test_words_keep_their_scores_when_the_token_table_shrinks(
    name: str, kinds: tuple[str, ...]
) -> None:
    """MobileBERT's output layer goes on reading the columns that the table loses."""
    model = tiny(name, "fill-mask")
    keep = {kind: random_keep(unit_counts(model, kind), 0.5, torch.Generator()) for kind in kinds}
    small = slim(model, keep)
    batch = new = batch_for(name)
    if "tokens" in keep:
        batch, new = with_new_ids(batch, keep["tokens"][0])
    with gated(model, keep):
        expected = answer(model, batch)
    assert_equal(
        answer(small, new), expected[..., keep["tokens"][0]] if "tokens" in keep else expected
    )
    assert small.columns.out_features == small.encoder.config.vocab_size
    assert small.columns.in_features == 16 - small.encoder.config.token_size


@pytest.mark.parametrize("name", ["bert", "albert", "vit", "deit", "dinov2"])
def test_columns_that_a_norm_reads_cannot_be_cut(name: str) -> None:
    with pytest.raises(ModelError, match="columns") as caught:
        unit_counts(tiny(name), "embedding_dims")
    assert "factorise" in caught.value.hint


def ones(model: Any, kind: str) -> Values:
    return tuple(torch.ones(count) for count in unit_counts(model, kind))


@pytest.mark.parametrize("name", TEXT_CONFIGS)
def test_a_gate_of_zero_is_a_unit_without_outgoing_weights(name: str) -> None:
    """The oracle is the plain model, with zeros written where a unit's result is read."""
    model, batch = tiny(name, "token-classification"), batch_for(name)
    encoder = model.encoder
    for kind, module, column in (("heads", "output", 1), ("neurons", "down", 2)):
        gates, zeroed = ones(model, kind), copy.deepcopy(model)
        width = encoder.config.head_dim if kind == "heads" else 1
        last = places(model, kind)[-1]
        unit = min(column, last.units - 1)
        gates[-1][unit] = 0
        for found in last.modules:
            weight = zeroed.encoder.get_submodule(f"{found}.{module}").weight
            weight.data[:, unit * width : (unit + 1) * width] = 0
        with gated(model, {kind: gates}):
            assert_equal(answer(model, batch), answer(zeroed, batch))
        assert not torch.allclose(answer(model, batch), answer(zeroed, batch), atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "albert", "groups", "mobilebert", "mpnet"])
def test_a_layer_with_gate_zero_is_passed_by(name: str) -> None:
    model, batch = tiny(name), batch_for(name)
    encoder = model.encoder
    with gated(model, {"layers": (torch.tensor([1.0, 0.0, 1.0]),)}):
        ours = answer(model, batch)
    with torch.no_grad():
        length = batch["input_ids"].shape[1]
        positions = torch.arange(length) + encoder.config.position_start
        types = batch.get("token_type_ids")
        hidden = encoder.embeddings(batch["input_ids"], batch["attention_mask"], positions, types)
        mask = additive_mask(batch["attention_mask"], hidden.dtype)
        if encoder.relative_positions is not None:
            mask = encoder.relative_positions(length, mask.device) + mask
        first, _, last = encoder.config.groups
        hidden = encoder.layers[last](encoder.layers[first](hidden, mask), mask)
        assert_equal(ours, pool(hidden, batch["attention_mask"], "mean", normalized=True))


def test_embedding_gates_are_zeros_in_the_token_table() -> None:
    model, batch = tiny("mobilebert"), batch_for("mobilebert")
    gates = {kind: ones(model, kind) for kind in ("embedding_dims", "tokens")}
    token = int(batch["input_ids"][0, 0])
    gates["embedding_dims"][0][3] = gates["tokens"][0][token] = 0
    zeroed = copy.deepcopy(model)
    zeroed.encoder.token_table.data[:, 3] = 0
    zeroed.encoder.token_table.data[token] = 0
    with gated(model, gates):
        assert_equal(answer(model, batch), answer(zeroed, batch))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_gates_of_each_row_are_those_of_the_row_alone(name: str) -> None:
    model, batch = tiny(name), batch_for(name)
    generator = torch.Generator().manual_seed(0)
    gates = {
        kind: tuple(torch.rand(3, count, generator=generator) for count in unit_counts(model, kind))
        for kind in SUPPORTED[name]
    }
    with gated(model, gates):
        together = answer(model, batch)
    for row in range(3):
        alone = {kind: tuple(gate[row] for gate in values) for kind, values in gates.items()}
        with gated(model, alone):
            assert_equal(together[row], answer(model, batch)[row])


@pytest.mark.parametrize("name", ["bert", "albert", "vit"])
def test_gates_hold_for_every_pass_of_an_open_context(name: str) -> None:
    """Also after one that broke off between two layers."""
    model, batch = tiny(name), batch_for(name)
    with gated(model, {"layers": (torch.tensor([0.3, 1.0, 0.0]),)}):
        first = answer(model, batch)
        assert torch.equal(answer(model, batch), first)
        break_off = model.encoder.layers[-1].feed_forward.register_forward_pre_hook(
            lambda *_: 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            answer(model, batch)
        break_off.remove()
        assert torch.equal(answer(model, batch), first)


def test_nothing_of_a_gate_is_left() -> None:
    model, batch = tiny("bert"), batch_for("bert")
    before = answer(model, batch)
    gates = {kind: tuple(v * 0.5 for v in ones(model, kind)) for kind in SUPPORTED["bert"]}
    with gated(model, gates):
        assert not torch.allclose(answer(model, batch), before, atol=1e-4)
    with pytest.raises(RuntimeError), gated(model, gates):
        raise RuntimeError("a loss that fails")
    with pytest.raises(UsageError), gated(model, {**gates, "wings": ()}):
        pass
    assert torch.equal(answer(model, batch), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dropping_layers_renumbers_the_weights_that_are_left() -> None:
    model = tiny("groups")  # weights 0, 1, 0
    small = slim(model, {"layers": (torch.tensor([False, True, True]),)})
    assert small.encoder.config.layer_groups == (0, 1)
    for new, old in enumerate((1, 0)):
        weights = [
            m.encoder.layers[i].feed_forward.up.weight for m, i in ((small, new), (model, old))
        ]
        assert torch.equal(*weights)
    small = slim(model, {"layers": (torch.tensor([True, False, True]),)})
    assert (small.encoder.config.layer_groups, len(small.encoder.layers)) == ((0, 0), 1)


def test_heads_with_shared_relative_positions_are_one_place() -> None:
    """One column of the table serves head h of all layers: they go together, or not at all."""
    model = tiny("mpnet")
    assert unit_counts(model, "heads") == (4,)
    small = slim(model, {"heads": (torch.tensor([False, True, False, True]),)})
    assert small.encoder.config.num_heads == (2, 2, 2)
    table = model.encoder.relative_positions.table.weight
    assert torch.equal(small.encoder.relative_positions.table.weight, table[:, [1, 3]])


def test_places_of_a_stacked_model_follow_its_widths() -> None:
    model = tiny("mobilebert")
    assert unit_counts(model, "neurons") == model.encoder.config.intermediate_sizes
    assert unit_counts(tiny("albert"), "neurons") == (12,)
    assert unit_counts(tiny("albert"), "layers") == (3,)


def test_a_slim_model_shares_no_memory_and_trains() -> None:
    model = tiny("bert", "classification").train()
    small = slim(model, {"layers": (torch.tensor([True, True, False]),)})
    assert type(small) is type(model)
    assert all(module.training for module in small.modules())
    assert not any(module.training for module in slim(model.eval(), {}).modules())
    pointers = {p.data_ptr() for p in model.parameters()}
    assert not pointers & {p.data_ptr() for p in small.parameters()}
    small(**batch_for("bert"))["logits"].sum().backward()
    assert all(p.grad is not None for p in small.encoder.layers.parameters())


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"heads": (torch.ones(4, dtype=torch.bool),) * 2}, r"\(4, 4, 4\) heads"),
        ({"heads": (torch.ones(3, dtype=torch.bool),) * 3}, r"\(4, 4, 4\) heads"),
        ({"heads": (torch.ones(4),) * 3}, "float32"),
        ({"heads": (torch.ones(2, 4, dtype=torch.bool),) * 3}, r"\(2, 4\)"),
        ({"wings": ()}, "wings"),
    ],
)
def test_masks_that_do_not_fit_are_refused(keep: dict[str, Values], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        slim(tiny("bert"), keep)


@pytest.mark.parametrize(
    ("name", "kind", "where"),
    [
        ("bert", "heads", "layers.1.attention"),
        ("mobilebert", "neurons", "layers.0.feed_forward"),
        ("bert", "layers", "the encoder"),
        ("mpnet", "heads", "attention of all layers"),
        ("factorised", "embedding_dims", "embeddings.tokens"),
        ("bert", "tokens", "embeddings.tokens"),
    ],
)
def test_a_place_of_which_nothing_would_stay_is_named(name: str, kind: str, where: str) -> None:
    model = tiny(name)
    keep = tuple(
        torch.full((place.units,), place.name != where, dtype=torch.bool)
        for place in places(model, kind)
    )
    with pytest.raises(UsageError, match=f"{where}: all .* {kind}") as caught:
        slim(model, {kind: keep})
    assert "at least one" in caught.value.hint


def test_what_cannot_be_slimmed_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear"):
        slim(torch.nn.Linear(2, 2), {})
    with pytest.raises(ModelError, match="images"):
        unit_counts(tiny("vit"), "tokens")
    model = tiny("factorised", "fill-mask")
    with pytest.raises(ModelError, match="output layer"):
        slim(model, {"embedding_dims": (torch.tensor([True] * 5 + [False]),)})
    add_masks(model.encoder.layers, "magnitude")
    with pytest.raises(UsageError, match="masked") as caught:
        slim(model, {})
    assert "bake" in caught.value.hint


def test_new_ids() -> None:
    keep = torch.tensor([True, False, False, True, True])
    assert new_ids(keep).tolist() == [0, -1, -1, 1, 2]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_best_units_come_first(name: str) -> None:
    """Any first units of the sorted model are the best ones of the model that was scored."""
    model, batch = tiny(name, "classification"), batch_for(name)
    generator = torch.Generator().manual_seed(2)
    scores = {
        kind: tuple(torch.rand(count, generator=generator) for count in unit_counts(model, kind))
        for kind in ("heads", "neurons")
    }
    ordered = sort_units(model, scores)
    assert ordered.encoder.config == model.encoder.config
    assert_equal(answer(ordered, batch), answer(model, batch))
    best = {kind: keep_best(v, fraction=0.5, per="place") for kind, v in scores.items()}
    first = {
        kind: tuple(torch.arange(len(mask)) < mask.sum() for mask in masks)
        for kind, masks in best.items()
    }
    assert_equal(answer(slim(ordered, first), batch), answer(slim(model, best), batch))


def test_only_heads_and_neurons_have_an_order() -> None:
    model = tiny("bert")
    with pytest.raises(UsageError, match="tokens"):
        sort_units(model, {"tokens": ones(model, "tokens")})
    with pytest.raises(UsageError, match="heads"):
        sort_units(model, {"heads": ones(model, "heads")[:1]})


def uneven_keep(model: Any) -> dict[str, Values]:
    """Units of every kind but tokens (a tokenizer goes with them), another number at each place."""
    kinds = ["heads", "neurons"]
    if model.encoder.config.embedding_projection == "tokens":
        kinds.append("embedding_dims")
    keep: dict[str, Values] = {"layers": (torch.tensor([True, False, True]),)}
    for kind in kinds:
        counts = unit_counts(model, kind)
        keep[kind] = tuple(
            torch.arange(count) >= (place + 1) % count for place, count in enumerate(counts)
        )
    return keep


def slimmed_folder(family: str, tmp_path: Path) -> Path:
    """A slimmed checkpoint of the family on disk, checked to come back bit for bit."""
    layers = {"distilbert": "n_layers"}.get(family, "num_hidden_layers")
    model = tiny_model(family, **{layers: 3})
    loaded = load_checkpoint(add_sentence_files(save_folder(model, tmp_path / "source")))
    small = slim(loaded.module, uneven_keep(loaded.module))
    assert small.encoder.config.num_layers == 2
    saved = save_checkpoint(replace(loaded, module=small), tmp_path / "slim")
    again = load_checkpoint(saved).module
    assert again.encoder.config == small.encoder.config
    ours, theirs = small.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    return saved


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slim_model_is_saved_and_loaded(family: str, tmp_path: Path) -> None:
    slimmed_folder(family, tmp_path)


def test_a_slim_model_converts(tmp_path: Path) -> None:
    convert_and_check("bert", ("onnx", "numpy"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_slim_model_of_a_family_converts_to_everything(family: str, tmp_path: Path) -> None:
    convert_and_check(family, ("onnx", "numpy", "tflite"), tmp_path)


def convert_and_check(family: str, engines: tuple[str, ...], tmp_path: Path) -> None:
    folder = slimmed_folder(family, tmp_path)
    config = load_checkpoint(folder).module.encoder.config
    assert family != "bert" or config.num_heads == (3, 1)
    profile = tmp_path / "tiny.toml"
    profile.write_text(PROFILE)
    report = convert(
        folder,
        profile=str(profile),
        output=tmp_path / "m.edge",
        engines=engines,
        precisions=("fp32",),
    )
    check_embeddings(report.path, folder, engines)


def test_layer_drop_skips_at_its_rate_and_only_in_training() -> None:
    model, batch = tiny("albert"), batch_for("albert", (5,))
    plain = answer(model, batch)
    generator = torch.Generator().manual_seed(0)
    # What a text looks like after 0, 1, 2 and 3 of the three layers, which are all the same.
    depths = []
    for depth in range(4):
        gates = torch.tensor([1.0] * depth + [0.0] * (3 - depth))
        with gated(model, {"layers": (gates,)}):
            depths.append(answer(model, batch))
    with layer_drop(model, 0.3, generator):
        assert torch.equal(answer(model, batch), plain), "in eval mode all layers run"
        model.train()
        seen = [
            next(d for d, value in enumerate(depths) if torch.allclose(run, value, atol=1e-6))
            for run in (answer(model, batch) for _ in range(400))
        ]
    # 1200 draws at 0.7: the mean is within four standard deviations.
    assert abs(sum(seen) / 1200 - 0.7) < 4 * (0.3 * 0.7 / 1200) ** 0.5
    assert set(seen) == {0, 1, 2, 3}
    assert torch.equal(answer(model, batch), plain), "nothing is left of it"
    assert matched_rate(12, 9) == 0.25
    with pytest.raises(UsageError, match="rate"), layer_drop(model, 1.0):
        pass


def test_a_dropped_layer_gets_no_gradient() -> None:
    model = tiny("bert").train()
    with layer_drop(model, 0.5, torch.Generator().manual_seed(1)):
        model(**batch_for("bert"))["embedding"].sum().backward()
    with_gradient = [
        any(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())
        for layer in model.encoder.layers
    ]
    draws = torch.rand(3, generator=torch.Generator().manual_seed(1))
    assert with_gradient == [bool(draw >= 0.5) for draw in draws]
    assert len(set(with_gradient)) == 2, "the seed must drop some and keep some"
