"""The inside of a benchmark: one variant, measured in this process, which does nothing else.

``benchmark`` starts it (``python -m edgeformer.benchmarking.worker``), sends the request as JSON on
stdin and reads the figures as JSON from stdout. Nothing is imported before the clock runs that the
import time should cover.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeformer.isolation import serve
from edgeformer.machine import peak_rss_mb, rss_mb

if TYPE_CHECKING:
    from edgeformer.runtime.model import Model

MIN_SAMPLES, MAX_SAMPLES, SAMPLE_SECONDS = 20, 300, 3.0  # of all processes of one figure
# Warm-up ends when the median of one window of runs is within this share of the one before.
WINDOW_RUNS, STABLE_SHARE, WARMUP_SECONDS = 5, 0.05, 3.0
_DIGITS = 5  # of a time in ms: 10 ns


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: import, load, first call, warm-up, samples."""
    clock = time.perf_counter
    begin = clock()
    from edgeformer.runtime import load

    imported = clock()
    workload = request["workload"]
    with load(request["path"], request["variant"], request["threads"]) as model:
        loaded = clock()
        call = make_call(model, request["path"], workload)
        prepared = clock()
        call()
        answered = clock()
        cold_rss_mb = peak_rss_mb()
        warmup_runs, stable = warm_up(call)
        warm_rss_mb = rss_mb()
        stages = _Stages(model) if workload["kind"] == "text" else None
        samples_ms = _samples(call, request["iterations"], stages, request["rounds"])
        return {
            "threads": model.threads,
            "first_answer_clock": answered - (prepared - loaded),
            "import_ms": (imported - begin) * 1000,
            "load_ms": (loaded - imported) * 1000,
            "first_run_ms": (answered - prepared) * 1000,
            "warmup_runs": warmup_runs,
            "stable": stable,
            "samples_ms": [round(value, _DIGITS) for value in samples_ms],
            "tokenize_ms": stages.tokenize_ms if stages else [],
            "model_ms": stages.model_ms if stages else [],
            "cold_rss_mb": cold_rss_mb,
            "warm_rss_mb": warm_rss_mb,
            "end_rss_mb": rss_mb(),
            "peak_rss_mb": peak_rss_mb(),
        }


class _Stages:
    """Collects after each call what the model says of its stages."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        self.tokenize_ms: list[float] = []
        self.model_ms: list[float] = []

    def __call__(self) -> None:
        call = self._model.last_call
        self.tokenize_ms.append(round(call.tokenize_seconds * 1000, _DIGITS))
        self.model_ms.append(round(call.model_seconds * 1000, _DIGITS))


def make_call(model: "Model", path: str, workload: dict[str, Any]) -> Callable[[], Any]:
    """The call to time: the task's verb on the texts, or ``run`` on the golden input."""
    texts = workload["texts"]
    if workload["kind"] == "text":
        from edgeformer.benchmarking.workload import question_and_context
        from edgeformer.runtime.model import VERBS

        task = model.manifest.model.task
        if task == "question-answering":
            questions, contexts = map(list, zip(*map(question_and_context, texts), strict=True))
            return lambda: model.answer(questions, contexts)
        verb = getattr(model, VERBS[task])
        return lambda: verb(texts)
    inputs = golden_inputs(path, model.variant.programs["main"].inputs)
    return lambda: model.run(**inputs)


def golden_inputs(path: str, ports: Sequence[Any]) -> dict[str, Any]:
    """The first golden input as arrays of the ports' dtypes."""
    import numpy as np

    from edgeformer.runtime.bundle import open_bundle
    from edgeformer.runtime.golden import parse_golden

    with open_bundle(path) as bundle:
        case = parse_golden(bundle.read(bundle.manifest.golden))[0]
    dtypes = {port.name: port.dtype for port in ports}
    return {name: np.asarray(value, dtypes[name]) for name, value in case.inputs.items()}


def timed_ms(call: Callable[[], Any]) -> float:
    """How long ``call`` takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def warm_up(call: Callable[[], Any]) -> tuple[int, bool]:
    """Call until two windows in a row have nearly the same median; (calls, settled)."""
    deadline = time.perf_counter() + WARMUP_SECONDS
    before, runs = 0.0, 0
    while True:
        now = statistics.median(timed_ms(call) for _ in range(WINDOW_RUNS))
        runs += WINDOW_RUNS
        if abs(now - before) <= STABLE_SHARE * before:
            return runs, True
        if runs > WINDOW_RUNS and time.perf_counter() > deadline:
            return runs, False
        before = now


def _samples(
    call: Callable[[], Any],
    iterations: int | None,
    after: Callable[[], None] | None = None,
    rounds: int = 1,
) -> list[float]:
    """One of ``rounds`` shares of the timed calls; ``after`` is called after each, outside of its
    time."""
    samples: list[float] = []
    deadline = time.perf_counter() + SAMPLE_SECONDS / rounds
    while _more(len(samples) * rounds, iterations, deadline):
        samples.append(timed_ms(call))
        if after:
            after()
    return samples


def _more(done: int, iterations: int | None, deadline: float) -> bool:
    if iterations is not None:
        return done < iterations
    return done < MIN_SAMPLES or (done < MAX_SAMPLES and time.perf_counter() < deadline)


if __name__ == "__main__":
    serve(measure)
