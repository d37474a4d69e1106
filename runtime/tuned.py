"""The table that `edgeformer tune` writes beside a bundle: which engine answers which call.

    table, notice = read_table(table_path("model.edge"), manifest, threads=2)

NAME.tuned.json is data from outside: whatever is wrong with it, the answer is no table and a
notice, never an error. docs/tune.md describes every field. Reads, never writes.
"""

import bisect
import functools
import json
import math
import os
import platform
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.cpu import cpu_model, isa_features
from edgeformer.runtime.engine import installed_versions
from edgeformer.runtime.manifest import Manifest
from edgeformer.runtime.manifest_json import manifest_digest
from edgeformer.runtime.threads import available_threads

SCHEMA_VERSION = 1
MAX_BYTES = 1 << 20
_CPUINFO = Path("/proc/cpuinfo")
_NO_LIMIT = 1 << 30


SegmentSeconds = tuple[int, tuple[float, ...]]
"""(tokens, seconds of each segment of a model with exits)."""


@dataclass(frozen=True)
class Choice:
    """A variant's id, and the number of threads it runs on."""

    variant: str
    threads: int


@dataclass(frozen=True)
class Fingerprint:
    """The machine a table holds for.

    Attributes:
        cpu_model, architecture, isa: as in ``edgeformer doctor``.
        bits: of this Python.
        cpus: CPUs that this process may use: affinity mask and cgroup quota.
    """

    cpu_model: str
    architecture: str
    bits: int
    isa: tuple[str, ...]
    cpus: int


@dataclass(frozen=True)
class Table:
    """Who answers, where at most ``threads`` threads may be used.

    Attributes:
        threads: the limit the table was made for.
        lengths: (most tokens, choice), tokens ascending: a text goes to the first that holds it,
            one above them all to the last.
        batches: (texts, choice), texts ascending: calls of about so many texts go there whole.
            Empty where each text of a call goes by its own length. ``tune`` fills it only with
            variants that give the same answers, because a text's answer must not depend on what
            else is in the call.
        exit_times: of the main choice, where it has exits; tokens ascending.
    """

    threads: int
    lengths: tuple[tuple[int, Choice], ...]
    batches: tuple[tuple[int, Choice], ...] = ()
    exit_times: tuple[SegmentSeconds, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Every choice once, in the order of their first use."""
        return tuple(dict.fromkeys(choice for _, choice in (*self.lengths, *self.batches)))

    @property
    def main(self) -> Choice:
        """The choice for most lengths, of equals the one for the shorter texts."""
        return Counter(choice for _, choice in self.lengths).most_common(1)[0][0]

    def alone(self) -> "Table":
        """The same for its main choice only."""
        return replace(self, lengths=tuple((n, self.main) for n, _ in self.lengths), batches=())

    def parts(self, lengths: NDArray[np.intp]) -> list[tuple[Choice, NDArray[np.intp] | None]]:
        """How a call is shared out: (choice, its texts), None for all of them.

        Args:
            lengths: intp (texts,), tokens of each text.
        """
        whole = self._whole(len(lengths))
        if whole is not None:
            return [(whole, None)]
        # Between two limits the upper one's choice answers, above the last the last one's.
        limits, choices = self._steps
        found = [choices[bisect.bisect_left(limits, n)] for n in lengths.tolist()]
        distinct = list(dict.fromkeys(found))
        if len(distinct) == 1:
            return [(distinct[0], None)]
        return [
            (choice, np.array([i for i, c in enumerate(found) if c == choice], np.intp))
            for choice in distinct
        ]

    @functools.cached_property
    def _steps(self) -> tuple[list[int], list[Choice]]:
        limits, choices = zip(*self.lengths, strict=True)
        return list(limits[:-1]), list(choices)

    def _whole(self, texts: int) -> Choice | None:
        """Where a call of so many texts goes as it is: by the nearest measured number."""
        if not texts:
            return self.main
        if not self.batches:
            return None
        sizes = {1: None, **dict(self.batches)}
        return sizes[min(sizes, key=lambda size: abs(math.log(texts / size)))]


def table_path(bundle: str | os.PathLike[str]) -> Path:
    """Where the table of a bundle lies: NAME.edge.tuned.json beside NAME.edge."""
    path = Path(bundle).absolute()
    return path.with_name(f"{path.name}.tuned.json")


def fingerprint(cpuinfo: Path = _CPUINFO) -> Fingerprint:
    """Of this machine, for this process."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    return Fingerprint(
        cpu_model=cpu_model(text) or platform.processor() or "unknown",
        architecture=platform.machine(),
        bits=8 * struct.calcsize("P"),
        isa=isa_features(text),
        cpus=available_threads(_NO_LIMIT),
    )


def belongs_to(manifest: Manifest) -> dict[str, Any]:
    """What a table must say of its bundle, machine and engines to be used here, as JSON data."""
    machine = asdict(fingerprint())
    return {
        "bundle": manifest_digest(manifest),
        "machine": {**machine, "isa": list(machine["isa"])},
        "versions": installed_versions(),
    }


def read_table(path: Path, manifest: Manifest, threads: int) -> tuple[Table | None, str]:
    """The table of ``path`` for at most ``threads`` threads, and a notice if it was ignored.

    Returns:
        (None, "") where there is no such file.
    """
    if not os.path.lexists(path):
        return None, ""
    try:
        data = _load(path)
        stale = _stale(data, manifest)
        if not stale:
            return _table(data, manifest, threads), ""
    except (OSError, ValueError, RecursionError) as error:
        stale = f"it cannot be read ({error})"
    return None, f"{path.name} was ignored: {stale}; `edgeformer tune` makes a new one"


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError("not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("too large")
    data = json.loads(path.read_bytes())
    if not isinstance(data, dict) or not isinstance(data.get("schema_version"), int):
        raise ValueError("not a table of EdgeFormer's")
    if data["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema {data['schema_version']}, this EdgeFormer reads {SCHEMA_VERSION}")
    return data


def _stale(data: dict[str, Any], manifest: Manifest) -> str:
    """What the table was made for, if that is not what is here; empty if it is."""
    here = belongs_to(manifest)
    if data.get("bundle") != here["bundle"]:
        return "it was made for another bundle"
    if data.get("machine") != here["machine"]:
        there = data.get("machine")
        model = there.get("cpu_model") if isinstance(there, dict) else None
        cpus = there.get("cpus") if isinstance(there, dict) else None
        ours = here["machine"]
        return (
            f"it was made on another machine ({str(model)[:80]}, {str(cpus)[:8]} CPUs;"
            f" this is {ours['cpu_model']}, {ours['cpus']} CPUs)"
        )
    if data.get("versions") != here["versions"]:
        return "it was made with other versions of the engines"
    return ""


def _table(data: dict[str, Any], manifest: Manifest, threads: int) -> Table:
    """The table for the largest limit up to ``threads``. Raises ValueError if it is not one."""
    known = {variant.id: len(variant.segments) for variant in manifest.variants}
    tables = [_one_table(item, known) for item in _list(data.get("tables"))]
    fitting = [table for table in tables if table.threads <= threads]
    if not fitting:
        raise ValueError(f"no table for {threads} threads")
    return max(fitting, key=lambda table: table.threads)


def _one_table(item: Any, known: Mapping[str, int]) -> Table:
    threads = _count(item, "threads")
    lengths = _rows(item, "lengths", "tokens", threads, known)
    if not lengths:
        raise ValueError("a table without lengths")
    table = Table(threads, lengths, _rows(item, "batches", "texts", threads, known))
    return replace(table, exit_times=_exit_times(item, known[table.main.variant]))


def _exit_times(item: Any, segments: int) -> tuple[SegmentSeconds, ...]:
    found = []
    for row in _list(item.get("exit_times", [])):
        tokens, seconds = _count(row, "tokens"), _list(row.get("seconds"))
        numbers = [n for n in seconds if isinstance(n, (int, float)) and 0 < n < _NO_LIMIT]
        if len(numbers) != len(seconds) or len(numbers) != segments:
            raise ValueError("exit_times must have a number above 0 for each segment")
        found.append((tokens, tuple(float(n) for n in numbers)))
    return tuple(found)


def _rows(
    item: Any, name: str, key: str, limit: int, known: Mapping[str, int]
) -> tuple[tuple[int, Choice], ...]:
    rows = []
    for row in _list(item.get(name)):
        number, threads = _count(row, key), _count(row, "threads")
        variant = row.get("variant")
        if not isinstance(variant, str) or variant not in known:
            raise ValueError(f"no variant {str(variant)[:80]!r}")
        if threads > limit:
            raise ValueError(f"{threads} threads, above the limit of {limit}")
        rows.append((number, Choice(variant, threads)))
    keys = [number for number, _ in rows]
    if keys != sorted(set(keys)):
        raise ValueError(f"{name} must ascend")
    return tuple(rows)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is missing")
    return value


def _count(item: Any, key: str) -> int:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _NO_LIMIT:
        raise ValueError(f"{key} must be a number of at least 1")
    return value
