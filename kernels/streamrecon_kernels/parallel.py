"""The threads of the kernels.

One parallel kernel at a time: numba's simplest threading layer ends the process when two threads launch one together. And
threads that have nothing to do sleep: libgomp's would spin for a while after every kernel, on the cores that the FFTs between
the kernels and the other threads and processes of a scan need (seen: FFTs twice as slow). That has to be said before libgomp
is loaded; who has said otherwise is left alone.
"""

from __future__ import annotations

import os
import threading

import numba

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

LOCK = threading.Lock()
"""Held by every face while its parallel kernel runs."""


def threads() -> int:
    """Threads that a kernel uses, and other parallel code beside it should."""
    return int(numba.get_num_threads())
