"""How long each segment takes on this device, for texts of any length: what a deadline goes by.

    times = SegmentTimes(run)                  # run(batch, leave), as Engine.encode_exits
    times.at(23, longest=512)                  # seconds that each segment hardly ever exceeds
    times.note(23, 512, before, taken, rest)   # what a call took before, in and after its segments

1. Medians are measured when a length is first asked for, at two lengths around it.
2. In use a segment takes another time: caches are cold, memory is laid out for each length anew,
   the machine is hot or busy. What the latest segments took by their medians is kept, and a median
   is multiplied by the ratio that one in 200 of them exceeds. Before there are enough of them, by
   ``_FIRST_RATIO`` at least.
3. The ratio is at most twice the middle one: what took longer was interrupted by other programs for
   some milliseconds, many segments' time, and no reserve can foresee that.
4. What follows the last segment (probabilities, labels) is kept in the same way, in seconds.

So a text that goes on because a segment just fits is late once in 200 times, and most have time to
spare; of the one in a hundred that may be late, half is left to interruptions. The ratios follow a
machine that becomes busy, and one that becomes idle again: the first segment of every text is among
them.
"""

import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.exiting import Leave

LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WARM_UPS = 2  # a first run binds or compiles
RUNS = 9
ENOUGH, LATEST = 100, 600  # values that a quantile is of, at least and at most
_ABOVE = 200  # one in so many exceeds it
_MOST = 2.0  # times the middle one
_FIRST_RATIO = 1.5
_FIRST_REST = 2e-4  # seconds

Run = Callable[[RaggedBatch, Leave], Any]


def measured_lengths(longest: int) -> tuple[int, ...]:
    """Lengths in tokens at which segments of a model that takes ``longest`` are measured."""
    return (*(n for n in LENGTHS if n < longest), longest)


class HighValue:
    """What one in 200 of the latest values exceeds, or twice their median if that is less."""

    def __init__(self, first: float) -> None:
        """``first`` is the least that ``value`` is before there are ``ENOUGH`` values."""
        self._first = first
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take the newest value in; the oldest of ``LATEST`` goes."""
        self._latest.append(value)
        insort(self._sorted, value)
        if len(self._latest) > LATEST:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    @property
    def median(self) -> float | None:
        """The middle one of the latest values, None before the first."""
        return self._sorted[len(self._sorted) // 2] if self._sorted else None

    @property
    def value(self) -> float:
        """The quantile, of few values rather their largest."""
        if self.median is None:
            return self._first
        count = len(self._sorted)
        found = min(self._sorted[count - 1 - count // _ABOVE], _MOST * self.median)
        return found if count >= ENOUGH else max(found, self._first)


class SegmentTimes:
    """Measures with ``run``; thread-safe."""

    def __init__(self, run: Run, known: Mapping[int, Sequence[float]] | None = None) -> None:
        """Start with nothing measured but what is known.

        Args:
            run: runs a batch of one text.
            known: by length in tokens, medians that were measured before, in seconds.
        """
        self._run = run
        self._known = {n: np.array(row, np.float64) for n, row in (known or {}).items()}
        self._ratio, self._rest = HighValue(_FIRST_RATIO), HighValue(_FIRST_REST)
        self._before = HighValue(0.0)
        self._lock = threading.Lock()

    @property
    def rest(self) -> float:
        """Seconds that what follows the last segment hardly ever exceeds."""
        return self._rest.value

    def at(self, length: int, longest: int) -> tuple[float, ...]:
        """Seconds that each segment of a text hardly ever exceeds.

        Args:
            length: tokens of the text.
            longest: most tokens that the model takes.
        """
        ratio = self._ratio.value
        return tuple(seconds * ratio for seconds in self._medians(length, longest))

    def least(self, length: int, longest: int) -> float:
        """Seconds that a call usually takes whose text leaves after the first segment. Arguments as
        of ``at``."""
        first = self._medians(length, longest)[0] * (self._ratio.median or 1.0)
        return (self._before.median or 0.0) + first + (self._rest.median or 0.0)

    def _medians(self, length: int, longest: int) -> list[float]:
        """What lies between those of the next shorter and the next longer length measured."""
        lengths = measured_lengths(longest)
        place = min(bisect_left(lengths, length), len(lengths) - 1)
        high, low = lengths[place], lengths[max(place - 1, 0)]
        slow = self._measured(high)
        if low >= high or length >= high:
            return [float(seconds) for seconds in slow]
        share = max(0.0, (length - low) / (high - low))
        between = self._measured(low) * (1 - share) + slow * share
        return [float(seconds) for seconds in between]

    def note(
        self, length: int, longest: int, before: float, taken: Sequence[float], rest: float
    ) -> None:
        """Learn from a text that is answered.

        Args:
            length, longest: as of ``at``.
            before: seconds until it was tokenized.
            taken: seconds of the segments it went through, from the first on.
            rest: seconds from their end to the answer.
        """
        medians = self._medians(length, longest)
        with self._lock:
            for seconds, median in zip(taken, medians, strict=False):
                self._ratio.add(seconds / median)
            self._before.add(before)
            self._rest.add(rest)

    def measured(self, length: int) -> tuple[float, ...]:
        """Medians of each segment in seconds, for one of ``measured_lengths``."""
        return tuple(float(seconds) for seconds in self._measured(length))

    def _measured(self, length: int) -> NDArray[np.float64]:
        with self._lock:
            if length not in self._known:
                runs = [self._once(length) for _ in range(WARM_UPS + RUNS)]
                self._known[length] = np.median(runs[WARM_UPS:], axis=0)
            return self._known[length]

    def _once(self, length: int) -> NDArray[np.float64]:
        """Seconds of each segment, what the engine does between two of them included."""
        timed = TimedText(lambda segment, texts, logits: np.zeros(len(texts), np.bool_))
        zeros = np.zeros(length, np.int32)
        self._run(RaggedBatch(zeros, zeros, np.array([0, length], np.intp)), timed.leave)
        return np.diff([*timed.marks, time.perf_counter()])


class TimedText:
    """One text on its way through the segments: notes when ``leave`` was asked.

    Attributes:
        marks: times on ``time.perf_counter``: of the start, and of the end of each segment but the
            last one.
    """

    def __init__(self, leave: Leave) -> None:
        """It starts now."""
        self._leave = leave
        self.marks = [time.perf_counter()]

    def leave(self, segment: int, texts: NDArray[np.intp], logits: NDArray[Any]) -> Any:
        """See ``exiting.Leave``."""
        self.marks.append(time.perf_counter())
        return self._leave(segment, texts, logits)
