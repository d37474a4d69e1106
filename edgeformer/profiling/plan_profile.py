"""The NumPy engine's own clock: each step of its plan, timed as it runs.

recorder = PlanRecorder(engine)
engine.encode(batch)
recorder.steps(calls=1)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.benchmarking.worker import timed_ms
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
from edgeformer.runtime.engines.numpy_engine import NumpyEngine, open_engine
from edgeformer.runtime.execution import BoundProgram
from edgeformer.runtime.manifest import Variant

Array = NDArray[Any]

_ANCHORS = ("attention_packed", "attention_dense", "attention_heads", "softmax")
_OPERATIONS = {
    "embedding": "embedding",
    "linear": "linear",
    "layer_norm": "norm",
    "activate": "activation",
    "matmul": "attention",
    "lstm_packed": "recurrent",
    "lstm_dense": "recurrent",
    "copy": "layout",
    "take": "layout",
    "gather": "layout",
    "index": "layout",
    "concatenate": "layout",
    **dict.fromkeys(_ANCHORS, "attention"),
}


def profile(
    bundle: Bundle, variant: Variant, threads: int, call: Call, answer: dict[str, Any]
) -> Profiled:
    """Run ``call`` on an engine that times its steps; ``answer`` needs no comparison: the same
    kernels run on the same arrays."""
    engine = open_engine(bundle, variant, threads)
    recorder = PlanRecorder(engine)
    for _ in range(WARM_CALLS):
        call(engine)
    recorder.reset()
    times = [timed_ms(lambda: call(engine)) for _ in range(PROFILED_CALLS)]
    steps = recorder.steps(PROFILED_CALLS)
    rest = around(usual(times) - recorder.run_ms(PROFILED_CALLS))
    return Profiled([*steps, rest], usual(times), "the NumPy engine's own clock")


class PlanRecorder:
    """Times every program that ``engine`` runs from now on."""

    def __init__(self, engine: NumpyEngine) -> None:
        self._times: dict[BoundProgram, list[NDArray[np.int64]]] = {}
        self._costs: dict[BoundProgram, list[NDArray[np.float64]]] = {}
        engine.run_program = self._record

    def _record(self, program: BoundProgram) -> None:
        elapsed_ns = np.asarray(program.run_timed(), np.int64)
        self._times.setdefault(program, []).append(elapsed_ns)
        # Now: programs share their buffers, and what attention costs stands in an operand.
        costs = [cost_of(op, program.operands(k)) for k, op in enumerate(program.operations)]
        self._costs.setdefault(program, []).append(np.array(costs, np.float64))

    def reset(self) -> None:
        """Forget what was timed so far."""
        self._times.clear()
        self._costs.clear()

    def steps(self, calls: int) -> list[Step]:
        """The plan's steps, per call of the engine.

        A call of many texts runs the plan in several pieces: they are added up.

        Args:
            calls: how many calls were recorded.
        """
        operations = next(iter(self._times)).operations
        times_ms, costs = np.zeros(len(operations)), np.zeros((len(operations), 2))
        for program, runs in self._times.items():
            often = len(runs) / calls  # pieces of this size in a call
            times_ms += [usual(column.tolist()) * often / 1e6 for column in np.stack(runs, axis=1)]
            costs += np.sum(self._costs[program], axis=0) / calls
        return [
            Step(
                op,
                _OPERATIONS.get(op, "elementwise"),
                float(time_ms),
                float(flops),
                float(moved),
                op in _ANCHORS,
            )
            for op, time_ms, (flops, moved) in zip(operations, times_ms, costs, strict=True)
        ]

    def run_ms(self, calls: int) -> float:
        """Time of all steps of one call of the engine.

        Args:
            calls: how many calls were recorded.
        """
        return sum(
            usual([float(run.sum()) for run in runs]) / 1e6 * len(runs) / calls
            for runs in self._times.values()
        )


def cost_of(op: str, arrays: Sequence[Array]) -> tuple[float, float]:
    """(flops of products, bytes of operands and result, each once)."""
    moved = float(sum(array.nbytes for array in arrays))
    out = arrays[-1]
    if op in ("linear", "matmul"):
        return 2.0 * out.size * arrays[0].shape[-1], moved
    if op in ("lstm_packed", "lstm_dense"):  # what tokens add to the gates is a linear step
        return 2.0 * arrays[0].size * arrays[1].shape[0], moved
    if op == "embedding":  # of the table only the rows that are looked up
        rows = out.size // max(1, out.shape[-1])
        return 0.0, float(arrays[1].nbytes + rows * arrays[0][:1].nbytes + out.nbytes)
    if op == "attention_packed":
        lengths = np.diff(arrays[3]).astype(np.float64)
        return float(4 * np.sum(lengths**2) * out.shape[-1]), moved
    if op == "attention_dense":
        return 4.0 * arrays[0].shape[-2] * arrays[1].shape[-2] * out.shape[-1] * len(out), moved
    if op == "attention_heads":
        return 4.0 * out.size * arrays[1].shape[-2], moved
    return 0.0, moved
