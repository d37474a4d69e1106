"""The inside of a measured comparison: one bundle in a process that does nothing else.

``edgeformer.comparison.race`` starts it and asks: first to open, then for calls, round after round.
It answers only when its threads have come to rest. Nothing is imported before the clock runs that
the load time should cover.
"""

import time
from collections.abc import Callable
from typing import Any

from edgeformer.benchmarking.worker import make_call, timed_ms
from edgeformer.isolation import rest, serve_each
from edgeformer.machine import peak_rss_mb

_calls: list[Callable[[], Any]] = []


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """``{"open": ...}`` opens and calls once; ``{"calls": n}`` gives the ms of n calls."""
    if "open" in request:
        return _open(**request["open"])
    times_ms = [timed_ms(_calls[0]) for _ in range(request["calls"])]
    rest()
    return {"ms": times_ms, "peak_rss_mb": peak_rss_mb()}


def _open(path: str, engine: str, threads: int | None, workload: dict[str, Any]) -> dict[str, Any]:
    clock = time.perf_counter
    begin = clock()
    from edgeformer.runtime import load

    model = load(path, engine, threads)  # stays open for the life of the process
    loaded = clock()
    call = make_call(model, path, workload)
    prepared = clock()
    call()
    answered = clock()
    _calls.append(call)
    rest()
    return {
        "variant": "+".join(model.last_call.variants),
        "threads": model.threads,
        "load_ms": (loaded - begin) * 1000,
        "first_answer_clock": answered - (prepared - loaded),
        "first_ms": (answered - prepared) * 1000,
    }


if __name__ == "__main__":
    serve_each(answer)
