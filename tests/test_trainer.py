"""Training that can be trusted: killed and resumed, cut in pieces, diverging, out of memory."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeformer import compress
from edgeformer.compression import trainer
from edgeformer.compression.optimizing import (
    choose_trained,
    learning_rate_factor,
    make_optimizer,
)
from edgeformer.compression.recipe import Stage, Trained
from edgeformer.compression.trainer import Step
from edgeformer.errors import TrainingError, UsageError
from tests.command_line import ROOT
from tests.tiny_tasks import (
    FINETUNE,
    base_folder,
    labelled_rows,
    recipe_file,
    tsv_file,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# Two stages: a cut, dropout, a projection, skipped layers, then weights that go to zero.
EVERYTHING = """
title = "a stage of everything"
paper = "none"
max_length = 16

[student]
kind = "layers"
layers = 3

[[stages]]
name = "inner"
epochs = 2
batch_size = 16
layer_drop = 0.1
losses = [{ kind = "hidden_mse", projected = true }, { kind = "value_relation" }]

[[stages]]
name = "outer"
epochs = 3
batch_size = 16
learning_rate = 1e-3
prune = [{ units = "heads", method = "gate_taylor", keep = 0.5, normalized = true, examples = 32 }]
sparsity = [{ method = "movement", target = 0.5, every = 1 }]
losses = [{ kind = "logit_kl", temperature = 2.0 }, { kind = "labels" }]
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny classifier that knows its task, and the texts that it learned from."""
    folder = tmp_path_factory.mktemp("trainer")
    train = tsv_file(folder / "train.tsv", labelled_rows(96))
    recipe = recipe_file(folder / "finetune.toml", FINETUNE)
    base_folder(folder / "base", layers=4)
    compress(folder / "base", recipe=str(recipe), train=train, output=folder / "teacher")
    return {"teacher": folder / "teacher", "train": train, "folder": folder}


# Steps take their time, so that the kill comes between two of them or inside of one.
_SLOW = """
import sys, time
from edgeformer import compress
teacher, recipe, train, output, resume = sys.argv[1:]
compress(teacher, recipe=recipe, train=train, output=output, seed=3, save_seconds=0,
         resume=resume == "resume", progress=lambda step: time.sleep(0.05))
"""


def _killed_after(lines: int, arguments: list[object], log: Path) -> None:
    """Train in a process, and SIGKILL it when its log has so many lines."""
    command = [sys.executable, "-c", _SLOW, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not log.is_file() or len(log.read_text().splitlines()) < lines:
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("lines", [5, 17], ids=["first stage", "after the cut, masks on"])
def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(
    places: dict[str, Path], tmp_path: Path, lines: int
) -> None:
    recipe = recipe_file(tmp_path / "everything.toml", EVERYTHING)
    given: dict[str, Any] = {"recipe": str(recipe), "train": places["train"], "seed": 3}
    whole = compress(places["teacher"], output=tmp_path / "whole", **given)
    output = tmp_path / "killed"
    log = tmp_path / "killed.training" / "training.jsonl"
    _killed_after(lines, [places["teacher"], recipe, places["train"], output, ""], log)
    assert not output.exists()
    with pytest.raises(UsageError, match="interrupted training"):
        compress(places["teacher"], output=output, **given)
    resumed = compress(places["teacher"], output=output, resume=True, **given)
    ours, theirs = weights_of(output), weights_of(whole.path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (resumed.after, [s.loss for s in resumed.stages]) == (
        whole.after,
        [s.loss for s in whole.stages],
    )
    steps = [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]
    numbers = [(step["stage_number"], step["step"]) for step in steps]
    assert numbers == [(0, i + 1) for i in range(12)] + [(1, i + 1) for i in range(18)]
    assert not log.parent.exists()


@pytest.mark.slow
def test_many_kills_at_any_moment_change_nothing(places: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "everything.toml", EVERYTHING)
    given: dict[str, Any] = {"recipe": str(recipe), "train": places["train"], "seed": 3}
    whole = compress(places["teacher"], output=tmp_path / "whole", **given)
    output, log = tmp_path / "killed", tmp_path / "killed.training" / "training.jsonl"
    chosen = random.Random(0)
    for number in range(12):
        how = "resume" if number else ""
        done = len(log.read_text().splitlines()) if number else 0
        arguments = [places["teacher"], recipe, places["train"], output, how]
        _killed_after(min(done + chosen.randint(1, 3), 29), arguments, log)
    resumed = compress(places["teacher"], output=output, resume=True, **given)
    ours, theirs = weights_of(resumed.path), weights_of(whole.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _interrupt_at(step: int) -> Callable[[Step], None]:
    def stop(done: Step) -> None:
        if done.step == step:
            raise KeyboardInterrupt

    return stop


def test_a_training_with_another_recipe_seed_or_text_is_not_resumed(
    places: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE)
    given: dict[str, Any] = {
        "recipe": str(recipe),
        "train": places["train"],
        "output": tmp_path / "out",
        "save_seconds": 0,
    }
    with pytest.raises(KeyboardInterrupt):
        compress(places["teacher"], progress=_interrupt_at(5), **given)
    with pytest.raises(TrainingError, match="another seed"):
        compress(places["teacher"], resume=True, **given | {"seed": 1})
    with pytest.raises(TrainingError, match="another training data"):
        compress(places["teacher"], resume=True, **given | {"train": labelled_rows(40)})
    recipe_file(recipe, FINETUNE.replace("5e-3", "4e-3"))
    with pytest.raises(TrainingError, match="another recipe"):
        compress(places["teacher"], resume=True, **given)
    recipe_file(recipe, FINETUNE.replace("tiny fine-tuning", "renamed"))
    compress(places["teacher"], resume=True, **given)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no zip", b"\x80\x02cos\nsystem\n."])
def test_a_damaged_state_is_said(places: dict[str, Path], tmp_path: Path, damage: bytes) -> None:
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE)
    given: dict[str, Any] = {"recipe": str(recipe), "train": places["train"]}
    given |= {"output": tmp_path / "out", "save_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        compress(places["teacher"], progress=_interrupt_at(3), **given)
    (tmp_path / "out.training" / "state.pt").write_bytes(damage)
    with pytest.raises(TrainingError, match="damaged"):
        compress(places["teacher"], resume=True, **given)


def test_batches_in_pieces_train_alike(places: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE)
    losses: list[list[float]] = []
    for pieces in (0, 5):
        seen: list[float] = []
        compress(
            places["teacher"],
            recipe=str(recipe),
            train=places["train"],
            output=tmp_path / f"out{pieces}",
            micro_batch=pieces,
            progress=lambda step, seen=seen: seen.append(step.loss),  # type: ignore[misc]
        )
        losses.append(seen)
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0, atol=1e-5)


def test_a_loss_that_is_no_number_stops_and_says_where(
    places: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE.replace("5e-3", "1e30"))
    with pytest.raises(TrainingError, match=r"stage 'learn', step \d+ of 36: not a number") as info:
        compress(
            places["teacher"],
            recipe=str(recipe),
            train=places["train"],
            output=tmp_path / "out",
            save_seconds=0,
        )
    assert "lower learning_rate (now 1e+30)" in info.value.hint
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.training" / "state.pt").is_file()


def test_no_memory_left_names_the_setting_to_lower(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(trainer, "_gradients", refuse)
    recipe = recipe_file(tmp_path / "r.toml", FINETUNE)
    with pytest.raises(TrainingError, match="no memory left for 16 texts at once") as info:
        compress(
            places["teacher"], recipe=str(recipe), train=places["train"], output=tmp_path / "out"
        )
    assert "--micro-batch 8" in info.value.hint


def test_the_log_says_what_each_step_did(places: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path / "r.toml", EVERYTHING)
    report = compress(
        places["teacher"], recipe=str(recipe), train=places["train"], output=tmp_path / "out"
    )
    lines = (report.path / "training.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    for step in steps:
        assert step["loss"] == pytest.approx(sum(step["parts"].values()))
        assert step["tokens_per_second"] > 0 and step["seconds"] > 0
        assert step["peak_memory_mb"] > 10
    outer = [step for step in steps if step["stage"] == "outer"]
    assert set(outer[0]["parts"]) == {"logit_kl", "labels"}
    assert outer[0]["sparsity"] == 0 and outer[-1]["sparsity"] == 0.5
    rising = [step["learning_rate"] for step in outer]
    assert max(rising) == pytest.approx(1e-3) and rising[-1] < rising[0]


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    factors = [learning_rate_factor(step, steps=10, warmup=4) for step in range(10)]
    assert factors == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert learning_rate_factor(0, steps=1, warmup=1) == 1


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)


def test_norms_and_biases_do_not_decay() -> None:
    model = _Small()
    stage = Stage(name="s", weight_decay=0.1)
    optimizer = make_optimizer([(model, choose_trained(model, stage))], stage)
    decay = {
        name: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
        for name, other in model.named_parameters()
        if other is parameter
    }
    assert decay == {"linear.weight": 0.1, "linear.bias": 0, "norm.weight": 0, "norm.bias": 0}


def test_a_pattern_freezes_the_rest_and_scales_the_rate() -> None:
    model = _Small()
    stage = Stage(
        name="s", learning_rate=1.0, train=(Trained("weight$", 0.5), Trained("norm", 2.0))
    )
    trained = choose_trained(model, stage)
    assert trained == {"linear.weight": 0.5, "norm.weight": 0.5, "norm.bias": 2.0}
    assert not model.linear.bias.requires_grad
    with pytest.raises(UsageError, match="no parameter's name contains 'nrom'"):
        choose_trained(model, Stage(name="s", train=(Trained("nrom"),)))
