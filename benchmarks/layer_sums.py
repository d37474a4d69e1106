"""Do the layers of a profile add up to the call? all-MiniLM-L6-v2, 128 tokens, one thread.

    python -m benchmarks.layer_sums [BUNDLE]

Without BUNDLE the embedded default is converted. Prints a table for docs/benchmark.md; exit code 1
if an engine's remainder is above 5 % of its call. A void run is repeated, a few times at most.
"""

import sys
import tempfile
from pathlib import Path

from edgeformer.benchmarking.benchmark import benchmark
from edgeformer.report.schema import Report

LIMIT, TRIES = 0.05, 4


def main(arguments: list[str]) -> int:
    """Measure, print, and say whether every engine is within the limit."""
    if arguments:
        return _check(Path(arguments[0]))
    from edgeformer.pipeline import convert

    with tempfile.TemporaryDirectory(prefix="edgeformer-") as folder:
        return _check(convert(profile="x86", output=Path(folder) / "minilm.edge").path)


def _check(bundle: Path) -> int:
    for _ in range(TRIES):
        report = benchmark(bundle, tokens=128, threads=1, iterations=20, per_layer=True)
        if not any(profile.void_reasons for profile in report.profiles):
            break
    return _table(report)


def _table(report: Report) -> int:
    machine = report.machine
    print(f"{machine.cpu_model}, {machine.system}, {report.start.time[:10]}")
    for reason in report.void_reasons:
        print(f"void: {reason}")
    print("\n| variant | call ms | under the profiler ms | layers ms | not attributed |")
    print("|---|---:|---:|---:|---:|")
    worst = 0.0
    for profile in report.profiles:
        share = profile.not_attributed_ms / profile.whole_ms
        worst = max(worst, abs(share))
        times = (profile.whole_ms, profile.profiled_ms, profile.attributed_ms)
        cells = " | ".join(f"{value:.2f}" for value in times)
        print(f"| {profile.variant} | {cells} | {share:.1%} |")
    return 0 if report.profiles and worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
