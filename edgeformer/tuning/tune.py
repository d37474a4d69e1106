"""Choose the fastest engine for each call by measuring, and write the choice beside the bundle.

    report = tune("model.edge")          # writes model.edge.tuned.json; load() reads it

Every variant is timed on 1, 2, 4, ... threads, each in a process of its own, in rounds, so that a
machine that gets slower gets slower for all. A table of several engines must then prove itself in
one process, where their thread pools and caches meet. docs/tune.md says what is timed and by which
rule it is decided (tuning/choice.py). The bundle is never changed; NumPy and the standard library
only.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeformer.errors import EngineError, UsageError
from edgeformer.machine import (
    Machine,
    MachineState,
    contention,
    describe_machine,
    disturbances,
    read_state,
)
from edgeformer.runtime.tuned import SCHEMA_VERSION, Choice, Table, belongs_to, table_path
from edgeformer.tuning.choice import Candidate, Work, make_table, round_scores, speedup
from edgeformer.tuning.exit_times import with_exit_times
from edgeformer.tuning.race import PROOF_SHARE, Measured, Proof, Race, prove
from edgeformer.tuning.works import make_works

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Manifest

DEFAULT_SECONDS = 60.0
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """What ``tune`` found and wrote. ``tables`` is what ``load`` uses; the rest is the evidence.

    Attributes:
        path: of the file.
        tables: one for each limit of threads.
        works: (texts, tokens of the longest) of each timed call.
        measured: every variant on every number of threads.
        proofs: of tables of several engines.
        gains: for each table how many times as fast its main choice is as the profile's first, over
            all works; 1 where that was kept.
        rounds, seconds: how long it took.
        notes: what to know when reading the figures.
    """

    path: Path
    tables: tuple[Table, ...]
    works: tuple[tuple[int, int], ...]
    measured: tuple[Measured, ...]
    proofs: tuple[Proof, ...]
    gains: tuple[float, ...]
    rounds: int
    seconds: float
    machine: Machine
    start: MachineState
    end: MachineState
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "path": str(self.path)}


def tune(
    path: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    seconds: float = DEFAULT_SECONDS,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Tuning:
    """Time a bundle's variants on this machine, and write the table that ``load`` goes by.

    Args:
        path: bundle folder or zip.
        output: file to write; None for NAME.tuned.json beside the bundle, where ``load`` looks.
        seconds: how long it may take, about.
        threads: most threads to try; None for the profile's.
        force: conclude on a busy or throttled machine too.
        progress: called with what is being done.

    Raises:
        UsageError: a file that cannot be written, or that is no table.
        BundleError: the bundle is damaged.
        EngineError: the machine is busy or held back, the time does not do, or nothing works.
    """
    from edgeformer.runtime.bundle import open_bundle

    target = table_path(path) if output is None else Path(output)
    check_target(target, output is not None)
    began, tell = time.monotonic(), progress or (lambda name: None)
    machine, start = describe_machine(), read_state()
    _refuse(contention(machine, start, start), force)
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        found = _measure(bundle, threads, began + seconds, tell)
    end = read_state()
    _refuse(contention(machine, start, end), force)
    tuning = Tuning(
        path=target,
        seconds=time.monotonic() - began,
        machine=machine,
        start=start,
        end=end,
        **{**found, "notes": (*found["notes"], *disturbances(machine, start, end))},
    )
    _write(target, file_data(tuning, manifest))
    return tuning


def file_data(tuning: Tuning, manifest: "Manifest") -> dict[str, Any]:
    """What the file says: schema, what it belongs to, the tables, and the evidence."""
    measured = tuning.as_dict()
    for key in ("path", "tables"):
        del measured[key]
    return {
        "schema_version": SCHEMA_VERSION,
        **belongs_to(manifest),
        "tables": [table_data(table) for table in tuning.tables],
        "measured": measured,
    }


def table_data(table: Table) -> dict[str, Any]:
    """A table as runtime/tuned.py reads it."""
    return {
        "threads": table.threads,
        "lengths": [{"tokens": limit, **asdict(choice)} for limit, choice in table.lengths],
        "batches": [{"texts": texts, **asdict(choice)} for texts, choice in table.batches],
        "exit_times": [{"tokens": n, "seconds": list(row)} for n, row in table.exit_times],
    }


def check_target(target: Path, named: bool) -> None:
    """Nothing is measured that could not be written; no file is replaced but a table."""
    if not os.access(target.parent, os.W_OK):
        raise UsageError(
            f"cannot write {target}",
            hint="-o FILE writes elsewhere; load(..., tuned=FILE) reads it there",
        )
    if named and target.exists():
        try:
            is_table = "tables" in json.loads(target.read_bytes())
        except (OSError, ValueError, TypeError, RecursionError):
            is_table = False
        if not is_table:
            raise UsageError(f"{target} exists and is not a tuned table", hint="choose another -o")


def _refuse(reasons: Sequence[str], force: bool) -> None:
    if reasons and not force:
        raise EngineError(
            f"this machine cannot be measured now: {'; '.join(reasons)}",
            hint="wait until it is quiet and cool, or pass --force",
        )


def _write(target: Path, data: dict[str, Any]) -> None:
    """The whole file, or nothing."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="ascii")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _measure(
    bundle: "Bundle", threads: int | None, deadline: float, tell: Progress
) -> dict[str, Any]:
    """Fields of a Tuning."""
    from edgeformer.runtime.threads import available_threads

    limits = thread_counts(available_threads(threads or bundle.manifest.threads))
    candidates = _candidates(bundle.manifest, limits)
    with Race(bundle.path.absolute(), make_works(bundle)) as race:
        _enter_all(race, candidates, tell)
        left = (1 - PROOF_SHARE) * (deadline - time.monotonic())
        out = race.fit(left)
        rounds = race.run(time.monotonic() + left, tell)
    running = [c for c in candidates if c.choice in race.rounds]
    if not running:
        raise EngineError("every engine failed while it was timed", hint="edgeformer doctor")
    tables = [make_table(n, running, race.works, race.rounds) for n in limits]
    gains = [_gain(table, running, race) for table in tables]
    proofs = []
    for place, table in enumerate(tables):
        if len(table.choices) > 1:
            tell(f"several engines in one process, {table.threads} threads")
            proofs.append(_prove(bundle, table, race.works))
            if not proofs[-1].kept:
                tables[place] = table.alone()
    tables = list(with_exit_times(bundle, tables, deadline))
    names = ", ".join(f"{work.texts} x {work.tokens} tokens" for work in out)
    return {
        "tables": tuple(tables),
        "works": tuple((work.texts, work.tokens) for work in race.works),
        "measured": tuple(race.result(c.choice) for c in candidates),
        "proofs": tuple(proofs),
        "gains": tuple(gains),
        "rounds": rounds,
        "notes": (f"left out for lack of time: {names}",) if out else (),
    }


def thread_counts(limit: int) -> list[int]:
    """1, 2, 4, ... and ``limit``."""
    return sorted({limit, *(1 << n for n in range(limit.bit_length()) if 1 << n <= limit)})


def _candidates(manifest: "Manifest", limits: Sequence[int]) -> list[Candidate]:
    """Every variant on every number of threads, in the profile's order, most threads first."""
    variants = sorted(manifest.variants, key=lambda v: manifest.engines.index(v.engine))
    return [
        Candidate(Choice(variant.id, threads), variant.engine, variant.precision == "fp32")
        for variant in variants
        for threads in reversed(limits)
    ]


def _enter_all(race: Race, candidates: Sequence[Candidate], tell: Progress) -> None:
    """Open what is installed, one after the other."""
    from edgeformer.runtime.engine import missing_engine

    for candidate in candidates:
        choice = candidate.choice
        missing = missing_engine(candidate.engine)
        if missing:
            race.missing[choice] = missing.message
            continue
        tell(f"{choice.variant}, {choice.threads} thread{'s' if choice.threads > 1 else ''}")
        race.enter(choice)
    if not race.workers:
        reasons = {f"  {c.variant}: {why}" for c, why in (race.missing | race.errors).items()}
        raise EngineError(
            "no engine of the bundle works here:\n" + "\n".join(sorted(reasons)),
            hint="`edgeformer doctor` tests each engine and says what to install",
        )


def _gain(table: Table, running: Sequence[Candidate], race: Race) -> float:
    """How many times as fast the table's main choice is as the profile's first one that runs."""
    first = next(c.choice for c in running if c.choice.threads <= table.threads)
    every = range(len(race.works))
    main = round_scores(race.rounds[table.main], every)
    return speedup(main, round_scores(race.rounds[first], every))


def _prove(bundle: "Bundle", table: Table, works: Sequence[Work]) -> Proof:
    with tempfile.TemporaryDirectory(prefix="edgeformer-") as folder:
        file = Path(folder) / "tuned.json"
        data = {"schema_version": SCHEMA_VERSION, **belongs_to(bundle.manifest)}
        file.write_text(json.dumps({**data, "tables": [table_data(table)]}), encoding="ascii")
        return prove(bundle.path.absolute(), table, file, works, _budget_mb(bundle.manifest))


def _budget_mb(manifest: "Manifest") -> float:
    """The profile's memory budget; none where it does not say."""
    memory = manifest.profile.get("memory")
    budget = memory.get("budget_mb") if isinstance(memory, dict) else None
    return float(budget) if isinstance(budget, (int, float)) else math.inf
