"""The time by which the other end is waited for."""

from __future__ import annotations

import threading
import time

LONGEST = 1.0
"""Seconds between two looks that count in full."""


class Clock:
    """Seconds, monotonic, in which this process was there to listen; one of its threads must look often.

    Where it was not, as the machine slept or the process was stopped, the other end could have said what it wanted: its answer
    may be waiting to be read. So a long time without a look counts as a second.
    """

    def __init__(self) -> None:
        self._lock, self._last, self._left_out = threading.Lock(), time.monotonic(), 0.0

    def now(self) -> float:
        """Look."""
        with self._lock:
            now = time.monotonic()
            self._left_out += max(0.0, now - self._last - LONGEST)
            self._last = now
            return now - self._left_out
