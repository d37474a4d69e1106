"""The matrix of a benchmark: which variants, on how many threads, on what."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgeformer.benchmarking.workload import Workload, make_workload
from edgeformer.errors import UsageError
from edgeformer.report.tables import count

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Variant

Counts = int | Sequence[int] | None


@dataclass(frozen=True)
class Cell:
    """One point of the matrix: what runs, on how many threads, on what."""

    variant: "Variant"
    threads: int | None
    workload: Workload


def counts_of(name: str, value: Counts) -> tuple[int | None, ...]:
    """The numbers asked for, once each; (None,) where none were. Raises UsageError below 1."""
    numbers = (value,) if value is None or isinstance(value, int) else tuple(value)
    for number in numbers:
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1, not {number}")
    return tuple(dict.fromkeys(numbers)) or (None,)


def make_cells(
    bundle: "Bundle",
    engines: Sequence[str],
    text: str | None,
    tokens: tuple[int | None, ...],
    batches: tuple[int | None, ...],
    threads: tuple[int | None, ...],
) -> tuple[list[Cell], list[str]]:
    """Every point of the matrix, and what was left out of it."""
    from edgeformer.runtime.threads import available_threads

    variants = chosen_variants(bundle, engines)
    shapes = itertools.product(tokens, batches)
    workloads = [make_workload(bundle, text, length, batch) for length, batch in shapes]
    usable = [number if number is None else available_threads(number) for number in threads]
    notes = [
        f"{asked} threads were asked for, {used} can be used here"
        for asked, used in zip(threads, usable, strict=True)
        if asked != used
    ]
    points = itertools.product(variants, dict.fromkeys(usable), dict.fromkeys(workloads))
    return [Cell(*point) for point in points], notes


def chosen_variants(bundle: "Bundle", engines: Sequence[str]) -> "list[Variant]":
    """The variants of those engines or ids; all where none is named. Raises UsageError for an
    unknown name."""
    variants = bundle.manifest.variants
    known = {name for v in variants for name in (v.engine, v.id)}
    for name in engines:
        if name not in known:
            raise UsageError(
                f"the bundle has no engine or variant {name!r}",
                hint=f"choose of: {', '.join(sorted(known))}",
            )
    return [v for v in variants if not engines or v.engine in engines or v.id in engines]


def cell_name(cell: Cell, cells: Sequence[Cell]) -> str:
    """The variant, and what else tells this point from the others."""
    name = cell.variant.id
    if cell.threads and len({c.threads for c in cells}) > 1:
        name += f", {count(cell.threads, 'thread')}"
    if len({c.workload.tokens for c in cells}) > 1:
        name += f", {count(cell.workload.tokens, 'token')}"
    if len({c.workload.batch for c in cells}) > 1:
        name += f", {count(cell.workload.batch, 'text')}"
    return name


def worker_request(bundle: "Bundle", cell: Cell) -> dict[str, Any]:
    """What a worker must know to make the calls of ``cell``."""
    return {
        "path": str(bundle.path.absolute()),
        "variant": cell.variant.id,
        "threads": cell.threads,
        "workload": asdict(cell.workload),
    }
