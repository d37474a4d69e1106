"""A lock for engines that run one call at a time, for callers that compute around it in Python."""

import threading
import time
from collections import deque

_GRANT_SECONDS = 1e-5  # long enough for the next caller to wake up


class Turns:
    """``with turns:`` runs one caller after the other.

    Whoever leaves while others wait steps back for a moment. Otherwise it would hold on to the
    interpreter's lock, with the Python work after its call and before its next one, while the next
    caller has the turn but cannot start the engine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[None] = deque()

    def __enter__(self) -> None:
        if self._lock.acquire(blocking=False):
            return
        self._waiting.append(None)
        self._lock.acquire()
        self._waiting.pop()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
        if self._waiting:
            time.sleep(_GRANT_SECONDS)
