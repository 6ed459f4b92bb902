"""When a version of the volume is due: where one rank decides, and where several have to agree on a cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

FAR = 1 << 62
"""Projections, where no version is to come."""


class Versions(Protocol):
    """When a rank makes its slab of a version; used by its compute thread."""

    @property
    def number(self) -> int:
        """Of the cut that is due."""

    @property
    def whole(self) -> bool:
        """Whether it is to have no binning."""

    def make_whole(self, cut: int) -> None:
        """The version of this cut is to have no binning."""

    def remaining(self, projections: int) -> int:
        """Projections until the next version: where a batch ends, with so many in the accumulator."""

    def due(self, projections: int, received: int, now: float, idle: bool) -> bool:
        """Whether a version is due.

        Parameters
        ----------
        projections, received
            In the accumulator, and in the journal.
        now
            Seconds, monotonic.
        idle
            Whether the writer has nothing to do.
        """

    def emitted(self, projections: int, now: float) -> None:
        """Take note of a version."""

    def resumed(self, projections: int) -> None:
        """An earlier process had so many: a version is due as soon as the accumulator holds them."""

    def started_over(self) -> None:
        """The accumulator begins anew: a version is due as soon as it holds again what the last one did."""

    def mark(self, cut: int, received: int) -> None:
        """A cut comes after so many projections."""

    def removed(self, place: int) -> None:
        """The projection at this place does not count any more."""

    def session_lost(self) -> None:
        """Cuts that have not been reached will not come in all slabs."""


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
        self.every, self.interval = every, interval
        self.paused = False
        """Whether versions come on request only."""
        self._requested = threading.Event()
        self._whole = False
        self._projections = 0
        self._time: float | None = None
        self._renewed = False
        self._number = 1

    @property
    def number(self) -> int:
        """See `Versions.number`."""
        return self._number

    @property
    def whole(self) -> bool:
        """See `Versions.whole`."""
        return self._whole

    def make_whole(self, cut: int) -> None:
        """See `Versions.make_whole`: one rank is asked by `request`."""

    def request(self, whole: bool = False) -> None:
        """Ask for a version, or for one without binning, as soon as there is something new; any thread."""
        self._whole |= whole
        self._requested.set()

    def remaining(self, projections: int) -> int:
        """Projections until the next version that is due by their number: where a batch ends."""
        if self.paused:
            return FAR
        shown = self._projections
        return shown - projections if projections < shown else shown + self.every - projections

    def due(self, projections: int, received: int, now: float, idle: bool) -> bool:
        """See `Versions.due`. What is due by time alone waits for the writer; what is due by number does not."""
        if self._time is None:
            self._time = now
        if projections < self._projections or (projections == self._projections and not self._renewed):
            return False
        timed = idle and self.interval is not None and now - self._time >= self.interval
        due = timed or self._renewed or projections - self._projections >= self.every
        return self._requested.is_set() or (due and not self.paused)

    def emitted(self, projections: int, now: float) -> None:
        """See `Versions.emitted`."""
        self._number += 1
        self._requested.clear()
        self._whole = False
        self._projections, self._time, self._renewed = projections, now, False

    def resumed(self, projections: int) -> None:
        """See `Versions.resumed`."""
        self._projections, self._renewed = projections, projections > 0

    def started_over(self) -> None:
        """See `Versions.started_over`."""
        self._renewed = self._projections > 0

    def mark(self, cut: int, received: int) -> None:
        """See `Versions.mark`: one rank needs none."""

    def removed(self, place: int) -> None:
        """See `Versions.removed`."""

    def session_lost(self) -> None:
        """See `Versions.session_lost`."""


@dataclass
class _Mark:
    cut: int
    after: int
    """Projections."""


class Marks:
    """Versions at the cuts that the sender has placed: the same in every slab.

    Parameters
    ----------
    give_up
        Says that the version of a cut will not be made here.
    """

    def __init__(self, give_up: Callable[[int, str], None]) -> None:
        self._give_up = give_up
        self._marks: list[_Mark] = []
        self._wholes: set[int] = set()
        self._over = 0
        """Newest cut that was made or given up here. One that comes again is not made again: it may be about to be shown."""

    @property
    def number(self) -> int:
        """See `Versions.number`."""
        return self._marks[0].cut

    @property
    def whole(self) -> bool:
        """See `Versions.whole`."""
        return self.number in self._wholes

    def make_whole(self, cut: int) -> None:
        """See `Versions.make_whole`. Where a rank hears of it too late, the slabs differ, and it is asked for again."""
        self._wholes = {*(each for each in self._wholes if each > self._over), cut}

    def remaining(self, projections: int) -> int:
        """See `Versions.remaining`."""
        return next((mark.after - projections for mark in self._marks if mark.after >= projections), FAR)

    def due(self, projections: int, received: int, now: float, idle: bool) -> bool:
        """See `Versions.due`."""
        for mark in [mark for mark in self._marks if not mark.after]:
            self._marks.remove(mark)
            self._over = max(self._over, mark.cut)
            self._give_up(mark.cut, "no projection is left of it")  # all that it was to show was taken back
        return bool(self._marks) and projections == self._marks[0].after

    def emitted(self, projections: int, now: float) -> None:
        """See `Versions.emitted`."""
        self._over = self._marks.pop(0).cut

    def resumed(self, projections: int) -> None:
        """See `Versions.resumed`: rank 0 asks for it."""

    def started_over(self) -> None:
        """See `Versions.started_over`: cuts that were not reached yet stay where they are."""

    def mark(self, cut: int, received: int) -> None:
        """See `Versions.mark`."""
        if cut > self._over:
            self._marks = [*(mark for mark in self._marks if mark.cut < cut), _Mark(cut, received)]

    def removed(self, place: int) -> None:
        """See `Versions.removed`."""
        for mark in self._marks:
            mark.after -= place < mark.after

    def session_lost(self) -> None:
        """See `Versions.session_lost`."""
        self._marks = []


class LeadingMarks(Marks):
    """Those of rank 0, which asks for them when a version is due.

    Parameters
    ----------
    policy
        When that is.
    want
        Asks the sender to place a cut, and all ranks to make its version without binning if so.
    over
        Whether the version of a cut is complete, or will not be.
    give_up
        Says that it will not.
    """

    def __init__(
        self,
        policy: EmitPolicy,
        want: Callable[[int, bool], None],
        over: Callable[[int], bool],
        give_up: Callable[[int, str], None],
    ) -> None:
        super().__init__(give_up)
        self._policy, self._want, self._cut_over = policy, want, over
        self._wanted = 0

    def due(self, projections: int, received: int, now: float, idle: bool) -> bool:
        """See `Versions.due`."""
        reached = super().due(projections, received, now, idle)
        if self._cut_over(self._wanted) and self._policy.due(received, received, now, idle):
            self._wanted += 1
            whole = self._policy.whole
            self._policy.emitted(received, now)
            if whole:
                self.make_whole(self._wanted)
            self._want(self._wanted, whole)
        return reached

    def resumed(self, projections: int) -> None:
        """See `Versions.resumed`."""
        self._policy.resumed(projections)

    def started_over(self) -> None:
        """See `Versions.started_over`."""
        self._policy.started_over()

    def session_lost(self) -> None:
        """See `Versions.session_lost`."""
        super().session_lost()
        if not self._cut_over(self._wanted):
            self._give_up(self._wanted, "the connection of the sender was lost before all slabs had come to it")
            self._policy.request()
