"""One parallel kernel at a time: numba's simplest threading layer ends the process when two threads launch one together."""

from __future__ import annotations

import threading

import numba

LOCK = threading.Lock()
"""Held by every face while its parallel kernel runs."""


def threads() -> int:
    """Threads that a kernel uses, and other parallel code beside it should."""
    return int(numba.get_num_threads())
