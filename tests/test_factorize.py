"""Models made smaller by algebra, and students before training, are what they are said to be.

Oracles: numpy's singular values (Eckart and Young), transformers' dropout and published parameter
counts, and the model before the change. What comes out saves, loads and converts like any other.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import edgeformer
from edgeformer.compression.dropout import dropout
from edgeformer.compression.factorize import (
    break_even_rank,
    even_ranks,
    factorize_embedding,
    factorize_linear,
    factorize_linears,
    low_rank,
)
from edgeformer.compression.measuring import flops
from edgeformer.compression.students import (
    INITIAL_STD,
    copy_from_teacher,
    new_student,
    take_layers,
    with_head,
)
from edgeformer.compression.tying import tie_layers, untie_layers
from edgeformer.compression.units import unit_counts
from edgeformer.errors import ModelError, UsageError
from edgeformer.models.build import HeadConfig
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.config import EncoderConfig
from edgeformer.models.masked_lm import MaskedLanguageModel
from edgeformer.models.norms import NoNorm
from edgeformer.models.saving import save_checkpoint
from edgeformer.runtime import load
from tests.compressible import BERT, CONFIGS, HEADS, TEXT_CONFIGS, batch_for, tiny
from tests.test_families import ours_of, padded, text_model, texts_of
from tests.test_family_conversion import PROFILE, check_embeddings
from tests.tiny_models import tiny_bert_folder, tiny_vocabulary


def answer(model: nn.Module, name: str) -> torch.Tensor:
    with torch.no_grad():
        (found,) = model(**batch_for(name)).values()
    return torch.as_tensor(found)


def assert_same_answers(first: nn.Module, second: nn.Module, name: str) -> None:
    expected = answer(first, name)
    assert float(expected.std()) > 1e-3, "an answer that says nothing proves nothing"
    assert float((answer(second, name) - expected).abs().max()) <= 1e-6


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def assert_untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)


# --- singular values ----------------------------------------------------------------------------


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_matrix_of_the_rank_is_closer(rows: int, columns: int, data: Any) -> None:
    rank = data.draw(st.integers(1, min(rows, columns)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    matrix = torch.randn(rows, columns, generator=generator)
    first, second = low_rank(matrix, rank)
    assert first.shape == (rows, rank) and second.shape == (rank, columns)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    error = float(torch.linalg.norm(matrix.double() - first.double() @ second.double()))
    assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-5)
    norms = torch.linalg.norm(first, dim=0), torch.linalg.norm(second, dim=1)
    assert torch.allclose(norms[0], norms[1], rtol=1e-3), "both factors are of one scale"


@pytest.mark.parametrize("rank", [0, 5, -1])
def test_ranks_that_cannot_be(rank: int) -> None:
    with pytest.raises(UsageError, match=f"4 x 6 has no factors of rank {rank}") as caught:
        low_rank(torch.ones(4, 6), rank)
    assert "1 to 4" in caught.value.hint


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_as_two(bias: bool) -> None:
    linear = nn.Linear(8, 6, bias=bias)
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = factorize_linear(linear, 6)(states)
        assert torch.allclose(full, linear(states), atol=1e-6)
        left, values, right = np.linalg.svd(linear.weight.numpy())
        best = (left[:, :2] * values[:2]) @ right[:2]
        expected = states.numpy() @ best.T + (linear.bias.numpy() if bias else 0)
        found = factorize_linear(linear, 2)
        np.testing.assert_allclose(found(states).numpy(), expected, atol=1e-6)
    assert [len(list(part.parameters())) for part in found] == [1, 2 if bias else 1]


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_break_even_rank_is_the_last_that_costs_no_more(inputs: int, outputs: int) -> None:
    rank = break_even_rank(nn.Linear(inputs, outputs, device="meta"))
    assert rank * (inputs + outputs) <= inputs * outputs < (rank + 1) * (inputs + outputs)


# --- the maps of an encoder ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "groups", "mpnet", "vit"])
def test_maps_at_full_rank_answer_as_before(name: str) -> None:
    model = tiny(name)
    before, config = state_of(model), model.encoder.config
    full = tuple(
        min(config.hidden_size, inner)
        for layer in range(config.num_layers)
        for inner in (
            *[config.layer_sizes(layer)[0] * config.head_dim] * 4,
            *[config.layer_sizes(layer)[1][0]] * 2,
        )
    )
    made = factorize_linears(model, full)
    assert made.encoder.config == replace(config, linear_ranks=full)
    assert_same_answers(model, made, name)
    assert_untouched(model, before)


@given(st.floats(0.05, 1.0))
def test_a_share_of_the_weights_is_what_the_factors_have(share: float) -> None:
    """As many ranks as fit, and one more would not."""
    config = CONFIGS["bert"]
    ranks = even_ranks(config, share)
    wide = [(16, heads * config.head_dim) for heads in config.num_heads for _ in range(4)]
    assert len(ranks) == 6 * config.num_layers
    for layer in range(config.num_layers):
        sizes = [*wide[4 * layer : 4 * layer + 4], *[(16, config.intermediate_sizes[layer])] * 2]
        for rank, (a, b) in zip(ranks[6 * layer :], sizes, strict=False):
            assert rank == 1 or rank * (a + b) <= share * a * b + 1e-9
            assert (rank + 1) * (a + b) > share * a * b


def test_a_map_of_low_rank_is_the_best_there_is_and_costs_less() -> None:
    model = tiny("bert")
    made = factorize_linears(model, (0, 0, 0, 0, 3, 0) * model.encoder.config.num_layers)
    whole = model.encoder.layers[0].feed_forward.up.weight.detach().numpy()
    first, second = made.encoder.layers[0].feed_forward.up
    left, values, right = np.linalg.svd(whole)
    best = (left[:, :3] * values[:3]) @ right[:3]
    np.testing.assert_allclose((second.weight @ first.weight).detach().numpy(), best, atol=1e-6)
    assert isinstance(made.encoder.layers[0].feed_forward.down, nn.Linear)
    assert flops(made) < flops(model)


def test_factorised_maps_lose_layers_but_neither_heads_nor_neurons() -> None:
    model = tiny("bert")
    layers = model.encoder.config.num_layers
    made = factorize_linears(model, (4,) * 6 * layers)
    fewer = take_layers(made, (layers - 1,))
    assert fewer.encoder.config.linear_ranks == (4,) * 6
    for kind in ("heads", "neurons"):
        with pytest.raises(ModelError, match="cannot be told apart") as caught:
            unit_counts(made, kind)
        assert "prune first" in caught.value.hint
    with pytest.raises(ModelError, match="factorised already"):
        factorize_linears(made, (4,) * 6 * layers)


@pytest.mark.parametrize(
    ("name", "ranks", "error", "message"),
    [
        ("bert", (4,) * 7, ModelError, "for each of the 6 linear maps"),
        ("bert", (4, 4, 4, 4, 4, 99), UsageError, "no factors of rank 99"),
        ("mobilebert", (4,) * 6, ModelError, "MobileBERT"),
        ("groups", (4, 5, 6, 7, 8, 9), ModelError, "share weights but not their ranks"),
    ],
)
def test_ranks_that_an_encoder_cannot_have(
    name: str, ranks: tuple[int, ...], error: type[Exception], message: str
) -> None:
    model = tiny(name)
    layers = model.encoder.config.num_layers
    if len(ranks) == 6:
        ranks = ranks * layers if name != "groups" else (*ranks, *[1] * (6 * layers - 6))
    with pytest.raises(error, match=message):
        factorize_linears(model, ranks)


# --- the token table ----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["embedding", "classification", "token-classification"])
@pytest.mark.parametrize("name", ["bert", "groups", "mpnet", "factorised", "mobilebert-plain"])
def test_the_token_table_at_full_rank_answers_as_before(name: str, task: str) -> None:
    model = tiny(name, task)
    before = state_of(model)
    full = 6 if CONFIGS[name].embedding_size else 16
    if name == "mobilebert-plain":
        assert CONFIGS[name].embedding_projection == "tokens"
    made = factorize_embedding(model, full)
    config = made.encoder.config
    assert (config.embedding_size, config.embedding_projection) == (full, "tokens")
    assert type(made) is type(model)
    assert_same_answers(model, made, name)
    assert_untouched(model, before)


@pytest.mark.parametrize("name", ["bert", "factorised"])
def test_a_narrower_token_table_is_the_best_of_its_rank(name: str) -> None:
    model = tiny(name)

    def rows(of: Any) -> np.ndarray:
        table = of.encoder.embeddings.tokens.weight.detach().double()
        projection = of.encoder.embeddings.projection
        if projection is not None:
            table = table @ projection.weight.detach().double().t() + projection.bias.detach()
        return np.asarray(table.numpy())

    before, made = rows(model), factorize_embedding(model, 4)
    bias = 0.0
    if name == "factorised":
        bias = model.encoder.embeddings.projection.bias.detach().double().numpy()
    values = np.linalg.svd(before - bias, compute_uv=False)
    error = np.linalg.norm(before - rows(made))
    assert error == pytest.approx(np.sqrt((values[4:] ** 2).sum()), rel=1e-5)
    assert made.encoder.embeddings.tokens.weight.shape == (30, 4)


def test_a_factorised_table_saves_what_albert_says() -> None:
    """V x H becomes V x E + E x H, and one bias of H."""
    model = tiny("bert")
    made = factorize_embedding(model, 4)
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, made)]
    assert sizes[0] - sizes[1] == 30 * 16 - (30 * 4 + 4 * 16 + 16)


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("albert", "embedding", "factorised already"),
        ("mobilebert", "embedding", "trigrams"),
        ("vit", "embedding", "images"),
        ("bert", "fill-mask", "output layer"),
    ],
)
def test_tables_that_stay_whole(name: str, task: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        factorize_embedding(tiny(name, task), 4)


def test_a_rank_above_the_table_is_refused() -> None:
    with pytest.raises(UsageError, match="30 x 16 has no factors of rank 17"):
        factorize_embedding(tiny("bert"), 17)


# --- tying --------------------------------------------------------------------------------------


def test_tied_weights_are_the_mean_of_their_layers() -> None:
    model = tiny("bert", "classification")
    before = state_of(model)
    made = tie_layers(model, (0, 1, 0))
    assert made.encoder.config == replace(BERT, layer_groups=(0, 1, 0))
    for name, tensor in made.encoder.layers[0].named_parameters():
        first, last = (before[f"encoder.layers.{i}.{name}"].numpy() for i in (0, 2))
        np.testing.assert_allclose(tensor.detach().numpy(), (first + last) / 2, atol=1e-7)
    for name, tensor in made.encoder.layers[1].named_parameters():
        assert torch.equal(tensor, before[f"encoder.layers.1.{name}"])
    assert len(made.encoder.layers) == 2
    assert torch.equal(made.classifier.weight, before["classifier.weight"])
    assert_untouched(model, before)


def test_tied_to_the_first_layer() -> None:
    model = tiny("mpnet")
    made = tie_layers(model, (0, 0, 1), how="first")
    theirs = model.encoder.layers
    for ours, wanted in zip(made.encoder.layers, (theirs[0], theirs[2]), strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(ours.parameters(), wanted.parameters(), strict=True)
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_untied_layers_answer_as_before(name: str) -> None:
    model = tiny(name)
    made = untie_layers(model)
    assert made.encoder.config == replace(CONFIGS[name], layer_groups=())
    assert len({p.data_ptr() for p in made.parameters()}) == len(list(made.parameters()))
    assert len(made.encoder.layers) == 3
    assert_same_answers(model, made, name)
    again = tie_layers(made, CONFIGS[name].groups)
    assert again.encoder.config.groups == CONFIGS[name].groups
    assert_same_answers(model, again, name)


def test_layers_tied_already_can_be_tied_otherwise() -> None:
    model = tiny("groups")
    made = tie_layers(model, (0, 0, 1))
    weights = [layer.attention.key.weight.detach() for layer in model.encoder.layers]
    found = [layer.attention.key.weight.detach() for layer in made.encoder.layers]
    assert torch.allclose(found[0], (weights[0] + weights[1]) / 2, atol=1e-7)
    assert torch.equal(found[1], weights[0])
    assert_same_answers(made, untie_layers(made), "groups")
    alone = tie_layers(model, (0, 1, 2))
    assert alone.encoder.config.layer_groups == (), "as a family that ties no layers says it"


@pytest.mark.parametrize(
    ("name", "groups", "message"),
    [
        ("bert", (0, 0), "must name the weights of 3 layers"),
        ("bert", (1, 0, 0), "counting up from 0"),
        ("uneven", (0, 0, 1), "share weights but not their sizes"),
    ],
)
def test_groups_that_cannot_be(name: str, groups: Sequence[int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tie_layers(tiny(name), groups)
    with pytest.raises(UsageError, match="'median'"):
        tie_layers(tiny(name), (0, 0, 0), how="median")


# --- students -----------------------------------------------------------------------------------


def test_a_student_of_some_layers_is_its_teacher_cut_short(tmp_path: Path) -> None:
    """DistilBERT's choice among twelve layers; the oracle is transformers without the others."""
    chosen = (0, 2, 4, 7, 9, 11)
    model = text_model("bert", "embedding", num_hidden_layers=12, hidden_size=16)
    student = take_layers(ours_of(model, "embedding", tmp_path), chosen)
    model.encoder.layer = nn.ModuleList(model.encoder.layer[i] for i in chosen)
    texts = texts_of(model.config, (7, 4))
    with torch.no_grad():
        found = student(**padded(texts, 0))["embedding"]
        for row, text in zip(found, texts, strict=True):
            mean = model(**text).last_hidden_state[0].mean(0)
            assert float((row - mean / mean.norm()).abs().max()) <= 1e-5
    assert student.encoder.config.num_layers == 6


def test_layers_that_share_weights_still_do() -> None:
    student = take_layers(tiny("groups"), (0, 2))
    assert student.encoder.config.layer_groups == (0, 0)
    assert len(student.encoder.layers) == 1


@pytest.mark.parametrize("layers", [(), (0, 3), (1, 0), (1, 1), (-1,)])
def test_layers_that_cannot_be_taken(layers: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="from a model of 3") as caught:
        take_layers(tiny("bert"), layers)
    assert "0 to 2" in caught.value.hint


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("name", CONFIGS)
def test_new_weights_are_as_bert_begins(name: str, task: str) -> None:
    """By the kind of module, whatever its name: a norm of 0.02 would silence a whole layer."""
    if name not in TEXT_CONFIGS and task in ("token-classification", "fill-mask"):
        return
    generator = torch.Generator().manual_seed(0)
    model = new_student(CONFIGS[name], HEADS[task], generator)
    seen = 0
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.LayerNorm | nn.RMSNorm | NoNorm):
            assert torch.equal(own["weight"], torch.ones_like(own["weight"]))
        elif isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
            assert 0 < float(own["weight"].detach().abs().max()) < 6 * INITIAL_STD
        else:  # of no such kind: the tokens and positions of images, layer scales
            scales = {n: p for n, p in own.items() if n.endswith("scale")}
            assert all(torch.equal(p, torch.ones_like(p)) for p in scales.values())
            rest = [p for n, p in own.items() if n not in scales and n != "bias"]
            assert all(0 < float(p.detach().abs().max()) < 6 * INITIAL_STD for p in rest)
        if own.get("bias") is not None:
            assert float(own["bias"].detach().abs().sum()) == 0
        seen += len(own)
    assert seen == len(list(model.parameters()))
    assert not model.training and all(p.requires_grad for p in model.parameters())
    found = answer(model, name)
    assert torch.isfinite(found).all()


def test_new_weights_are_normal_and_come_from_the_seed() -> None:
    config = replace(BERT, vocab_size=2000)
    first, again, other = (
        new_student(config, HEADS["embedding"], torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    table = first.encoder.embeddings.tokens.weight.detach()
    assert float(table.std()) == pytest.approx(0.02, rel=0.02)
    assert float(table.mean()) == pytest.approx(0.0, abs=5e-4)
    assert_untouched(first, state_of(again))
    assert not torch.equal(table, other.encoder.embeddings.tokens.weight)


def test_a_mobilebert_has_the_published_size() -> None:
    """24,581,888 weights without pooler (Sun et al., table 1, counts 25.3 M with heads)."""
    config = EncoderConfig(
        vocab_size=30522,
        hidden_size=512,
        num_heads=(4,) * 24,
        head_dim=32,
        intermediate_sizes=(512,) * 96,
        max_positions=512,
        activation="relu",
        embedding_size=128,
        embedding_projection="tokens",
        trigram=True,
        norm="no_norm",
        bottleneck_size=128,
        stacked_ffns=4,
    )
    model = new_student(config, HeadConfig("embedding"), torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in model.parameters()) == 24_581_888


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
def test_another_head_on_the_same_encoder(name: str) -> None:
    model = tiny(name, "embedding")
    before = state_of(model)
    made = with_head(model, HEADS["classification"], torch.Generator().manual_seed(0))
    assert made.classifier.weight.shape == (3, 16)
    assert float(made.classifier.weight.detach().std()) < 2 * INITIAL_STD
    back = with_head(made, HEADS["embedding"], torch.Generator())
    assert_same_answers(model, back, name)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert_untouched(model, before)


def test_a_factorised_encoder_gets_the_head_of_a_masked_language_model() -> None:
    """The way to ALBERT's pre-training from a trained BERT, as the error of the short way says."""
    narrow = factorize_embedding(tiny("bert"), 4)
    made = with_head(narrow, HEADS["fill-mask"], torch.Generator().manual_seed(0))
    assert isinstance(made, MaskedLanguageModel)
    assert made.dense.out_features == 4
    assert answer(made, "bert").shape == (3, 9, 30)


def test_a_student_takes_over_what_fits() -> None:
    teacher = tiny("bert", "classification", seed=1)
    config = replace(BERT, num_heads=(4,), intermediate_sizes=(8,))
    student: Any = new_student(config, HEADS["classification"], torch.Generator().manual_seed(0))
    layer = state_of(student.encoder.layers)
    copied = copy_from_teacher(student, teacher)
    theirs = dict(teacher.named_parameters())
    assert set(copied) == {n for n in theirs if not n.startswith("encoder.layers")}
    assert all(torch.equal(dict(student.named_parameters())[n], theirs[n]) for n in copied)
    assert_untouched(student.encoder.layers, layer)


def test_a_student_leaves_what_it_would_read_otherwise() -> None:
    """A thin student with NoNorm: positions and types fit, scales of a LayerNorm do not."""
    teacher = tiny("bert", "classification", seed=1)
    config = CONFIGS["mobilebert"]
    generator = torch.Generator().manual_seed(0)
    student = new_student(config, HEADS["classification"], generator)
    copied = copy_from_teacher(student, teacher)
    assert {n for n in copied if n.startswith("encoder")} == {
        "encoder.embeddings.positions.weight",
        "encoder.embeddings.token_types.weight",
    }
    assert "classifier.weight" in copied
    shifted = new_student(replace(BERT, position_start=2), HEADS["embedding"], generator)
    copied = copy_from_teacher(shifted, teacher)
    assert "encoder.embeddings.tokens.weight" in copied
    assert not {n for n in copied if "positions" in n or "classifier" in n}
    narrow = new_student(CONFIGS["factorised"], HEADS["embedding"], generator)
    behind = replace(BERT, embedding_size=6, embedding_projection="sum")
    other = new_student(behind, HEADS["embedding"], generator)
    assert copy_from_teacher(narrow, other) == ("encoder.embeddings.tokens.weight",)


# --- dropout ------------------------------------------------------------------------------------


def test_dropout_stands_where_bert_has_it(tmp_path: Path) -> None:
    """Equal random numbers, drawn in the same order, drop the same entries in transformers."""
    model = text_model(
        "bert", "embedding", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.0
    )
    ours = ours_of(model, "embedding", tmp_path).encoder
    (text,) = texts_of(model.config, (9,))
    model.train(), ours.train()
    with torch.no_grad(), torch.random.fork_rng(), dropout(ours, hidden=0.3):
        torch.manual_seed(7)
        expected = model(**text).last_hidden_state
        torch.manual_seed(7)
        found = ours(**text)
        assert float((found - expected).abs().max()) <= 1e-5
        assert not torch.allclose(ours(**text), found, atol=1e-2), "nothing is dropped"
        ours.eval(), model.eval()
        assert torch.allclose(ours(**text), model(**text).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_dropout_leaves_the_model_as_it_was(name: str) -> None:
    model = tiny(name).train()
    plain = answer(model, name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with dropout(model, hidden=0.5):
            assert not torch.allclose(answer(model, name), plain, atol=1e-3)
        with dropout(model, hidden=0.0):
            assert torch.equal(answer(model, name), plain)
    assert torch.equal(answer(model, name), plain)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_probabilities_that_cannot_be(probability: float) -> None:
    with pytest.raises(UsageError, match="from 0 to below 1"), dropout(tiny("bert"), probability):
        pass


# --- saved and converted ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("source") / "bert"
    return load_checkpoint(tiny_bert_folder(folder, num_hidden_layers=3, hidden_size=16))


def made_of(source: LoadedModel, how: str) -> nn.Module:
    thin = replace(CONFIGS["mobilebert"], vocab_size=len(tiny_vocabulary()), max_positions=48)
    made: dict[str, nn.Module] = {
        "factorised": factorize_embedding(source.module, 4),
        "tied": tie_layers(source.module, (0, 0, 1)),
        "untied": untie_layers(tie_layers(source.module, (0, 0, 0))),
        "taken": take_layers(source.module, (0, 2)),
        "new": new_student(thin, source.head, torch.Generator().manual_seed(0)),
        "both": tie_layers(factorize_embedding(source.module, 4), (0, 1, 0), how="first"),
        "maps": factorize_linears(source.module, even_ranks(source.module.encoder.config, 0.5)),
    }
    return made[how]


@pytest.mark.parametrize("how", ["factorised", "tied", "untied", "taken", "new", "both", "maps"])
def test_what_comes_out_saves_and_loads(how: str, source: LoadedModel, tmp_path: Path) -> None:
    module = made_of(source, how)
    saved = save_checkpoint(replace(source, module=module), tmp_path / how)
    again = load_checkpoint(saved).module
    assert again.encoder.config == module.encoder.config
    assert list(again.state_dict()) == list(module.state_dict())
    assert_untouched(again, state_of(module))


@pytest.mark.parametrize("how", ["both", "new", "maps"])
def test_what_comes_out_converts(how: str, source: LoadedModel, tmp_path: Path) -> None:
    folder = save_checkpoint(replace(source, module=made_of(source, how)), tmp_path / how)
    profile, engines = tmp_path / "tiny.toml", ("onnx", "numpy")
    profile.write_text(PROFILE)
    report = edgeformer.convert(
        folder,
        profile=str(profile),
        output=tmp_path / "m.edge",
        engines=engines,
        precisions=("fp32",),
    )
    check_embeddings(report.path, folder, engines)


def test_a_factorised_linear_map_converts(tmp_path: Path) -> None:
    """Any module of PyTorch converts: two maps in place of one are two products on the device."""
    module = nn.Sequential(nn.Linear(8, 6), nn.Tanh())
    module[0] = factorize_linear(nn.Linear(8, 6), 3)
    states = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    profile = tmp_path / "tiny.toml"
    profile.write_text(PROFILE)
    report = edgeformer.convert(
        module.eval(),
        example_inputs={"input": states},
        profile=str(profile),
        output=tmp_path / "m.edge",
        engines=("onnx", "numpy"),
        precisions=("fp32",),
    )
    with torch.no_grad():
        expected = module(states).numpy()
    for engine in ("onnx", "numpy"):
        with load(report.path, engine=engine) as bundle:
            (found,) = bundle.run(input=states.numpy()).values()
        np.testing.assert_allclose(found, expected, atol=1e-5)
