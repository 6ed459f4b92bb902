"""Counters of a running scan, and the picture of them that is shown to people."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.orders import Pulse
from streamrecon.wire.codec import clip
from streamrecon.wire.messages import Progress

ANGLES = 360
"""Parts of the full circle in which projections are counted."""

LATENCIES = 10_000
"""Latest latencies kept."""


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a running scan."""

    phase: str
    """What is happening, or why nothing is."""
    uid: str
    frames: int
    """Received, over all kinds."""
    projections: int
    """Received."""
    expected: int | None
    """Projections announced."""
    in_volume: int
    """Projections in the accumulator; with several ranks, in that of the slowest."""
    coverage: float
    """Share of the half circle, with an offset axis of the full one, covered by them, 0 to 1."""
    version: int
    """Newest version that can be read."""
    center: float | None
    """Column, pixels."""
    credit_frames: int
    """Frames the sender may still send now."""
    ring_frames: int
    """Frames the ring holds at most."""
    rate: float
    """Frames received per second, lately."""
    nbytes: int
    """Received."""
    latency: tuple[float, float] | None
    """Seconds from a projection's arrival to the first version that holds it, p50 and p99."""
    dropped: int
    """Malformed messages dropped and duplicates ignored."""
    alarm: str | None
    """What has to be done by people, such as making space on a disk."""
    ranks: int
    """That reconstruct together."""


@dataclass(slots=True)
class Counters:
    """Written by the engine's threads, each its own fields."""

    phase: str = "waiting for a sender"
    uid: str = ""
    reconstruction: int = 0
    expected: int | None = None
    frames: int = 0
    projections: int = 0
    nbytes: int = 0
    in_volume: int = 0
    coverage: float = 0.0
    version: int = 0
    center: float | None = None
    credit_frames: int = 0
    ring_frames: int = 0
    malformed: int = 0
    duplicates: int = 0
    sender: str = ""
    """Why no frames come, where the sender is the reason."""
    alarm: str | None = None
    beats: int | None = 0
    """How often the compute thread has come round, by which it is seen that it does not hang; None once it has ended."""
    hands: dict[str, int] = field(default_factory=dict)
    """What threads other than the compute thread have in hand, and a number that changes as it goes on."""
    title: str = ""
    filter: str = ""
    rows: int = 0
    columns: int = 0
    side: int | None = None
    paused: bool = False
    advice: str | None = None
    every: int | None = None
    interval: float | None = None
    angles: NDArray[np.int64] = field(default_factory=lambda: np.zeros(ANGLES, np.int64))
    """Projections received in each of equal parts of the full circle."""
    ranks: int = 1
    others: dict[int, Pulse] = field(default_factory=dict)
    """Of the other ranks, the last word, at rank 0."""
    last: float | None = None
    """When the last frame arrived, or the scan was begun or gone on with, monotonic; None where no frame is waited for."""
    began: float | None = None
    """When the first frame arrived, monotonic."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage: transport in the I/O thread, write in the writer thread, all others in the compute thread."""
    _pieces: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)

    @contextmanager
    def at_work(self, name: str) -> Iterator[Callable[[], None]]:
        """A piece of work of another thread, which is seen if it hangs; to be called between the parts of a long one."""

        def go_on() -> None:
            self._pieces += 1
            self.hands[name] = self._pieces

        go_on()
        try:
            yield go_on
        finally:
            del self.hands[name]

    def beat(self) -> None:
        """The compute thread has come round."""
        self.beats = (self.beats or 0) + 1

    def add(self, name: str, seconds: float) -> None:
        """Count time of a stage."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds

    def progress(self, viewers: int) -> Progress:
        """What viewers are told, and how many they are."""
        status = self.look()
        center = status.center if status.center is not None and math.isfinite(status.center) else None
        return Progress(
            uid=status.uid,
            reconstruction=self.reconstruction,
            title=clip(self.title, 400),
            phase=clip(status.phase),
            frames=status.frames,
            projections=status.projections,
            expected=status.expected,
            in_volume=status.in_volume,
            coverage=status.coverage,
            version=status.version,
            center=center,
            filter=self.filter,
            rows=self.rows,
            columns=self.columns,
            side=self.side,
            credit_frames=max(0, status.credit_frames),
            ring_frames=status.ring_frames,
            rate=max(0.0, status.rate),
            quiet=None if self.last is None else max(0.0, time.monotonic() - self.last),
            nbytes=status.nbytes,
            latency=None if status.latency is None else status.latency[0],
            dropped=status.dropped,
            alarm=None if status.alarm is None else clip(status.alarm),
            ranks=status.ranks,
            angles=tuple(self.angles.tolist()),
            paused=self.paused,
            advice=None if self.advice is None else clip(self.advice),
            every=self.every,
            interval=self.interval,
            viewers=viewers,
        )

    def look(self) -> Status:
        """The status now."""
        now = time.monotonic()
        self._recent.append((now, self.frames))
        recent = list(self._recent)  # any thread may look, and one iterating over what another appends to fails
        then, frames = next((p for p in recent if now - p[0] <= 2.0), recent[0])
        rate = (self.frames - frames) / (now - then) if now > then else 0.0
        latencies, others = list(self.latencies), dict(self.others)
        alarms = [f"rank {rank}: {pulse.alarm}" for rank, pulse in sorted(others.items()) if pulse.alarm]
        latency = None
        if latencies:
            p50, p99 = np.percentile(latencies, [50, 99])
            latency = float(p50), float(p99)
        return Status(
            phase=f"{self.phase}; {self.sender}" if self.sender else self.phase,
            uid=self.uid,
            frames=self.frames,
            projections=self.projections,
            expected=self.expected,
            in_volume=min([self.in_volume, *(pulse.in_volume for pulse in others.values())]),
            coverage=self.coverage,
            version=self.version,
            center=self.center,
            credit_frames=self.credit_frames,
            ring_frames=self.ring_frames,
            rate=rate,
            nbytes=self.nbytes,
            latency=latency,
            dropped=self.malformed + self.duplicates,
            alarm="; ".join(filter(None, [self.alarm, *alarms])) or None,
            ranks=self.ranks,
        )


def angles_of(theta: NDArray[np.float64]) -> tuple[int, ...]:
    """Projections in each of `ANGLES` equal parts of the full circle, the first beginning at 0; from theta in radians."""
    places = np.floor(theta / (2 * math.pi) * ANGLES).astype(np.int64) % ANGLES
    return tuple(np.bincount(places, minlength=ANGLES).tolist())
