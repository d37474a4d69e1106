"""Bundles side by side: sizes, nearness to their models, answers to the same texts, latency.

    comparison = compare_bundles(["before.edge", "after.edge"], measure=True)
    comparison.agreements[0].min_cosine, comparison.timings[1].ratio

The first bundle is the reference. docs/compare.md defines every figure. NumPy and the standard
library only. Reports are compared in comparison/reports.py.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.comparison.conditions import Condition, Entry, check_judged, fail, judge
from edgeformer.data import builtin_texts, read_texts
from edgeformer.errors import UsageError

if TYPE_CHECKING:
    from edgeformer.comparison.answers import Agreement, TextAnswers
    from edgeformer.comparison.race import Timing
    from edgeformer.data import Text
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Parity

MOST = 26  # contenders: each has a letter


@dataclass(frozen=True)
class VariantFacts:
    """One variant of a bundle: its files in MB (1e6 bytes), and its nearness to the model."""

    id: str
    layout: str
    file_mb: float
    parity: "Parity | None"


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle is.

    Attributes:
        path: as it was given.
        name, family, task, labels, profile, recipe, parameters, max_length: of its manifest.
        total_mb: of all files, in MB (1e6 bytes).
        variants: of its manifest.
        forced: a tolerance was missed.
    """

    path: str
    name: str
    family: str
    task: str
    labels: tuple[str, ...]
    profile: str
    recipe: str
    parameters: int
    max_length: int
    total_mb: float
    variants: tuple[VariantFacts, ...]
    forced: bool


@dataclass(frozen=True)
class BundleComparison:
    """What ``compare_bundles`` found; ``as_dict`` is the JSON.

    Attributes:
        bundles: in the order given; the first is the reference.
        answered: for each bundle the variants that answered the texts; empty where none could.
        agreements: of every bundle but the first, with the first.
        timings: of every bundle, in turns; empty without ``measure``.
        notes: what to know when reading the figures.
        broken: conditions that hold, one sentence each.
    """

    bundles: tuple[BundleFacts, ...]
    answered: tuple[str, ...]
    agreements: "tuple[Agreement, ...]"
    timings: "tuple[Timing, ...]"
    notes: tuple[str, ...]
    broken: tuple[str, ...] = ()
    schema_version: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def check(self) -> None:
        """Raises ThresholdError if a condition holds."""
        fail(self.broken)


def are_reports(paths: Sequence[str | os.PathLike[str]]) -> bool:
    """True for report files, False for bundles.

    Raises:
        UsageError: fewer than two, more than there are letters for, some of each, or a path that
            does not exist.
    """
    if not 2 <= len(paths) <= MOST:
        raise UsageError(
            f"two to {MOST} bundles or reports can be compared, not {len(paths)}",
            hint="edgeformer compare BEFORE AFTER",
        )
    for path in paths:
        if not Path(path).exists():
            raise UsageError(
                f"no file or folder {path}",
                hint="give bundles, or files of `edgeformer benchmark BUNDLE --report FILE.json`",
            )
    reports = [Path(path).suffix.lower() == ".json" for path in paths]
    if any(reports) and not all(reports):
        raise UsageError("a bundle cannot be compared with a report", hint="give two of one kind")
    return all(reports)


def compare_bundles(
    paths: Sequence[str | os.PathLike[str]],
    *,
    engine: str = "auto",
    threads: int | None = None,
    texts: str | os.PathLike[str] | None = None,
    measure: bool = False,
    tokens: int | None = None,
    starts: int | None = None,
    conditions: Sequence[Condition] = (),
    progress: Callable[[str], None] | None = None,
) -> BundleComparison:
    """Compare bundles with the first of them.

    Args:
        paths: two or more bundles.
        engine: engine or variant that answers and is measured, in each; ``auto`` as in ``load``.
        threads: most threads; None for each profile's.
        texts: file of texts to answer; None for the built-in ones.
        measure: also time them, in turns, each in a process of its own.
        tokens: length of the text that is timed; None for 128 or what all models take.
        starts: processes of each, one after the other; None for 6.
        conditions: of ``--fail-if``, tried on every bundle but the first.
        progress: called with what is being done.

    Raises:
        UsageError: a wrong path, engine or condition, or texts that cannot be timed.
        BundleError, EngineError: a bundle that is damaged or that nothing here can run.
    """
    from edgeformer.runtime.bundle import open_bundle

    tell = progress or (lambda what: None)
    lines = read_texts(Path(texts)) if texts is not None else builtin_texts()
    facts = []
    for path in paths:
        with open_bundle(path) as bundle:
            facts.append(_facts(path, bundle))
    if not measure:
        _check_known(conditions)
    answers = _answers(paths, facts, engine, threads, lines, tell)
    timings: tuple[Timing, ...] = ()
    notes: tuple[str, ...] = ()
    if measure:
        from edgeformer.comparison.race import race

        timings, notes = race(paths, engine, threads, tokens, starts, tell)
    entries = [
        Entry(
            f"bundle {i + 1}, {fact.path}",
            {"size": fact.total_mb, **(timings[i].figures if timings else {})},
        )
        for i, fact in enumerate(facts)
    ]
    verdict = judge(conditions, entries[0], entries[1:])
    check_judged(conditions, verdict)
    return BundleComparison(
        bundles=tuple(facts),
        answered=tuple("+".join(a.variants) if a else "" for a in answers),
        agreements=_agreements(answers, len(lines)),
        timings=timings,
        notes=notes,
        broken=verdict.broken,
    )


def _facts(path: str | os.PathLike[str], bundle: "Bundle") -> BundleFacts:
    manifest = bundle.manifest
    variants = []
    for variant in manifest.variants:
        size_mb = sum(bundle.size(name) for name in variant.files) / 1e6
        variants.append(VariantFacts(variant.id, variant.layout, size_mb, variant.parity))
    card = manifest.model
    return BundleFacts(
        path=str(path),
        name=card.name,
        family=card.family,
        task=card.task,
        labels=card.labels,
        profile=str(manifest.profile.get("name", "")),
        recipe=manifest.recipe,
        parameters=card.parameters,
        max_length=card.max_length,
        total_mb=sum(bundle.size(name) for name in manifest.files) / 1e6,
        variants=tuple(variants),
        forced=manifest.forced,
    )


def _check_known(conditions: Sequence[Condition]) -> None:
    for condition in conditions:
        if condition.metric != "size":
            raise UsageError(
                f"--fail-if {condition.text!r}: {condition.metric} is not known unless it is"
                " measured",
                hint="add --measure, or compare reports of `edgeformer benchmark --report`",
            )


def _answers(
    paths: Sequence[str | os.PathLike[str]],
    facts: Sequence[BundleFacts],
    engine: str,
    threads: int | None,
    texts: "Sequence[Text]",
    tell: Callable[[str], None],
) -> "list[TextAnswers | None]":
    """Of each bundle, one open at a time; None where the task has no texts."""
    from edgeformer.comparison.answers import TEXT_TASKS, answers_to
    from edgeformer.runtime import load

    found: list[TextAnswers | None] = []
    for path, fact in zip(paths, facts, strict=True):
        if fact.task not in TEXT_TASKS or not fact.max_length:
            found.append(None)
            continue
        tell(f"{fact.path} answers {len(texts)} texts")
        with load(path, engine, threads) as model:
            found.append(answers_to(model, texts))
    return found


def _agreements(answers: "Sequence[TextAnswers | None]", texts: int) -> "tuple[Agreement, ...]":
    from edgeformer.comparison.answers import Agreement, agreement

    first, found = answers[0], []
    for number, other in enumerate(answers[1:], 1):
        if first is None or other is None:
            found.append(Agreement(number, texts, note="no answers to texts"))
        else:
            found.append(agreement(number, other, first))
    return tuple(found)
