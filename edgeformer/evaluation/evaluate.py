"""How well a bundle does its task on labelled data, on this machine, with the engine it runs on.

    report = evaluate("model.edge", "test.tsv", against="./checkpoint")
    report.metrics[0].value, report.metrics[0].interval      # accuracy, and how sure it is

docs/eval.md defines the data, every figure and every test. NumPy and the standard library only;
a checkpoint folder in place of a bundle needs PyTorch, so the host.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.compression.examples import Columns
from edgeformer.errors import ThresholdError, UsageError
from edgeformer.evaluation.answers import (
    OUTSIDE,
    Answers,
    answer_cases,
    check_writable,
    write_predictions,
)
from edgeformer.evaluation.data import USUAL_COLUMNS, Cases, read_cases
from edgeformer.evaluation.models import (
    Opening,
    check_alike,
    find_other,
    is_checkpoint,
    open_model,
)

if TYPE_CHECKING:
    from edgeformer.evaluation.exits import ExitFigures
    from edgeformer.evaluation.scores import ClassScore, Metric, Paired

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Minimum:
    """A threshold of ``--min`` and what became of it.

    Attributes:
        metric: name of the figure.
        least: what it must reach.
        value: of the figure.
    """

    metric: str
    least: float
    value: float

    @property
    def reached(self) -> bool:
        """False for a figure that is not defined, too."""
        return self.value >= self.least


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found; ``as_dict`` is the JSON.

    Attributes:
        model: path of the bundle or checkpoint.
        name: the model's.
        variant: that answered, several joined with ``+``; ``pytorch`` for a checkpoint.
        digest: of the bundle's manifest; of a checkpoint, none.
        data: path of the data.
        kind: what the truth is: ``single_label``, ``multi_label``, ``regression``, ``tags``,
            ``similarity`` or ``answers``.
        texts: rows of the data.
        metrics: every figure, the main one first.
        classes: the scores of each class, label or kind of span.
        against: the paired comparison, None without one.
        minimums: thresholds that were asked for.
        texts_per_second: of this run, with whatever batches the data gave: how long an evaluation
            takes, not a latency (``edgeformer benchmark`` measures that).
        truncated_texts: texts of which the model saw the beginning only.
        notes: what to know when reading the figures.
        exits: what early exits did, None without them.
    """

    model: str
    name: str
    variant: str
    digest: str
    data: str
    kind: str
    texts: int
    metrics: "tuple[Metric, ...]"
    classes: "tuple[ClassScore, ...]"
    against: "Paired | None"
    minimums: tuple[Minimum, ...]
    texts_per_second: float
    truncated_texts: int
    notes: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    exits: "ExitFigures | None" = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        for row, minimum in zip(data["minimums"], self.minimums, strict=True):
            row["reached"] = minimum.reached
        if self.exits is not None:
            from edgeformer.report.exit_records import derived_times

            data["exits"].update(derived_times(self.exits.times))
        return data

    def check(self) -> None:
        """Raises ThresholdError if a minimum was not reached."""
        missed = [m for m in self.minimums if not m.reached]
        if missed:
            figures = "; ".join(f"{m.metric} {m.value:.4f} is below {m.least:g}" for m in missed)
            raise ThresholdError(figures, hint="the figures above say on how many texts")


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    engine: str = "auto",
    threads: int | None = None,
    against: str | os.PathLike[str] | None = None,
    columns: Columns = USUAL_COLUMNS,
    labels_map: Mapping[str, str] | None = None,
    minimums: Mapping[str, float] | None = None,
    on_long: str = "",
    exit: str | None = None,
    save_predictions: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Evaluate a bundle, or on the host a checkpoint folder.

    Args:
        model: bundle, or a Hugging Face folder (PyTorch answers, each text unpadded).
        data: labelled rows, ``.jsonl``, ``.csv`` or ``.tsv`` (docs/eval.md).
        engine: engine or variant of the bundle; ``auto`` as in ``load``.
        threads: most threads; None for the profile's.
        against: what to compare with on the same rows: a file of predictions, a bundle, a
            checkpoint folder, or an engine or variant of the same bundle.
        columns: which columns hold text, second text and truth.
        labels_map: the model's label for each label that the data names otherwise.
        minimums: least value of a figure by its name, of the main one with an empty name.
        on_long: what to do with texts that do not fit, as in ``Model.embed``; empty for ``window``
            where contexts are read for answers, else ``truncate``.
        exit: when texts may leave a model with exits, as in ``Model.classify``; None for never.
        save_predictions: file to write the answers to.
        force: overwrite that file.
        progress: called with what is being done.

    Raises:
        UsageError: a wrong name or path, a task that has no labels, a file that exists.
        DataError: rows that cannot be read, or labels that the model does not have.
        BundleError, EngineError, ModelError: what ``model`` or ``against`` is cannot run.
    """
    from edgeformer.runtime.manifest_json import manifest_digest

    tell = progress or (lambda what: None)
    if save_predictions is not None:
        check_writable(Path(save_predictions), force)
    tell("reading the model")
    with open_model(model, engine, threads) as opened:
        manifest, card = opened.manifest, opened.manifest.model
        cases = read_cases(Path(data), card, columns, labels_map)
        wanted = check_minimums(minimums or {}, cases)
        other = find_other(against, manifest, cases, labels_map)
        answers = answer_cases(opened, cases, str(model), on_long, tell, exit)
        exits = None
        if exit is not None:
            from edgeformer.evaluation.exits import measure_exits

            tell("timing exits")
            exits = measure_exits(opened, cases, exit, on_long or "truncate")
        notices = opened.notices
    if save_predictions is not None:
        write_predictions(Path(save_predictions), cases, answers)
    if isinstance(other, Opening):
        tell(f"reading {against}")
        place, name = (model, str(against)) if other.same else (str(against), "auto")
        with open_model(place, name, threads) as opened:
            check_alike(card, opened.manifest.model, str(against))
            other = answer_cases(opened, cases, str(place), on_long, tell)
    tell("drawing samples")
    report = _report(str(model), str(data), cases, answers, other, wanted)
    digest = "" if is_checkpoint(model) else manifest_digest(manifest)
    notes = (*notices, *report.notes)
    return replace(report, name=card.name, digest=digest, notes=notes, exits=exits)


def make_columns(names: Mapping[str, str]) -> Columns:
    """Columns from ``{"text": name, "pair": name, "label": name}``, each of which may be absent.

    Raises:
        UsageError: another key.
    """
    known = ("text", "pair", "label")
    for key in names:
        if key not in known:
            raise UsageError(f"--columns: no column {key!r}", hint=f"choose of: {', '.join(known)}")
    return Columns(*(names.get(key) for key in known))


def check_minimums(minimums: Mapping[str, float], cases: Cases) -> dict[str, float]:
    """The thresholds by the names of figures, the empty name replaced by the main one's.

    Raises:
        UsageError: a figure that is unknown for this kind of data, or better when smaller.
    """
    from edgeformer.evaluation.scores import FIGURES, LESS_IS_BETTER, scheme

    names = FIGURES[scheme(cases)]
    found = {}
    for name, least in minimums.items():
        if (name or names[0]) not in names:
            raise UsageError(f"no figure {name!r} here", hint=f"choose of: {', '.join(names)}")
        if name in LESS_IS_BETTER:
            raise UsageError(
                f"{name} is better when smaller: it has no least value",
                hint=f"choose of: {', '.join(n for n in names if n not in LESS_IS_BETTER)}",
            )
        found[name or names[0]] = least
    return found


def _report(
    model: str,
    data: str,
    cases: Cases,
    answers: Answers,
    other: Answers | None,
    minimums: Mapping[str, float],
) -> EvaluationReport:
    """The report, without what is known of the model only."""
    from edgeformer.evaluation.scores import class_table, compare_answers, score

    metrics = score(cases, answers.values)
    values = {metric.name: metric.value for metric in metrics}
    against = None
    if other is not None:
        name = f"{other.source} ({other.variant})" if other.variant else other.source
        against = compare_answers(cases, answers.values, other.values, name)
    return EvaluationReport(
        model=model,
        name="",
        variant=answers.variant,
        digest="",
        data=data,
        kind=cases.kind,
        texts=len(cases.rows),
        metrics=metrics,
        classes=class_table(cases, answers.values),
        against=against,
        minimums=tuple(Minimum(k, least, values[k]) for k, least in minimums.items()),
        texts_per_second=len(cases.rows) / max(answers.seconds, 1e-9),
        truncated_texts=answers.truncated_texts,
        notes=(*cases.notes, *_notes(answers)),
    )


def _notes(answers: Answers) -> tuple[str, ...]:
    notes = []
    if answers.truncated_texts:
        notes.append(f"{answers.truncated_texts} texts did not fit: the model saw their beginning")
    if answers.missing_words:
        notes.append(f"{answers.missing_words} words had no answer and count as {OUTSIDE}")
    return tuple(notes)
