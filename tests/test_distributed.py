"""Two real processes train as one does. Gloo carries their sums; no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeformer import compress
from tests.command_line import ROOT
from tests.tiny_tasks import (
    FINETUNE,
    base_folder,
    labelled_rows,
    recipe_file,
    tsv_file,
    weights_of,
)

# Dropout is off: it draws other numbers in each process. Losses on hidden states are means over
# tokens, which two halves of a batch weigh a little differently than the whole.
RECIPE = """
title = "two stages"
paper = "none"
max_length = 16

[student]
kind = "layers"
layers = 1

[[stages]]
name = "one"
epochs = 4
batch_size = 16
learning_rate = 1e-3
dropout = 0.0
losses = [{ kind = "logit_kl" }, { kind = "labels" }]

[[stages]]
name = "two"
epochs = 2
batch_size = 16
learning_rate = 1e-3
dropout = 0.0
prune = [{ units = "heads", method = "gate_taylor", keep = 0.5 }]
losses = [{ kind = "hidden_mse" }, { kind = "logit_mse" }]
"""


def _losses(folder: Path) -> torch.Tensor:
    lines = (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
    return torch.tensor([json.loads(line)["loss"] for line in lines])


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    train = tsv_file(tmp_path / "train.tsv", labelled_rows(96))
    finetune = recipe_file(tmp_path / "finetune.toml", FINETUNE)
    teacher, recipe = tmp_path / "teacher", recipe_file(tmp_path / "two.toml", RECIPE)
    base_folder(tmp_path / "base")
    compress(tmp_path / "base", recipe=str(finetune), train=train, output=teacher)
    compress(teacher, recipe=str(recipe), train=train, output=tmp_path / "alone")
    together = tmp_path / "together"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments: list[Any] = ["--nproc-per-node", 2, "-m", "edgeformer", "compress", teacher]
    arguments += ["--recipe", recipe, "--train", train, "--eval", train, "-o", together, "--json"]
    done = subprocess.run(
        [*launcher, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["after"]["layers"] == 1  # one process prints
    alone, both = _losses(tmp_path / "alone"), _losses(together)
    assert len(alone) == 24 + 12
    torch.testing.assert_close(both[:24], alone[:24], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(both[24:], alone[24:], rtol=0.05, atol=1e-6)
    ours, theirs = weights_of(together), weights_of(tmp_path / "alone")
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=5e-3)


def test_a_batch_that_does_not_divide_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeformer.compression import distributed
    from edgeformer.errors import UsageError

    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    base_folder(tmp_path / "base")
    recipe = recipe_file(tmp_path / "finetune.toml", FINETUNE)
    with pytest.raises(UsageError, match="16 does not divide among 3"):
        compress(
            tmp_path / "base", recipe=str(recipe), train=labelled_rows(32), output=tmp_path / "out"
        )
