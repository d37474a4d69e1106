"""A head with a span sees so far and no further, in training, when it is cut, and on the device."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeformer
from edgeformer import compress, convert
from edgeformer.compression.masks import sparsities
from edgeformer.compression.recipe import Span
from edgeformer.compression.slimming import slim
from edgeformer.compression.soft_spans import (
    SoftSpans,
    harden,
    span_schedule,
    within_soft_spans,
)
from edgeformer.compression.trainer import Step
from edgeformer.compression.tying import tie_layers, untie_layers
from edgeformer.errors import ModelError, UsageError
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.config import EncoderConfig
from edgeformer.models.saving import save_checkpoint
from tests.compressible import CONFIGS, batch_for, tiny
from tests.test_saving import assert_same
from tests.tiny_models import randomise, tiny_bert_folder, tiny_vocabulary
from tests.tiny_tasks import FINETUNE, labelled_rows, recipe_file, tsv_file, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

SPANS = (3, 1, 24, 2, 1, 1, 5, 7, 2, 4, 1, 1)


def spanned(name: str = "bert", spans: tuple[int, ...] = SPANS, **sizes: Any) -> Any:
    """A tiny classifier whose heads have spans, every tensor random."""
    config = replace(CONFIGS[name], attention_spans=spans, **sizes)
    model = make_model(config, HeadConfig("classification", num_labels=3)).eval()
    randomise(model, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".query." in name or ".key." in name:
                parameter.mul_(4)  # attention that is not almost even
    return model


def assert_close(ours: torch.Tensor, wanted: torch.Tensor) -> None:
    assert ours.shape == wanted.shape
    assert float((ours - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


def test_attention_is_that_of_the_definition() -> None:
    """In plain loops, text by text, from the weights of the first layer."""
    model, batch = spanned(), batch_for("bert")
    attention = model.encoder.layers[0].attention
    seen: list[torch.Tensor] = []
    hooks = [attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))]
    hooks += [attention.register_forward_hook(lambda _, __, output: seen.append(output))]
    with torch.no_grad():
        model(**batch)
    states, found = seen
    for handle in hooks:
        handle.remove()
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        text = states[row, :length]
        query, key, value = (
            part(text).detach().view(length, 4, 4)
            for part in (attention.query, attention.key, attention.value)
        )
        mixed = torch.zeros(length, 4, 4)
        for head in range(4):
            for i in range(length):
                weights = [
                    math.exp(float(query[i, head] @ key[j, head]) / 2)
                    if abs(i - j) <= SPANS[head] or j == 0
                    else 0.0
                    for j in range(length)
                ]
                for j, weight in enumerate(weights):
                    mixed[i, head] += weight / sum(weights) * value[j, head]
        wanted = attention.output(mixed.view(length, 16)).detach()
        assert_close(found[row, :length], wanted)


def test_a_span_as_long_as_the_text_changes_nothing_and_a_short_one_does() -> None:
    plain, batch = tiny("bert", "classification"), batch_for("bert")
    config = plain.encoder.config
    answers = []
    for span in (8, 7):
        model = spanned("bert", (span,) * 12)
        model.load_state_dict(plain.state_dict())
        with torch.no_grad():
            answers.append(model(**batch)["logits"])
    with torch.no_grad():
        wanted = plain(**batch)["logits"]
    assert config.attention_spans == ()
    assert_close(answers[0], wanted)
    assert float((answers[1][0] - wanted[0]).abs().max()) > 1e-5, "the longest text has 9 tokens"
    assert_close(answers[1][1:], wanted[1:])


@pytest.mark.parametrize("name", ["bert", "uneven", "albert", "mpnet"])
def test_spans_do_not_see_padding_and_are_saved(name: str, tmp_path: Path) -> None:
    heads = sum(CONFIGS[name].num_heads)
    spans = SPANS[:4] * 3 if CONFIGS[name].layer_groups else SPANS[:heads]
    model, batch = spanned(name, spans, vocab_size=len(tiny_vocabulary())), batch_for(name)
    alone = {key: tensor[1:2, :4] for key, tensor in batch.items()}
    with torch.no_grad():
        assert_close(model(**batch)["logits"][1:2], model(**alone)["logits"])
    source = load_checkpoint(tiny_bert_folder(tmp_path / "source", "classification"))
    changed = replace(
        source,
        module=model,
        max_length=model.encoder.config.usable_positions,
        position_start=model.encoder.config.position_start,
        input_names=model.encoder.config.input_names,
    )
    again = load_checkpoint(save_checkpoint(changed, tmp_path / "saved"))
    assert_same(changed, again)
    assert again.module.get_submodule("encoder").config.attention_spans == spans
    with torch.no_grad():
        assert torch.equal(again.module(**batch)["logits"], model(**batch)["logits"])


@pytest.mark.parametrize(
    ("spans", "name", "message"),
    [
        ((1,) * 11, "bert", "12 heads"),
        ((0,) + (1,) * 11, "bert", "1 or more"),
        ((1,) * 11 + (2,), "albert", "layers 0 and 2 share weights but not their spans"),
        ((1,) * 12, "vit", "for texts"),
    ],
)
def test_spans_that_fit_no_encoder(spans: tuple[int, ...], name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        replace(CONFIGS[name], attention_spans=spans)


def test_spans_follow_their_heads_and_layers() -> None:
    model, batch = spanned("groups", SPANS[:8] + SPANS[:4]), batch_for("groups")
    heads = (torch.tensor([True, False, True, True]), torch.tensor([False, True, False, True]))
    small = slim(model, {"heads": heads})
    assert small.encoder.config.attention_spans == (3, 24, 2, 1, 7, 3, 24, 2)
    last = slim(model, {"layers": (torch.tensor([False, True, True]),)})
    assert last.encoder.config.attention_spans == SPANS[4:8] + SPANS[:4]
    apart = untie_layers(model)
    with torch.no_grad():
        assert_close(apart(**batch)["logits"], model(**batch)["logits"])
    assert tie_layers(apart, (0, 1, 0)).encoder.config == model.encoder.config
    with pytest.raises(ModelError, match="share weights but not their spans"):
        tie_layers(apart, (0, 0, 0))


def softly(model: Any, lengths: tuple[tuple[float, ...], ...], ramp: float) -> SoftSpans:
    spans = SoftSpans(model.encoder, Span(penalty=1.0, start=24))
    with torch.no_grad():
        for parameter, values in zip(spans.lengths, lengths, strict=True):
            parameter.copy_(torch.tensor(values))
    spans.ramp = ramp
    return spans


@pytest.mark.parametrize("name", ["bert", "albert", "groups"])
def test_whole_soft_spans_become_hard_ones_and_dead_heads_go(name: str) -> None:
    model, batch = tiny(name, "classification"), batch_for(name)
    places = len(set(model.encoder.config.groups))
    lengths = ((3.0, 0.0, 24.0, 2.0), (0.0, 0.0, 1.0, 0.0), (5.0, 7.0, 0.0, 1.0))[:places]
    spans = softly(model, lengths, ramp=1.0)
    with within_soft_spans(model, spans), torch.no_grad():
        soft = model(**batch)["logits"]
    hard = harden(model, spans)
    with torch.no_grad():
        assert_close(hard(**batch)["logits"], soft)
        assert float((model(**batch)["logits"] - soft).abs().max()) > 1e-3
    kept = {"bert": (3, 1, 3), "albert": (3, 3, 3), "groups": (3, 1, 3)}[name]
    assert hard.encoder.config.num_heads == kept
    assert hard.encoder.config.attention_spans[:3] == (3, 24, 2)


def test_a_layer_keeps_its_best_head() -> None:
    model = tiny("bert", "classification")
    lengths = ((0.4, 0.1, 0.0, 0.3), (24.0,) * 4, (0.0,) * 4)
    hard = harden(model, softly(model, lengths, ramp=1.0))
    assert hard.encoder.config.num_heads == (1, 4, 1)
    assert hard.encoder.config.attention_spans == (1, 24, 24, 24, 24, 1)
    query = hard.encoder.layers[0].attention.query.weight
    assert torch.equal(query, model.encoder.layers[0].attention.query.weight[:4])


def test_soft_weights_are_those_of_the_paper() -> None:
    model = tiny("bert", "classification")
    spans = softly(model, ((3.0, 0.0, 5.5, 24.0),) * 3, ramp=4.0)
    found = spans.score_mask(0, 9).exp().detach()[0]
    for head, span in enumerate((3.0, 0.0, 5.5, 24.0)):
        for i in range(9):
            for j in range(1, 9):
                wanted = min(max((4.0 + span - abs(i - j)) / 4.0, 0.0), 1.0)
                assert float(found[head, i, j]) == pytest.approx(wanted, abs=1e-4)
            assert float(found[head, i, 0]) == 1.0, "the first token's column is never dropped"


def test_the_loss_lengthens_spans_and_the_price_shortens_them() -> None:
    """Gradients reach the spans, and agree with finite differences."""
    model, batch = tiny("bert", "classification"), batch_for("bert")
    spans = softly(model, ((2.3, 1.7, 3.2, 0.6),) * 3, ramp=2.0)
    labels = torch.tensor([0, 1, 2])

    def loss() -> torch.Tensor:
        with within_soft_spans(model, spans):
            return torch.nn.functional.cross_entropy(model(**batch)["logits"], labels)

    loss().backward()  # type: ignore[no-untyped-call]
    gradients = spans.lengths[0].grad
    assert gradients is not None and bool((gradients != 0).all())
    for head in range(4):
        values = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                spans.lengths[0][head] += step
                values.append(float(loss()))
                spans.lengths[0][head] -= step
        slope = (values[0] - values[1]) / 2e-2
        assert float(gradients[head]) == pytest.approx(slope, rel=0.05, abs=1e-5)


def test_the_ramp_shrinks_to_one_and_spans_stay_in_range() -> None:
    model = tiny("bert", "classification")
    spans = softly(model, ((-3.0, 99.0, 5.0, 0.0),) * 3, ramp=32.0)
    before_step = span_schedule(spans, Span(penalty=1.0, ramp=32.0, end=0.5), steps=100)
    ramps = []
    for step in range(100):
        before_step(step)
        ramps.append(spans.ramp)
    assert ramps[0] == 32.0 and ramps[50] == ramps[99] == 1.0
    assert ramps == sorted(ramps, reverse=True)
    assert spans.lengths[0].tolist() == [0.0, 24.0, 5.0, 0.0]


def test_images_and_relative_positions_have_no_soft_spans() -> None:
    for name in ("vit", "mpnet"):
        with pytest.raises(UsageError, match="for texts, and without relative"):
            SoftSpans(tiny(name, "classification").encoder, Span(penalty=1.0))


_FROZEN_TABLE = 'train = [{ parameters = "^(?!encoder.embeddings.tokens)" }]'
WHOLE = (
    FINETUNE
    + _FROZEN_TABLE
    + """
span = { penalty = 0.003, learning_rate = 1.0, start = 16, ramp = 8.0 }

[[stages.sparsity]]
method = "movement"
target = 0.5
every = 1

[[stages.sparsity]]
method = "magnitude"
target = 0.6
schedule = "linear"
modules = ["encoder.embeddings.tokens"]
every = 1
"""
    + FINETUNE[FINETUNE.index("[[stages]]") :].replace('"learn"', '"settle"')
    + _FROZEN_TABLE
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("spans")
    train = tsv_file(folder / "train.tsv", labelled_rows(96))
    dev = tsv_file(folder / "dev.tsv", labelled_rows(64, seed=1))
    tiny_bert_folder(folder / "base", "embedding", num_hidden_layers=2)
    recipe = recipe_file(folder / "finetune.toml", FINETUNE)
    compress(folder / "base", recipe=str(recipe), train=train, output=folder / "teacher")
    return {"teacher": folder / "teacher", "train": train, "dev": dev}


def trained(places: dict[str, Path], output: Path, **options: Any) -> Any:
    recipe = recipe_file(output.parent / "whole.toml", WHOLE)
    return compress(
        places["teacher"],
        recipe=str(recipe),
        train=places["train"],
        evaluate=places["dev"],
        output=output,
        **options,
    )


def test_spans_and_masks_are_learned_interrupted_or_not(
    places: dict[str, Path], tmp_path: Path
) -> None:
    """One price for all: heads that the task does not need lose their sight and go."""
    report = trained(places, tmp_path / "whole")
    module = load_checkpoint(tmp_path / "whole").module
    config: EncoderConfig = module.get_submodule("encoder").config
    assert sum(config.num_heads) < 8 and len(config.attention_spans) == sum(config.num_heads)
    assert report.student.value > 0.9
    for name, share in sparsities(module.get_submodule("encoder.layers")).items():
        # Cutting a head out takes other shares of zeros and of other weights with it.
        assert share > 0.25, name
    table = module.get_parameter("encoder.embeddings.tokens.weight")
    first = weights_of(places["teacher"])["bert.embeddings.word_embeddings.weight"]
    assert float((table == 0).float().mean()) == pytest.approx(0.6, abs=1e-3)
    assert torch.equal(table[table != 0], first[table != 0]), "frozen, but for the zeros"

    def stop(step: Step) -> None:
        if step.stage == "learn" and step.step == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(places, tmp_path / "cut", save_seconds=0.0, progress=stop)
    trained(places, tmp_path / "cut", resume=True)
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_bundles_answer_as_the_model_on_every_engine(tmp_path: Path) -> None:
    """The NumPy plan is packed too: how far a head sees depends on places alone."""
    model = spanned("albert", SPANS[:4] * 3, vocab_size=len(tiny_vocabulary()))
    source = load_checkpoint(tiny_bert_folder(tmp_path / "source", "classification"))
    save_checkpoint(replace(source, module=model, max_length=24), tmp_path / "model")
    made = convert(
        tmp_path / "model",
        profile="x86",
        output=tmp_path / "model.edge",
        engines=("onnx", "tflite", "numpy"),
        precisions=("fp32",),
    )
    layouts = {variant.engine: variant.layout for variant in made.manifest.variants}
    assert layouts["numpy"] == "packed"
    loaded = load_checkpoint(tmp_path / "model")
    texts = ["the film was very good and not boring at all", "bad", "a lovely film"]
    for engine in ("onnx", "tflite", "numpy"):
        with edgeformer.load(tmp_path / "model.edge", engine) as opened:
            together = opened.classify(texts, top_k=3)
            for text, labels in zip(texts, together, strict=True):
                ids = torch.tensor([opened.tokenizer.encode(text)])
                with torch.no_grad():
                    logits = loaded.module(ids, torch.ones_like(ids))["logits"][0]
                wanted = logits.softmax(-1)
                for label in labels:
                    index = loaded.labels.index(label.name)
                    assert np.isclose(label.score, float(wanted[index]), atol=2e-5)
