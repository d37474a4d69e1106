"""Exits learn and the model below them does not change, unless it is asked to."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from edgeformer import compress
from edgeformer.compression import off_ramps
from edgeformer.compression.losses import BoundLoss, Seen, Side
from edgeformer.compression.recipe import Loss
from edgeformer.compression.recipe_file import load_recipe
from edgeformer.compression.trainer import Step
from edgeformer.errors import UsageError
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.models.exits import ExitClassifier
from tests.command_line import Edgeformer
from tests.tiny_models import tiny_bert_folder
from tests.tiny_tasks import FINETUNE, labelled_rows, recipe_file, tsv_file, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

RAMPS = """
title = "ramps"
paper = "none"
max_length = 16

[[stages]]
name = "ramps"
exits = "frozen"
epochs = 8
learning_rate = 1e-2
batch_size = 16
losses = [{ kind = "exit_labels" }]
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny classifier of three layers that has learned its task, and texts about it."""
    folder = tmp_path_factory.mktemp("exits")
    train = tsv_file(folder / "train.tsv", labelled_rows(96))
    dev = tsv_file(folder / "dev.tsv", labelled_rows(64, seed=1))
    tiny_bert_folder(folder / "base", "embedding", num_hidden_layers=3)
    recipe = recipe_file(folder / "finetune.toml", FINETUNE)
    compress(folder / "base", recipe=str(recipe), train=train, output=folder / "teacher")
    return {"teacher": folder / "teacher", "train": train, "dev": dev}


def trained(places: dict[str, Path], output: Path, text: str, **options: Any) -> Any:
    """The report of a recipe."""
    recipe = recipe_file(output.with_suffix(".toml"), text)
    return compress(
        places["teacher"],
        recipe=str(recipe),
        train=places["train"],
        evaluate=places["dev"],
        output=output,
        **options,
    )


def test_frozen_exits_learn_and_nothing_else_moves(places: dict[str, Path], tmp_path: Path) -> None:
    report = trained(places, tmp_path / "out", RAMPS)
    before, after = load_checkpoint(places["teacher"]), load_checkpoint(tmp_path / "out")
    ours = after.module.state_dict()
    for name, tensor in before.module.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    assert isinstance(after.module, ExitClassifier)
    assert after.head.exits and after.module.exit_pooling == "mean"
    *early, last = report.exits
    assert len(early) == 2 and min(early) > 0.9, "a word decides: the first layer can know it"
    assert last == report.student.value == report.teacher.value


def test_the_command_says_how_good_each_exit_is(
    places: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = Edgeformer(capfd, monkeypatch)
    arguments = [places["teacher"], "--recipe", "exits", "--train", places["train"]]
    code, out, err = command("compress", *arguments, "--dry-run")
    assert code == 0 and "ramps" in out, err
    code, out, err = command(
        "compress", *arguments, "--eval", places["dev"], "-o", tmp_path / "out"
    )
    assert code == 0, err
    assert "after layer 1: " in out and ", 3: " in out


def test_states_computed_once_or_in_every_step_train_the_same_ramps(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[str, list[float]] = {"once": [], "again": []}
    calm = RAMPS.replace("1e-2", "1e-3")
    for name, steps in losses.items():
        trained(places, tmp_path / name, calm, progress=lambda step, to=steps: to.append(step.loss))
        monkeypatch.setattr(off_ramps, "_MOST_STATES_BYTES", 0)
    assert losses["again"] == pytest.approx(losses["once"], rel=1e-3)
    assert losses["once"][0] > 1.2 * losses["once"][-1]


@pytest.mark.parametrize("once", [True, False])
def test_an_interrupted_stage_of_exits_goes_on_to_the_same_weights(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    if not once:
        monkeypatch.setattr(off_ramps, "_MOST_STATES_BYTES", 0)
    trained(places, tmp_path / "whole", RAMPS)

    def stop(step: Step) -> None:
        if step.step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(places, tmp_path / "cut", RAMPS, save_seconds=0.0, progress=stop)
    trained(places, tmp_path / "cut", RAMPS, resume=True)
    whole, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_joint_training_moves_the_model_too(places: dict[str, Path], tmp_path: Path) -> None:
    both = RAMPS.replace('"frozen"', '"joint"').replace(
        'losses = [{ kind = "exit_labels" }]',
        'losses = [{ kind = "exit_labels" }, { kind = "labels" }, { kind = "logit_kl" }]',
    )
    seen: set[str] = set()
    report = trained(places, tmp_path / "out", both, progress=lambda step: seen.update(step.parts))
    assert seen == {"exit_labels", "labels", "logit_kl"}
    before, after = weights_of(places["teacher"]), weights_of(tmp_path / "out")
    name = "layers.0.attention.query.weight"
    theirs = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(after[f"encoder.{name}"], before[theirs])
    assert min(report.exits) > 0.9


def test_zeros_stay_zeros_while_exits_train(places: dict[str, Path], tmp_path: Path) -> None:
    """EdgeBERT's release starts its sparsity again from dense here, so that ramps are trained on
    another model than the one that they end on."""
    sparse = FINETUNE + '[[stages.sparsity]]\nmethod = "magnitude"\ntarget = 0.5\nevery = 1\n'
    stage = RAMPS[RAMPS.index("[[stages]]") :]
    for how in ("frozen", "joint"):
        output = tmp_path / how
        trained(places, output, sparse + stage.replace('"frozen"', f'"{how}"'))
        module = load_checkpoint(output).module
        for name, parameter in module.named_parameters():
            if name.startswith("encoder.layers") and parameter.dim() == 2:
                share = float((parameter == 0).float().mean())
                assert share == pytest.approx(0.5, abs=1e-3), name


def test_the_losses_are_sums_over_ramps() -> None:
    generator = torch.Generator().manual_seed(0)
    exits = torch.randn(5, 3, 4, generator=generator, requires_grad=True)
    last = torch.randn(5, 4, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 3, 1, 1, 2])
    batch = {"labels": labels, "attention_mask": torch.ones(5, 2)}
    seen = Seen(batch, Side({"logits": last, "exits": exits}), Side({}))
    wanted = sum(F.cross_entropy(exits[:, i], labels) for i in range(3))
    assert torch.allclose(BoundLoss(Loss("exit_labels"))(seen), torch.as_tensor(wanted))
    found = BoundLoss(Loss("exit_logit_kl", weight=0.5, temperature=2.0))(seen)
    each = [
        F.kl_div((exits[:, i] / 2).log_softmax(-1), (last / 2).softmax(-1), reduction="batchmean")
        for i in range(3)
    ]
    assert torch.allclose(found, 0.5 * 4 * torch.stack(each).sum())
    found.backward()  # type: ignore[no-untyped-call]
    assert last.grad is None, "the last layer does not learn from its ramps"
    assert exits.grad is not None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"exit_labels"', '"labels"', "no loss of this stage trains its exits"),
        ('exits = "frozen"\n', "", "'exit_labels' needs a stage with exits"),
        ('"exit_labels" }', '"exit_labels" }, { kind = "labels" }', "'labels' trains no exit"),
        ('exits = "frozen"', 'exits = "frozen"\ntrain = [{ parameters = "x" }]', "nothing else"),
        ('exits = "frozen"', 'exits = "cold"', "stages[0].exits is 'cold'"),
        ('exits = "frozen"', 'exits = "frozen"\nexit_pooling = "max"', "exit_pooling is 'max'"),
        (
            'exits = "frozen"',
            'exits = "frozen"\nsparsity = [{ method = "magnitude", target = 0.5 }]',
            "prune before",
        ),
    ],
)
def test_recipes_that_train_no_exits(tmp_path: Path, old: str, new: str, message: str) -> None:
    load_recipe(str(recipe_file(tmp_path / "good.toml", RAMPS)))
    assert old in RAMPS
    path = recipe_file(tmp_path / "mine.toml", RAMPS.replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert message in caught.value.message and "mine.toml, line" in caught.value.message


def test_a_stage_behind_the_exits_must_train_them(tmp_path: Path) -> None:
    later = FINETUNE[FINETUNE.index("[[stages]]") :]
    with pytest.raises(UsageError, match="would change what the exits"):
        load_recipe(str(recipe_file(tmp_path / "mine.toml", RAMPS + later)))


def test_a_model_with_exits_is_not_trained_without_them(
    places: dict[str, Path], tmp_path: Path
) -> None:
    made = trained(places, tmp_path / "made", RAMPS, scale=0.01).path
    with pytest.raises(UsageError, match="exits of this model") as caught:
        trained({**places, "teacher": made}, tmp_path / "out", FINETUNE)
    assert "exits on last" in caught.value.hint
    again = trained({**places, "teacher": made}, tmp_path / "again", RAMPS)
    assert min(again.exits) > 0.9, "exits that are there already are trained further"


def test_models_that_exits_are_not_for(places: dict[str, Path], tmp_path: Path) -> None:
    several = tiny_bert_folder(
        tmp_path / "several",
        "classification",
        num_labels=2,
        problem_type="multi_label_classification",
    )
    train = tsv_file(
        tmp_path / "train.tsv",
        [{**row, "label": f"class {row['label'] == 'positive':d}"} for row in labelled_rows(16)],
    )
    with pytest.raises(UsageError, match="do not exclude"):
        trained({"teacher": several, "train": train, "dev": train}, tmp_path / "a", RAMPS)
    with pytest.raises(UsageError, match="not for a BiLstmClassifier"):
        bilstm = RAMPS.replace("[[stages]]", '[student]\nkind = "bilstm"\n\n[[stages]]')
        trained(places, tmp_path / "b", bilstm, scale=0.01)
