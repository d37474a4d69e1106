"""onnxruntime's profiler: the JSON it writes with ``enable_profiling``, as steps.

Each node event is a whole number of microseconds and contains what the profiler itself does for
it. The cheapest node of a graph does nothing worth a microsecond (a Shape, a Reshape): what it
takes is the profiler's, and is subtracted from every node (``Profile.clock_ms``).
"""

import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeformer.benchmarking.worker import timed_ms
from edgeformer.errors import EngineError
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
from edgeformer.runtime.engines.onnx_engine import OnnxEngine
from edgeformer.runtime.engines.onnx_session import open_session
from edgeformer.runtime.manifest import Variant

_PRODUCTS = (
    "MatMul",
    "FusedMatMul",
    "TransposeMatMul",
    "Gemm",
    "FusedGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "MatMulNBits",
)
_FUSED_ATTENTION = ("Attention", "MultiHeadAttention", "QAttention", "GroupQueryAttention")
_ANCHORS = ("Softmax", "BiasSoftmax", *_FUSED_ATTENTION)
_OPERATIONS = {
    "norm": ("LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization"),
    "activation": ("Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Tanh", "Relu", "Sigmoid"),
    "quantize": (
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Abs",  # the range of a row is the maximum of its absolute values
        "ReduceMax",
    ),
    "layout": (
        "Reshape",
        "Transpose",
        "Unsqueeze",
        "Squeeze",
        "Concat",
        "Shape",
        "Slice",
        "Split",
        "Expand",
        "Identity",
        "Flatten",
    ),
    "attention": _ANCHORS,
    "recurrent": ("LSTM", "DynamicQuantizeLSTM"),
}
_BY_OP = {op: operation for operation, ops in _OPERATIONS.items() for op in ops}
_BYTES = {"float": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}


def profile(
    bundle: Bundle, variant: Variant, threads: int, call: Call, answer: dict[str, Any]
) -> Profiled:
    """Run ``call`` on a session that keeps the time of its nodes; ``answer`` needs no comparison:
    it is the same session otherwise."""
    name = variant.programs["main"].file
    model = bundle.file_path(name) or bundle.read(name)
    with tempfile.TemporaryDirectory(prefix="edgeformer-") as folder:
        prefix = str(Path(folder) / "profile")
        session = open_session(model, threads, variant.provider, name, profile=prefix)
        engine = OnnxEngine(variant, threads, {name: session})
        for _ in range(WARM_CALLS):
            call(engine)
        times = [timed_ms(lambda: call(engine)) for _ in range(PROFILED_CALLS)]
        found = read_profile(Path(session.end_profiling()), PROFILED_CALLS, WARM_CALLS)
    steps = [*found.steps, around(usual(times) - found.run_ms)]
    return Profiled(steps, usual(times), "onnxruntime's profiler", found.clock_ms)


@dataclass(frozen=True)
class NodeProfile:
    """What a profile says of one call of the engine.

    Attributes:
        steps: in the order of the graph.
        clock_ms: subtracted from each node.
        run_ms: onnxruntime's part of the call, under the profiler.
    """

    steps: list[Step]
    clock_ms: float
    run_ms: float


def read_profile(file: Path, calls: int, skip: int) -> NodeProfile:
    """Average the nodes of a profile.

    Args:
        file: that ``end_profiling`` named.
        calls: of the engine, the last ones, to average over. A call of many texts runs the model
            several times, each time on as many.
        skip: calls before those, which allocate and warm up.

    Raises:
        EngineError: there is nothing to average.
    """
    events = json.loads(file.read_text(encoding="utf-8"))
    runs = [event for event in events if event["name"] == "model_run"]
    nodes = [event for event in events if event.get("cat") == "Node"]
    often = len(runs) / (calls + skip)
    kept = runs[round(skip * often) :]
    by_run = [list(_within(nodes, run)) for run in kept]
    whole = [found for found in by_run if found and len(found) == len(by_run[0])]
    if not whole:
        raise EngineError("onnxruntime's profile holds no nodes")
    columns = list(zip(*whole, strict=True))
    means_ms = [usual([event["dur"] for event in column]) / 1000 for column in columns]
    clock_ms = min(means_ms)
    steps = [
        _step(column[0], max(0.0, mean - clock_ms), often)
        for column, mean in zip(columns, means_ms, strict=True)
    ]
    order = _graph_order([column[0]["name"] for column in columns])
    run_ms = usual([run["dur"] for run in kept]) / 1000 * often
    return NodeProfile([steps[i] for i in order], clock_ms, run_ms)


def _within(nodes: Sequence[dict[str, Any]], run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    stop = run["ts"] + run["dur"]
    return (node for node in nodes if run["ts"] <= node["ts"] < stop)


def _graph_order(names: Sequence[str]) -> list[int]:
    """Places of the events in the order of the file. onnxruntime runs branches as it likes; nodes
    whose name starts with a number (our files) are put back, others stay behind their neighbour.
    """
    keys: list[tuple[int, int]] = []
    last = -1
    for place, name in enumerate(names):
        found = re.match(r"\d+", name)
        last = int(found[0]) if found else last
        keys.append((last, place))
    return sorted(range(len(names)), key=lambda i: keys[i])


def _step(event: dict[str, Any], time_ms: float, often: float) -> Step:
    arguments = event["args"]
    op = str(arguments.get("op_name", ""))
    inputs = [_shape(item) for item in arguments.get("input_type_shape", ())]
    outputs = [_shape(item) for item in arguments.get("output_type_shape", ())]
    operation = operation_of(op, inputs)
    flops = flops_of(op, inputs, outputs) * often
    moved = _moved(op, arguments, inputs, outputs) * often
    return Step(op, operation, time_ms * often, flops, moved, op in _ANCHORS)


def _shape(item: dict[str, list[int]]) -> tuple[str, tuple[int, ...]]:
    """(type, shape) of one entry, such as ``{"float": [1, 128, 384]}``."""
    kind, shape = next(iter(item.items()))
    return kind, tuple(shape)


def operation_of(op: str, inputs: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """See ``report.layer_times.OperationTime``; inputs are (type, shape)."""
    if op in _PRODUCTS:
        # A product of two activations; weights have two axes, or were packed away and are unseen.
        both = len(inputs) > 1 and min(len(inputs[0][1]), len(inputs[1][1])) > 2
        return "attention" if both else "linear"
    if op in ("Gather", "EmbedLayerNormalization"):
        table = inputs[0][1] if inputs else ()
        return "embedding" if len(table) == 2 else "layout"
    return _BY_OP.get(op, "elementwise")


def flops_of(
    op: str,
    inputs: Sequence[tuple[str, tuple[int, ...]]],
    outputs: Sequence[tuple[str, tuple[int, ...]]],
) -> float:
    """Operations of products, two per multiply-add; inputs and outputs are (type, shape)."""
    if not inputs or not outputs or not inputs[0][1]:
        return 0.0
    if op in _PRODUCTS:
        return 2.0 * math.prod(outputs[0][1]) * inputs[0][1][-1]
    if op in _FUSED_ATTENTION and len(inputs[0][1]) >= 3:
        weights = inputs[1][1] if len(inputs) > 1 else ()
        projected = 2.0 * math.prod(inputs[0][1]) * weights[1] if len(weights) == 2 else 0.0
        return projected + 4.0 * math.prod(outputs[0][1]) * inputs[0][1][-2]
    if _BY_OP.get(op) == "recurrent" and len(inputs[0][1]) == 3:
        sequence, batch, width = inputs[0][1]
        hidden, directions = outputs[-1][1][-1], outputs[-1][1][-3]
        return 2.0 * sequence * batch * directions * 4 * hidden * (width + hidden)
    return 0.0


def _moved(
    op: str,
    arguments: dict[str, Any],
    inputs: Sequence[tuple[str, tuple[int, ...]]],
    outputs: Sequence[tuple[str, tuple[int, ...]]],
) -> float:
    """Bytes of inputs, weights and outputs."""
    sizes = {
        name: float(arguments.get(name, 0) or 0)
        for name in ("activation_size", "parameter_size", "output_size")
    }
    if op == "Gather" and inputs and len(inputs[0][1]) == 2:  # only the rows that are looked up
        return sizes["activation_size"] + 2 * sizes["output_size"]
    moved = sum(sizes.values())
    if op in _PRODUCTS and outputs and inputs and inputs[0][1]:
        weights = [shape for _, shape in inputs[1:] if len(shape) >= 2]
        if not weights:  # packed away when the file was opened
            width = _BYTES.get(inputs[0][0], 4)
            moved += width * inputs[0][1][-1] * outputs[0][1][-1]
    return moved
