"""LiteRT's profiler, as steps: its events beside the operations of the graph they come from.

Times are the profiler's. What an operation multiplies and moves, and whether it is part of a
normalization, the graph says: XNNPACK keeps its order, so the two lists are laid side by side.
"""

import difflib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from edgeformer.benchmarking.worker import timed_ms
from edgeformer.errors import EngineError
from edgeformer.profiling.litert_graph import GraphOp, operation_of, read_graph
from edgeformer.profiling.litert_session import Event, ProfiledSession
from edgeformer.profiling.steps import (
    PROFILED_CALLS,
    WARM_CALLS,
    Call,
    Profiled,
    Step,
    around,
    usual,
)
from edgeformer.runtime.bundle import Bundle
from edgeformer.runtime.engines.tflite_engine import TfliteEngine
from edgeformer.runtime.engines.tflite_output import captured_output
from edgeformer.runtime.engines.tflite_session import Session, open_session, usable_package
from edgeformer.runtime.manifest import Variant

# XNNPACK's names of TFLite's operations, where more than the spelling differs.
_XNNPACK = {
    "BATCH_MATRIX_MULTIPLY": "BATCH_MATMUL",
    "DYNAMIC_FULLY_CONNECTED": "FULLY_CONNECTED",
    "STATIC_RESHAPE": "RESHAPE",
    "RECIPROCAL_SQUARE_ROOT": "RSQRT",
    "SQUARE_ROOT": "SQRT",
    "MULTIPLY": "MUL",
    "SUBTRACT": "SUB",
    "DIVIDE": "DIV",
    "CLAMP": "MAXIMUM",
    "CONVOLUTION": "CONV_2D",
}


def profile(
    bundle: Bundle, variant: Variant, threads: int, call: Call, answer: dict[str, Any]
) -> Profiled:
    """Run ``call`` on LiteRT's C interface, where it must give ``answer`` too."""
    name = variant.programs["main"].file
    model = bytes(bundle.read(name))
    rest = around(_around_ms(variant, threads, model, call))
    with captured_output():
        session = ProfiledSession(model, threads)
        # It stands in for a Session: the engine's own padding and rows are part of the call.
        engine = TfliteEngine(variant, threads, {name: cast(Session, session)})
        check_same(answer, call(engine))
        graph = read_graph(usable_package(variant.precision), model, *session.last_call)
    for _ in range(WARM_CALLS):
        call(engine)
    session.reset()
    for _ in range(PROFILED_CALLS):
        call(engine)
    often = len(session.run_ms) / PROFILED_CALLS
    return Profiled(
        [*merge(session.runs, PROFILED_CALLS, graph), rest],
        usual(session.run_ms) * often,
        "LiteRT's profiler (C interface)",
        note="" if graph else "what the operations multiply and move is not known here",
    )


def _around_ms(variant: Variant, threads: int, model: bytes, call: Call) -> float:
    """The engine's part of the call, without the interpreter's."""
    name = variant.programs["main"].file
    clock = _SessionClock(open_session(model, threads, variant.precision, name))
    engine = TfliteEngine(variant, threads, {name: cast(Session, clock)})
    for _ in range(WARM_CALLS):
        call(engine)
    clock.run_ms.clear()
    times = [timed_ms(lambda: call(engine)) for _ in range(PROFILED_CALLS)]
    engine.close()
    return usual(times) - usual(clock.run_ms) * len(clock.run_ms) / PROFILED_CALLS


class _SessionClock:
    """Stands in for a session, and keeps the time of its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.shapes = session.shapes
        self.run_ms: list[float] = []

    def run(self, signature: str, arrays: Any) -> Any:
        answers: list[Any] = []
        run = self._session.run
        self.run_ms.append(timed_ms(lambda: answers.append(run(signature, arrays))))
        return answers[0]

    def close(self) -> None:
        self._session.close()


def check_same(answer: dict[str, Any], other: dict[str, Any]) -> None:
    """The profiled run must give the engine's own answer, or it ran something else.

    Raises:
        EngineError: it does not.
    """
    for name, values in answer.items():
        scale = max(1.0, float(np.abs(values).max(initial=0.0)))
        if not np.allclose(values, other[name], rtol=0, atol=1e-3 * scale):
            raise EngineError(f"under the profiler the output {name!r} is another one")


def merge(runs: Sequence[Sequence[Event]], calls: int, graph: Sequence[GraphOp]) -> list[Step]:
    """The events of many runs as the steps of one call.

    Args:
        runs: what each run reported; a call of several texts has as many runs.
        calls: how many calls they were.
        graph: the operations of the file; empty if unknown.
    """
    whole = [run for run in runs if len(run) == len(runs[0])] if runs else []
    if not whole:
        return []
    often = len(runs) / calls
    partner = align(whole[0], graph)
    steps = []
    for k, event in enumerate(whole[0]):
        time_ms = usual([run[k].time_ms for run in whole]) * often
        op = graph[partner[k]] if k in partner else GraphOp(tflite_name(event.name))
        flops, moved = op.flops * often, op.bytes_moved * often
        anchor = op.name == "SOFTMAX"
        steps.append(Step(event.name, operation_of(op), time_ms, flops, moved, anchor))
    return steps


def tflite_name(name: str) -> str:
    """``Delegate/Batch Matrix Multiply (NC, F32) GEMM`` as ``BATCH_MATMUL``."""
    words = name.removeprefix("Delegate/").partition(" (")[0].strip().upper().replace(" ", "_")
    return _XNNPACK.get(words, words)


def align(events: Sequence[Event], graph: Sequence[GraphOp]) -> dict[int, int]:
    """Event -> operation of the graph. Nodes that TFLite runs itself carry their number; what
    XNNPACK took over keeps its order, but some operations vanish or multiply."""
    own = {
        k: int(event.place.removeprefix("[Builtin]:"))
        for k, event in enumerate(events)
        if event.place.startswith("[Builtin]:") and event.place[10:].isdigit()
    }
    pairs = {k: node for k, node in own.items() if node < len(graph)}
    rest = [k for k in range(len(events)) if k not in own]
    nodes = [node for node in range(len(graph)) if node not in set(own.values())]
    matcher = difflib.SequenceMatcher(
        None,
        [tflite_name(events[k].name) for k in rest],
        [graph[node].name for node in nodes],
        autojunk=False,
    )
    for a, b, size in matcher.get_matching_blocks():
        pairs |= {rest[a + i]: nodes[b + i] for i in range(size)}
    return pairs
