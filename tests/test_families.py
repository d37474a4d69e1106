"""Every family of checkpoints becomes one Encoder that answers like transformers.

The oracle is transformers with every tensor random, norms and biases too, on texts without padding;
ours gets the same texts padded in one batch. tests/tiny_models.py says how large a tiny model is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from edgeformer.errors import ModelError
from edgeformer.models.assemble import assemble
from edgeformer.models.build import HeadConfig, parameter_shapes
from edgeformer.models.config import EncoderConfig
from edgeformer.models.embeddings import with_neighbours
from edgeformer.models.encoder import Encoder
from edgeformer.models.families import FAMILIES, find_family
from edgeformer.models.heads import EmbeddingModel
from tests.tiny_models import FAMILY_SIZES, TASK_CLASSES, randomise, tiny_vocabulary

SIZES: dict[str, dict[str, Any]] = {
    **FAMILY_SIZES,
    "camembert": FAMILY_SIZES["roberta"],
    "ernie": {**FAMILY_SIZES["bert"], "use_task_id": True},
    # Long enough for the shared rows of far distances, on both sides of the last one.
    "mpnet": {**FAMILY_SIZES["mpnet"], "max_position_embeddings": 170},
}
TASKS = {
    **TASK_CLASSES,
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "fill-mask": transformers.AutoModelForMaskedLM,
}
TEXT_FAMILIES = sorted(set(FAMILIES) - {"vit", "deit", "dinov2"})
IMAGE_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 12,
    "patch_size": 4,
}
VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    ("mobilebert", "fill-mask", {"use_bottleneck_attention": True}),
    ("mobilebert", "classification", {"classifier_activation": False}),
    ("mobilebert", "embedding", {"use_bottleneck": False}),
    ("mobilebert", "embedding", {"trigram_input": False}),
    ("mobilebert", "embedding", {"trigram_input": False, "embedding_size": 32}),
    ("mobilebert", "embedding", {"num_feedforward_networks": 1}),
    ("mobilebert", "embedding", {"normalization_type": "layer_norm", "layer_norm_eps": 1e-5}),
    (
        "mobilebert",
        "embedding",
        {"key_query_shared_bottleneck": False, "intra_bottleneck_size": 32},
    ),
    ("electra", "fill-mask", {"embedding_size": 32}),
    ("albert", "embedding", {"embedding_size": 32}),
    ("albert", "fill-mask", {"num_hidden_layers": 5, "num_hidden_groups": 3}),
    ("ernie", "embedding", {"use_task_id": False}),
    ("roberta", "fill-mask", {"hidden_act": "relu", "type_vocab_size": 2, "pad_token_id": 3}),
    ("distilbert", "fill-mask", {"activation": "relu"}),
    ("bert", "fill-mask", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
]


def text_model(family: str, task: str, *, seed: int = 0, **changes: Any) -> Any:
    sizes = {"vocab_size": len(tiny_vocabulary()), **SIZES[family], **changes}
    config = transformers.AutoConfig.for_model(family, **sizes)
    model = TASKS[task].from_config(config).eval()
    randomise(model, seed)
    return model


def ours_of(model: Any, task: str, folder: Path) -> Any:
    """The Encoder and head with the tensors that ``model`` writes to its file."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    return assemble(_config_of(model), tensors, task, None).module


def _config_of(model: Any) -> dict[str, Any]:
    return {**model.config.to_dict(), "architectures": [type(model).__name__]}


def texts_of(config: Any, lengths: tuple[int, ...], seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """A text of each length with its types, as transformers takes them."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    types = getattr(config, "type_vocab_size", 0)
    for length in lengths:
        ids = torch.randint(4, config.vocab_size, (1, length), generator=generator)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if types > 1:
            text["token_type_ids"] = torch.randint(0, types, ids.shape, generator=generator)
        texts.append(text)
    return texts


def padded(texts: list[dict[str, torch.Tensor]], pad: int, longer: int = 0) -> dict[str, Any]:
    """All texts in one batch, ``longer`` than the longest of them."""
    longest = max(text["input_ids"].shape[1] for text in texts) + longer
    batch = {}
    for name in texts[0]:
        fill = pad if name == "input_ids" else 0
        rows = [
            torch.nn.functional.pad(text[name][0], (0, longest - text[name].shape[1]), value=fill)
            for text in texts
        ]
        batch[name] = torch.stack(rows)
    return batch


def answer_of(model: Any, task: str, text: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What transformers says of one text, in the shape of our outputs."""
    with torch.no_grad():
        output = model(**text)
    if task == "question-answering":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)[0]
    if task == "embedding":
        mean = output.last_hidden_state[0].mean(0)
        return torch.as_tensor(mean / mean.norm())
    return torch.as_tensor(output.logits[0])


def assert_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    assert float(reference.std()) > 1e-3, "an answer that says nothing proves nothing"
    bound = 1e-5 * max(1.0, float(reference.abs().max()))
    assert float((ours - reference).abs().max()) <= bound


def assert_equal_to_transformers(
    model: Any, task: str, folder: Path, lengths: tuple[int, ...]
) -> None:
    texts = texts_of(model.config, lengths)
    module = ours_of(model, task, folder)
    with torch.no_grad():
        (ours,) = module(**padded(texts, model.config.pad_token_id or 0)).values()
    for row, text in zip(ours, texts, strict=True):
        expected = answer_of(model, task, text)
        assert_close(row if row.dim() == 1 else row[: len(expected)], expected)


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_family_equals_transformers(family: str, task: str, tmp_path: Path) -> None:
    lengths = (9, 165, 4, 1) if family == "mpnet" else (9, 30, 4, 1)
    assert_equal_to_transformers(text_model(family, task), task, tmp_path, lengths)


@pytest.mark.parametrize(("family", "task", "changes"), VARIANTS, ids=str)
def test_a_variant_equals_transformers(
    family: str, task: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = text_model(family, task, seed=3, **changes)
    assert_equal_to_transformers(model, task, tmp_path, (9, 30, 4))


def test_the_task_table_of_ernie(tmp_path: Path) -> None:
    model = text_model("ernie", "embedding")
    (text,) = texts_of(model.config, (9,))
    tasks = torch.arange(9).unsqueeze(0) % 3
    encoder = ours_of(model, "embedding", tmp_path).encoder
    with torch.no_grad():
        expected = model(**text, task_type_ids=tasks).last_hidden_state
        assert_close(encoder(**text, task_type_ids=tasks), expected)
        assert not torch.allclose(encoder(**text), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ViTModel", {}),
        ("ViTForImageClassification", {"qkv_bias": False}),
        ("DeiTModel", {}),
        ("DeiTForImageClassification", {}),
        ("DeiTForImageClassificationWithTeacher", {}),
        ("Dinov2Model", {}),
        ("Dinov2ForImageClassification", {"mlp_ratio": 3}),
    ],
)
def test_an_image_family_equals_transformers(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model_class: Any = getattr(transformers, name)
    sizes = {**IMAGE_SIZES, **changes, "num_labels": 5}
    model = model_class(model_class.config_class(**sizes)).eval()
    randomise(model, 2)
    task = "classification" if "Classification" in name else "embedding"
    module = ours_of(model, task, tmp_path)
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, (ours,) = model(images), module(images).values()
    if task == "classification":
        return assert_close(ours, output.logits)
    first = output.last_hidden_state[:, 0]
    return assert_close(ours, first / first.norm(dim=1, keepdim=True))


# --- padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_text_is_the_same_alone_and_padded_among_others(family: str, tmp_path: Path) -> None:
    model = text_model(family, "embedding")
    module = ours_of(model, "embedding", tmp_path)
    texts = texts_of(model.config, (9, 30, 4, 1))
    with torch.no_grad():
        together = module(**padded(texts, pad=5, longer=6))["embedding"]
        for row, text in zip(together, texts, strict=True):
            assert float((module(**text)["embedding"][0] * row).sum()) >= 1 - 1e-6


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), longer=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_neighbours_end_where_the_text_ends(lengths: list[int], longer: int) -> None:
    """Next token, token, previous token; zeros beyond both ends, whatever the padding holds."""
    width = max(lengths) + longer
    tokens = torch.randn(len(lengths), width, 2, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    found = with_neighbours(tokens, mask)
    for row, text, length in zip(found, tokens, lengths, strict=True):
        zero = torch.zeros(2)
        for i in range(length):
            following = text[i + 1] if i + 1 < length else zero
            previous = text[i - 1] if i else zero
            assert torch.equal(row[i], torch.cat([following, text[i], previous]))


# --- tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_tensor_is_used_once(family: str, task: str, tmp_path: Path) -> None:
    """Without any one tensor, or with one more beside it, the checkpoint is refused by name."""
    model = text_model(family, task)
    model.save_pretrained(tmp_path)
    config, tensors = _config_of(model), load_file(tmp_path / "model.safetensors")
    table = FAMILIES[family].names
    needed = [n for n in tensors if task == "classification" or "pooler." not in n]
    for name in needed:
        without = {n: tensor for n, tensor in tensors.items() if n != name}
        with pytest.raises(ModelError) as caught:
            assemble(config, without, task, None)
        assert name.removeprefix(table.prefix) in str(caught.value)
    for name in needed:
        inside = name.startswith(table.prefix) and "layer" in name
        if not inside:
            continue
        spare = name.replace(".weight", ".spare").replace(".bias", ".spare")
        with pytest.raises(ModelError, match=r"no place for.*spare"):
            assemble(config, {**tensors, spare: torch.zeros(1)}, task, None)


def test_leftovers_have_a_reason() -> None:
    for family in FAMILIES.values():
        for pattern, reason in family.names.leftovers:
            assert pattern and len(reason.split()) >= 3


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_copy_of_the_token_table_must_be_one(family: str, tmp_path: Path) -> None:
    """Old files hold the output layer of a masked language model, which is the token table."""
    model = text_model(family, "fill-mask")
    model.save_pretrained(tmp_path)
    config, tensors = _config_of(model), load_file(tmp_path / "model.safetensors")
    names = [name for name, _ in FAMILIES[family].names.copies["fill-mask"]]
    old = {name: model.state_dict()[name].clone() for name in names}
    assemble(config, {**tensors, **old}, "fill-mask", None)
    for name in names:
        with pytest.raises(ModelError, match="should be a copy"):
            changed = {**tensors, **old, name: old[name] + 1}
            assemble(config, changed, "fill-mask", None)
    with pytest.raises(ModelError, match="tie_word_embeddings"):
        assemble({**config, "tie_word_embeddings": False}, tensors, "fill-mask", None)


def test_the_projections_of_tinybert_are_left_over(tmp_path: Path) -> None:
    model = text_model("bert", "classification", hidden_size=24, num_attention_heads=12)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    projections = {f"fit_denses.{i}.weight": torch.zeros(3) for i in range(2)}
    assemble(_config_of(model), {**tensors, **projections}, "classification", None)
    assemble(_config_of(model), {**tensors, "fit_dense.bias": torch.zeros(3)}, "embedding", None)


def test_a_pre_training_checkpoint_gives_its_encoder(tmp_path: Path) -> None:
    for family, name in [("bert", "Bert"), ("albert", "Albert"), ("mobilebert", "MobileBert")]:
        model = text_model(family, "embedding")
        whole: Any = getattr(transformers, f"{name}ForPreTraining")(model.config).eval()
        randomise(whole, 4)
        module = ours_of(whole, "embedding", tmp_path / family)
        (text,) = texts_of(model.config, (9,))
        base = getattr(whole, whole.base_model_prefix)
        with torch.no_grad():
            assert_close(module(**text)["embedding"][0], answer_of(base, "embedding", text))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("albert", {"inner_group_num": 2}, "inner_group_num"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets"),
        ("mobilebert", {"normalization_type": "batch_norm"}, "batch_norm"),
        ("mobilebert", {"normalization_type": "layer_norm"}, "layer_norm_eps"),
        ("mobilebert", {"intra_bottleneck_size": 18}, "not a multiple"),
        ("distilbert", {"n_heads": 5}, "not a multiple"),
        ("ernie", {"hidden_act": "softplus"}, "softplus"),
        ("vit", {"image_size": [12, 16]}, "not square"),
        ("dinov2", {"use_swiglu_ffn": True}, "use_swiglu_ffn"),
        ("dinov2", {"mlp_ratio": "four"}, "mlp_ratio"),
        ("vit", {"patch_size": 16}, "at least 1"),
        ("bert", {"layer_norm_eps": "small"}, "layer_norm_eps"),
        ("bert", {"type_vocab_size": None}, "type_vocab_size"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id"),
        ("albert", {"num_hidden_groups": 0}, "num_hidden_groups"),
    ],
)
def test_settings_that_the_encoder_has_not(
    family: str, changes: dict[str, Any], message: str
) -> None:
    sizes = IMAGE_SIZES if family in ("vit", "dinov2") else {"vocab_size": 40, **SIZES[family]}
    config = {"model_type": family, **sizes, **changes}
    found = find_family(config)
    assert found is not None
    with pytest.raises(ModelError, match=message):
        found.read(config)


# --- sizes of the papers ----------------------------------------------------------------------

BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
PUBLISHED: list[tuple[str, str, dict[str, Any], bool, int]] = [
    ("BERT-base", "bert", {}, True, 109_482_240),
    (
        "BERT-large",
        "bert",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
        True,
        335_141_888,
    ),
    (
        "DistilBERT",
        "distilbert",
        {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072},
        False,
        66_362_880,
    ),
    (
        "TinyBERT4",
        "bert",
        {"hidden_size": 312, "num_hidden_layers": 4, "intermediate_size": 1200},
        True,
        14_350_248,
    ),
    ("TinyBERT6", "bert", {"num_hidden_layers": 6}, True, 66_955_008),
    ("ALBERT-base", "albert", {"vocab_size": 30000, "embedding_size": 128}, True, 11_683_584),
    (
        "MiniLM-L12-H384",
        "bert",
        {"hidden_size": 384, "intermediate_size": 1536},
        True,
        33_360_000,
    ),
    (
        "MiniLM-L6-H384",
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
        True,
        22_713_216,
    ),
    (
        "MobileBERT",
        "mobilebert",
        {
            "hidden_size": 512,
            "num_hidden_layers": 24,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "embedding_size": 128,
            "intra_bottleneck_size": 128,
            "num_feedforward_networks": 4,
        },
        False,
        24_581_888,
    ),
]


@pytest.mark.parametrize(("name", "family", "changes", "pooler", "expected"), PUBLISHED, ids=str)
def test_parameter_counts(
    name: str, family: str, changes: dict[str, Any], pooler: bool, expected: int
) -> None:
    """As published, or as counted from the released configurations."""
    config = FAMILIES[family].read({**BERT_BASE, **changes})
    shapes = parameter_shapes(config, HeadConfig("embedding"))
    count = sum(shape.numel() for shape in shapes.values())
    size = config.hidden_size
    assert count + (size * size + size if pooler else 0) == expected, name


# --- encoders that transformers cannot build ---------------------------------------------------


def test_the_teacher_of_mobilebert_reads_the_wide_states() -> None:
    """IB-BERT (arXiv 2004.02984, figure 1b): Q, K and V read the stream, the rest is wider."""
    config = EncoderConfig(
        vocab_size=40,
        hidden_size=8,
        num_heads=(2,),
        head_dim=8,
        intermediate_sizes=(24,),
        max_positions=16,
        bottleneck_size=16,
        bottleneck_readers="none",
    )
    encoder = Encoder(config).eval()
    randomise(encoder, 0)
    ids = torch.arange(5).unsqueeze(0) + 3
    with torch.no_grad():
        x = encoder.embeddings(ids, torch.ones_like(ids), torch.arange(5))
        layer: Any = encoder.layers[0]
        q, k, v = (
            linear(x).view(1, 5, 2, 8).transpose(1, 2)
            for linear in (layer.attention.query, layer.attention.key, layer.attention.value)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1)
        mixed = layer.attention.output((weights @ v).transpose(1, 2).reshape(1, 5, 16))
        narrow = layer.bottleneck.narrow
        h = layer.attention_norm(mixed + narrow.norm(narrow.linear(x)))
        up, down = layer.feed_forward.up, layer.feed_forward.down
        h = layer.feed_forward_norm(down(torch.nn.functional.gelu(up(h))) + h)
        widen = layer.bottleneck.widen
        expected = widen.norm(widen.linear(h) + x)
        assert_close(encoder(ids, torch.ones_like(ids)), expected)


def test_stacked_blocks_may_differ_in_width() -> None:
    """A neuron whose way out is zero can go, in any of the stacked blocks."""
    sizes: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_heads": (2,),
        "head_dim": 4,
        "max_positions": 16,
        "bottleneck_size": 8,
        "stacked_ffns": 2,
        "norm": "no_norm",
        "activation": "relu",
    }
    full = EmbeddingModel(EncoderConfig(**sizes, intermediate_sizes=(12, 12)))
    slim = EmbeddingModel(EncoderConfig(**sizes, intermediate_sizes=(7, 12)))
    randomise(full, 0)
    state = full.state_dict()
    block = "encoder.layers.0.stacked.0.feed_forward"
    state[f"{block}.down.weight"][:, 7:] = 0
    cut = {**state, f"{block}.down.weight": state[f"{block}.down.weight"][:, :7]}
    for name in (f"{block}.up.weight", f"{block}.up.bias"):
        cut[name] = state[name][:7]
    slim.load_state_dict(cut)
    ids = torch.arange(6).unsqueeze(0) + 3
    with torch.no_grad():
        expected = full.eval()(ids, torch.ones_like(ids))["embedding"]
        assert_close(slim.eval()(ids, torch.ones_like(ids))["embedding"], expected)
