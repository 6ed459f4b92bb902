"""Frames in: from the ring to the journal, and what else happens to a scan on the way."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from streamrecon.engine.ingest import Arrival, Event
from streamrecon.engine.journal import Journal, Record
from streamrecon.engine.lacking import counted
from streamrecon.engine.ring import Ring
from streamrecon.engine.status import Counters
from streamrecon.engine.story import Story
from streamrecon.errors import DiskFullError
from streamrecon.scan import FrameKind
from streamrecon.wire.outputs import Broken, Cut, Ended, GivenUp, SenderBack, SenderLost, Withdrawn

RETRY_SECONDS = 0.5
"""Between two attempts to write to a disk that is full."""


class Intake:
    """Takes what the I/O thread hands over; used by the compute thread.

    Parameters
    ----------
    ring
        Where frames wait.
    inbox
        What happened, in its order.
    release
        Gives a slot of the ring back.
    journal
        Where frames go.
    flat
        Called with each flat.
    cut
        Called with the number of each cut that comes here.
    lost
        Called when a session is over, and so are the cuts of which it was the way.
    counters, story
        What people see.
    """

    def __init__(
        self,
        ring: Ring,
        inbox: queue.SimpleQueue[Event],
        release: Callable[[int], None],
        journal: Journal,
        flat: Callable[[Record], None],
        cut: Callable[[int], None],
        lost: Callable[[], None],
        counters: Counters,
        story: Story,
    ) -> None:
        self._ring, self._inbox, self._release, self._journal = ring, inbox, release, journal
        self._flat, self._cut, self._lost = flat, cut, lost
        self._counters, self._story = counters, story
        self.end: Ended | Broken | None = None
        """How the scan has ended, once it has."""
        self.withdrawn: list[int] = []
        """Projections that the sender took back and that are still on the journal's list, in the order of that."""
        self._stop_reason: str | None = None
        self._held: Event | None = None
        """What cannot be written to the journal as long as the disk is full."""
        self._retry = 0.0

    def stop(self, reason: str) -> None:
        """End the scan from this side; any thread."""
        self._stop_reason = reason

    def absorb(self, room: int, patience: float = 0.0) -> None:
        """Take up to `room` frames from the ring; wait for the first one, and for more only while time is left."""
        deadline = time.monotonic() + patience
        self._counters.beat()
        self._journal.check()
        if self._stop_reason is not None and not isinstance(self.end, Broken):
            # What is still in the ring is left there: who stops a scan does not want to wait for it.
            self.end = Broken(self._stop_reason)
            self._tell_end(self.end)
        while room > 0 and self.end is None:
            event = self._next_event(deadline)
            if event is None:
                return
            try:
                room -= self._take(event)
            except DiskFullError as error:
                self._hold(event, error)
            else:
                self._counters.alarm = None
                self._counters.beat()  # a disk that is slow does not hang

    def _next_event(self, deadline: float) -> Event | None:
        """What happened next, also if it happened before and could not be dealt with; None if nothing until then."""
        if self._held is not None:
            time.sleep(max(0.0, min(deadline, self._retry) - time.monotonic()))
            if time.monotonic() < self._retry:
                return None
            event, self._held = self._held, None
            return event
        try:
            with self._counters.stage("wait"):
                return self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    def _hold(self, event: Event, error: DiskFullError) -> None:
        """Try again later. The frame stays in the ring, so credit stops and the sender keeps what follows."""
        self._held, self._retry = event, time.monotonic() + RETRY_SECONDS
        if self._counters.alarm is None:
            self._counters.alarm = f"{error}: make space; the scan goes on by itself"
            self._story.tell("disk_full", self._counters.alarm)

    def _take(self, event: Event) -> int:
        """Deal with what happened; the frames that left the ring."""
        if isinstance(event, Arrival):
            self._keep(event)
            return 1
        if isinstance(event, Withdrawn):
            self._journal.withdraw(event.index, event.number)
            if event.index is not None:
                self.withdrawn.append(event.index)
        elif isinstance(event, GivenUp):
            self._journal.forgo(event.kind, event.indices)
        elif isinstance(event, Cut):
            self._cut(event.number)
        elif isinstance(event, SenderLost):
            self._lost()
            self._story.tell("sender_lost", f"{event.reason}; the scan waits for it, or for another one")
        elif isinstance(event, SenderBack):
            self._journal.sender(event.epoch)
            self._lost()
            self._story.tell("sender_back", "a sender goes on with the scan")
        elif isinstance(event, Ended | Broken):
            if isinstance(event, Ended):
                self._journal.end(event.frames, event.digest)
            self.end = event
            self._tell_end(event)
        return 0

    def _keep(self, arrival: Arrival) -> None:
        with self._counters.stage("journal"):
            frame = self._ring[arrival.slot]
            record = self._journal.append(
                arrival.kind, arrival.index, arrival.theta, frame, arrival.at, arrival.xxh3, arrival.position
            )
        self._release(arrival.slot)
        if arrival.kind is FrameKind.FLAT:
            self._flat(record)

    def _tell_end(self, event: Ended | Broken) -> None:
        if isinstance(event, Broken):
            self._story.tell("broken", f"the scan was not completed: {event.reason}", reason=event.reason)
        else:
            lost = counted(event.missing, event.gaps)
            text = f"the scan has ended; {lost}" if lost else "all frames have come"
            self._story.tell("end", text, missing=event.missing)
