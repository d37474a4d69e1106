"""What early exits cost and save on labelled data: where texts left, and accuracy against layers.

    figures = measure_exits(model, cases, "auto")
    figures.mean_layers, figures.curve[3].accuracy

NumPy and the standard library only: it runs on the device too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeformer.benchmarking.exit_times import rule_text, spread, time_exits
from edgeformer.report.exit_records import CurvePoint, ExitTimes

if TYPE_CHECKING:
    from edgeformer.evaluation.data import Cases
    from edgeformer.runtime.manifest import ExitTable
    from edgeformer.runtime.model import Model

CHUNK = 256  # texts at a time
STEPS = 20  # of the curve


@dataclass(frozen=True)
class ExitFigures:
    """What exits did.

    Attributes:
        rule: as it was asked for, ``auto`` with the threshold that it stands for.
        layers: of each exit, ascending, the last is the whole model.
        texts: that left after each.
        mean_layers: that a text went through.
        curve: over the range of the criterion, from the strictest threshold on.
        accuracy: of the answers by the rule.
        times: of single texts of the data, evenly spread over it.
    """

    rule: str
    layers: tuple[int, ...]
    texts: tuple[int, ...]
    mean_layers: float
    curve: tuple[CurvePoint, ...]
    accuracy: float
    times: ExitTimes


def measure_exits(model: "Model", cases: "Cases", rule: str, on_long: str) -> ExitFigures:
    """Let the texts of the data leave by ``rule``, and walk the curve.

    Args:
        model: open, with exits.
        cases: of one label for each text.
        rule: as of ``Model.classify``'s ``exit``.
        on_long: likewise.

    Raises:
        InputError: a model without exits, or a rule that it cannot follow.
    """
    named = rule_text(model.variant, rule)
    table = model.variant.exits
    assert table is not None  # else rule_text raised
    layers, right = _answers(model, cases, rule, on_long)
    places = {label: i for i, label in enumerate(cases.labels)}
    truth = np.array([places[str(row.truth)] for row in cases.rows])
    texts, pairs = _timed(cases)
    return ExitFigures(
        rule=named,
        layers=table.layers,
        texts=tuple(int((layers == n).sum()) for n in table.layers),
        mean_layers=float(layers.mean()),
        curve=_curve(table, _logits(model, cases, on_long), truth),
        accuracy=float(right.mean()),
        times=time_exits(model, texts, pairs, rule, on_long),
    )


def _chunk(cases: "Cases", start: int, size: int = CHUNK) -> tuple[list[str], list[str] | None]:
    rows = cases.rows[start : start + size]
    pairs = [row.pair or "" for row in rows] if rows[0].pair is not None else None
    return [row.text for row in rows], pairs


def _timed(cases: "Cases") -> tuple[list[str], list[str] | None]:
    """Texts of all parts of the data, and their second texts."""
    rows = [cases.rows[n] for n in spread(len(cases.rows))]
    pairs = [row.pair or "" for row in rows] if rows[0].pair is not None else None
    return [row.text for row in rows], pairs


def _answers(
    model: "Model", cases: "Cases", rule: str, on_long: str
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """After which layer each text left, and whether its answer is right."""
    layers: list[int] = []
    right: list[bool] = []
    for start in range(0, len(cases.rows), CHUNK):
        answers = model.classify(*_chunk(cases, start), exit=rule, on_long=on_long)
        layers += [labels[0].exit_layer or 0 for labels in answers]
        rows = cases.rows[start : start + CHUNK]
        pairs = zip(answers, rows, strict=True)
        right += [labels[0].name == row.truth for labels, row in pairs]
    return np.array(layers, np.intp), np.array(right, np.bool_)


def _logits(model: "Model", cases: "Cases", on_long: str) -> NDArray[np.float32]:
    long = "truncate" if on_long == "window" else on_long
    parts = [
        model.exit_logits(*_chunk(cases, start), on_long=long)
        for start in range(0, len(cases.rows), CHUNK)
    ]
    return np.concatenate(parts, axis=1)


def _curve(
    table: "ExitTable", logits: NDArray[np.float32], truth: NDArray[np.intp]
) -> tuple[CurvePoint, ...]:
    from edgeformer.runtime.exiting import ExitRule, Lookup, replay, thresholds

    segments, texts, classes = logits.shape
    lookup = Lookup(table.lookup_step, np.array(table.lookup)) if table.lookup else None
    right = logits.argmax(axis=2) == truth
    layers = np.array(table.layers)
    points = []
    for threshold in thresholds(table.criterion, segments, classes, STEPS):
        exits = replay(logits, ExitRule(table.criterion, threshold), lookup) - 1
        hits = right[exits, np.arange(texts)]
        points.append(CurvePoint(threshold, float(layers[exits].mean()), float(hits.mean())))
    return tuple(points)
