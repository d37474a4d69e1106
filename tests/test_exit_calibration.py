"""The calibrated threshold keeps its promise on texts that it has not seen."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeformer.converters.exit_calibration import (
    ExitSettings,
    calibrate,
    change_bound,
    check_enough,
    chosen_point,
    drop_bound,
    exit_sentence,
)
from edgeformer.converters.exit_predictor import fit_predictor
from edgeformer.errors import DataError, UsageError
from edgeformer.runtime import load
from edgeformer.runtime.exiting import CRITERIA, ExitRule, entropy, replay, thresholds
from tests.command_line import Edgeformer
from tests.exit_models import LAYERS, exit_checkpoint
from tests.tiny_bundles import checkpoint
from tests.tiny_models import TEXTS


def exits_of_noise(
    generator: np.random.Generator, texts: int, segments: int = 6
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Logits (segments, texts, 2) that get surer and righter with each segment, and the truth."""
    truth = generator.integers(0, 2, texts)
    signs = np.where(truth, 1.0, -1.0)
    easy = generator.gamma(2.0, 1.0, texts)
    logits = np.zeros((segments, texts, 2), np.float32)
    for k in range(segments):
        noise = generator.normal(0, 2.0 / (k + 1), texts)
        logits[k, :, 1] = signs * easy * (k + 1) / 2 + noise
    return logits, truth


def test_bounds_are_those_of_the_literature() -> None:
    """Bonett and Price, 2012, worked by hand; Wilson's as scipy has it."""
    z = 1.6448536269514722
    down, up = 13 / 102, 5 / 102
    wanted = down - up + z * math.sqrt((down + up - (down - up) ** 2) / 102)
    assert drop_bound(12, 4, 100) == pytest.approx(wanted, abs=1e-12)
    from scipy.stats import binomtest

    interval = binomtest(7, 90).proportion_ci(confidence_level=0.90, method="wilson")
    assert change_bound(7, 90) == pytest.approx(interval.high, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05])
def test_the_bound_holds_in_nearly_19_of_20_cases(share: float) -> None:
    """A drop of two points, whatever else changes: the bound lies below it in 5 % of samples; the
    formula is an approximation, and where answers change one way only it is 6 %."""
    generator, drop, texts = np.random.default_rng(0), 0.02, 700
    chances = [share + drop, share, 1 - 2 * share - drop]
    samples = generator.multinomial(texts, chances, 4000)
    missed = np.mean([100 * drop_bound(a, b, texts) < 100 * drop for a, b, _ in samples])
    assert missed <= 0.07


def test_a_calibrated_threshold_keeps_the_budget_on_other_texts() -> None:
    """Over many data sets the true drop exceeds the budget in fewer than one of ten: 5 % and what
    200 draws scatter."""
    generator = np.random.default_rng(1)
    big, truth = exits_of_noise(generator, 40_000)
    right = big.argmax(axis=2) == truth
    broken, saved = 0, []
    for _ in range(60):
        rows = generator.integers(0, len(truth), 700)
        table = calibrate(big[:, rows], truth[rows], (1, 2, 3, 4, 5, 6), ExitSettings(1.0))
        assert table.threshold is not None
        exits = replay(big, ExitRule("entropy", table.threshold))
        drop = right[-1].mean() - right[exits - 1, np.arange(len(truth))].mean()
        broken += 100 * drop > 1.0
        saved.append(exits.mean())
    assert broken <= 6
    assert np.mean(saved) < 5, "it saves something"


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("labelled", [True, False])
def test_the_chosen_threshold_is_the_last_that_holds(criterion: str, labelled: bool) -> None:
    logits, truth = exits_of_noise(np.random.default_rng(2), 2000)
    settings = ExitSettings(1.0, criterion)
    table = calibrate(logits, truth if labelled else None, (1, 2, 3, 4, 5, 6), settings)
    assert (table.criterion, table.labelled, table.texts) == (criterion, labelled, 2000)
    assert tuple(p.threshold for p in table.curve) == thresholds(criterion, 6, 2, 100)
    held = [p.bound <= 1.0 for p in table.curve]
    first = held.index(False) if False in held else len(held)
    wanted = table.curve[first - 1].threshold if first else None
    assert table.threshold == wanted
    for point in table.curve[:: max(1, len(table.curve) // 7)]:
        exits = replay(logits, ExitRule(criterion, point.threshold))
        assert point.mean_layers == pytest.approx(exits.mean())
        answers = logits.argmax(axis=2)
        taken = answers[exits - 1, np.arange(2000)]
        if labelled:
            drop = np.mean(answers[-1] == truth) - np.mean(taken == truth)
        else:
            drop = np.mean(answers[-1] != taken)
        assert point.drop == pytest.approx(100 * drop)
    found = chosen_point(table)
    assert (found is None) == (wanted is None)
    assert "layers on average" in exit_sentence(table) or wanted is None


def test_nobody_leaves_at_the_strictest_threshold() -> None:
    logits, truth = exits_of_noise(np.random.default_rng(3), 300)
    for criterion in ("entropy", "probability"):
        table = calibrate(logits, truth, (1, 2, 3, 4, 5, 6), ExitSettings(1.0, criterion))
        assert table.curve[0].mean_layers == 6 and table.curve[0].drop == 0


def test_layers_are_counted_not_segments() -> None:
    logits, truth = exits_of_noise(np.random.default_rng(4), 400, segments=2)
    table = calibrate(logits, truth, (2, 12), ExitSettings(5.0))
    assert table.curve[0].mean_layers == 12 and table.curve[-1].mean_layers < 12


def test_exits_that_are_no_good_are_not_taken() -> None:
    """Early answers at random, and sure of it: no text may leave."""
    generator = np.random.default_rng(5)
    logits, truth = exits_of_noise(generator, 1000)
    logits[:-1] = generator.choice([-9.0, 9.0], (5, 1000, 2))
    table = calibrate(logits, truth, (1, 2, 3, 4, 5, 6), ExitSettings(0.5))
    assert table.threshold == 0.0
    assert replay(logits, ExitRule("entropy", table.threshold)).min() == 6


def test_too_few_texts_are_named() -> None:
    with pytest.raises(DataError) as error:
        check_enough(100, True, 0.5)
    assert "100 texts cannot show" in error.value.message
    needed = int(error.value.hint.split("pass ")[1].split(" ")[0])
    check_enough(needed, True, 0.5)
    with pytest.raises(DataError):
        check_enough(needed - 1, True, 0.5)
    with pytest.raises(DataError):
        check_enough(100, False, 0.5)


@pytest.mark.parametrize(
    "settings", [{"max_drop": 0}, {"max_drop": 100}, {"max_drop": math.nan}, {"criterion": "luck"}]
)
def test_settings_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ExitSettings(**settings)  # type: ignore[arg-type]


def test_the_predictor_learns_how_entropies_fall() -> None:
    """Later entropies that are known functions of the first: the table is that of the functions."""
    generator = np.random.default_rng(6)
    first = generator.uniform(-4, 4, 600)
    margins = np.stack([first, first * 2, first * 4, first * 9])
    logits = np.stack([margins, np.zeros_like(margins)], axis=2).astype(np.float32)
    lookup = fit_predictor(logits)
    assert lookup.rows.shape == (100, 2) and lookup.step == 0.01 and (lookup.rows >= 0).all()
    found = entropy(logits)
    nearest = np.rint(found[0] / lookup.step).astype(int)
    assert np.abs(lookup.rows[nearest] - found[1:3].T).mean() < 0.05
    assert np.array_equal(fit_predictor(logits).rows, lookup.rows), "the same every time"


def test_a_predictor_for_many_classes_reaches_their_entropy() -> None:
    logits = np.random.default_rng(7).normal(0, 1, (3, 80, 20)).astype(np.float32)
    lookup = fit_predictor(logits)
    assert lookup.step * 99 == pytest.approx(math.log(20))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """600 rows of the tiny vocabulary's words with labels."""
    rows = [
        {"text": f"{TEXTS[i % len(TEXTS)]} {chr(97 + i % 26)} {chr(97 + i // 26)}", "label": i % 2}
        for i in range(600)
    ]
    path = tmp_path / "exits.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_convert_calibrates_each_variant_on_its_own_answers(
    labelled: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edgeformer = Edgeformer(capfd, monkeypatch)
    output = tmp_path / "a.edge"
    options = ["--profile", "x86", "--engines", "numpy", "--precision", "fp32", "--force"]
    options += ["--exits", labelled, "--max-drop", "60", "--exit-predictor", "-o", output]
    code, _, err = edgeformer("convert", exit_checkpoint(), *options)
    assert code == 0, err
    assert "numpy-fp32: exit at entropy" in err and "400 labelled texts" in err
    with load(output) as model:
        table = model.variant.exits
        assert table is not None and table.threshold is not None and table.max_drop == 60
        assert len(table.lookup) == 100 and len(table.lookup[0]) == LAYERS - 2
        rows = [json.loads(line) for line in labelled.read_text().splitlines()]
        kept = [row for i, row in enumerate(rows) if i % 3]
        found = model.classify([row["text"] for row in kept], exit="auto")
        layers = np.mean([labels[0].exit_layer for labels in found])
        point = chosen_point(table)
        assert point is not None and point.mean_layers == pytest.approx(float(layers))
        whole = model.classify([row["text"] for row in kept])
        names = [f"class {row['label']}" for row in kept]
        hits = [[x[0].name == n for x, n in zip(a, names, strict=True)] for a in (whole, found)]
        assert point.drop == pytest.approx(100 * (np.mean(hits[0]) - np.mean(hits[1])))


def test_what_does_not_go_with_exits(
    labelled: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edgeformer = Edgeformer(capfd, monkeypatch)
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "a", "label": 0}\n', encoding="utf-8")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"text": "a", "label": "blue"}\n', encoding="utf-8")
    usual = ["--profile", "x86", "--engines", "numpy", "-o", tmp_path / "b.edge"]
    cases = [
        (exit_checkpoint(), ["--exits", few], 1, "pass "),
        (exit_checkpoint(), ["--exits", wrong], 1, "no label 'blue'"),
        (exit_checkpoint(), ["--exits", tmp_path / "none.jsonl"], 2, "no file"),
        (exit_checkpoint(), ["--exits", labelled, "--max-drop", "0"], 2, "between 0 and 100"),
        (exit_checkpoint(), ["--exits", labelled, "--eval", labelled], 2, "--eval is for a search"),
        (exit_checkpoint(), ["--exit-predictor"], 2, "add --exits DATA"),
        (checkpoint(), ["--exits", labelled], 1, "has no exits to calibrate"),
    ]
    for model, options, code, said in cases:
        found, out, err = edgeformer("convert", model, *usual, *options)
        assert (found, said in err, out) == (code, True, ""), err
    assert not (tmp_path / "b.edge").exists()
