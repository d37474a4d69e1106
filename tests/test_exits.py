"""Exits change nothing about the last layer, and a model cut into segments is still the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeformer.compression.slimming import slim
from edgeformer.errors import ModelError, UsageError
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.encoder import Encoder
from edgeformer.models.equalizing import equalize
from edgeformer.models.exits import ExitClassifier, with_exits
from edgeformer.models.folding import without_no_norms
from edgeformer.models.saving import save_checkpoint
from tests.compressible import CONFIGS, HEADS, TEXT_CONFIGS, batch_for, tiny
from tests.test_saving import assert_same
from tests.tiny_models import randomise, tiny_bert_folder, tiny_vocabulary


def exiting(name: str, seed: int = 0, pooling: str = "mean", **sizes: Any) -> ExitClassifier:
    """The classifier of a tiny configuration with exits, every tensor random."""
    head = replace(HEADS["classification"], exits=True, exit_pooling=pooling)
    model: Any = make_model(replace(CONFIGS[name], **sizes), head).eval()
    randomise(model, seed)
    return model


def assert_close(ours: torch.Tensor, wanted: torch.Tensor) -> None:
    assert ours.shape == wanted.shape
    assert float((ours - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


def chained(model: ExitClassifier, sizes: tuple[int, ...], batch: Any) -> list[torch.Tensor]:
    """The logits of each segment, each fed with what the one before gave."""
    first, *others = model.segments(sizes)
    answer = first(**batch)
    logits = [answer["logits"]]
    for segment in others:
        answer = segment(answer["hidden"], batch["attention_mask"])
        logits.append(answer["logits"])
    assert set(answer) == {"logits"}, "nobody reads the states of the last layer"
    return logits


@pytest.mark.parametrize("name", TEXT_CONFIGS)
def test_the_last_layer_answers_as_without_exits(name: str) -> None:
    plain = tiny(name, "classification")
    made = with_exits(plain, torch.Generator().manual_seed(1))
    batch = batch_for(name)
    with torch.no_grad():
        wanted = plain(**batch)["logits"]
        assert torch.equal(made(**batch)["logits"], wanted)
        assert torch.equal(made.without_exits()(**batch)["logits"], wanted)
        *early, last = made.all_logits(**batch)
    assert_close(last, wanted)
    assert len(early) == len(made.exits) == CONFIGS[name].num_layers - 1
    assert all(float((logits - last).abs().max()) > 1e-3 for logits in early)
    for ramp in made.exits:
        assert torch.equal(ramp.get_parameter("pooler.weight"), plain.pooler.weight)
    assert "exits.0.pooler.weight" not in made.without_exits().state_dict()
    assert "exits.0.pooler.weight" in made.state_dict()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", ["bert", "groups", "albert"])
def test_a_ramp_reads_the_layer_before_it(name: str, pooling: str) -> None:
    """The oracle is the encoder cut off after each layer, one text at a time, without padding."""
    model = exiting(name, pooling=pooling)
    batch = batch_for(name)
    with torch.no_grad():
        found = model.all_logits(**batch)
    for layer, ramp in enumerate(model.exits, start=1):
        config = CONFIGS[name]
        short = replace(
            config,
            num_heads=config.num_heads[:layer],
            intermediate_sizes=config.intermediate_sizes[:layer],
            layer_groups=config.layer_groups[:layer],
        )
        cut = Encoder(short).eval()
        ours = model.encoder.state_dict()
        cut.load_state_dict({key: ours[key] for key in cut.state_dict()})
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            alone = {key: tensor[row : row + 1, :length] for key, tensor in batch.items()}
            with torch.no_grad():
                states = cut(**alone)
                read = states[:, 0] if pooling == "cls" else states.mean(1)
                assert_close(found[layer - 1][row : row + 1], ramp(read))


@pytest.mark.parametrize(("sizes", "pooling"), [((), "mean"), ((1, 2), "cls"), ((2, 1), "mean")])
@pytest.mark.parametrize("name", TEXT_CONFIGS)
def test_segments_one_after_the_other_are_the_model(
    name: str, sizes: tuple[int, ...], pooling: str
) -> None:
    model, batch = exiting(name, pooling=pooling), batch_for(name)
    ends = torch.tensor(sizes or (1, 1, 1)).cumsum(0).tolist()
    with torch.no_grad():
        logits = model.all_logits(**batch)
        for end, found in zip(ends, chained(model, sizes, batch), strict=True):
            assert_close(found, logits[end - 1])


@pytest.mark.parametrize("name", ["bert", "albert", "mpnet"])
def test_segments_hold_the_models_own_parameters(name: str) -> None:
    """Weights are stored once because programs can tell by name and memory that they share them."""
    model = exiting(name)
    ours = dict(model.named_parameters())
    seen = set()
    for segment in model.segments():
        for key, parameter in segment.named_parameters():
            assert parameter is ours[key]
            seen.add(key)
    assert seen == set(ours)
    second = [key for key, _ in model.segments()[1].named_parameters()]
    assert not any("embeddings" in key for key in second), "the table is needed once"
    assert any("exits.1." in key for key in second) and not any("exits.0." in key for key in second)


@pytest.mark.parametrize(("stay", "ramps"), [((0, 2), (0,)), ((1, 2), (1,)), ((0, 1), (0,))])
def test_ramps_go_with_their_layers(stay: tuple[int, ...], ramps: tuple[int, ...]) -> None:
    model = exiting("bert")
    keep = torch.zeros(3, dtype=torch.bool)
    keep[list(stay)] = True
    small = slim(model, {"layers": (keep,)})
    for made, old in zip(small.exits, ramps, strict=True):
        assert torch.equal(
            made.get_parameter("pooler.weight"), model.exits[old].get_parameter("pooler.weight")
        )
    assert len(model.exits) == 2, "the model that was given is left as it is"
    assert len(small.all_logits(**batch_for("bert"))) == 2
    with pytest.raises(ModelError, match="one layer"):
        slim(model, {"layers": (torch.tensor([True, False, False]),)})


def test_exits_do_not_depend_on_padding() -> None:
    model, batch = exiting("albert"), batch_for("albert", (9, 4))
    alone = {name: tensor[1:, :4] for name, tensor in batch.items()}
    with torch.no_grad():
        for padded, plain in zip(model.all_logits(**batch), model.all_logits(**alone), strict=True):
            assert_close(padded[1:], plain)


@pytest.mark.parametrize("name", ["bert", "uneven", "albert", "groups"])
def test_a_saved_model_with_exits_comes_back(name: str, tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "source", "classification"))
    pooling = "cls" if name == "bert" else "mean"
    head = HeadConfig("classification", num_labels=3, exits=True, exit_pooling=pooling)
    module = exiting(name, pooling=pooling, vocab_size=len(tiny_vocabulary()))
    changed = replace(loaded, module=module, head=head, max_length=24)
    again = load_checkpoint(save_checkpoint(changed, tmp_path / "saved"))
    assert_same(changed, again)
    assert isinstance(again.module, ExitClassifier)
    batch = batch_for(name)
    with torch.no_grad():
        for ours, theirs in zip(
            again.module.all_logits(**batch), module.all_logits(**batch), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert load_checkpoint(tmp_path / "saved", task="embedding").task == "embedding"


def test_a_mobilebert_is_folded_and_evened_out_with_its_exits() -> None:
    """Else the ramps would read states on another scale than they were trained on."""
    model, batch = exiting("mobilebert"), batch_for("mobilebert")
    ready = without_no_norms(model)
    assert isinstance(ready, ExitClassifier)
    equalize(ready)
    with torch.no_grad():
        wanted = model.all_logits(**batch)
        for found in (ready.all_logits(**batch), chained(ready, (), batch)):
            for ours, theirs in zip(found, wanted, strict=True):
                assert_close(ours, theirs)


@pytest.mark.parametrize("sizes", [(3,), (1, 1), (0, 3), (2, 2), (4, -1)])
def test_segments_that_are_not_the_layers(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="do not divide an encoder of 3"):
        exiting("bert").segments(sizes)


def test_models_that_cannot_have_exits() -> None:
    config, head = CONFIGS["bert"], HeadConfig("classification", num_labels=3, exits=True)
    one = replace(config, num_heads=(4,), intermediate_sizes=(12,))
    with pytest.raises(ModelError, match="one layer"):
        make_model(one, head)
    with pytest.raises(ModelError, match="a single one"):
        make_model(config, replace(head, num_labels=1))
    with pytest.raises(ModelError, match="classifiers of texts"):
        make_model(CONFIGS["vit"], head)
    with pytest.raises(ModelError, match="not for embedding"):
        HeadConfig("embedding", exits=True)
    with pytest.raises(UsageError, match="no pooling 'max'"):
        make_model(config, replace(head, exit_pooling="max"))
    with pytest.raises(ModelError, match="already"):
        with_exits(exiting("bert"), torch.Generator())
