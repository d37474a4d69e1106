"""What this machine can do at best: a matrix product and a copy, both with NumPy.

    measure({"threads": 2})        # {"gflops": 95.1, "gb_per_second": 18.2, ...}

The best of many tries counts: a roofline is a limit, not an average. An int8 product can be faster
than the float32 one measured here; NumPy has none that could be timed.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from edgeformer.isolation import serve

PRODUCT_SIZE = 512
COPY_MB = 64.0
_SECONDS = 0.4
_TRIES = 5


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """In a worker: the figures of ``report.layer_times.Roofline``."""
    import numpy as np

    from edgeformer.machine import describe_machine, read_state
    from edgeformer.runtime.blas import blas_threads

    threads = int(request["threads"])
    a = np.ones((PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    out = np.empty_like(a)
    with blas_threads(threads):
        seconds = _best(lambda: np.matmul(a, a, out=out))
    # Both arrays must fit beside everything else, on a small board too.
    copy_mb = min(COPY_MB, max(4.0, read_state().available_memory_mb / 8))
    source = np.zeros(int(copy_mb * 1e6) // 4, np.float32)
    target = np.empty_like(source)
    target[:] = source
    copy_seconds = _best(lambda: _copy(source, target, threads))
    return {
        "threads": threads,
        "gflops": 2 * PRODUCT_SIZE**3 / seconds / 1e9,
        "gb_per_second": 2 * source.nbytes / copy_seconds / 1e9,
        "product_size": PRODUCT_SIZE,
        "copy_mb": copy_mb,
        "blas": describe_machine().blas,
    }


def _best(call: Callable[[], Any]) -> float:
    """The shortest time of a call, in seconds."""
    deadline, best, tries = time.perf_counter() + _SECONDS, float("inf"), 0
    while tries < _TRIES or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        tries += 1
    return best


def _copy(source: Any, target: Any, threads: int) -> None:
    """Each thread its part; NumPy lets go of the interpreter's lock while it copies."""
    bounds = [len(source) * k // threads for k in range(threads + 1)]

    def part(k: int) -> None:
        target[bounds[k] : bounds[k + 1]] = source[bounds[k] : bounds[k + 1]]

    others = [threading.Thread(target=part, args=(k,)) for k in range(1, threads)]
    for thread in others:
        thread.start()
    part(0)
    for thread in others:
        thread.join()


if __name__ == "__main__":
    serve(measure)
