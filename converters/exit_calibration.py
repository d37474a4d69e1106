"""The threshold below which texts may leave: as much as possible within a budget of accuracy.

1. The variant itself, quantized as it is, answers all texts at every exit.
2. A grid of thresholds that does not depend on the texts is walked from the strictest on. For each,
   the drop is the share of texts whose answer was right and is wrong now, less those the other way
   round; without labels, the share whose answer changes.
3. Its upper bound is one-sided, at 95 %: Bonett and Price, "Adjusted Wald confidence interval for a
   difference of binomial proportions based on paired data", J. Educ. Behav. Stat. 37 (2012); and
   without labels Wilson's bound of a share.
4. The walk ends at the first threshold whose bound exceeds the budget, and the one before is taken.
   Since the order was fixed beforehand, the bound holds for the chosen one as it would for a
   single one (fixed sequence testing: Angelopoulos et al., "Learn then Test", arXiv 2110.01052,
   section 3.1), however many were looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgeformer.converters.exit_predictor import fit_predictor
from edgeformer.errors import DataError, UsageError
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.engine import Engine
from edgeformer.runtime.exit_chain import every_exit
from edgeformer.runtime.exiting import CRITERIA, ExitRule, Lookup, replay, thresholds
from edgeformer.runtime.manifest import ExitPoint, ExitTable, Manifest

CONFIDENCE = 0.95
STEPS = 100
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class ExitData:
    """What exits are calibrated on.

    Attributes:
        texts: (text, pair).
        truth: class of each, None without labels.
    """

    texts: tuple[tuple[str, str | None], ...]
    truth: tuple[int, ...] | None


@dataclass(frozen=True)
class ExitSettings:
    """How exits are calibrated.

    Attributes:
        max_drop: points (of 100) that may be lost.
        criterion: one of ``CRITERIA``.
        predictor: fit EdgeBERT's predictor on every third text, and calibrate on the others.

    Raises:
        UsageError: values that make no sense.
    """

    max_drop: float = 0.5
    criterion: str = "entropy"
    predictor: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.max_drop < 100:
            raise UsageError(
                f"--max-drop {self.max_drop:g} is not between 0 and 100 points",
                hint="for example --max-drop 0.5",
            )
        if self.criterion not in CRITERIA:
            raise UsageError(
                f"no exit criterion {self.criterion!r}", hint=f"choose of: {', '.join(CRITERIA)}"
            )
        if self.predictor and self.criterion != "entropy":
            raise UsageError(
                "the exit predictor predicts entropies", hint="leave --exit-criterion out"
            )


def drop_bound(lost: int, gained: int, texts: int) -> float:
    """Upper end of the one-sided interval of ``(lost - gained) / texts`` (rule 3).

    Args:
        lost: texts that were right and are wrong.
        gained: texts that were wrong and are right.
        texts: all texts.
    """
    z = NormalDist().inv_cdf(CONFIDENCE)
    down, up = (lost + 1) / (texts + 2), (gained + 1) / (texts + 2)
    return down - up + z * math.sqrt((down + up - (down - up) ** 2) / (texts + 2))


def change_bound(changed: int, texts: int) -> float:
    """Upper end of Wilson's one-sided interval of ``changed / texts``."""
    z = NormalDist().inv_cdf(CONFIDENCE)
    share, weight = changed / texts, z * z / texts
    half = z * math.sqrt(share * (1 - share) / texts + weight / texts / 4)
    return (share + weight / 2 + half) / (1 + weight)


def check_enough(texts: int, labelled: bool, max_drop: float) -> None:
    """Refuse texts so few that even no difference at all would prove nothing.

    Raises:
        DataError: naming how many there must be.
    """

    def best(count: int) -> float:
        return 100 * (drop_bound(0, 0, count) if labelled else change_bound(0, count))

    if best(texts) > max_drop:
        needed = texts
        while best(needed) > max_drop:
            needed = needed * 11 // 10 + 1
        while best(needed - 1) <= max_drop:
            needed -= 1
        raise DataError(
            f"{texts} texts cannot show that exits lose at most {max_drop:g} points: with no"
            f" difference at all it could be {best(texts):.2f}",
            hint=f"pass {needed} texts or more with --exits, or allow more with --max-drop",
        )


def calibrate(
    logits: NDArray[np.float32],
    truth: Sequence[int] | None,
    layers: tuple[int, ...],
    settings: ExitSettings,
    lookup: Lookup | None = None,
) -> ExitTable:
    """The table of a variant.

    Args:
        logits: of every exit, (segments, texts, classes).
        truth: class of each text, None without labels.
        layers: layers after each segment.
        settings: the criterion and the budget.
        lookup: a predictor that was fitted on other texts.
    """
    segments, texts, classes = logits.shape
    right = None if truth is None else logits.argmax(axis=2) == np.array(truth)
    answers = logits.argmax(axis=2)
    curve: list[ExitPoint] = []
    chosen: float | None = None
    holds = True
    for threshold in thresholds(settings.criterion, segments, classes, STEPS):
        exits = replay(logits, ExitRule(settings.criterion, threshold), lookup)
        rows = exits - 1, np.arange(texts)
        if right is None:
            changed = int((answers[rows] != answers[-1]).sum())
            drop, bound = changed / texts, change_bound(changed, texts)
        else:
            lost = int((right[-1] & ~right[rows]).sum())
            gained = int((~right[-1] & right[rows]).sum())
            drop, bound = (lost - gained) / texts, drop_bound(lost, gained, texts)
        mean = float(np.array(layers)[exits - 1].mean())
        curve.append(ExitPoint(threshold, mean, 100 * drop, 100 * bound))
        holds = holds and 100 * bound <= settings.max_drop
        chosen = threshold if holds else chosen
    return ExitTable(
        layers=layers,
        criterion=settings.criterion,
        threshold=chosen,
        max_drop=settings.max_drop,
        texts=texts,
        labelled=truth is not None,
        curve=tuple(curve),
        lookup_step=lookup.step if lookup else 0.0,
        lookup=tuple(tuple(row) for row in lookup.rows.tolist()) if lookup else (),
    )


def calibrate_variant(
    engine: Engine, table: ExitTable, batch: RaggedBatch, data: ExitData, settings: ExitSettings
) -> ExitTable:
    """Let an open variant answer the texts at every exit, and calibrate it.

    Args:
        engine: of the variant.
        table: its exits.
        batch: the texts of ``data``.
        data: says their classes.
        settings: the criterion and the budget.
    """
    logits = every_exit(engine.encode_exits, batch, len(table.layers))
    truth, lookup = data.truth, None
    if settings.predictor:
        fits = np.arange(len(batch)) % 3 == 0
        lookup = fit_predictor(logits[:, fits])
        logits = logits[:, ~fits]
        truth = truth and tuple(t for i, t in enumerate(truth) if i % 3)
    return calibrate(logits, truth, table.layers, settings, lookup)


def chosen_point(table: ExitTable) -> ExitPoint | None:
    """The point of the curve at the calibrated threshold, None without one."""
    return next((point for point in table.curve if point.threshold == table.threshold), None)


def exit_notices(manifest: Manifest) -> tuple[str, ...]:
    """A sentence about each calibration, for people."""
    return tuple(
        f"{variant.id}: {exit_sentence(variant.exits)}"
        for variant in manifest.variants
        if variant.exits is not None and variant.exits.curve
    )


def exit_sentence(table: ExitTable) -> str:
    """What was calibrated, for people."""
    point = chosen_point(table)
    kind = "labelled texts" if table.labelled else "texts without labels"
    if point is None:
        return f"no exit threshold keeps {table.max_drop:g} points on {table.texts} {kind}"
    lost = "accuracy lost" if table.labelled else "answers changed"
    return (
        f"exit at {table.criterion} {point.threshold:.3g}, {point.mean_layers:.2f} of"
        f" {table.layers[-1]} layers on average, {point.drop:.2f} points of {lost} (with 95 %"
        f" confidence at most {point.bound:.2f}) on {table.texts} {kind}"
    )
