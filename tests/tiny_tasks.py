"""A tiny labelled task, models for it and recipes, for tests of training."""

import random
from pathlib import Path
from typing import Any

import torch

from tests.tiny_models import tiny_bert_folder

GOOD, BAD = ("good", "lovely"), ("bad", "boring")
FILLERS = ("the", "a", "film", "was", "very", "and")

FINETUNE = """
title = "tiny fine-tuning"
paper = "none"
max_length = 16

[[stages]]
name = "learn"
epochs = 6
learning_rate = 5e-3
batch_size = 16
dropout = 0.0
losses = [{ kind = "labels" }]
"""


def labelled_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of a few words, one of which decides the label."""
    chosen = random.Random(seed)
    rows = []
    for number in range(count):
        words = [chosen.choice(FILLERS) for _ in range(chosen.randint(2, 7))]
        words.append(chosen.choice((BAD, GOOD)[number % 2]))
        chosen.shuffle(words)
        rows.append({"text": " ".join(words), "label": ("negative", "positive")[number % 2]})
    return rows


def tsv_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as a file; returns ``path``."""
    lines = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def base_folder(path: Path, layers: int = 2) -> Path:
    """A tiny embedding model of Hugging Face with small random weights; returns ``path``."""
    return tiny_bert_folder(path, "embedding", num_hidden_layers=layers)


def recipe_file(path: Path, text: str) -> Path:
    """A recipe of the test's own; returns ``path``."""
    path.write_text(text, encoding="utf-8")
    return path


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
