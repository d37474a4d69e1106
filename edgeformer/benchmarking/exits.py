"""What exits save: each variant's exits on some texts, beside the same bundle without them.

What they save depends on the texts, so the report says which these were.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.benchmarking.exit_times import rule_text, spread
from edgeformer.data import Text, builtin_texts, read_texts
from edgeformer.errors import InputError, UsageError
from edgeformer.isolation import run_worker
from edgeformer.machine import Machine, interference, read_state
from edgeformer.report.exit_records import ExitRun, ExitTimes
from edgeformer.report.tables import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeformer.benchmarking.matrix import Cell
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Variant

OURS_NOTE = (
    "what exits save depends on the texts, and these are EdgeFormer's own:"
    " --texts FILE takes what the model will really read"
)


@dataclass(frozen=True)
class ExitCell:
    """One point to measure: a variant's exits under a rule.

    Attributes:
        variant: with exits.
        threads: most of them; None for the profile's.
        rule: as it was asked for; ``words``: with what that means for the variant.
        dataset: whose texts; ``texts``: to time.
    """

    variant: "Variant"
    threads: int | None
    rule: str
    words: str
    dataset: str
    texts: tuple[Text, ...]

    @property
    def name(self) -> str:
        """For a line of progress."""
        return f"{self.variant.id}, exits"


def exit_cells(
    bundle: "Bundle",
    cells: "Sequence[Cell]",
    rule: str,
    file: str | os.PathLike[str] | None,
    text: str | None,
) -> tuple[list[ExitCell], list[str]]:
    """The points to measure, and what to know of them.

    Args:
        bundle: what is measured.
        cells: of the benchmark: their variants and threads.
        rule: as of ``Model.classify``'s ``exit``.
        file: texts to time, a spread of them; None for ``text``, or where that is None, ours.
        text: the text of each call of the benchmark.

    Raises:
        UsageError: no such file.
        DataError: a file without texts.
        InputError: no variant has exits, or none can follow the rule.
    """
    from edgeformer.runtime.engine import missing_engine

    if bundle.manifest.takes_images:
        raise InputError("exits of images are not measured", hint="leave out --exit")
    dataset, texts = _chosen_texts(None if file is None else Path(file), text)
    words: dict[str, str] = {}
    refused: list[InputError] = []
    for variant in {cell.variant.id: cell.variant for cell in cells}.values():
        try:
            words[variant.id] = rule_text(variant, rule)
        except InputError as error:
            refused.append(error)
    if not words:
        raise refused[0]
    points = {(cell.variant.id, cell.threads): cell.variant for cell in cells}
    found = [
        ExitCell(variant, threads, rule, words[name], dataset, texts)
        for (name, threads), variant in points.items()
        if name in words and missing_engine(variant.engine) is None
    ]
    notes = [f"no times with exits: {error.message}" for error in refused]
    return found, notes + ([OURS_NOTE] if file is None and text is None else [])


def _chosen_texts(file: Path | None, text: str | None) -> tuple[str, tuple[Text, ...]]:
    """Whose texts are timed, and these."""
    if file is None and text is not None:
        return "the text of --text", ((text, None),)
    texts = builtin_texts() if file is None else read_texts(file)
    kept = tuple(texts[n] for n in spread(len(texts)))
    number = count(len(texts), "text")
    whole = f"EdgeFormer's own {number}" if file is None else f"{number} of {file.name}"
    return f"{len(kept)} of {whole}" if len(kept) < len(texts) else whole, kept


def check_exit_options(rule: str | None, texts: object) -> None:
    """Raises UsageError for texts without exits to time on them."""
    if rule is None and texts is not None:
        raise UsageError("--texts are what exits are timed on", hint="add --exit auto")


def measure_exits(
    bundle: "Bundle", cell: ExitCell, iterations: int | None, rounds: int, machine: Machine
) -> ExitRun:
    """One of ``rounds`` processes that time the cell."""
    blank = ExitRun(cell.variant.id, cell.dataset, (), (), cell.words)
    bundle.check(list(cell.variant.files))
    request = {
        "path": str(bundle.path.absolute()),
        "variant": cell.variant.id,
        "threads": cell.threads,
        "rule": cell.rule,
        "texts": [text for text, _ in cell.texts],
        "pairs": _pairs(cell.texts),
        "iterations": iterations,
        "rounds": rounds,
    }
    before = read_state()
    outcome = run_worker("edgeformer.benchmarking.exit_worker", request)
    reasons = interference(machine, before, read_state())
    if outcome.answer is None:
        return replace(blank, error=outcome.failure, hint=outcome.hint)
    answer = outcome.answer
    return replace(
        blank,
        layers=tuple(answer["layers"]),
        texts=tuple(answer["texts"]),
        times=ExitTimes(**{name: _frozen(value) for name, value in answer["times"].items()}),
        void_reasons=reasons,
    )


def _pairs(texts: tuple[Text, ...]) -> list[str] | None:
    """The second texts, where any text has one."""
    if all(pair is None for _, pair in texts):
        return None
    return [pair or "" for _, pair in texts]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def joined_exits(parts: "Sequence[ExitRun]") -> ExitRun:
    """One run from those of several processes: all calls in a row, the mean of the energies; where
    texts left is the same in each. A process that failed stands for all."""
    for part in parts:
        if not part.measured:
            return part
    times = [part.times for part in parts if part.times is not None]
    reasons = dict.fromkeys(reason for part in parts for reason in part.void_reasons)
    joined = replace(
        times[0],
        with_ms=tuple(value for part in times for value in part.with_ms),
        without_ms=tuple(value for part in times for value in part.without_ms),
        worst_ms=tuple(value for part in times for value in part.worst_ms),
        with_mj=_mean([part.with_mj for part in times]),
        without_mj=_mean([part.without_mj for part in times]),
        worst_mj=_mean([part.worst_mj for part in times]),
    )
    return replace(parts[0], times=joined, void_reasons=tuple(reasons))


def _mean(values: "Sequence[float | None]") -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
