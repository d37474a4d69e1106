"""How long each segment takes on this device, for texts of any length.

    times = SegmentTimes(run)                  # run(batch, leave), as Engine.encode_exits
    times.at(23, longest=512)                  # seconds of each segment for 23 tokens

Measured when first asked for, at two lengths around the text's, and kept.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.exiting import Leave

LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WARM_UPS = 2  # a first run binds or compiles
RUNS = 8
# Of the runs the second slowest counts: a deadline is kept by those that are slower than most, and
# the slowest may have been the operating system.
_RANK = -2
# Among other work, with cold caches, segments took up to a fifth longer than several runs in a row.
_MARGIN = 1.25

Run = Callable[[RaggedBatch, Leave], Any]


class SegmentTimes:
    """Measures with ``run``; thread-safe."""

    def __init__(self, run: Run) -> None:
        """Nothing is measured yet; ``run`` runs a batch of one text."""
        self._run = run
        self._known: dict[int, NDArray[np.float64]] = {}
        self._lock = threading.Lock()

    def at(self, length: int, longest: int) -> tuple[float, ...]:
        """Seconds of each segment for a text.

        Args:
            length: tokens of the text.
            longest: most tokens that the model takes.

        Returns:
            what lies between the times of the next shorter and the next longer length measured.
        """
        lengths = (*(n for n in LENGTHS if n < longest), longest)
        place = min(bisect_left(lengths, length), len(lengths) - 1)
        high, low = lengths[place], lengths[max(place - 1, 0)]
        slow = self._measured(high)
        if low >= high or length >= high:
            return tuple(slow.tolist())
        share = max(0.0, (length - low) / (high - low))
        return tuple((self._measured(low) * (1 - share) + slow * share).tolist())

    def _measured(self, length: int) -> NDArray[np.float64]:
        with self._lock:
            if length not in self._known:
                runs = [self._once(length) for _ in range(WARM_UPS + RUNS)]
                self._known[length] = np.sort(runs[WARM_UPS:], axis=0)[_RANK] * _MARGIN
            return self._known[length]

    def _once(self, length: int) -> NDArray[np.float64]:
        """Seconds of each segment, what the engine does between two of them included."""
        marks = [time.perf_counter()]

        def note(segment: int, texts: NDArray[np.intp], logits: NDArray[Any]) -> NDArray[np.bool_]:
            marks.append(time.perf_counter())
            return np.zeros(len(texts), np.bool_)

        zeros = np.zeros(length, np.int32)
        self._run(RaggedBatch(zeros, zeros, np.array([0, length], np.intp)), note)
        marks.append(time.perf_counter())
        return np.diff(marks)
