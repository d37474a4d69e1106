"""Does a report come quickly, stay small, and agree with the next one, or say that it does not?

    python -m benchmarks.repeated_runs [BUNDLE] [--runs N]

Runs `edgeformer benchmark BUNDLE --report r.html` several times, all-MiniLM-L6-v2 without BUNDLE.
Prints a table for docs/benchmark.md. Exit code 1 if a run took a minute, if a page has 300 KB, or
if the medians of two runs differ by more than 3 % though both reports say that their processes
agree (and none is void).
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from edgeformer.benchmarking.benchmark import benchmark
from edgeformer.benchmarking.rounds import AGREEMENT, disagreements
from edgeformer.report.files import write_reports
from edgeformer.report.schema import Report

MOST_SECONDS, MOST_BYTES = 60.0, 300_000


@dataclass(frozen=True)
class Run:
    """One report, how long it took, and the size of its page in bytes."""

    report: Report
    seconds: float
    page_bytes: int

    @property
    def doubted(self) -> bool:
        """True if the report itself says that a repetition may differ."""
        return self.report.void or bool(disagreements(self.report.results))


def main(arguments: list[str]) -> int:
    """Measure, print, and say whether all three statements hold."""
    parser = argparse.ArgumentParser(prog="repeated_runs")
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="edgeformer-") as folder:
        bundle = given.bundle or _default(Path(folder))
        runs = [_run(bundle, Path(folder) / "r.html") for _ in range(given.runs)]
    return _table(runs)


def _default(folder: Path) -> Path:
    from edgeformer.pipeline import convert

    return convert(profile="x86-vnni", output=folder / "minilm.edge").path


def _run(bundle: Path, page: Path) -> Run:
    began = time.perf_counter()
    report = benchmark(bundle)
    write_reports([report], page, force=True)
    return Run(report, time.perf_counter() - began, page.stat().st_size)


def _table(runs: list[Run]) -> int:
    machine = runs[0].report.machine
    print(f"{machine.cpu_model}, {machine.system}, {runs[0].report.start.time[:10]}\n")
    variants = [result.variant for result in runs[0].report.results]
    print(f"| run | s | page KB | {' | '.join(f'{v} p50 ms' for v in variants)} | says |")
    print(f"|---|---:|---:|{'---:|' * len(variants)}---|")
    for number, run in enumerate(runs, 1):
        cells = [
            f"{result.p50_ms:.2f} ({', '.join(f'{p50:.2f}' for p50 in result.round_p50_ms)})"
            for result in run.report.results
        ]
        said = [*run.report.void_reasons, *disagreements(run.report.results)]
        head = f"| {number} | {run.seconds:.1f} | {run.page_bytes / 1000:.1f} |"
        print(f"{head} {' | '.join(cells)} | {'; '.join(said) or 'that its processes agree'} |")
    sure = [run for run in runs if not run.doubted]
    print(
        f"\nlargest difference of two runs: {_apart(runs):.1%}; of two that say they agree:",
        end=" ",
    )
    print(f"{_apart(sure):.1%}" if len(sure) > 1 else "no two")
    quick = all(run.seconds < MOST_SECONDS and run.page_bytes < MOST_BYTES for run in runs)
    return 0 if quick and _apart(sure) <= AGREEMENT else 1


def _apart(runs: list[Run]) -> float:
    """Of the variant whose medians differ most: by what share the largest is above the smallest."""
    rows = zip(*(run.report.results for run in runs), strict=True)
    medians = [[result.p50_ms for result in row] for row in rows]
    return max((max(row) / min(row) - 1 for row in medians), default=0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
