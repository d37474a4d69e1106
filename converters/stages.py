"""Stages of a long work: their names, their seconds, and the memory it all needed."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Stage:
    """A stage of the conversion; ``seconds`` is None when it starts."""

    name: str
    seconds: float | None = None


class Stages:
    """Times the stages of a conversion and tells ``progress`` of each start and end."""

    def __init__(self, progress: Callable[[Stage], None] | None = None) -> None:
        self._progress = progress
        self.done: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        if self._progress:
            self._progress(Stage(name))
        yield
        finished = Stage(name, time.perf_counter() - start)
        self.done.append(finished)
        if self._progress:
            self._progress(finished)


def peak_rss_mb() -> float:
    """Peak resident set of this process or its largest child, in MB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(w).ru_maxrss for w in who) * 1024 / 1e6


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Short texts gain little from more, and on a busy host waiting threads cost tenfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
