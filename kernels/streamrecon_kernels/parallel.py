"""The threads of the kernels.

A kernel runs on all cores, one at a time: numba's simplest threading layer ends the process when two threads launch one
together. Or there are several pieces of work, one for each core, and every kernel within runs on one: cores then wait for each
other once for all of it and not after every kernel, which takes as long as a small kernel.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
import threading
import types
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

# Idle threads sleep: libgomp's would spin for a while after every kernel, on the cores that FFTs between the kernels and other
# threads and processes of a scan need (seen: FFTs half again to twice as slow). It has to be said before libgomp is loaded; who
# has said otherwise is left alone.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba

LOCK = threading.Lock()
"""Held while a kernel runs on all cores."""

_worker = threading.local()

Item = TypeVar("Item")


def threads() -> int:
    """Threads that a kernel uses here, and other parallel code beside it should: 1 within `each`."""
    return 1 if getattr(_worker, "alone", False) else int(numba.get_num_threads())


class Kernel:
    """A compiled loop, for all cores and for one.

    Parameters
    ----------
    function
        Its text, with `numba.prange` for the loop that cores share.
    options
        Of `numba.njit`.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.py_func, self.targetoptions = function, options
        self._together = numba.njit(parallel=True, **options)(function)
        # Of another name, or numba's cache would take one for the other.
        name = f"{function.__name__}_alone"
        alone = types.FunctionType(function.__code__, function.__globals__, name)
        alone.__module__, alone.__qualname__ = function.__module__, name
        self._alone = numba.njit(**options)(alone)

    @property
    def compiled(self) -> bool:
        """Whether it is in the cache as it will be called here, on one core and on all: else that takes seconds, and memory."""
        return all(map(_cached, self._variants))

    def complete(self) -> None:
        """Compile for all cores what was called on one, and the other way round: a scan has no seconds to wait for it."""
        for one, other in itertools.permutations(self._variants, 2):
            for signature in one.signatures:
                other.compile(signature)

    @property
    def _variants(self) -> list[Any]:
        """With one thread there is one."""
        return [self._alone, self._together] if threads() > 1 else [self._alone]

    def __call__(self, *arguments: Any) -> Any:
        if threads() == 1:
            return self._alone(*arguments)
        with LOCK:
            return self._together(*arguments)


def _cached(function: Any) -> bool:
    """Whether numba's cache holds something compiled from this text; an index may be left of an older one."""
    file = getattr(getattr(function, "_cache", None), "_cache_file", None)
    return file is not None and bool(file._load_index())


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a `Kernel` of a function; `options` of `numba.njit` besides those that all have."""
    common = {"nogil": True, "error_model": "numpy", "cache": True}
    return lambda function: Kernel(function, common | options)


def each(task: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a task for each item, on as many threads as kernels have, and every kernel within on one.

    Raises
    ------
    Exception
        The first one that a task raises; tasks that have not begun by then are left.
    """
    pieces, workers = collections.deque(items), threads()
    if workers == 1 or len(pieces) < 2:
        for piece in pieces:
            task(piece)
        return

    errors: list[BaseException] = []

    def work() -> None:
        """Take pieces until none is left."""
        _worker.alone = True
        try:
            while True:
                try:
                    piece = pieces.popleft()
                except IndexError:
                    return
                task(piece)
        except BaseException as error:
            pieces.clear()
            errors.append(error)
        finally:
            _worker.alone = False

    # This thread works, too: every thread less to be woken is time won.
    others: list[concurrent.futures.Future[None]] = []
    try:
        for _ in range(min(workers, len(pieces)) - 1):
            others.append(_pool(workers).submit(work))
        work()
    finally:
        pieces.clear()
        concurrent.futures.wait(others)
    if errors:
        raise next((error for error in errors if not isinstance(error, AbandonedError)), errors[0])


class AbandonedError(RuntimeError):
    """A piece that another one waited for has failed; `each` raises why."""


class Gate:
    """Opens when so many pieces of work are through: `with gate` around each of them, `gate.wait()` in those that need them.

    A piece that waits must come after those that it waits for among the items of `each`: then they have been begun.
    """

    def __init__(self, pieces: int) -> None:
        self._left = itertools.count(pieces - 1, -1)
        self._open = threading.Event()
        self._failed = False

    def wait(self) -> None:
        """Wait until it is open.

        Raises
        ------
        AbandonedError
            If one of the pieces before has failed.
        """
        self._open.wait()
        if self._failed:
            raise AbandonedError("a piece of work that this one needs has failed")

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._failed = self._failed or kind is not None
        if next(self._left) == 0 or self._failed:
            self._open.set()


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "streamrecon-kernels")
