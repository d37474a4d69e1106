"""What early exits cost and save on labelled data: where texts left, and accuracy against layers.

    figures = measure_exits(model, cases, "auto")
    figures.mean_layers, figures.curve[3].accuracy

NumPy and the standard library only: it runs on the device too.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgeformer.evaluation.data import Cases
    from edgeformer.runtime.manifest import ExitTable
    from edgeformer.runtime.model import Model

CHUNK = 256  # texts at a time
STEPS = 20  # of the curve
TIMED_TEXTS = 64
ROUNDS = 3


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy (0 to 1) and mean layers of a text at a threshold."""

    threshold: float
    mean_layers: float
    accuracy: float


@dataclass(frozen=True)
class ExitFigures:
    """What exits did.

    Attributes:
        rule: as it was asked for, ``auto`` with the threshold that it stands for.
        layers: of each exit, ascending, the last is the whole model.
        texts: that left after each.
        mean_layers: that a text went through.
        curve: over the range of the criterion, from the strictest threshold on.
        mean_ms: mean time of one text by itself, the first of the data, with exits.
        mean_ms_without: the same texts, taken in turns, through all layers as one program.
    """

    rule: str
    layers: tuple[int, ...]
    texts: tuple[int, ...]
    mean_layers: float
    curve: tuple[CurvePoint, ...]
    mean_ms: float
    mean_ms_without: float


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
    from edgeformer.runtime.exit_request import make_request

    request = make_request(rule, None)
    chosen = request.rule_for(model.variant) if request else None
    table = model.variant.exits
    assert table is not None  # else rule_for raised
    layers = _layers(model, cases, rule, on_long)
    places = {label: i for i, label in enumerate(cases.labels)}
    truth = np.array([places[str(row.truth)] for row in cases.rows])
    mean_ms = _mean_ms(model, cases, (rule, None), on_long)
    return ExitFigures(
        rule=rule if chosen is None else f"{rule} ({chosen.criterion} {chosen.threshold:.4g})",
        layers=table.layers,
        texts=tuple(int((layers == n).sum()) for n in table.layers),
        mean_layers=float(layers.mean()),
        curve=_curve(table, _logits(model, cases, on_long), truth),
        mean_ms=mean_ms[0],
        mean_ms_without=mean_ms[1],
    )


def _chunk(cases: "Cases", start: int, size: int = CHUNK) -> tuple[list[str], list[str] | None]:
    rows = cases.rows[start : start + size]
    pairs = [row.pair or "" for row in rows] if rows[0].pair is not None else None
    return [row.text for row in rows], pairs


def _layers(model: "Model", cases: "Cases", rule: str, on_long: str) -> NDArray[np.intp]:
    found: list[int] = []
    for start in range(0, len(cases.rows), CHUNK):
        answers = model.classify(*_chunk(cases, start), exit=rule, on_long=on_long)
        found += [labels[0].exit_layer or 0 for labels in answers]
    return np.array(found, np.intp)


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


def _mean_ms(
    model: "Model", cases: "Cases", rules: tuple[str | None, ...], on_long: str
) -> tuple[float, ...]:
    """Of each rule the mean over texts of the quickest of ``ROUNDS`` calls, in turns; the first
    round warms up."""
    texts, pairs = _chunk(cases, 0, TIMED_TEXTS)
    best = np.full((len(rules), len(texts)), np.inf)
    for turn in range(ROUNDS + 1):
        for i, text in enumerate(texts):
            for k, rule in enumerate(rules):
                begun = time.perf_counter()
                model.classify([text], pairs and [pairs[i]], exit=rule, on_long=on_long)
                taken = time.perf_counter() - begun
                best[k, i] = min(best[k, i], taken) if turn else np.inf
    return tuple(float(row.mean() * 1000) for row in best)
