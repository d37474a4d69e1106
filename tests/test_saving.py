"""A saved model comes back bit for bit, and transformers reads it where it can say its shape."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from edgeformer.errors import ModelError, UsageError
from edgeformer.models import saving
from edgeformer.models.build import HeadConfig, make_model
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.config import EncoderConfig
from edgeformer.models.own_folder import own_settings, read_own
from edgeformer.models.saving import save_checkpoint
from tests.test_families import (
    IMAGE_SIZES,
    TASKS,
    TEXT_FAMILIES,
    answer_of,
    assert_close,
    padded,
    text_model,
    texts_of,
)
from tests.tiny_models import (
    edit_config,
    randomise,
    save_folder,
    tiny_bert_folder,
    tiny_family_folder,
    tiny_vocabulary,
)

PRUNED = EncoderConfig(
    vocab_size=len(tiny_vocabulary()),
    hidden_size=32,
    num_heads=(4, 2),
    head_dim=8,
    intermediate_sizes=(40, 64),
    max_positions=48,
)


def assert_same(first: LoadedModel, second: LoadedModel) -> None:
    ours, theirs = first.module.state_dict(), second.module.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for what in ("task", "family", "labels", "problem_type", "pooling", "normalized", "head"):
        assert getattr(first, what) == getattr(second, what)
    for what in ("max_length", "tokenizer_json", "input_names", "position_start"):
        assert getattr(first, what) == getattr(second, what)


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_transformers_reads_what_was_saved(family: str, task: str, tmp_path: Path) -> None:
    folder = save_folder(text_model(family, task, seed=5), tmp_path / "source")
    loaded = load_checkpoint(folder)
    saved = save_checkpoint(loaded, tmp_path / "saved")
    assert_same(loaded, load_checkpoint(saved))
    stored = load_file(folder / "model.safetensors")
    for name, tensor in load_file(saved / "model.safetensors").items():
        assert torch.equal(tensor, stored[name]), "transformers would have written the same"
    model = TASKS[task].from_pretrained(saved).eval()
    (text,) = texts_of(model.config, (9,))
    with torch.no_grad():
        (ours,) = loaded.module(**padded([text], 0)).values()
    assert_close(ours[0], answer_of(model, task, text))


@pytest.mark.parametrize(
    "name",
    [
        "ViTForImageClassification",
        "DeiTForImageClassification",
        "DeiTForImageClassificationWithTeacher",
        "Dinov2ForImageClassification",
        "Dinov2Model",
    ],
)
def test_transformers_reads_an_image_model(name: str, tmp_path: Path) -> None:
    model_class: Any = getattr(transformers, name)
    sizes = {**IMAGE_SIZES, "intermediate_size": 128}
    model = model_class(model_class.config_class(**sizes, num_labels=5))
    randomise(model, 1)
    model.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "preprocessor_config.json").write_text('{"do_resize": true}')
    loaded = load_checkpoint(tmp_path / "source")
    saved = save_checkpoint(loaded, tmp_path / "saved")
    again = load_checkpoint(saved)
    assert_same(loaded, again)
    assert again.image_settings == {"do_resize": True}
    read = model_class.from_pretrained(saved).eval()
    stored, wanted = read.state_dict(), model.state_dict()
    assert all(
        torch.equal(stored[n], wanted[n]) for n in wanted if "pooler" not in n and "mask" not in n
    )


@pytest.mark.parametrize(("pooling", "normalized"), [("mean", True), ("cls", False)])
def test_pooling_is_saved_as_sentence_transformers_has_it(
    pooling: str, normalized: bool, tmp_path: Path
) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "source", max_length=20))
    head = replace(loaded.head, pooling=pooling, normalized=normalized)
    changed = replace(loaded, head=head, pooling=pooling, normalized=normalized)
    again = load_checkpoint(save_checkpoint(changed, tmp_path / "saved"))
    assert (again.pooling, again.normalized, again.max_length) == (pooling, normalized, 20)
    assert again.notices == ()
    modules = json.loads((tmp_path / "saved" / "modules.json").read_text())
    assert [module["path"] for module in modules][:2] == ["", "1_Pooling"]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_pruned_model_is_saved_in_our_own_form(task: str, tmp_path: Path) -> None:
    labels = {"classification": 3, "token-classification": 3, "question-answering": 2}.get(task, 0)
    source = tiny_bert_folder(tmp_path / "source", "token-classification")
    loaded = load_checkpoint(source, task="token-classification")
    head = HeadConfig(task, num_labels=labels, activation="gelu")
    module = make_model(PRUNED, head).eval()
    randomise(module, 2)
    names = ("start", "end") if labels == 2 else loaded.labels[:labels]
    embeds = task == "embedding"
    pruned = replace(
        loaded,
        module=module,
        head=head,
        task=task,
        labels=names,
        problem_type="multi_label" if task == "classification" else "",
        pooling="mean" if embeds else "",
        normalized=embeds,
    )
    saved = save_checkpoint(pruned, tmp_path / "saved")
    config = json.loads((saved / "config.json").read_text())
    assert (config["model_type"], config["family"]) == ("edgeformer", "bert")
    assert_same(pruned, load_checkpoint(saved))
    assert load_checkpoint(saved, task="embedding").task == "embedding"
    if task not in ("token-classification", "embedding"):
        with pytest.raises(ModelError, match=f"was saved for {task}"):
            load_checkpoint(saved, task="token-classification")


def test_fewer_layers_are_no_reason_for_our_own_form(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "source"))
    config = replace(PRUNED, num_heads=(4,), intermediate_sizes=(40,))
    module = make_model(config, loaded.head).eval()
    randomise(module, 3)
    saved = save_checkpoint(replace(loaded, module=module), tmp_path / "saved")
    model = transformers.AutoModel.from_pretrained(saved)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (1, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": None}, "no settings of the encoder"),
        ({"head": {}}, "task"),
        ({"head": {"task": "summarise"}}, "summarise"),
        (
            {
                "encoder": {
                    **own_settings(PRUNED, HeadConfig("embedding"), "bert")["encoder"],
                    "a": 1,
                }
            },
            "'a'",
        ),
        ({"encoder": {"vocab_size": "many"}}, "vocab_size is 'many', not int"),
        ({"encoder": {"num_heads": [4, True]}}, "num_heads"),
        ({"encoder": {"vocab_size": 3}}, "missing"),
    ],
)
def test_damaged_settings_of_our_own(change: dict[str, Any], message: str) -> None:
    config = {**own_settings(PRUNED, HeadConfig("embedding"), "bert"), **change}
    with pytest.raises(ModelError, match=message):
        read_own(json.loads(json.dumps(config)))


def test_our_own_settings_survive_json() -> None:
    head = HeadConfig("classification", num_labels=3, activation="")
    written = json.loads(json.dumps(own_settings(PRUNED, head, "bert")))
    assert read_own(written) == (PRUNED, head, "bert")


def test_a_folder_that_exists_is_kept(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "source"))
    with pytest.raises(UsageError, match="exists already"):
        save_checkpoint(loaded, tmp_path / "source")
    edit_config(tmp_path / "source", spare=1)
    save_checkpoint(loaded, tmp_path / "source", force=True)
    assert "spare" not in json.loads((tmp_path / "source" / "config.json").read_text())
    assert_same(loaded, load_checkpoint(tmp_path / "source"))


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "source"))

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(saving, "_write_tokenizer", fail)
    before = sorted(p.name for p in (tmp_path / "source").iterdir())
    for name in ("new", "source"):
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(loaded, tmp_path / name, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
    assert sorted(p.name for p in (tmp_path / "source").iterdir()) == before


def test_a_wrapped_model_is_not_ours_to_save(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_family_folder(tmp_path / "source", "modernbert"))
    with pytest.raises(ModelError, match="modernbert") as caught:
        save_checkpoint(loaded, tmp_path / "saved")
    assert "save_pretrained" in caught.value.hint
