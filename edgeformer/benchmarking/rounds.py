"""One figure from several processes, and whether these agree.

A repetition of a benchmark is other processes at another time. So each point of the matrix gets
several, with all other points in between; where their medians differ by more than 3 %, a repetition
may differ as much, and the report says so.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgeformer.report.results import Result
from edgeformer.report.statistics import median

ROUNDS = 3
AGREEMENT = 0.03  # most that medians may differ, as a share, without a word

_MEDIANS = ("cold_start_ms", "import_ms", "load_ms", "first_run_ms", "cold_rss_mb")
_IN_A_ROW = ("samples_ms", "tokenize_ms", "model_ms")


def joined(parts: Sequence[Result]) -> Result:
    """One result from those of several processes: their samples in a row, medians of what each
    process has once, the largest memory, and the growth of the process that grew most.

    A process that failed stands for all.
    """
    for part in parts:
        if not part.measured:
            return part
    if len(parts) == 1:
        return parts[0]
    changes: dict[str, Any] = {
        name: median([getattr(part, name) for part in parts]) for name in _MEDIANS
    }
    for name in _IN_A_ROW:
        changes[name] = tuple(value for part in parts for value in getattr(part, name))
    grown = max(parts, key=lambda part: part.growth_mb)
    reasons = (reason for part in parts for reason in part.void_reasons)
    return replace(
        parts[0],
        **changes,
        round_calls=tuple(len(part.samples_ms) for part in parts),
        warmup_runs=sum(part.warmup_runs for part in parts),
        stable=all(part.stable for part in parts),
        warm_rss_mb=grown.warm_rss_mb,
        end_rss_mb=grown.end_rss_mb,
        peak_rss_mb=max(part.peak_rss_mb for part in parts),
        void_reasons=tuple(dict.fromkeys(reasons)),
    )


def disagreements(results: Sequence[Result]) -> tuple[str, ...]:
    """A note that names every result whose processes disagree; empty if all agree."""
    far = [result for result in results if result.round_spread > AGREEMENT]
    if not far:
        return ()
    spreads: dict[str, float] = {}
    for result in far:
        spreads[result.variant] = max(result.round_spread, spreads.get(result.variant, 0.0))
    named = ", ".join(f"{variant} by {spread:.1%}" for variant, spread in spreads.items())
    return (
        f"medians (p50) of separate processes differ by more than {AGREEMENT:.0%}: {named};"
        " a repetition may differ as much, for the other results too",
    )
