"""The clock of a schedule, and the connections on it."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LIMIT = 3000.0
"""Seconds of a schedule's own clock after which it counts as stuck."""


class LostFramesError(AssertionError):
    """A schedule ended otherwise than it must."""


class World:
    """The clock, and what is to happen when."""

    def __init__(self, seed: int, trace: bool) -> None:
        self.now, self.rng, self._trace = 0.0, random.Random(seed + 1), trace
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._order), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        self.at(self.now + seconds, call)

    def step(self) -> None:
        """Do what comes next."""
        self.now, _, call = heapq.heappop(self._queue)
        call()

    def tell(self, text: str) -> None:
        """For `--trace`."""
        if self._trace:
            print(f"{self.now:10.4f}  {text}")


@dataclass
class Pipe:
    """One connection of a sender's lane to a rank: what is put in comes out in order, or not at all."""

    world: World
    lane: int
    peer: bytes
    latency: float
    open: bool = True
    _last: dict[str, float] = field(default_factory=dict)

    def carry(self, way: str, parts: list[Any], deliver: Callable[[list[Any]], None]) -> None:
        """Deliver later, and after what went the same way before."""
        when = max(self._last.get(way, 0.0), self.world.now + self.world.rng.uniform(0.0, self.latency))
        self._last[way] = when
        self.world.at(when, lambda: deliver(parts) if self.open else None)
