"""What a report holds: frozen dataclasses, and their JSON.

    report == parse_report(dump_report(report))          # for every report
    report.results[0].p50_ms, report.void_reasons

Schema 2; docs/report_schema.md describes every field. report.json is the source: the terminal's
table, Markdown and HTML are made from it and from nothing else. Fields may be added within a
schema: a reader ignores what it does not know, and gives what is absent its default. Times are in
ms, memory in MB (1e6 bytes). NumPy and the standard library only.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NoReturn

from edgeformer.errors import DataError
from edgeformer.machine import Machine, MachineState
from edgeformer.report.statistics import Interval, mean_interval, median, percentile
from edgeformer.runtime.records import build

SCHEMA_VERSION = 2
STATES = ("measured", "failed", "missing")


@dataclass(frozen=True)
class BundleFacts:
    """Which bundle was measured.

    Attributes:
        path: as it was given.
        name, family, task, profile, recipe, parameters, max_length: of its manifest.
        digest: of its manifest, which holds the hash of every file.
        forced: True if it missed a tolerance and ``--force`` wrote it all the same.
    """

    path: str
    name: str
    family: str = ""
    task: str = ""
    profile: str = ""
    recipe: str = ""
    parameters: int = 0
    max_length: int = 0
    digest: str = ""
    forced: bool = False


@dataclass(frozen=True)
class Fidelity:
    """How near a variant's answers are to the PyTorch model's, from the manifest.

    Attributes:
        inputs: compared.
        max_abs: largest absolute difference.
        min_cosine, mean_cosine: docs/verification.md says over what.
        top1: share of equal arg-max answers, None where there are no classes.
    """

    inputs: int
    max_abs: float
    min_cosine: float
    mean_cosine: float
    top1: float | None = None


@dataclass(frozen=True)
class Result:
    """One variant at one number of threads, length and batch, measured in a process of its own.

    Attributes:
        variant, engine, precision: which model file; ``layout``: as in the manifest.
        file_mb: size of the variant's model files.
        tokens: of the longest text, special tokens included; 0 where a call takes arrays.
        batch: texts, or rows, of one call.
        threads: that the engine used; those asked for where it did not run.
        state: ``measured``, ``failed`` (installed, but it died or raised) or ``missing``.
        error: why there are no figures, empty if there are; ``hint``: what to do about it.
        cold_start_ms: from the start of the process to its first answer; model files in the
            page cache.
        import_ms: of ``edgeformer.runtime``, NumPy included.
        load_ms: ``load``: hashes, the engine's own import, model, self-test.
        first_run_ms: the first call.
        warmup_runs: calls before the samples; ``stable``: False if they never settled.
        samples_ms: every timed call, in order, text to answer.
        round_calls: how many of them each process made, where several did; the times of starting,
            loading and the first call are then medians over the processes.
        tokenize_ms: of the same calls, text to token ids; empty where a call takes arrays.
        model_ms: of the same calls, token ids to the program's outputs: padding, batching, the
            engine. Pooling is inside the program. Empty where a call takes arrays.
        cold_rss_mb: peak resident memory after the first answer; ``warm_rss_mb``,
            ``end_rss_mb``: resident memory before the first sample and after the last;
            ``peak_rss_mb``: the peak at the end.
        fidelity: None where the bundle was not verified.
        void_reasons: what took the CPU away while this was measured; empty if nothing did.
    """

    variant: str
    engine: str
    precision: str
    file_mb: float
    tokens: int = 0
    batch: int = 1
    threads: int = 0
    layout: str = ""
    state: str = "measured"
    error: str = ""
    hint: str = ""
    cold_start_ms: float = 0.0
    import_ms: float = 0.0
    load_ms: float = 0.0
    first_run_ms: float = 0.0
    warmup_runs: int = 0
    stable: bool = True
    samples_ms: tuple[float, ...] = ()
    round_calls: tuple[int, ...] = ()
    tokenize_ms: tuple[float, ...] = ()
    model_ms: tuple[float, ...] = ()
    cold_rss_mb: float = 0.0
    warm_rss_mb: float = 0.0
    end_rss_mb: float = 0.0
    peak_rss_mb: float = 0.0
    fidelity: Fidelity | None = None
    void_reasons: tuple[str, ...] = ()

    @property
    def measured(self) -> bool:
        """True if there are samples."""
        return self.state == "measured" and bool(self.samples_ms)

    @property
    def p50_ms(self) -> float:
        """Median of the samples."""
        return percentile(self.samples_ms, 50)

    @property
    def p90_ms(self) -> float:
        """90 % of the samples are at most this."""
        return percentile(self.samples_ms, 90)

    @property
    def p95_ms(self) -> float:
        """95 % of the samples are at most this."""
        return percentile(self.samples_ms, 95)

    @property
    def p99_ms(self) -> float:
        """99 % of the samples are at most this; of fewer than 100 samples, nearly the largest."""
        return percentile(self.samples_ms, 99)

    @property
    def round_p50_ms(self) -> tuple[float, ...]:
        """Median of the samples of each process; empty where one made them all."""
        ends = list(accumulate(self.round_calls, initial=0))
        return tuple(median(self.samples_ms[a:b]) for a, b in pairwise(ends))

    @property
    def round_spread(self) -> float:
        """How far the medians of the processes lie apart, as a share of their median."""
        medians = self.round_p50_ms
        return (max(medians) - min(medians)) / median(medians) if any(medians) else 0.0

    @property
    def mean(self) -> Interval:
        """Mean of the samples with its bootstrap interval, in ms."""
        return mean_interval(self.samples_ms)

    @property
    def per_second(self) -> float:
        """Texts of all timed calls over their time, one call after the other."""
        total_ms = sum(self.samples_ms)
        return 1000 * len(self.samples_ms) * self.batch / total_ms if total_ms else 0.0

    @property
    def growth_mb(self) -> float:
        """Growth of resident memory from the first sample to the last."""
        return self.end_rss_mb - self.warm_rss_mb

    @property
    def stages(self) -> dict[str, float]:
        """Medians in ms of ``tokenize``, ``model`` and ``answer`` (the rest: labels, spans,
        copying); empty where a call takes arrays."""
        if not self.tokenize_ms:
            return {}
        parts = zip(self.samples_ms, self.tokenize_ms, self.model_ms, strict=True)
        answer = [total - tokenize - model for total, tokenize, model in parts]
        return {
            "tokenize": median(self.tokenize_ms),
            "model": median(self.model_ms),
            "answer": median(answer),
        }


@dataclass(frozen=True)
class OperationTime:
    """What one kind of operation takes in one layer, per call.

    Attributes:
        layer: ``embeddings``, ``layer 1``, ... or ``head``; ``model`` where no layers were found.
        operation: ``linear``, ``attention``, ``recurrent``, ``norm``, ``activation``,
            ``embedding``, ``elementwise``, ``layout``, ``quantize`` or ``around``
            (docs/benchmark.md says what is what).
        time_ms: per call.
        steps: operations of that kind, as the engine runs them.
        flops: of products, two per multiply-add.
        bytes_moved: inputs, weights and outputs, each once.
    """

    layer: str
    operation: str
    time_ms: float
    steps: int
    flops: float = 0.0
    bytes_moved: float = 0.0


@dataclass(frozen=True)
class Profile:
    """Where the time of one call of an engine goes.

    Attributes:
        variant, engine, precision, tokens, batch, threads: as in Result.
        state, error, hint: as in Result; ``missing``: this engine gives no profile here.
        source: what kept the time.
        runs: profiled calls.
        whole_ms: the engine's call without the profiler: mean of the fastest three quarters, as
            for every step.
        profiled_ms: the same call under the profiler.
        clock_ms: what the profiler itself added to each step; already subtracted.
        rows: layer by layer, in the order in which they run.
        note: what to know when reading it.
        void_reasons: as in Result.
    """

    variant: str
    engine: str
    precision: str
    tokens: int
    batch: int
    threads: int
    state: str = "measured"
    error: str = ""
    hint: str = ""
    source: str = ""
    runs: int = 0
    whole_ms: float = 0.0
    profiled_ms: float = 0.0
    clock_ms: float = 0.0
    rows: tuple[OperationTime, ...] = ()
    note: str = ""
    void_reasons: tuple[str, ...] = ()

    @property
    def attributed_ms(self) -> float:
        """Sum of the rows."""
        return sum(row.time_ms for row in self.rows)

    @property
    def not_attributed_ms(self) -> float:
        """``whole_ms`` less the rows: what the engine does around its steps; negative where the
        profiler slows the steps themselves."""
        return self.whole_ms - self.attributed_ms


@dataclass(frozen=True)
class Roofline:
    """What this machine can do at best, measured with NumPy's BLAS.

    Attributes:
        threads: used.
        gflops: of a float32 matrix product, in 1e9 operations per second.
        gb_per_second: of a copy, bytes read and written, in 1e9 bytes per second.
        product_size, copy_mb: what was multiplied and copied.
        blas: library that multiplied.
    """

    threads: int
    gflops: float
    gb_per_second: float
    product_size: int
    copy_mb: float
    blas: str = ""

    def floor_ms(self, row: OperationTime) -> float:
        """No float32 code can take less than this for ``row`` (Williams et al. 2009)."""
        compute = row.flops / (self.gflops * 1e9) if self.gflops else 0.0
        memory = row.bytes_moved / (self.gb_per_second * 1e9) if self.gb_per_second else 0.0
        return 1000 * max(compute, memory)


@dataclass(frozen=True)
class Accuracy:
    """How well a variant does a task; what ``edgeformer eval`` finds.

    Attributes:
        variant: id, or ``pytorch`` for the model it was made from.
        dataset, metric: names; the metric is one where more is better.
        value: of the metric.
        low, high: its 95 % interval, None where unknown.
        examples: number of them.
    """

    variant: str
    dataset: str
    metric: str
    value: float
    examples: int = 0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ExitHistogram:
    """After which layer texts left a model with early exits.

    Attributes:
        variant, dataset: what ran on what.
        layers: ascending, the last is the whole model.
        texts: that left after each.
        threshold: of the exit rule, as it was set.
    """

    variant: str
    dataset: str
    layers: tuple[int, ...]
    texts: tuple[int, ...]
    threshold: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that was measured of one bundle on one machine.

    Attributes:
        bundle: what was measured.
        workload: what a call was: ``text`` (the task's verb, tokenizing included) or ``arrays``
            (``run`` on a golden input).
        results: every variant, number of threads, length and batch.
        versions: of EdgeFormer and the engines.
        environment: variables that change speed.
        machine, start, end: what it is, and its state before and after.
        profiles, roofline: with ``--per-layer``.
        accuracy, exits: from an evaluation.
        notes: what makes the figures less than trustworthy.
        void_reasons: what makes them void: throttling, or other work on the CPUs.
        host: name of the board and how it was reached, where it was measured over ssh; else empty.
    """

    bundle: BundleFacts
    workload: str
    results: tuple[Result, ...]
    machine: Machine
    start: MachineState
    end: MachineState
    versions: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()
    roofline: tuple[Roofline, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    exits: tuple[ExitHistogram, ...] = ()
    notes: tuple[str, ...] = ()
    void_reasons: tuple[str, ...] = ()
    host: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def void(self) -> bool:
        """True if the figures must not be quoted."""
        return bool(self.void_reasons)

    @property
    def measured(self) -> tuple[Result, ...]:
        """The results that have samples."""
        return tuple(result for result in self.results if result.measured)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the derived figures beside the samples."""
        data = asdict(self)
        data["void"] = self.void
        for row, result in zip(data["results"], self.results, strict=True):
            row["void"] = bool(result.void_reasons)
            if result.measured:
                row.update(_derived(result))
        for row, profile in zip(data["profiles"], self.profiles, strict=True):
            row["not_attributed_ms"] = profile.not_attributed_ms
            row["void"] = bool(profile.void_reasons)
        return data


def _derived(result: Result) -> dict[str, Any]:
    mean = result.mean
    return {
        "p50_ms": result.p50_ms,
        "p90_ms": result.p90_ms,
        "p95_ms": result.p95_ms,
        "p99_ms": result.p99_ms,
        "mean_ms": mean.mean,
        "mean_low_ms": mean.low,
        "mean_high_ms": mean.high,
        "round_p50_ms": list(result.round_p50_ms),
        "round_spread": result.round_spread,
        "per_second": result.per_second,
        "growth_mb": result.growth_mb,
        "stages_ms": result.stages,
    }


def dump_report(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n"


def parse_report(text: str | bytes, name: str = "the report") -> Report:
    """Read report.json.

    Args:
        text: of the file.
        name: of the file, for messages.

    Raises:
        DataError: not a report, another schema, or a field that cannot be.
    """

    def refuse(what: str) -> NoReturn:
        raise DataError(
            f"{name} is not a report: {what}",
            hint="give a file that `edgeformer benchmark BUNDLE --report FILE.json` wrote",
        )

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse(f"a number is {text[:20]}")
        return value

    try:
        data = json.loads(text, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        refuse(f"it is not JSON ({error})")
    if not isinstance(data, dict) or type(data.get("schema_version")) is not int:
        refuse("it has no schema_version")
    if data["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"{name} has schema {data['schema_version']}, this EdgeFormer reads {SCHEMA_VERSION}",
            hint="measure again with this version, or read it with the version that wrote it",
        )
    try:
        report: Report = build(Report, data, "report", refuse, open_fields=True)
    except OverflowError:
        refuse("a number is too large")
    _check(report, refuse)
    return report


def _check(report: Report, refuse: Any) -> None:
    """What has the right types can still be nonsense that a view would stumble over."""
    for result in report.results:
        where = f"the result of {result.variant!r}"
        if result.state not in STATES:
            refuse(f"{where} has the state {result.state!r}")
        if result.state == "measured" and not result.samples_ms:
            refuse(f"{where} has no samples")
        stages = (result.tokenize_ms, result.model_ms)
        if any(times and len(times) != len(result.samples_ms) for times in stages):
            refuse(f"{where} has stages of other calls than its samples")
        if bool(result.tokenize_ms) != bool(result.model_ms):
            refuse(f"{where} has one stage without the other")
        rounds = result.round_calls
        if rounds and (min(rounds) < 1 or sum(rounds) != len(result.samples_ms)):
            refuse(f"{where} has rounds of other calls than its samples")
        if min(*result.samples_ms, 0.0, result.batch - 1, result.tokens) < 0:
            refuse(f"{where} has a negative figure")
    for exits in report.exits:
        if len(exits.layers) != len(exits.texts) or min(exits.texts, default=0) < 0:
            refuse(f"the exits of {exits.variant!r} do not fit their layers")
