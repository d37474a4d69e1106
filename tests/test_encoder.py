"""The encoder computes what BERT computes, at any size, and exports as the converters need it.

The oracle is transformers, with every tensor random, on padded batches.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.errors import ModelError, UsageError
from edgeformer.models.assemble import assemble
from edgeformer.models.attention import additive_mask
from edgeformer.models.config import ACTIVATIONS, EncoderConfig
from edgeformer.models.encoder import Encoder
from edgeformer.models.heads import EmbeddingModel, pool
from edgeformer.models.norms import make_norm
from edgeformer.models.sentence_folder import SentenceSettings
from tests.tiny_models import randomise, tiny_model

SMALL = EncoderConfig(
    vocab_size=40,
    hidden_size=16,
    num_heads=(4, 4),
    head_dim=4,
    intermediate_sizes=(32, 32),
    max_positions=24,
)


def padded_batch(
    vocab_size: int, lengths: tuple[int, ...], types: int = 2, seed: int = 0
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, vocab_size, shape, generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask}
    if types:
        batch["token_type_ids"] = torch.randint(0, types, shape, generator=generator) * mask
    batch["position_ids"] = torch.arange(shape[1]).expand(shape).contiguous()
    return batch


def assert_equal_to(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    bound = 1e-5 * max(1.0, float(reference.abs().max()))
    assert float((ours - reference).abs().max()) <= bound


def ours_from(model: Any, task: str, pooling: str = "mean", normalized: bool = False) -> Any:
    """Our model with the weights and the settings of one of transformers."""
    tensors = {name: tensor.float() for name, tensor in model.state_dict().items()}
    pooled = SentenceSettings(Path(), pooling, normalized, max_length=None, lowercases=False)
    return assemble(model.config.to_dict(), tensors, task, pooled).module


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalized", [True, False])
def test_embedding_equals_transformers(pooling: str, normalized: bool) -> None:
    model = tiny_model("bert", seed=1)
    batch = padded_batch(model.config.vocab_size, (9, 4, 1))
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state.numpy()
        ours = ours_from(model, "embedding", pooling, normalized)(**batch)["embedding"]
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = [
        hidden[i, :n].mean(0) if pooling == "mean" else hidden[i, 0] for i, n in enumerate(lengths)
    ]
    expected = np.stack(rows)
    if normalized:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert_equal_to(ours, torch.from_numpy(expected))


@pytest.mark.parametrize("task", ["classification", "token-classification"])
def test_classifier_equals_transformers(task: str) -> None:
    model = tiny_model("bert", task, num_labels=5, seed=2)
    batch = padded_batch(model.config.vocab_size, (9, 4, 2))
    with torch.no_grad():
        reference = model(**batch).logits
        ours = ours_from(model, task)(**batch)["logits"]
    assert_equal_to(ours, reference)


@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 9),
    intermediate=st.integers(1, 40),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    eps=st.sampled_from([1e-12, 1e-5]),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_any_size_equals_transformers(
    layers: int,
    heads: int,
    head_dim: int,
    intermediate: int,
    activation: str,
    eps: float,
    lengths: list[int],
    seed: int,
) -> None:
    model = tiny_model(
        "bert",
        "token-classification",
        seed=seed,
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        hidden_act=activation,
        layer_norm_eps=eps,
    )
    batch = padded_batch(model.config.vocab_size, tuple(lengths), seed=seed)
    with torch.no_grad():
        reference = model(**batch).logits
        ours = ours_from(model, "token-classification")(**batch)["logits"]
    at_tokens = batch["attention_mask"].unsqueeze(-1)
    assert_equal_to(ours * at_tokens, reference * at_tokens)


def test_uneven_widths_equal_transformers_with_the_rest_switched_off() -> None:
    """A model whose heads and neurons were cut away answers like the full one with them zeroed."""
    model = tiny_model("bert", seed=3)
    full = ours_from(model, "embedding")
    first, last = model.encoder.layer
    with torch.no_grad():  # heads 2 and 3 of the last layer, neurons 40.. of the first
        last.attention.output.dense.weight[:, 16:] = 0
        first.output.dense.weight[:, 40:] = 0
    config = full.encoder.config
    slim = EmbeddingModel(
        EncoderConfig(
            vocab_size=config.vocab_size,
            hidden_size=32,
            num_heads=(4, 2),
            head_dim=8,
            intermediate_sizes=(40, 64),
            max_positions=48,
        ),
        normalized=False,
    )
    state = full.state_dict()
    for name in ("query", "key", "value"):
        for kind in ("weight", "bias"):
            state[f"encoder.layers.1.attention.{name}.{kind}"] = state[
                f"encoder.layers.1.attention.{name}.{kind}"
            ][:16]
    key = "encoder.layers.1.attention.output.weight"
    state[key] = state[key][:, :16]
    for kind in ("weight", "bias"):
        key = f"encoder.layers.0.feed_forward.up.{kind}"
        state[key] = state[key][:40]
    key = "encoder.layers.0.feed_forward.down.weight"
    state[key] = state[key][:, :40]
    slim.load_state_dict(state)
    batch = padded_batch(config.vocab_size, (9, 4))
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
        reference = torch.stack([hidden[0, :9].mean(0), hidden[1, :4].mean(0)])
        assert_equal_to(slim.eval()(**batch)["embedding"], reference)


def test_an_encoder_without_token_types_has_no_such_input() -> None:
    with_types = Encoder(SMALL).eval()
    config = EncoderConfig(**{**vars(SMALL), "type_vocab_size": 0})
    without = Encoder(config).eval()
    assert config.input_names == ("input_ids", "attention_mask", "position_ids")
    randomise(with_types, 0)
    state = with_types.state_dict()
    types = state.pop("embeddings.token_types.weight")
    types.zero_()  # shares memory with the module: both now add nothing
    without.load_state_dict(state)
    batch = padded_batch(40, (7, 3))
    with torch.no_grad():
        expected = with_types(**batch)
        del batch["token_type_ids"]
        assert_equal_to(without(**batch), expected)


def test_types_that_are_not_given_are_type_zero() -> None:
    encoder = Encoder(SMALL).eval()
    randomise(encoder, 0)
    batch = padded_batch(40, (7, 3))
    with torch.no_grad():
        zeros = encoder(**{**batch, "token_type_ids": torch.zeros_like(batch["input_ids"])})
        del batch["token_type_ids"]
        assert torch.allclose(encoder(**batch), zeros, atol=1e-6)


def test_layers_of_one_group_run_the_same_weights() -> None:
    """Layers 0 and 2 share a group: the same as four layers of which two are equal."""
    sizes = {"num_heads": (4,) * 4, "intermediate_sizes": (32,) * 4}
    tied = Encoder(EncoderConfig(**{**vars(SMALL), **sizes, "layer_groups": (0, 1, 0, 2)})).eval()
    assert len(tied.layers) == 3
    randomise(tied, 0)
    plain = Encoder(EncoderConfig(**{**vars(SMALL), **sizes})).eval()
    plain.embeddings.load_state_dict(tied.embeddings.state_dict())
    for layer, group in zip(plain.layers, (0, 1, 0, 2), strict=True):
        layer.load_state_dict(tied.layers[group].state_dict())
    batch = padded_batch(40, (7, 3))
    with torch.no_grad():
        assert torch.equal(tied(**batch), plain(**batch))


def test_norms() -> None:
    hidden = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    for kind in ("layer_norm", "no_norm", "rms_norm"):
        norm = make_norm(kind, 16, 1e-3)
        randomise(norm, 1)
        weight, bias = norm.weight, getattr(norm, "bias", 0.0)
        centred = hidden - hidden.mean(-1, keepdim=True) if kind == "layer_norm" else hidden
        scale = (
            1.0 if kind == "no_norm" else (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
        )
        assert torch.allclose(norm(hidden), centred / scale * weight + bias, atol=1e-5)


def test_positions_count_up_from_the_first_one() -> None:
    config = EncoderConfig(**{**vars(SMALL), "position_start": 2})
    encoder = Encoder(config).eval()
    randomise(encoder, 0)
    batch = padded_batch(40, (5,))
    with torch.no_grad():
        given_ids = encoder(**{**batch, "position_ids": batch["position_ids"] + 2})
        del batch["position_ids"]
        assert torch.equal(encoder(**batch), given_ids)
    assert config.usable_positions == 22


def test_a_text_is_the_same_alone_and_padded_among_others() -> None:
    model = EmbeddingModel(SMALL).eval()
    randomise(model, 4)
    batch = padded_batch(40, (20, 6, 1))
    with torch.no_grad():
        together = model(**batch)["embedding"]
        for row, length in enumerate((20, 6, 1)):
            alone = model(**{k: v[row : row + 1, :length] for k, v in batch.items()})["embedding"]
            assert float((alone[0] * together[row]).sum()) >= 1 - 1e-6


def test_the_mask_is_zero_for_tokens_and_minus_ten_thousand_for_padding() -> None:
    mask = additive_mask(torch.tensor([[1, 1, 0]]), torch.float32)
    assert mask.shape == (1, 1, 1, 3)
    assert mask.flatten().tolist() == [0.0, 0.0, -10000.0]


def test_a_text_without_tokens_pools_to_zeros() -> None:
    hidden = torch.ones(1, 3, 4)
    pooled = pool(hidden, torch.zeros(1, 3, dtype=torch.int64), "mean", normalized=True)
    assert torch.equal(pooled, torch.zeros(1, 4))


def exported_ops(module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> list[str]:
    """Names of the calls in the exported graph, in order; shape arithmetic left out."""
    sizes = {0: torch.export.Dim("batch", max=64), 1: torch.export.Dim("sequence", max=24)}
    program = torch.export.export(
        module, (), batch, dynamic_shapes=dict.fromkeys(batch, sizes), strict=False
    )
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    names = [str(node.target).removeprefix("aten.").partition(".")[0] for node in calls]
    return [name for name in names if name not in ("sym_size", "_assert_tensor_metadata")]


def test_export_keeps_the_ops_that_converters_look_for() -> None:
    module = EmbeddingModel(SMALL).eval()
    ops = exported_ops(module, padded_batch(40, (9, 4)))
    whole = {"linear": 12, "embedding": 3, "layer_norm": 5, "gelu": 2}
    whole["scaled_dot_product_attention"] = 2
    assert {name: ops.count(name) for name in whole} == whole
    plumbing = {"view", "transpose", "reshape", "unsqueeze", "to", "add", "rsub", "mul"}
    pooling = {"sum", "clamp", "div", "linalg_vector_norm"}
    assert set(ops) <= set(whole) | plumbing | pooling
    assert ops.count("rsub") == 1, "the mask is made once"


def test_attention_is_exported_in_the_order_that_the_converters_know() -> None:
    config = EncoderConfig(
        **{**vars(SMALL), "num_heads": (3,), "intermediate_sizes": (8,), "head_dim": 5}
    )
    ops = exported_ops(Encoder(config).eval(), padded_batch(40, (9, 4)))
    start = ops.index("linear")
    heads = ["linear", "view", "transpose"] * 3
    merged = ["scaled_dot_product_attention", "transpose", "reshape", "linear"]
    assert ops[start : start + 13] == heads + merged


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": 0}, "at least 1"),
        ({"num_heads": (4, 0)}, "at least 1"),
        ({"num_heads": (4,)}, "layers"),
        ({"activation": "softplus"}, "softplus"),
        ({"position_start": 24}, "at least 1"),
        ({"norm": "batch_norm"}, "batch_norm"),
        ({"embedding_size": 8}, "embedding_projection"),
        ({"trigram": True, "embedding_projection": "sum"}, "trigrams"),
        ({"pre_norm": True, "bottleneck_size": 8}, "pre_norm"),
        ({"layer_scale": True}, "pre_norm"),
        ({"layer_groups": (0,)}, "layer_groups"),
        ({"layer_groups": (1, 0)}, "layer_groups"),
        ({"layer_groups": (0, 0), "num_heads": (4, 2)}, "share weights"),
        ({"relative_buckets": 32, "num_heads": (4, 2)}, "relative positions"),
        ({"stacked_ffns": 2}, "4 feed-forward blocks"),
        ({"image_size": 8, "patch_size": 4}, "positions"),
    ],
)
def test_settings_that_make_no_encoder_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=word):
        EncoderConfig(**{**vars(SMALL), **change})


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(UsageError, match="max"):
        EmbeddingModel(SMALL, pooling="max")
