"""Writing a model as a checkpoint folder, which ``load_checkpoint`` reads back bit for bit.

Where the family of the model can say its shape, the folder is one that transformers (and, for
embeddings, sentence-transformers) reads too. Else (heads or neurons pruned unevenly, say) it is
EdgeFormer's own (own_folder.py). The folder is written beside its place and renamed.
"""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgeformer.errors import EngineError, ModelError, UsageError
from edgeformer.models.bilstm import FAMILY as BILSTM
from edgeformer.models.bilstm import BiLstmEncoder
from edgeformer.models.build import HeadConfig, ModelConfig
from edgeformer.models.checkpoint import LoadedModel
from edgeformer.models.config import EncoderConfig
from edgeformer.models.encoder import Encoder
from edgeformer.models.families import families_of
from edgeformer.models.families.family import Family
from edgeformer.models.name_tables import OWN_NAMES, NameTable, checkpoint_names
from edgeformer.models.own_folder import own_settings

_PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def save_checkpoint(loaded: LoadedModel, folder: Path, *, force: bool = False) -> Path:
    """Write a model whose module is an encoder (or a BiLSTM) and a head.

    Args:
        loaded: as ``load_checkpoint`` gives it; its module may have been changed since, and then
            its encoder's ``config`` says what it is now.
        folder: where to write.
        force: replace a folder that exists.

    Returns:
        ``folder``.

    Raises:
        UsageError: the folder exists and ``force`` is not set.
        ModelError: the module is not one of ours.
        EngineError: the package safetensors is missing.
    """
    folder = Path(folder)
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists already", hint="name another folder, or use --force")
    encoder = getattr(loaded.module, "encoder", None)
    if not isinstance(encoder, (Encoder, BiLstmEncoder)):
        raise ModelError(
            f"a {loaded.family} model is not an Encoder of EdgeFormer and cannot be saved",
            hint="save it with model.save_pretrained(folder) of transformers",
        )
    config, names, prefix = _settings(loaded, encoder.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as temporary:
        made = Path(temporary) / "model"
        made.mkdir()
        _write_json(made / "config.json", config)
        _write_tensors(made / "model.safetensors", _tensors(loaded, names, prefix))
        _write_tokenizer(made, loaded)
        if loaded.task == "embedding" and loaded.tokenizer_json is not None:
            _write_sentence_files(made, loaded, encoder.config.hidden_size)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return folder


def _settings(loaded: LoadedModel, encoder: ModelConfig) -> tuple[dict[str, Any], NameTable, str]:
    """config.json, the names of the tensors, and what stands before those of the encoder."""
    found = _as_family(loaded, encoder) if isinstance(encoder, EncoderConfig) else None
    if found is None:
        family_name = loaded.family if isinstance(encoder, EncoderConfig) else BILSTM
        config = own_settings(encoder, loaded.head, family_name)
        names, prefix = OWN_NAMES, OWN_NAMES.prefix
    else:
        family, config = found
        # Only a model without a head is the encoder itself in transformers.
        names, prefix = family.names, "" if loaded.task == "embedding" else family.names.prefix
    if loaded.task in ("classification", "token-classification"):
        config["id2label"] = {str(i): label for i, label in enumerate(loaded.labels)}
        config["label2id"] = {label: i for i, label in enumerate(loaded.labels)}
    if loaded.problem_type:
        config["problem_type"] = _PROBLEM_TYPES[loaded.problem_type]
    return config, names, prefix


def _as_family(loaded: LoadedModel, encoder: EncoderConfig) -> tuple[Family, dict[str, Any]] | None:
    """The family that reads back exactly these settings from the config.json that it writes."""
    for family in families_of(loaded.family):
        if loaded.task not in family.classes:
            continue
        config = {"model_type": loaded.family, **family.write(encoder)}
        try:
            reads = family.read(config), family.head(config, loaded.task)
        except ModelError:
            continue
        if reads == (encoder, _without_data(loaded.head, reads[1])):
            return family, {"architectures": [family.classes[loaded.task]], **config}
    return None


def _without_data(head: HeadConfig, like: HeadConfig) -> HeadConfig:
    """``head`` without what other files than config.json say: classes and pooling."""
    return replace(
        head, num_labels=like.num_labels, pooling=like.pooling, normalized=like.normalized
    )


def _tensors(loaded: LoadedModel, names: NameTable, prefix: str) -> dict[str, torch.Tensor]:
    """The parameters under the names of the family."""
    parameters = dict(loaded.module.named_parameters())
    theirs = checkpoint_names(parameters, names, loaded.task)
    tensors = {}
    for ours, parameter in parameters.items():
        tensor = parameter.detach().cpu()
        before = prefix if ours.startswith(("encoder.", *names.inside)) else ""
        tensor = tensor.t() if ours in names.transposed else tensor
        tensors[before + theirs[ours]] = tensor.contiguous()
    return tensors


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    try:
        import safetensors.torch
    except ImportError:
        raise EngineError(
            "writing model.safetensors needs the package safetensors",
            hint='pip install "edgeformer[convert]"',
        ) from None
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _write_tokenizer(folder: Path, loaded: LoadedModel) -> None:
    if loaded.image_settings:
        _write_json(folder / "preprocessor_config.json", loaded.image_settings)
    if loaded.tokenizer_json is None:
        return
    (folder / "tokenizer.json").write_bytes(loaded.tokenizer_json)
    settings = {**loaded.tokenizer_settings, "model_max_length": loaded.max_length}
    _write_json(folder / "tokenizer_config.json", settings)


def _write_sentence_files(folder: Path, loaded: LoadedModel, hidden_size: int) -> None:
    """Pooling and normalisation, as sentence-transformers has them."""
    steps = [("Transformer", ""), ("Pooling", "1_Pooling")]
    steps += [("Normalize", "2_Normalize")] if loaded.normalized else []
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(steps)
    ]
    _write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": hidden_size,
        "pooling_mode_mean_tokens": loaded.pooling == "mean",
        "pooling_mode_cls_token": loaded.pooling == "cls",
    }
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    limits = {"max_seq_length": loaded.max_length, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", limits)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
