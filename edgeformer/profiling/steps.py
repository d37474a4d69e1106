"""What a profiler finds: the steps of one call of an engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeformer.runtime.engine import Engine

PROFILED_CALLS, WARM_CALLS = 30, 5
AROUND = "around"  # the operation of the one step that is none of the graph's
Call = Callable[[Engine], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """One step of an engine, as often as it runs in one call.

    Attributes:
        name: the engine's name of what it does.
        operation: see ``OperationTime``.
        time_ms: per call.
        flops, bytes_moved: see ``OperationTime``.
        anchor: True for the one softmax or fused attention of a layer.
    """

    name: str
    operation: str
    time_ms: float = 0.0
    flops: float = 0.0
    bytes_moved: float = 0.0
    anchor: bool = False


@dataclass(frozen=True)
class Profiled:
    """Steps of one call, and how they were found; see ``report.layer_times.Profile``."""

    steps: list[Step]
    profiled_ms: float
    source: str
    clock_ms: float = 0.0
    note: str = ""


def usual(durations: Sequence[float]) -> float:
    """Mean of the lower three quarters: what interrupted a step is not the step's. A mean, because
    clocks that count whole microseconds have more digits on average than in the middle."""
    ordered = sorted(durations)
    kept = ordered[: max(1, len(ordered) * 3 // 4)]
    return sum(kept) / len(kept)


def around(time_ms: float) -> Step:
    """What the engine does before and after the graph: padding, copying, Python."""
    return Step("around", AROUND, max(0.0, time_ms))
