"""Evaluating and measuring one candidate of a search: from a bundle to a Trial."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeformer.errors import EngineError
from edgeformer.searching.trials import Trial
from edgeformer.uncertainty import Interval, paired_interval

if TYPE_CHECKING:
    from edgeformer.compression.examples import Columns
    from edgeformer.data import Text
    from edgeformer.evaluation.evaluate import EvaluationReport
    from edgeformer.evaluation.exits import ExitFigures
    from edgeformer.report.schema import Report
    from edgeformer.runtime.bundle import Bundle

Tell = Callable[[str], None]
Measure = Callable[..., "Report"]  # benchmark here, or a board's: (bundle, tokens=...)
ATTEMPTS = 2  # of a measurement that something disturbed


@dataclass(frozen=True)
class Judge:
    """How candidates are judged.

    Attributes:
        data: labelled rows; None without an evaluation.
        columns, labels_map: how they are read.
        answers: file of the original's answers to them.
        measure: benchmarks a bundle at a number of tokens, None for its own choice.
    """

    data: Path | None
    columns: "Columns"
    labels_map: Mapping[str, str]
    answers: Path
    measure: Measure

    def judge(self, trial: Trial, bundle: Path, tokens: int | None, tell: Tell) -> Trial:
        """The trial with its figures.

        Raises:
            EngineError: the engine fails here.
        """
        exits = None
        if self.data is not None:
            evaluated = self.evaluate(bundle, tell, exit="auto" if trial.candidate.exits else None)
            trial, exits = _judged(trial, evaluated), evaluated.exits
        tell("measuring")
        for _ in range(ATTEMPTS):
            report = self.measure(bundle, tokens=tokens)
            measured = _timed(trial, report)
            if not measured.void:
                break
        return measured if exits is None else _left_early(measured, exits, report.host)

    def evaluate(
        self, model: Path, tell: Tell, *, original: bool = False, exit: str | None = None
    ) -> "EvaluationReport":
        """The figures of a bundle against the original's answers; of the original, which writes
        them."""
        from edgeformer.evaluation.evaluate import evaluate

        assert self.data is not None
        return evaluate(
            model,
            self.data,
            columns=self.columns,
            labels_map=self.labels_map,
            exit=exit,
            against=None if original else self.answers,
            save_predictions=self.answers if original else None,
            progress=tell,
        )


def _judged(trial: Trial, report: "EvaluationReport") -> Trial:
    """With the figures of an evaluation against the original."""
    paired = report.against
    assert paired is not None
    test = paired.test if report.kind == "single_label" else None
    interval = paired_interval(test, report.texts) if test else paired.interval
    return replace(
        trial,
        metric=report.metrics[0].value,
        drop=0.0 - 100 * paired.difference,
        interval=Interval(0.0 - 100 * interval.high, 0.0 - 100 * interval.low),
        p_value=paired.test.p_mid if paired.test else None,
    )


def _left_early(trial: Trial, exits: "ExitFigures", host: str) -> Trial:
    """With the mean time of a text with exits for its time, where it was taken on the machine that
    is measured: most texts may be quick and some slow, and of that a median says nothing."""
    times = exits.times
    means = f"mean {times.mean_ms:.2f} ms with exits, {times.mean_ms_without:.2f} ms without"
    if host:
        time = f"its time is the p50 of all layers on {host}: means are taken here ({means})"
    else:
        time = f"its time is a mean, of texts of the data ({means}), not a p50"
        trial = replace(trial, p50_ms=times.mean_ms, mean_time=True)
    return replace(trial, note="; ".join(part for part in (trial.note, time) if part))


def _timed(trial: Trial, report: "Report") -> Trial:
    """With the figures of the bundle's one variant."""
    result = report.results[0]
    if not result.measured:
        raise EngineError(result.error or "it could not be measured", hint=result.hint)
    reasons = dict.fromkeys((*report.void_reasons, *result.void_reasons))
    void = "; ".join(reason for reason in reasons if "were disturbed" not in reason)
    return replace(
        trial, size_mb=result.file_mb, p50_ms=result.p50_ms, void=void or "; ".join(reasons)
    )


def usual_tokens(bundle: "Bundle", texts: "tuple[Text, ...]") -> int | None:
    """The median length of texts, within what the model takes; None where there are none.

    The time of a text grows with its length, so that the time at the median length is the median
    of the times.
    """
    from edgeformer.benchmarking.workload import least_tokens
    from edgeformer.errors import EdgeFormerError
    from edgeformer.runtime.loading import load_bundle_tokenizer

    bundle.check([name for name in (bundle.manifest.tokenizer,) if name])
    tokenizer = load_bundle_tokenizer(bundle)
    if not texts or tokenizer is None or isinstance(tokenizer, EdgeFormerError):
        return None
    lengths = [len(tokenizer.encode(text, pair)) for text, pair in texts]
    median = round(statistics.median(lengths))
    return min(max(median, least_tokens(bundle, tokenizer)), bundle.manifest.model.max_length)
