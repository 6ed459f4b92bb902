"""As much of cupy as uploads take, on a device that does nothing before it must, and then in any order that it may.

A stream is a queue. Nothing in it happens when it is called for: whoever waits, and the end, let the queues run, in an
order drawn at random that events alone constrain. What forgets to wait finds old values, or overwritten ones.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class Event:
    """Counts how often it was recorded, and how many of these the device has come to."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda, self.recorded, self.reached = cuda, 0, 0

    def record(self, stream: Stream) -> None:
        self.recorded += 1
        number = self.recorded

        def reach() -> bool:
            self.reached = number
            return True

        stream.queue.append(reach)

    def synchronize(self) -> None:
        if "synchronize" not in self.cuda.broken:
            self.cuda.run(lambda: self.reached >= self.recorded)


class Stream:
    """A queue of operations; one that returns False cannot run yet."""

    def __init__(self, cuda: Cuda, non_blocking: bool = False) -> None:
        self.cuda, self.non_blocking, self.queue = cuda, non_blocking, deque[Callable[[], bool]]()
        cuda.streams.append(self)

    def wait_event(self, event: Event) -> None:
        number = event.recorded
        if (self.non_blocking and "copy waits" in self.cuda.broken) or (
            not self.non_blocking and "consumer waits" in self.cuda.broken
        ):
            return
        self.queue.append(lambda: event.reached >= number)


class Array:
    """Bytes of the device."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __getitem__(self, part: slice) -> Array:
        return Array(self.values[part])

    def view(self, dtype: Any) -> Array:
        return Array(self.values.view(dtype))

    def reshape(self, shape: tuple[int, ...]) -> Array:
        return Array(self.values.reshape(shape))

    def set(self, host: np.ndarray, stream: Stream) -> None:
        assert host.flags.c_contiguous
        assert host.dtype == self.values.dtype
        assert host.shape == self.values.shape

        def copy() -> bool:
            self.values[...] = host
            return True

        stream.queue.append(copy)


class Cuda:
    """cupy.cuda."""

    def __init__(self, seed: int, broken: str = "") -> None:
        self.random, self.broken, self.streams = random.Random(seed), broken, list[Stream]()
        self.current, self.used = Stream(self), list[int]()

    def Event(self, disable_timing: bool) -> Event:  # noqa: N802
        assert disable_timing
        return Event(self)

    def Stream(self, non_blocking: bool) -> Stream:  # noqa: N802
        return Stream(self, non_blocking)

    def Device(self, index: int) -> Any:  # noqa: N802
        return SimpleNamespace(use=lambda: self.used.append(index))

    def get_current_stream(self) -> Stream:
        return self.current

    def alloc_pinned_memory(self, nbytes: int) -> bytearray:
        return bytearray(nbytes + 100)

    def launch(self, kernel: Callable[[], None]) -> None:
        def run() -> bool:
            kernel()
            return True

        self.current.queue.append(run)

    def run(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Let the device do as little as is enough, or all there is."""
        favourite = self.random.choice(self.streams)
        while not enough():
            ready = [stream for stream in self.streams if stream.queue]
            if not ready:
                return
            # Mostly one stream runs as far ahead of the others as it can.
            self.random.shuffle(ready)
            if favourite in ready and self.random.random() < 0.9:
                ready.insert(0, favourite)
            for stream in ready:
                if stream.queue[0]():
                    stream.queue.popleft()
                    break
            else:
                raise AssertionError("the streams wait for one another for ever")


class Cupy:
    """cupy."""

    def __init__(self, seed: int, broken: str = "") -> None:
        self.cuda = Cuda(seed, broken)

    def empty(self, length: int, dtype: Any) -> Array:
        return Array(np.full(length, 0xEE, dtype))
