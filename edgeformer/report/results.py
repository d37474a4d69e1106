"""Records of a report: what one variant took at one workload, and the figures that follow."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from edgeformer.report.statistics import Interval, mean_interval, median, percentile

STATES = ("measured", "failed", "missing")


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


def derived_figures(result: Result) -> dict[str, Any]:
    """What follows from the record of a measured variant, for its JSON."""
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


def check_result(result: Result, refuse: Callable[[str], Any]) -> None:
    """Call ``refuse`` with what has the right types, and a view would stumble over."""
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
