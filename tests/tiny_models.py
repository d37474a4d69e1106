"""Tiny seeded checkpoint folders, as transformers writes them, for every test that needs a model.

``tiny_bert_folder`` and ``tiny_family_folder`` write config.json, model.safetensors and a WordPiece
tokenizer that covers ASCII text. Every tensor is random, norms and biases too: default
initialisation would hide a dropped bias.
"""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

TASK_CLASSES = {
    "embedding": transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "fill-mask": transformers.AutoModelForMaskedLM,
}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "film", "was", "good", "bad", "very", "and", "boring", "lovely", "not", "##ly")
TEXTS = (
    "The film was very good",
    "boring",
    "A lovely film, and not a bad one!",
    "was the film good or was it boring?",
)

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}
# What each family calls the same sizes, or needs besides.
FAMILY_SIZES: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 48,
    },
    "roberta": {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {**_SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    "albert": {**_SIZES, "embedding_size": 16, "inner_group_num": 1},
    "electra": {**_SIZES, "embedding_size": 16},
    "mpnet": {**_SIZES, "pad_token_id": 1},
    "mobilebert": {
        **_SIZES,
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "num_feedforward_networks": 2,
    },
    "deberta-v2": {
        **_SIZES,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "type_vocab_size": 0,
        "position_biased_input": False,
    },
    "modernbert": {
        **_SIZES,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
    },
}


def pad_id(family: str) -> int:
    """Id of [PAD]: 1 for families that count positions from there, as their checkpoints do."""
    return int(FAMILY_SIZES[family].get("pad_token_id", 0))


def tiny_vocabulary(pad: int = 0) -> dict[str, int]:
    """Special tokens ([PAD] at ``pad``), a few words, and every printable ASCII character alone
    and as a suffix."""
    letters = [c for c in string.printable if not c.isspace() and not c.isupper()]
    special = [token for token in SPECIAL_TOKENS if token != "[PAD]"]
    special.insert(pad, "[PAD]")
    tokens = [*special, *WORDS, *letters, *(f"##{c}" for c in letters)]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def tiny_tokenizer_json(pad: int = 0) -> bytes:
    """tokenizer.json of a lower-casing WordPiece with BERT's template, truncation and padding on
    (a loader must remove both)."""
    vocabulary = tiny_vocabulary(pad)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.enable_truncation(max_length=16)
    tokenizer.enable_padding(length=16, pad_id=pad, pad_token="[PAD]")
    return tokenizer.to_str().encode("utf-8")


def randomise(module: nn.Module, seed: int) -> None:
    """Fill every parameter with small random values, LayerNorm weights around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.15
            is_norm_weight = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(noise + 1.0 if is_norm_weight else noise)


def tiny_model(
    family: str = "bert",
    task: str = "embedding",
    *,
    num_labels: int = 3,
    seed: int = 0,
    problem_type: str | None = None,
    **sizes: Any,
) -> Any:
    """A random transformers model of the task, in eval mode; ``sizes`` go into its config."""
    num_labels = 2 if task == "question-answering" else num_labels  # start and end
    settings = {"vocab_size": len(tiny_vocabulary()), **FAMILY_SIZES[family], **sizes}
    config = transformers.AutoConfig.for_model(
        family,
        **settings,
        problem_type=problem_type,
        id2label={i: f"class {i}" for i in range(num_labels)},
        label2id={f"class {i}": i for i in range(num_labels)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TASK_CLASSES[task].from_config(config).eval()
    randomise(model, seed)
    return model


def save_folder(model: Any, path: Path, *, max_length: int | None = None) -> Path:
    """Write ``model`` and the tiny tokenizer to ``path`` as a Hugging Face folder."""
    model.save_pretrained(path)
    (path / "tokenizer.json").write_bytes(tiny_tokenizer_json(model.config.pad_token_id or 0))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings |= {"unk_token": "[UNK]", "mask_token": "[MASK]"}
    if max_length is not None:
        settings["model_max_length"] = max_length
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def tiny_family_folder(
    path: Path, family: str, task: str = "embedding", *, num_labels: int = 3, seed: int = 0
) -> Path:
    """A tiny checkpoint folder of any family in ``FAMILY_SIZES``; returns ``path``."""
    return save_folder(tiny_model(family, task, num_labels=num_labels, seed=seed), path)


def tiny_bert_folder(
    path: Path,
    task: str = "embedding",
    *,
    num_labels: int = 3,
    seed: int = 0,
    problem_type: str | None = None,
    max_length: int | None = None,
    **sizes: Any,
) -> Path:
    """A tiny BERT checkpoint folder: hidden 32, 2 layers, 48 positions unless ``sizes`` say else.

    Args:
        path: folder to write.
        task: a key of ``TASK_CLASSES``.
        num_labels: classes of a classifier, named ``class 0``, ``class 1``, ...
        seed: of the weights.
        problem_type: as config.json spells it; None leaves it out.
        max_length: model_max_length of tokenizer_config.json; None leaves it out.
        **sizes: entries of BertConfig.

    Returns:
        ``path``.
    """
    model = tiny_model(
        "bert", task, num_labels=num_labels, seed=seed, problem_type=problem_type, **sizes
    )
    return save_folder(model, path, max_length=max_length)


def add_sentence_files(
    path: Path, *, pooling: str = "mean", normalized: bool = True, max_length: int | None = 32
) -> Path:
    """Turn a checkpoint folder into a sentence-transformers one; returns ``path``."""
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds += [("Normalize", "2_Normalize")] if normalized else []
    modules = [
        {"idx": i, "name": str(i), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, where) in enumerate(kinds)
    ]
    (path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (path / "1_Pooling").mkdir(exist_ok=True)
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    config = {f"pooling_mode_{key}": pooling == mode for key, mode in modes.items()}
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if max_length is not None:
        settings = {"max_seq_length": max_length, "do_lower_case": False}
        (path / "sentence_bert_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    config = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps(config), encoding="utf-8")


def edit_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]
) -> None:
    """Change tensors of model.safetensors, in place or by returning the new ones."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    changed = change(tensors)
    path.unlink()  # the loaded tensors are mapped from the file: never write over it
    save_file(tensors if changed is None else changed, path)
