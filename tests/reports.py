"""Reports made by hand, for tests of what reads and shows them."""

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

from edgeformer.machine import Machine, MachineState
from edgeformer.report.exit_records import Calibration, CurvePoint, ExitRun, ExitTimes
from edgeformer.report.layer_times import OperationTime, Profile, Roofline
from edgeformer.report.results import Fidelity, Result
from edgeformer.report.schema import Accuracy, BundleFacts, Report
from edgeformer.runtime.manifest import ExitPoint

MACHINE = Machine(
    board="Raspberry Pi 4 Model B Rev 1.4",
    cpu_model="Cortex-A72",
    architecture="aarch64",
    emulator="",
    bits=64,
    isa=("asimd",),
    cpus=4,
    affinity_cpus=4,
    cgroup_cpus=None,
    memory_mb=3977,
    system="Debian GNU/Linux 12 (bookworm) (kernel 6.6.20)",
    libc="glibc 2.36",
    python="CPython 3.11.2",
    blas="openblas 0.3.21",
    affinity="0-3",
)
STATE = MachineState(
    "2026-01-01T10:00:00+00:00", "performance", 1800, 1800, 48.2, (), 0.1, 3000, 100.0, 50.0, 0.0
)
ENGINES = {"tflite-int8": 9.0, "onnx-int8": 12.0, "numpy-int8": 30.0}


def result(variant: str, tokens: int = 128, batch: int = 1, threads: int = 1) -> Result:
    """Made-up times that grow with the length and the batch."""
    engine, precision = variant.split("-")
    middle = ENGINES[variant] * (0.1 + tokens / 128) * batch / threads**0.7
    samples = tuple(
        middle * (1 + 0.05 * math.sin(7 * k) + (0.4 if k % 40 == 9 else 0.0)) for k in range(120)
    )
    return Result(
        variant=variant,
        engine=engine,
        precision=precision,
        file_mb=24.5,
        tokens=tokens,
        batch=batch,
        threads=threads,
        layout="dense",
        cold_start_ms=900.0,
        import_ms=180.0,
        load_ms=400.0,
        first_run_ms=3 * middle,
        warmup_runs=10,
        samples_ms=samples,
        tokenize_ms=tuple(0.04 * value for value in samples),
        model_ms=tuple(0.95 * value for value in samples),
        cold_rss_mb=120.0,
        warm_rss_mb=118.0,
        end_rss_mb=119.5,
        peak_rss_mb=121.0 + tokens / 10,
        fidelity=Fidelity(64, 0.02, 0.991, 0.997, None),
    )


def profile(variant: str, layers: int = 6) -> Profile:
    """Made-up shares: two thirds in the products."""
    engine, precision = variant.split("-")
    whole = ENGINES[variant] * 1.045
    each = 0.9 * whole / layers
    names = ["embeddings", *(f"layer {n + 1}" for n in range(layers)), "head"]
    parts = (("linear", 0.68), ("attention", 0.2), ("norm", 0.06), ("activation", 0.06))
    rows = []
    for name in names:
        if name.startswith("layer"):
            rows += [
                OperationTime(name, op, each * share, 4, 2e8 * share, 2e6) for op, share in parts
            ]
        else:
            rows.append(OperationTime(name, "elementwise", 0.03 * whole, 3, 0.0, 1e6))
    return Profile(
        variant,
        engine,
        precision,
        tokens=128,
        batch=1,
        threads=1,
        source="made by hand",
        runs=30,
        whole_ms=whole,
        profiled_ms=whole * 1.06,
        clock_ms=0.001,
        rows=tuple(rows),
    )


def exit_run() -> ExitRun:
    """An evaluation: from all layers at 92 % down to two at 80 %."""
    layers = [6 - 4 * k / 20 for k in range(21)]
    curve = tuple(
        CurvePoint(0.03 * k, mean, 0.92 - 0.12 * (k / 20) ** 3) for k, mean in enumerate(layers)
    )
    sums = (410, 250, 212)
    return ExitRun(
        "onnx-int8", "sst2", (2, 4, 6), sums, "auto (entropy 0.36)", accuracy=0.892, curve=curve
    )


def timed_run() -> ExitRun:
    """A benchmark's, of two texts and three rounds: 2 and 4 ms with exits, 5 and 5 without."""
    times = ExitTimes(
        timed_texts=2,
        threads=1,
        with_ms=(2.0, 4.0, 2.1, 4.1, 1.9, 3.9),
        without_ms=(5.0, 5.0, 5.5, 5.0, 5.0, 4.9),
        worst_ms=(5.6, 5.4, 5.5, 5.5, 5.5, 5.5),
        with_mj=21.0,
        without_mj=40.0,
        worst_mj=44.0,
        meter="RAPL, processor package",
    )
    return ExitRun("onnx-int8", "texts.txt", (2, 4, 6), (1, 1, 0), "0.2 (entropy 0.2)", times=times)


def calibration() -> Calibration:
    """101 thresholds, of which the 34th is the last that the budget allows."""
    curve = tuple(
        ExitPoint(0.0069 * k, 6 - 4 * k / 100, 9 * (k / 100) ** 3, 0.15 + 9.3 * (k / 100) ** 3)
        for k in range(101)
    )
    return Calibration("onnx-int8", "entropy", curve[33].threshold, 0.5, 872, True, 6, curve)


def small_report(name: str = "model") -> Report:
    """One variant, one cell, nothing optional."""
    return Report(
        bundle=BundleFacts("model.edge", name, "bert", "embedding", "rpi4"),
        workload="text",
        results=(result("onnx-int8"),),
        machine=MACHINE,
        start=STATE,
        end=replace(
            STATE, time="2026-01-01T10:01:00+00:00", clock_seconds=160.0, busy_seconds=90.0
        ),
        versions={"edgeformer": "0.1.0", "numpy": "2.4.6"},
    )


def full_report(name: str = "all-MiniLM-L6-v2") -> Report:
    """Everything a report can have: three engines, lengths, batches, profiles, accuracy, exits."""
    cells = [
        result(variant, tokens, batch)
        for variant in ENGINES
        for tokens, batch in ((16, 1), (64, 1), (128, 1), (128, 8))
    ]
    missing = replace(
        result("onnx-int8"),
        variant="onnx-fp32",
        precision="fp32",
        state="missing",
        error="engine 'onnx' is not installed (onnxruntime)",
        hint='pip install "edgeformer[onnx]"',
        samples_ms=(),
        tokenize_ms=(),
        model_ms=(),
        fidelity=None,
    )
    return replace(
        small_report(name),
        results=(*cells, missing),
        profiles=tuple(profile(variant) for variant in ENGINES),
        roofline=(Roofline(1, 12.5, 3.4, 512, 64.0, "openblas 0.3.21"),),
        accuracy=tuple(
            Accuracy(variant, "sst2", "accuracy", value, 872, value - 0.02, value + 0.02)
            for variant, value in (("pytorch", 0.924), ("tflite-int8", 0.921), ("onnx-int8", 0.923))
        ),
        exits=(exit_run(), timed_run()),
        calibrations=(calibration(),),
        notes=("CPU governor ondemand: the clock follows the work with a delay",),
    )


def void_report() -> Report:
    """One that must not be quoted: other work ran throughout, and during each result."""
    reasons = ("other work took 43% of the CPUs",)
    report = full_report()
    return replace(
        report,
        results=tuple(replace(found, void_reasons=reasons) for found in report.results),
        void_reasons=(*reasons, "the CPU was held back: under-voltage"),
    )


HOSTILE = (
    "</text></svg></style></title><script>alert(1)</script><img src=http://127.0.0.1/x onerror=a()>"
    "\"'`&<!--]]>|\\*_[x](javascript:a())\n# \x00\x08\ud800\u202e\u2028{}$"
)


def hostile(report: Report) -> Report:
    """The same with every text of a report replaced by one that would like to be more."""
    changed: Report = _poisoned(report, ("state",))
    runs = (replace(run, error="") for run in changed.exits)
    return replace(changed, exits=(*changed.exits, *runs))


def _poisoned(value: Any, spared: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, tuple):
        return tuple(_poisoned(item, spared) for item in value)
    if isinstance(value, dict):
        return {HOSTILE + key: HOSTILE for key in value}
    if is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in fields(value) if item.name not in spared]
        return replace(value, **{name: _poisoned(getattr(value, name), spared) for name in names})
    return value
