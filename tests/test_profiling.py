"""Profiles: every step of every engine is counted, with the arithmetic that PyTorch counts."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from edgeformer.benchmarking import benchmark as benchmarking
from edgeformer.benchmarking.benchmark import benchmark
from edgeformer.benchmarking.text import benchmark_text
from edgeformer.doctor import TINY_BUNDLE
from edgeformer.errors import EngineError
from edgeformer.isolation import Outcome
from edgeformer.profiling import (
    litert_graph,
    litert_profile,
    onnx_profile,
    plan_profile,
    profiles,
)
from edgeformer.profiling.litert_graph import GraphOp
from edgeformer.profiling.litert_session import Event, parse_summary
from edgeformer.profiling.plan_profile import PlanRecorder
from edgeformer.report.layer_times import Profile
from edgeformer.report.schema import Report
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import missing_engine
from edgeformer.runtime.engines.numpy_engine import open_engine
from edgeformer.runtime.engines.tflite_session import usable_package
from tests.tiny_bundles import bundle, checkpoint

TOKENS, BATCH = 24, 3


@pytest.fixture(scope="module")
def doctor_report() -> Report:
    """Every engine on the doctor's bundle, whose module has two products and no attention."""
    return benchmark(TINY_BUNDLE, iterations=1, threads=1, per_layer=True)


def counted_by_torch() -> float:
    """Operations of the products of the tiny classifier, as PyTorch counts them."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint("classification"), attn_implementation="eager"
    )
    ids = torch.ones((BATCH, TOKENS), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return float(counter.get_total_flops())


def test_every_installed_engine_is_profiled(doctor_report: Report) -> None:
    """The module is 2 * 32 * 48 weights on 4 rows, whoever runs it and at whatever precision."""
    assert len(doctor_report.profiles) == len(doctor_report.measured)
    for profile in doctor_report.profiles:
        if profile.engine == "tflite" and usable_package(profile.precision) != "ai_edge_litert":
            assert profile.state == "missing"
            continue
        assert (profile.state, profile.error) == ("measured", "")
        linear = [row for row in profile.rows if row.operation == "linear"]
        assert sum(row.flops for row in linear) == 2 * (2 * 4 * 32 * 48)
        assert {row.layer for row in profile.rows} == {"model", "around"}
        operations = {row.operation for row in profile.rows}
        assert {"linear", "norm", "around"} <= operations
        assert min(profile.whole_ms, profile.profiled_ms) > 0
        weight = 4 if profile.precision == "fp32" else 1
        assert sum(row.bytes_moved for row in linear) > 2 * 32 * 48 * weight
        assert profile.attributed_ms + profile.not_attributed_ms == pytest.approx(profile.whole_ms)
    (roofline,) = doctor_report.roofline
    assert roofline.gflops > 0.01
    assert roofline.gb_per_second > 0.01


def test_a_profile_is_printed_with_its_remainder(doctor_report: Report) -> None:
    page = benchmark_text(doctor_report)
    assert page.count("not attributed") == sum(1 for p in doctor_report.profiles if p.rows)
    assert "of roofline" in page


def test_the_numpy_profile_of_a_transformer_is_what_torch_counts() -> None:
    report = benchmark(bundle(), tokens=TOKENS, batch=BATCH, iterations=1, per_layer=True)
    (profile,) = report.profiles
    assert sum(row.flops for row in profile.rows) == counted_by_torch()
    layers = [row.layer for row in profile.rows]
    assert list(dict.fromkeys(layers)) == ["embeddings", "layer 1", "layer 2", "head", "around"]
    halves = [
        sorted((row.operation, row.steps, row.flops) for row in profile.rows if row.layer == name)
        for name in ("layer 1", "layer 2")
    ]
    assert halves[0] == halves[1]


def ragged(lengths: Sequence[int]) -> RaggedBatch:
    ids = [list(range(5, 5 + length)) for length in lengths]
    return RaggedBatch.from_lists(ids, [[0] * length for length in lengths])


def test_timed_steps_give_the_same_answer_and_cost_nothing_when_off() -> None:
    with open_bundle(bundle()) as opened:
        variant = opened.manifest.variants[0]
        engine = open_engine(opened, variant, 1)
        batch = ragged([4, 9, 2])
        plain = engine.encode(batch)
        assert engine.run_program.__name__ == "run"  # nothing but the list of calls
        recorder = PlanRecorder(engine)
        begin = time.perf_counter()
        timed = engine.encode(batch)
        wall_ms = (time.perf_counter() - begin) * 1000
        for name, values in plain.items():
            np.testing.assert_array_equal(values, timed[name])
        steps = recorder.steps(calls=1)
        assert min(step.time_ms for step in steps) >= 0
        assert 0 < recorder.run_ms(calls=1) < wall_ms
        assert recorder.run_ms(calls=1) == pytest.approx(sum(s.time_ms for s in steps))
        engine.close()


def test_a_call_in_several_pieces_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [8, 8, 8, 8, 5]
    with open_bundle(bundle()) as opened:
        variant = opened.manifest.variants[0]
        engine = open_engine(opened, variant, 1)
        recorder = PlanRecorder(engine)
        engine.encode(ragged(lengths))
        whole = recorder.steps(calls=1)
        recorder.reset()
        monkeypatch.setattr("edgeformer.runtime.engines.numpy_engine.CHUNK_TOKENS", 16)
        for _ in range(2):
            engine.encode(ragged(lengths))
        pieces = recorder.steps(calls=2)
        engine.close()
    assert [step.name for step in whole] == [step.name for step in pieces]
    for a, b in zip(whole, pieces, strict=True):
        assert a.flops == pytest.approx(b.flops)


RUN_ORDER = """
===================== Run Order =====================
   [node type]  [start]  [first]  [avg ms]  [%]  [cdf%]  [mem KB]  [times called]  [Name]
   RESHAPE      0.000    0.000    0.000    0.000%   0.000%   0.000   1   [Builtin]:0
   EMBEDDING_LOOKUP  0.001  0.027  0.027   0.527%   0.527%   0.000   1   [Builtin]:1
   Delegate/Add (ND) 0.000  0.002  0.002   0.039%   0.566%   0.000   1   [Delegate]:0
   Delegate/Fully Connected (NC, QDU8, F32, QC8W) GEMM 0.0 0.052 1.052 1.0% 3.5% 0.0 1 [Delegate]:1
   Delegate/Softmax (NC, F32)  0.000 0.042 0.042 1.0% 4.5% 0.000 1 [Delegate]:2

============== Top by Computation Time ==============
   [node type]  [start]  [first]  [avg ms]  [%]  [cdf%]  [mem KB]  [times called]  [Name]
   Delegate/Softmax (NC, F32)  0.000 0.042 0.042 1.0% 4.5% 0.000 1 [Delegate]:2
"""


def test_litert_summaries_are_read() -> None:
    events = parse_summary(RUN_ORDER)
    assert [(event.time_ms, event.place) for event in events] == [
        (0.0, "[Builtin]:0"),
        (0.027, "[Builtin]:1"),
        (0.002, "[Delegate]:0"),
        (1.052, "[Delegate]:1"),
        (0.042, "[Delegate]:2"),
    ]
    assert litert_profile.tflite_name(events[3].name) == "FULLY_CONNECTED"
    assert parse_summary("something else") == []


def test_litert_events_find_the_operations_they_came_from() -> None:
    """XNNPACK drops one operation of the graph and adds one; the rest stays in order."""
    graph = [
        GraphOp("RESHAPE"),
        GraphOp("EMBEDDING_LOOKUP", bytes_moved=10.0),
        GraphOp("ADD", in_norm=True),
        GraphOp("SUB"),
        GraphOp("FULLY_CONNECTED", flops=100.0, bytes_moved=20.0),
        GraphOp("SOFTMAX"),
    ]
    events = parse_summary(RUN_ORDER)
    odd = Event("Delegate/Something New (ND)", 0.5, "[Delegate]:9")
    runs = [[*events[:4], odd, events[4]]] * 4
    steps = litert_profile.merge(runs, calls=2, graph=graph)  # a call of two texts
    found = [(s.operation, s.time_ms, s.flops, s.anchor) for s in steps]
    assert found == [
        ("layout", 0.0, 0.0, False),
        ("embedding", pytest.approx(0.054), 0.0, False),
        ("norm", pytest.approx(0.004), 0.0, False),
        ("linear", pytest.approx(2.104), 200.0, False),
        ("elementwise", pytest.approx(1.0), 0.0, False),
        ("attention", pytest.approx(0.084), 0.0, True),
    ]
    assert litert_profile.merge([], 1, graph) == []
    blind = litert_profile.merge(runs, 2, [])
    assert [s.operation for s in blind][3:] == ["linear", "elementwise", "attention"]


def test_an_answer_that_differs_under_the_profiler_is_refused() -> None:
    answer = {"logits": np.array([1.0, -2.0])}
    litert_profile.check_same(answer, {"logits": np.array([1.0, -2.0001])})
    with pytest.raises(EngineError, match="another one"):
        litert_profile.check_same(answer, {"logits": np.array([1.0, 2.0])})


def node(name: str, op: str, start: int, took: int, inputs: Any, outputs: Any) -> dict[str, Any]:
    sizes = {"activation_size": "64", "parameter_size": "8", "output_size": "32"}
    shapes = {"input_type_shape": inputs, "output_type_shape": outputs}
    arguments = {"op_name": op, **sizes, **shapes}
    return {"cat": "Node", "name": name, "ts": start, "dur": took, "args": arguments}


def ort_profile(folder: Path, runs: int = 4) -> Path:
    """What onnxruntime writes: nodes of each run, a branch ahead of its place, two first runs that
    are not like the others, and a last one that something interrupted."""
    events: list[dict[str, Any]] = [{"cat": "Session", "name": "load", "ts": 0, "dur": 50}]
    wide = [{"float": [1, 4, 8]}]
    for run in range(runs):
        start, slow = 1000 * (run + 1), 500 if run == runs - 1 else 0
        product = 22 if run < 2 else 42
        events += [
            {"cat": "Session", "name": "model_run", "ts": start, "dur": 100 + slow},
            node("3.Softmax_kernel_time", "Softmax", start + 1, 12 + slow, wide, wide),
            node("1.Shape_kernel_time", "Shape", start + 20, 2, wide, [{"int64": [3]}]),
            node(
                "2.MatMul_kernel_time", "MatMul", start + 30, product, wide, [{"float": [1, 4, 16]}]
            ),
        ]
    (folder / "profile.json").write_text(json.dumps(events))
    return folder / "profile.json"


def test_onnxruntime_profiles_are_averaged_and_freed_of_the_profilers_own_time(
    tmp_path: Path,
) -> None:
    found = onnx_profile.read_profile(ort_profile(tmp_path, 6), calls=4, skip=2)
    assert found.clock_ms == pytest.approx(0.002)
    steps = [(s.name, s.operation, s.time_ms, s.flops, s.anchor) for s in found.steps]
    assert steps == [
        ("Shape", "layout", pytest.approx(0.0), 0.0, False),
        ("MatMul", "linear", pytest.approx(0.040), 2 * 4 * 8 * 16, False),
        ("Softmax", "attention", pytest.approx(0.010), 0.0, True),
    ]
    assert found.steps[1].bytes_moved == 64 + 8 + 32 + 4 * 8 * 16  # weights packed away are counted
    assert found.run_ms == pytest.approx(0.1)
    twice = onnx_profile.read_profile(ort_profile(tmp_path, 8), calls=2, skip=2)
    assert twice.steps[1].time_ms == pytest.approx(0.080)  # two runs a call


@pytest.mark.parametrize(
    ("op", "inputs", "operation"),
    [
        ("MatMul", [("float", (1, 4, 8)), ("float", (8, 16))], "linear"),
        ("MatMulInteger", [("uint8", (1, 4, 8)), ("uint8", ())], "linear"),
        ("MatMul", [("float", (1, 2, 4, 8)), ("float", (1, 2, 8, 4))], "attention"),
        ("Gather", [("float", (99, 8)), ("int64", (1, 4))], "embedding"),
        ("Gather", [("int64", (3,)), ("int64", ())], "layout"),
        ("BiasGelu", [("float", (1, 4, 8))], "activation"),
        ("NeverHeardOf", [], "elementwise"),
    ],
)
def test_nodes_are_told_apart_by_their_inputs(op: str, inputs: Any, operation: str) -> None:
    assert onnx_profile.operation_of(op, inputs) == operation


@pytest.mark.parametrize(
    ("op", "inputs", "flops"),
    [
        ("MatMulInteger", [("uint8", (2, 4, 8)), ("uint8", ())], 2 * (2 * 4 * 16) * 8),
        ("MultiHeadAttention", [("float", (2, 4, 16))] * 3, 2 * 2 * (2 * 4 * 4 * 16)),
        # This one projects first: q, k and v from one matrix.
        (
            "Attention",
            [("float", (2, 4, 8)), ("float", (8, 48))],
            2 * (2 * 4 * 8 * 48) + 2 * 2 * (2 * 4 * 4 * 16),
        ),
        ("Gelu", [("float", (2, 4, 16))], 0),
    ],
)
def test_fused_nodes_count_all_their_products(op: str, inputs: Any, flops: float) -> None:
    assert onnx_profile.flops_of(op, inputs, [("float", (2, 4, 16))]) == flops


def test_an_lstm_costs_the_same_on_every_engine() -> None:
    """4 gates, each from the token and from the state before, for each of 3 texts of 24 tokens.
    NumPy's kernel has the second half; the first is a linear step of its own."""
    sequence, batch, width, hidden = 24, 3, 20, 16
    wanted = 2 * sequence * batch * 4 * hidden * (width + hidden)
    inputs = [("float", (sequence, batch, width))]
    for outputs in ([("float", (sequence, 1, batch, hidden))], [("float", (1, batch, hidden))]):
        assert onnx_profile.flops_of("LSTM", inputs, outputs) == wanted
    shapes = ((batch, sequence, width), (batch, sequence, hidden))
    text, states = ({"shape": np.array(shape)} for shape in shapes)
    assert litert_graph.flops_of("UNIDIRECTIONAL_SEQUENCE_LSTM", [text], [states]) == wanted
    gates, weight, out = ((72, 4 * hidden), (hidden, 4 * hidden), (72, hidden))
    arrays = [np.zeros(gates), np.zeros(weight), np.arange(4), np.zeros(out)]
    recurrent, _ = plan_profile.cost_of("lstm_packed", arrays)
    linear, _ = plan_profile.cost_of(
        "linear", [np.zeros((72, width)), np.zeros((width, 4 * hidden)), np.zeros(gates)]
    )
    assert recurrent + linear == wanted


def test_an_empty_profile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(EngineError, match="no nodes"):
        onnx_profile.read_profile(tmp_path / "empty.json", calls=1, skip=0)


def test_a_profiler_that_dies_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Outcome(None, "died with signal SIGILL", "", 0.0)
    monkeypatch.setattr(profiles, "run_worker", lambda module, request: dead)
    report = benchmark(TINY_BUNDLE, engines=("numpy-fp32",), iterations=1, per_layer=True)
    (profile,) = report.profiles
    assert (profile.state, profile.error) == ("missing", "died with signal SIGILL")
    assert "died with signal SIGILL" in benchmark_text(report)
    assert report.roofline == ()


def test_a_disturbed_profile_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    real, seconds = profiles.read_state, iter(range(0, 10**6, 10))

    def busy() -> Any:
        now = next(seconds)
        return replace(real(), clock_seconds=now, busy_seconds=0.9 * now, own_seconds=0.0)

    monkeypatch.setattr(profiles, "read_state", busy)
    machine = replace(benchmarking.describe_machine(), affinity_cpus=1)
    monkeypatch.setattr(benchmarking, "describe_machine", lambda: machine)
    report = benchmark(TINY_BUNDLE, engines=("numpy-fp32",), iterations=1, per_layer=True)
    assert report.profiles[0].void_reasons == ("other work took 90% of the CPUs",)
    assert "numpy-fp32 (void), per layer" in benchmark_text(report)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "tflite", "numpy"])
def test_the_default_model_has_six_layers_on_every_engine(engine: str, minilm_bundle: Path) -> None:
    """Six alike layers with nearly all of the time, and the products that BERT has."""
    if missing_engine(engine):
        pytest.skip(f"{engine} is not installed")
    report = benchmark(minilm_bundle, engines=(engine,), tokens=64, iterations=1, per_layer=True)
    (profile,) = report.profiles
    assert profile.error == ""
    layers = {f"layer {n}" for n in range(1, 7)}
    assert {row.layer for row in profile.rows} == {"embeddings", *layers, "head", "around"}
    hidden, inner = 384, 1536
    products = 6 * 64 * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 6 * 2 * 64 * 64 * hidden
    flops = by_operation(profile)
    assert flops["linear"] == 2 * products
    assert flops["attention"] == 2 * attention


def by_operation(profile: Profile) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in profile.rows:
        found[row.operation] = found.get(row.operation, 0.0) + row.flops
    return found
