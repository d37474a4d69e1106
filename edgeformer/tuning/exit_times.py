"""How long the segments of a model with exits take here, measured once for a bundle's table.

A call with ``latency_ms`` would otherwise measure them when a length is first met.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeformer.runtime.engine import open_engine
from edgeformer.runtime.exit_times import SegmentTimes, measured_lengths
from edgeformer.runtime.tuned import Choice, SegmentSeconds, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeformer.runtime.bundle import Bundle


def with_exit_times(
    bundle: "Bundle", tables: "Sequence[Table]", deadline: float
) -> tuple[Table, ...]:
    """The tables with the seconds of their main choices' segments.

    Args:
        bundle: open, its files checked.
        tables: where calls go.
        deadline: on ``time.monotonic``; lengths not measured by then, the longest, are left out.
    """
    found: dict[Choice, tuple[SegmentSeconds, ...]] = {}
    for choice in dict.fromkeys(table.main for table in tables):
        if bundle.manifest.variant(choice.variant).exits is not None:
            found[choice] = _measured(bundle, choice, deadline)
    return tuple(replace(table, exit_times=found.get(table.main, ())) for table in tables)


def _measured(bundle: "Bundle", choice: Choice, deadline: float) -> tuple[SegmentSeconds, ...]:
    engine = open_engine(bundle, bundle.manifest.variant(choice.variant), choice.threads)
    try:
        times = SegmentTimes(engine.encode_exits)
        rows: list[SegmentSeconds] = []
        for tokens in measured_lengths(bundle.manifest.model.max_length):
            if time.monotonic() > deadline:
                break
            rows.append((tokens, times.measured(tokens)))
        return tuple(rows)
    finally:
        engine.close()
