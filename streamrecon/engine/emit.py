"""When a version of the volume is due."""

from __future__ import annotations

import threading


class EmitPolicy:
    """Every so many projections, every so many seconds, and on request.

    Parameters
    ----------
    every
        Projections between versions.
    interval
        Seconds between versions, besides; None for none.
    """

    def __init__(self, every: int, interval: float | None) -> None:
        self.every, self._interval = every, interval
        self._requested = threading.Event()
        self._projections = 0
        self._time: float | None = None
        self._renewed = False

    def request(self) -> None:
        """Ask for a version as soon as there is something new; any thread."""
        self._requested.set()

    def remaining(self, projections: int) -> int:
        """Projections until the next version that is due by their number: where a batch ends."""
        shown = self._projections
        return shown - projections if projections < shown else shown + self.every - projections

    def due(self, projections: int, now: float, idle: bool) -> bool:
        """Whether a version is due.

        Parameters
        ----------
        projections
            In the accumulator.
        now
            Seconds, monotonic.
        idle
            Whether the writer has nothing to do. What is due by time alone waits for it; what is due by number does not.
        """
        if self._time is None:
            self._time = now
        if projections < self._projections or (projections == self._projections and not self._renewed):
            return False
        timed = idle and self._interval is not None and now - self._time >= self._interval
        return timed or self._renewed or self._requested.is_set() or projections - self._projections >= self.every

    def emitted(self, projections: int, now: float) -> None:
        """Take note of a version."""
        self._requested.clear()
        self._projections, self._time, self._renewed = projections, now, False

    def resumed(self, projections: int) -> None:
        """An earlier process had so many: a version is due as soon as the accumulator holds them."""
        self._projections, self._renewed = projections, projections > 0

    def started_over(self) -> None:
        """The accumulator begins anew: a version is due as soon as it holds again what the last one did."""
        self._renewed = self._projections > 0
