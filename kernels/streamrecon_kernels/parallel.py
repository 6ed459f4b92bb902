"""The threads of the kernels.

A kernel runs on all cores, one at a time: numba's simplest threading layer ends the process when two threads launch one
together. Or there are several pieces of work, one for each core, and every kernel within runs on one: cores then wait for each
other once for all of it and not after every kernel, which takes as long as a small kernel.
"""

from __future__ import annotations

import collections
import itertools
import os
import queue
import threading
import types
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

# Idle threads sleep: libgomp's would spin for a while after every kernel, on the cores that FFTs between the kernels and other
# threads and processes of a scan need (seen: FFTs half again to twice as slow). It has to be said before libgomp is loaded; who
# has said otherwise is left alone.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numba
from numba.np.ufunc.parallel import threading_layer

LOCK = threading.Lock()
"""Held while a kernel runs on all cores."""

PATIENCE = 0.05
"""Seconds that a piece waits at a gate before it looks whether another one has failed."""

_here = threading.local()

Item = TypeVar("Item")


def threads() -> int:
    """Threads that a kernel uses here, and other parallel code beside it should: 1 within `each`, and in a forked process."""
    if _call() is not None or _forked:
        return 1
    return min(int(numba.get_num_threads()), _most or 1 << 20)


_most: int | None = None


def limit_threads(most: int | None) -> None:
    """Use at most so many threads in this process, as others share the machine; None: as many as there are cores."""
    global _most
    _most = None if most is None else max(1, most)


_forked = False
"""Whether this process was forked from one that had started its threads: they are not here, and OpenMP's cannot be started."""


def _in_child() -> None:
    global _forked
    try:
        threading_layer()
    except ValueError:  # none started yet
        return
    _forked = True


os.register_at_fork(after_in_child=_in_child)


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
            if _most is not None:
                numba.set_num_threads(threads())  # numba's own limit is of one thread only
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
    BaseException
        The first one that a task raises, or what interrupts this thread. Tasks that have not begun by then are left, those that
        have begun are waited for.
    """
    pieces, workers = collections.deque(items), threads()
    if workers == 1 or len(pieces) < 2:
        for piece in pieces:
            task(piece)
        return

    call, stopped = _Call(task, pieces), None
    # Again after an interrupt, and be it one of the waiting: others may still write where the caller would go on.
    while True:
        try:
            if stopped is None:
                _ask(call, min(workers, len(pieces)) - 1)
                # This thread works, too: every thread less to be woken is time won.
                call.work()
            else:
                call.abandon(stopped)
            call.wait()
            break
        except BaseException as error:
            stopped = error if stopped is None else stopped
    if call.errors:
        raise min(call.errors, key=_rank)


class AbandonedError(RuntimeError):
    """A piece that another one waited for has failed; `each` raises why."""


class Gate:
    """Opens when so many pieces of work are through: `with gate` around each of them, `gate.wait()` in those that need them.

    A piece that waits must come after those that it waits for among the items of `each`: then they have been begun.
    """

    def __init__(self, pieces: int) -> None:
        self._left = itertools.count(pieces - 1, -1)
        # Held until the gate is open. A bare lock: an interrupt within an event may leave the event's own lock held for ever.
        self._shut = threading.Lock()
        self._shut.acquire()

    def wait(self) -> None:
        """Wait until it is open.

        Raises
        ------
        AbandonedError
            If a piece of the same `each` has failed; without `each`, if it is not open.
        """
        call = _call()
        while not self._shut.acquire(timeout=PATIENCE):
            if call is None or call.errors:
                raise AbandonedError("a piece of work that this one needs has failed")
        self._shut.release()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and next(self._left) == 0:
            self._shut.release()


class _Call(Generic[Item]):
    """A call of `each`: pieces that threads take until none is left, or one has failed."""

    def __init__(self, task: Callable[[Item], object], pieces: collections.deque[Item]) -> None:
        self._task, self._pieces = task, pieces
        self._busy: list[threading.Lock] = []
        self.errors: list[BaseException] = []

    def work(self) -> None:
        """Take pieces until none is left."""
        _here.call = self
        try:
            while True:
                try:
                    piece = self._pieces.popleft()
                except IndexError:
                    return
                self._task(piece)
        except BaseException as error:
            self.abandon(error)
        finally:
            _here.call = None

    def help(self) -> None:
        """Work beside the thread that will `wait`."""
        busy = threading.Lock()
        with busy:
            self._busy.append(busy)  # before it takes a piece: who finds none left, finds it here
            self.work()

    def abandon(self, error: BaseException) -> None:
        """Leave the pieces that nobody has begun, and those that wait at a gate."""
        self.errors.append(error)
        self._pieces.clear()

    def wait(self) -> None:
        """Wait until the others have left their last pieces; none may be left."""
        for busy in self._busy:
            with busy:
                pass


def _call() -> _Call[Any] | None:
    """The call of `each` that this thread works for."""
    return getattr(_here, "call", None)


def _rank(error: BaseException) -> int:
    """An interrupt before an error, an error before what it has caused."""
    return isinstance(error, Exception) + isinstance(error, AbandonedError)


# Not an executor, whose submissions an interrupt can leave half done and a lock held: a put is one step.
_asked: queue.SimpleQueue[_Call[Any]] = queue.SimpleQueue()
_helpers: list[threading.Thread] = []


def _ask(call: _Call[Any], helpers: int) -> None:
    while len(_helpers) < helpers:
        thread = threading.Thread(target=_serve, name="streamrecon-kernels", daemon=True)
        thread.start()
        _helpers.append(thread)
    for _ in range(helpers):
        _asked.put(call)


def _serve() -> None:
    while True:
        _asked.get().help()  # and keep nothing of it meanwhile
