"""What a bundle costs on this machine: one fresh process per engine, raw samples kept.

    report = benchmark("model.edge", tokens=128)
    report.results[0].p50_ms, report.results[0].cold_start_ms

What is timed is what a user calls: text in, answer out, tokenizing included (a plain module: its
first golden input through ``run``). docs/benchmark.md defines every figure. Engines never share a
process: two thread pools that spin in one ruin each other (benchmark_worker.py is what runs
there). The machine's state is taken before and after, so that a figure from a hot or busy machine
can be recognised. NumPy and the standard library only.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgeformer.errors import UsageError
from edgeformer.isolation import run_worker
from edgeformer.machine import (
    Machine,
    MachineState,
    describe_machine,
    disturbances,
    read_state,
)
from edgeformer.workload import Workload, make_workload

if TYPE_CHECKING:
    from edgeformer.runtime.bundle import Bundle
    from edgeformer.runtime.manifest import Variant

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class EngineResult:
    """One variant, measured in a process of its own. Times in ms, memory in MB (1e6 bytes).

    Attributes:
        variant, engine, precision: which model file.
        state: ``measured``, ``failed`` (installed, but it died or raised) or ``missing``.
        error: why there are no figures, empty if there are; ``hint``: what to do about it.
        file_mb: size of the variant's model files.
        threads: threads the engine used.
        cold_start_ms: from the start of the process to its first answer; model files in the
            page cache.
        import_ms: of ``edgeformer.runtime``, NumPy included.
        load_ms: ``load``: hashes, the engine's own import, model, self-test.
        first_run_ms: the first call.
        warmup_runs: calls before the samples; ``stable``: False if they never settled.
        samples_ms: every timed call, in order.
        cold_rss_mb, peak_rss_mb: peak resident memory after the first answer and at the end.
    """

    variant: str
    engine: str
    precision: str
    file_mb: float
    state: str = "measured"
    error: str = ""
    hint: str = ""
    threads: int = 0
    cold_start_ms: float = 0.0
    import_ms: float = 0.0
    load_ms: float = 0.0
    first_run_ms: float = 0.0
    warmup_runs: int = 0
    stable: bool = True
    samples_ms: tuple[float, ...] = ()
    cold_rss_mb: float = 0.0
    peak_rss_mb: float = 0.0

    @property
    def p50_ms(self) -> float:
        """Median of the samples."""
        return percentile(self.samples_ms, 50)

    @property
    def p90_ms(self) -> float:
        """90 % of the samples are at most this."""
        return percentile(self.samples_ms, 90)

    @property
    def p99_ms(self) -> float:
        """99 % of the samples are at most this; of fewer than 100 samples, nearly the largest."""
        return percentile(self.samples_ms, 99)

    @property
    def calls_per_second(self) -> float:
        """Calls one after the other, over all samples."""
        return 1000 * len(self.samples_ms) / sum(self.samples_ms)


@dataclass(frozen=True)
class BenchmarkReport:
    """Everything a benchmark found; ``as_dict`` is the JSON, every table is a view of it."""

    bundle: str
    model: str
    task: str
    profile: str
    workload: Workload
    results: tuple[EngineResult, ...]
    versions: dict[str, str]
    environment: dict[str, str]
    machine: Machine
    start: MachineState
    end: MachineState
    schema_version: int = SCHEMA_VERSION

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes the figures less than trustworthy."""
        unstable = [r.variant for r in self.results if not r.stable]
        found = disturbances(self.machine, self.start, self.end)
        if unstable:
            found += (f"times had not settled when the samples began: {', '.join(unstable)}",)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the derived figures beside the samples."""
        data = asdict(self)
        for row, result in zip(data["results"], self.results, strict=True):
            if result.samples_ms:
                row["p50_ms"], row["p90_ms"] = result.p50_ms, result.p90_ms
                row["p95_ms"] = percentile(result.samples_ms, 95)
                row["p99_ms"] = result.p99_ms
                row["per_second"] = result.calls_per_second * self.workload.batch
        data["notes"] = list(self.notes)
        return data


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear interpolation between the ordered samples (NumPy's default); 0 <= percent <= 100."""
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def benchmark(
    path: str | os.PathLike[str],
    *,
    engines: Sequence[str] = (),
    text: str | None = None,
    tokens: int | None = None,
    batch: int | None = None,
    iterations: int | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchmarkReport:
    """Measure every variant of a bundle, or those named, each in a fresh process.

    Args:
        path: bundle folder or zip.
        engines: engine names or variant ids; empty for every variant of the bundle.
        text: the text of each call; None for sentences of ours cut to ``tokens``.
        tokens: length of each text, special tokens included; None for 128 or what the model takes.
        batch: texts of one call; None for 1.
        iterations: timed calls; None for what fits into 5 seconds, between 20 and 300.
        threads: most threads; None for the profile's.
        progress: called with the id of each variant before it is measured.

    Raises:
        UsageError: an engine the bundle has not, or figures that do not fit the model.
        BundleError: the bundle is damaged.
    """
    from edgeformer.runtime.bundle import open_bundle

    _check_counts(batch=batch, iterations=iterations, threads=threads, tokens=tokens)
    if text is not None and tokens is not None:
        raise UsageError("a text of your own has its own length", hint="leave out --tokens")
    machine, start = describe_machine(), read_state()
    with open_bundle(path) as bundle:
        variants = _chosen(bundle, engines)
        workload = make_workload(bundle, text, tokens, batch)
        settings = {"workload": asdict(workload), "iterations": iterations, "threads": threads}
        results = []
        for variant in variants:
            if progress:
                progress(variant.id)
            results.append(_measure(bundle, variant, settings))
        card, profile = bundle.manifest.model, str(bundle.manifest.profile.get("name", ""))
    return BenchmarkReport(
        bundle=str(path),
        model=card.name,
        task=card.task,
        profile=profile,
        workload=workload,
        results=tuple(results),
        versions=_versions(),
        environment={k: v for k, v in os.environ.items() if k in _SPEED_VARIABLES},
        machine=machine,
        start=start,
        end=read_state(),
    )


_SPEED_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, not {count}")


def _versions() -> dict[str, str]:
    from edgeformer import __version__
    from edgeformer.runtime.engine import installed_versions

    return {**installed_versions(), "edgeformer": __version__}


def _chosen(bundle: "Bundle", engines: Sequence[str]) -> "list[Variant]":
    variants = bundle.manifest.variants
    known = {name for v in variants for name in (v.engine, v.id)}
    for name in engines:
        if name not in known:
            raise UsageError(
                f"the bundle has no engine or variant {name!r}",
                hint=f"choose of: {', '.join(sorted(known))}",
            )
    return [v for v in variants if not engines or v.engine in engines or v.id in engines]


def _measure(bundle: "Bundle", variant: "Variant", settings: dict[str, Any]) -> EngineResult:
    from edgeformer.runtime.engine import missing_engine

    files = sorted({program.file for program in variant.programs.values()})
    size_mb = sum(bundle.size(name) for name in files) / 1e6
    head = (variant.id, variant.engine, variant.precision, size_mb)
    missing = missing_engine(variant.engine)
    if missing:
        return EngineResult(*head, state="missing", error=missing.message, hint=missing.hint)
    bundle.check(files)  # also brings the files into the page cache, for all engines alike
    request = {**settings, "path": str(bundle.path.absolute()), "variant": variant.id}
    outcome = run_worker("edgeformer.benchmark_worker", request)
    if outcome.answer is None:
        return EngineResult(*head, state="failed", error=outcome.failure, hint=outcome.hint)
    answer = dict(outcome.answer)
    cold_start_ms = (answer.pop("first_answer_clock") - outcome.started) * 1000
    answer["samples_ms"] = tuple(answer["samples_ms"])
    return EngineResult(*head, cold_start_ms=cold_start_ms, **answer)
