"""Bad model folders: each gives one error that says what is wrong and what to do.

tests/tiny_models.py writes good folders; each test here breaks one thing.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgeformer.errors import ModelError, UsageError
from edgeformer.models.checkpoint import load_checkpoint
from tests.tiny_models import (
    add_sentence_files,
    edit_config,
    edit_weights,
    tiny_bert_folder,
    tiny_family_folder,
)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "bert")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "classifier", "classification")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        load_checkpoint(tmp_path / "nothing")


def test_a_hub_id_is_not_downloaded() -> None:
    with pytest.raises(UsageError) as caught:
        load_checkpoint(Path("sentence-transformers/all-MiniLM-L6-v2"))
    assert "EdgeFormer does not download; pass a folder" in caught.value.hint
    assert "hf download sentence-transformers/all-MiniLM-L6-v2" in caught.value.hint


def test_a_file_instead_of_a_folder(bert: Path) -> None:
    with pytest.raises(UsageError, match="is a file") as caught:
        load_checkpoint(bert / "model.safetensors")
    assert str(bert) in caught.value.hint


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("README.md", "save_pretrained"),
        ("manifest.json", "bundle"),
        ("adapter_config.json", "adapter"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, file: str, hint: str) -> None:
    (tmp_path / file).write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"no config\.json") as caught:
        load_checkpoint(tmp_path)
    assert hint in caught.value.hint


def test_an_unknown_task(bert: Path) -> None:
    with pytest.raises(UsageError, match="'summarise'"):
        load_checkpoint(bert, task="summarise")


def test_a_task_that_the_weights_do_not_have(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"classifier\.weight"):
        load_checkpoint(bert, task="classification")
    other = tiny_family_folder(tmp_path / "other", "distilbert")
    with pytest.raises(ModelError, match="lacks the tensor 'classifier"):
        load_checkpoint(other, task="token-classification")
    other = tiny_family_folder(tmp_path / "wrapped", "modernbert")
    with pytest.raises(ModelError, match="lacks the tensor 'classifier"):
        load_checkpoint(other, task="token-classification")


def test_a_config_without_architectures_needs_a_task(bert: Path) -> None:
    edit_config(bert, architectures=None)
    with pytest.raises(ModelError, match="task is unknown") as caught:
        load_checkpoint(bert)
    assert "--task" in caught.value.hint
    assert load_checkpoint(bert, task="embedding").task == "embedding"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "no model_type"),
        ({"model_type": "gpt2"}, "generative decoding is out of scope"),
        ({"model_type": "t5"}, "generative decoding is out of scope"),
        ({"model_type": "bart"}, "generative decoding is out of scope"),
        ({"model_type": "vit"}, "image_size is None"),
        ({"model_type": "convnext"}, "vision"),
        ({"model_type": "wav2vec2"}, "not an encoder of text"),
        ({"is_decoder": True}, "generative decoding is out of scope"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": 33}, "not a multiple"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"intermediate_size": 65}, r"intermediate.*\(64,\).*\(65,\)"),
        ({"num_hidden_layers": 1}, r"no place for.*layer\.1\."),
        ({"num_hidden_layers": 3}, r"lacks the tensor 'encoder\.layer\.2\."),
        ({"hidden_act": "softplus"}, "softplus"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"quantization_config": {"bits": 4}}, "quantized already"),
    ],
)
def test_a_config_that_does_not_fit(bert: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(bert, **changes)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(bert)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_broken_json_file_is_named(bert: Path, file: str) -> None:
    (bert / file).write_text('{"a": ', encoding="utf-8")
    with pytest.raises(ModelError, match=file):
        load_checkpoint(bert)
    (bert / file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match=file):
        load_checkpoint(bert)
    (bert / file).write_text("[1]", encoding="utf-8")
    with pytest.raises(ModelError, match=file):
        load_checkpoint(bert)


def test_a_tokenizer_that_is_json_and_nothing_more(bert: Path) -> None:
    (bert / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="broken"):
        load_checkpoint(bert)


def test_a_missing_tokenizer(bert: Path) -> None:
    (bert / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer missing") as caught:
        load_checkpoint(bert)
    assert "save_pretrained" in caught.value.hint


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path: Path) -> None:
    folder = tiny_bert_folder(tmp_path, vocab_size=20)
    with pytest.raises(ModelError, match="20 tokens"):
        load_checkpoint(folder)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize(
    ("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite values")]
)
def test_weights_with_nan_are_refused(tmp_path: Path, family: str, value: float, word: str) -> None:
    folder = tiny_family_folder(tmp_path, family)
    name = sorted(load_file(folder / "model.safetensors"))[3]

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[1] = value

    edit_weights(folder, spoil)
    with pytest.raises(ModelError, match=f"the weights contain {word}: tensor '{name}'"):
        load_checkpoint(folder)


def drop_bias(tensors: dict[str, torch.Tensor], layer: str) -> None:
    del tensors[next(n for n in sorted(tensors) if layer in n and n.endswith("bias"))]


@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta-v2"])
def test_tensors_that_are_missing_spare_or_misshapen(tmp_path: Path, family: str) -> None:
    where = "transformer.layer.1" if family == "distilbert" else "encoder.layer.1"
    source = tiny_family_folder(tmp_path / "source", family)
    changes: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
        "lacks the tensor": lambda t: drop_bias(t, where),
        "no place for": lambda t: t.update({f"{where}.gate.bias": torch.zeros(3)}),
        "has shape": lambda t: t.update(
            {next(n for n in sorted(t) if where in n and n.endswith("bias")): torch.zeros(3)}
        ),
    }
    for number, (message, change) in enumerate(changes.items()):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        edit_weights(folder, change)
        with pytest.raises(ModelError, match=rf"{message}.*{where}|{where}.*{message}"):
            load_checkpoint(folder)


def test_a_tensor_that_is_there_twice(bert: Path) -> None:
    name = "embeddings.LayerNorm.weight"
    edit_weights(bert, lambda t: t.update({f"bert.{name}": t[name].clone()}))
    with pytest.raises(ModelError, match="twice"):
        load_checkpoint(bert)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_weight_file(bert: Path, keep: int, kind: str) -> None:
    if kind == "pytorch_model.bin":
        torch.save(load_file(bert / "model.safetensors"), bert / kind)
        (bert / "model.safetensors").unlink()
    content = (bert / kind).read_bytes()
    (bert / kind).write_bytes(content[:keep])
    with pytest.raises(ModelError, match=f"{kind} is corrupt"):
        load_checkpoint(bert)


def test_a_bin_file_that_is_no_dict_of_tensors(bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], bert / "pytorch_model.bin")
    with pytest.raises(ModelError, match="not a dict of tensors"):
        load_checkpoint(bert)


def test_a_folder_without_weights_names_what_it_has(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / "tf_model.h5")
    with pytest.raises(ModelError, match=r"no weights.*tf_model\.h5"):
        load_checkpoint(bert)


def test_an_index_cannot_reach_outside_the_folder(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert.parent / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (bert / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError, match="outside its folder"):
        load_checkpoint(bert)


def test_missing_labels(classifier: Path) -> None:
    edit_config(classifier, id2label=None, label2id=None)
    with pytest.raises(ModelError, match="labels missing: the classifier has 3 classes") as caught:
        load_checkpoint(classifier)
    assert "id2label" in caught.value.hint


@pytest.mark.parametrize("labels", [{"0": "a", "1": "b"}, {"1": "a", "2": "b", "3": "c"}, ["a"]])
def test_labels_that_do_not_fit(classifier: Path, labels: Any) -> None:
    edit_config(classifier, id2label=labels)
    with pytest.raises(ModelError, match="3 classes"):
        load_checkpoint(classifier)


def test_an_unknown_problem_type(classifier: Path) -> None:
    edit_config(classifier, problem_type="ranking")
    with pytest.raises(ModelError, match="ranking"):
        load_checkpoint(classifier)


def test_a_pooling_that_is_not_supported(bert: Path) -> None:
    add_sentence_files(bert, pooling="max")
    with pytest.raises(ModelError, match="pooling_mode_max_tokens") as caught:
        load_checkpoint(bert)
    assert "mean" in caught.value.hint and "cls" in caught.value.hint


def test_steps_of_sentence_transformers_that_are_not_supported(bert: Path) -> None:
    add_sentence_files(bert)
    path = bert / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8"))
    dense = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    for steps, message in (
        ([*modules[:2], dense], "'Dense'"),
        (modules[:1], "has the steps Transformer"),
        ([], "none"),
        ({}, "not a list"),
    ):
        path.write_text(json.dumps(steps), encoding="utf-8")
        with pytest.raises(ModelError, match=message):
            load_checkpoint(bert)


def test_modules_cannot_reach_outside_the_folder(bert: Path) -> None:
    add_sentence_files(bert)
    path = bert / "modules.json"
    text = path.read_text(encoding="utf-8").replace("1_Pooling", "../elsewhere")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="outside"):
        load_checkpoint(bert)


@pytest.mark.parametrize("limit", [0, -1, "long", True])
def test_a_length_that_is_none(bert: Path, limit: Any) -> None:
    settings = json.dumps({"model_max_length": limit})
    (bert / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    with pytest.raises(ModelError, match="limits texts"):
        load_checkpoint(bert)


def test_the_error_for_a_broken_family_names_the_setting(tmp_path: Path) -> None:
    folder = tiny_family_folder(tmp_path, "modernbert")
    edit_config(folder, num_attention_heads=5)
    with pytest.raises(ModelError, match="modernbert"):
        load_checkpoint(folder)
