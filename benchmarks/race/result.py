"""The race's result: plain data, written as JSON, read back, and asked for ratios."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import STOCK_LITERT, contender
from benchmarks.race.rounds import Row
from benchmarks.race.statistics import Ratio, median, speedup

SCHEMA = 1
MIN_COSINE = 0.99  # what a contender must hold on every text to be compared with as accurate


@dataclass(frozen=True)
class RaceResult:
    """Everything measured.

    Attributes:
        machine: of ``edgeformer.machine``, as a dict.
        before, after: state of the machine (load, governor, temperature) at start and end.
        settings: rounds, warm calls and so on.
        workloads: title, texts a call, tokens, padding share by name.
        texts: number of accuracy texts.
        empty_process: ``ms`` and ``rss_bytes`` of a worker with NumPy and no contender.
        missing: reason by name of contenders that could not start.
        fields: rows by contender, by number of threads.
        inside: where our engines' time goes (``inside.py``), by number of threads.
    """

    machine: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    settings: dict[str, Any]
    workloads: dict[str, dict[str, Any]]
    texts: int
    empty_process: dict[str, list[float]]
    missing: dict[str, str]
    fields: dict[int, dict[str, Row]]
    inside: dict[int, dict[str, Any]]

    def runners(self, threads: int) -> dict[str, Row]:
        """Rows of those who finished."""
        return {name: row for name, row in self.fields[threads].items() if not row.failure}

    def speedup(
        self, name: str, against: str, workload: str, threads: int, cpu: bool = False
    ) -> Ratio | None:
        """How many times faster ``name`` is; None where one of them did not finish.

        ``cpu`` compares CPU times instead of wall times.
        """
        rows = self.runners(threads)
        if name not in rows or against not in rows:
            return None
        ours, theirs = rows[name], rows[against]
        if cpu:
            return speedup(ours.cpu_ms[workload], theirs.cpu_ms[workload])
        return speedup(ours.samples_ms[workload], theirs.samples_ms[workload])

    def cpus_used(self, name: str, threads: int) -> float:
        """CPU seconds per second over all timed calls."""
        row = self.fields[threads][name]
        sums = [
            sum(sum(samples) for rounds in times.values() for samples in rounds)
            for times in (row.cpu_ms, row.samples_ms)
        ]
        return sums[0] / sums[1]

    def milliseconds(self, name: str, workload: str, threads: int) -> float:
        """Median time of a call."""
        return median(self.fields[threads][name].samples_ms[workload])

    def fastest(self, name: str, workload: str, threads: int) -> float:
        """Milliseconds of the fastest call of all rounds: the least disturbed one."""
        return min(min(samples) for samples in self.fields[threads][name].samples_ms[workload])

    def accurate(self, name: str, threads: int) -> bool:
        """True if no text is below ``MIN_COSINE``, and there were texts."""
        found = self.fields[threads][name].cosines
        return bool(found) and min(found) >= MIN_COSINE

    def best_peer(self, workload: str, threads: int, names: tuple[str, ...] = ()) -> str | None:
        """The fastest peer: of ``names``, else of the accurate ones but stock LiteRT.

        By CPU time on one thread, where that is the same but for what else the machine does.
        """
        peers = [n for n in self.runners(threads) if not contender(n).ours]
        if names:
            peers = [n for n in peers if n in names]
        else:
            peers = [n for n in peers if n != STOCK_LITERT and self.accurate(n, threads)]
        rows = self.fields[threads]
        kind = "cpu_ms" if threads == 1 else "samples_ms"
        times = {name: median(getattr(rows[name], kind)[workload]) for name in peers}
        return min(times, key=times.__getitem__) if times else None


def to_json(result: RaceResult) -> str:
    """JSON text with every raw sample."""
    return json.dumps({"schema": SCHEMA} | asdict(result), indent=1)


def from_json(path: Path) -> RaceResult:
    """What ``to_json`` wrote.

    Raises:
        ValueError: another schema.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    schema = data.pop("schema", None)
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}, this is {SCHEMA}: run the race again")
    data["fields"] = {
        int(threads): {name: Row(**row) for name, row in rows.items()}
        for threads, rows in data["fields"].items()
    }
    data["inside"] = {int(threads): found for threads, found in data["inside"].items()}
    return RaceResult(**data)
