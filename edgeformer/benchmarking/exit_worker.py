"""The inside of a benchmark of exits: one variant in this process, which does nothing else.

``benchmark`` starts it (``python -m edgeformer.benchmarking.exit_worker``), as it does worker.py.
"""

import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from edgeformer.isolation import serve

MIN_ROUNDS, MAX_ROUNDS, SECONDS = 3, 30, 3.0  # through all texts, of all processes of one figure


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """In the worker: where the texts leave, and how long they take."""
    from edgeformer.benchmarking.exit_times import time_exits
    from edgeformer.runtime import load

    texts, pairs, rule = request["texts"], request["pairs"], request["rule"]
    with load(request["path"], request["variant"], request["threads"]) as model:
        answers = model.classify(texts, pairs, exit=rule)
        left = Counter(labels[0].exit_layer for labels in answers)
        table = model.variant.exits
        assert table is not None  # else the request had not been made
        pace = _Pace(request["iterations"], request["rounds"])
        times = time_exits(model, texts, pairs, rule, more=pace.more)
        counts = [left[layer] for layer in table.layers]
        return {"layers": table.layers, "texts": counts, "times": asdict(times)}


class _Pace:
    """This process's share of the rounds: so many, or what the time allows."""

    def __init__(self, iterations: int | None, processes: int) -> None:
        self._iterations = iterations
        self._processes = processes
        self._deadline: float | None = None

    def more(self, done: int) -> bool:
        """Whether there is another round after ``done``, one at least."""
        if self._deadline is None:
            self._deadline = time.perf_counter() + SECONDS / self._processes
        all_done = done * self._processes
        if self._iterations is not None:
            return all_done < self._iterations
        in_time = time.perf_counter() < self._deadline
        return all_done < MIN_ROUNDS or (all_done < MAX_ROUNDS and in_time)


if __name__ == "__main__":
    serve(measure)
