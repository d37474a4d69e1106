"""Tiny BiLSTM classifiers: prepared for the converters, and saved as a folder."""

from dataclasses import replace
from pathlib import Path

import torch

from edgeformer.converters.prepared import PreparedModel
from edgeformer.models.bilstm import FAMILY, BiLstmClassifier, BiLstmConfig
from edgeformer.models.build import HeadConfig
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.saving import save_checkpoint
from edgeformer.runtime.manifest import ModelCard, Port
from tests.tiny_models import randomise, tiny_bert_folder, tiny_vocabulary

CLASSES = 3
CONFIG = BiLstmConfig(
    vocab_size=len(tiny_vocabulary()), embedding_size=24, hidden_size=16, intermediate_size=32
)
DEEP = replace(CONFIG, projection_size=20, num_layers=2)
HEAD = HeadConfig("classification", num_labels=CLASSES, activation="relu")


def classifier(config: BiLstmConfig = CONFIG, seed: int = 1) -> BiLstmClassifier:
    """A random one whose weights are large enough for an LSTM to remember and to forget."""
    module = BiLstmClassifier(config, CLASSES).eval()
    randomise(module, seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)
    return module


def padded(lengths: list[int], width: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random texts of these lengths, padded on the right with random ids."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(width, *lengths))
    ids = torch.randint(0, CONFIG.vocab_size, shape, generator=generator)
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def prepared(config: BiLstmConfig = CONFIG) -> PreparedModel:
    ports = tuple(
        Port(name, "int64", ("batch", "sequence"), default)
        for name, default in (("input_ids", None), ("attention_mask", "ones"))
    )
    return PreparedModel(
        classifier(config),
        ports,
        (Port("logits", "float32", ("batch", CLASSES)),),
        (padded([7, 4]),),
        ModelCard("tiny", FAMILY, "classification", max_length=64),
    )


def loaded(folder: Path, config: BiLstmConfig = CONFIG, seed: int = 1) -> LoadedModel:
    """A BiLSTM with the tokenizer of a tiny BERT, as distillation makes one."""
    teacher = load_checkpoint(tiny_bert_folder(folder / "teacher", "classification"))
    return replace(
        teacher,
        module=classifier(config, seed),
        head=HEAD,
        family=FAMILY,
        input_names=config.input_names,
        position_start=config.position_start,
    )


def bilstm_folder(path: Path, config: BiLstmConfig = CONFIG) -> Path:
    """A saved BiLSTM; returns ``path``."""
    return save_checkpoint(loaded(path.parent, config), path)
