"""The I/O thread of a rank: the only owner of sockets, credit and the filling of the ring.

It takes no part in the maths, so heartbeats flow and frames arrive during a long kernel.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamrecon.config import Config
from streamrecon.engine.decompose import decompose, lanes
from streamrecon.engine.doors import Doors
from streamrecon.engine.orders import Decided, Done, NotWritten, Order, Part, Report, Stop
from streamrecon.engine.ring import Ring
from streamrecon.engine.status import Counters, angles_of
from streamrecon.engine.talk import Talk
from streamrecon.errors import StreamreconError
from streamrecon.scan import FrameKind, ScanInfo
from streamrecon.transport import Clock, ControlHub, ControlLink, Poller, Wakeup
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import frame_hash
from streamrecon.wire.inventory import Inventory
from streamrecon.wire.messages import Busy, Hello, Lane, Message, Range, Reset
from streamrecon.wire.outputs import (
    Arrived,
    Broken,
    Cut,
    Ended,
    GivenUp,
    Opened,
    Output,
    Reply,
    SenderBack,
    SenderLost,
    TurnedAway,
    Withdrawn,
)
from streamrecon.wire.receiving import ReceivingEnd

log = logging.getLogger(__name__)

BROKE_OFF = "the scan was not completed"
"""What a sender is told where nothing is known that would help more."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame in the ring."""

    kind: FrameKind
    index: int
    theta: float | None
    slot: int
    xxh3: int
    """Hash of its pixels."""
    at: float
    """Seconds, monotonic."""
    position: int | None = None
    """Of a flat or dark: projections measured before it."""


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """A scan was accepted; its ring is ready."""

    info: ScanInfo
    rows: Range
    ring: Ring


Event = Accepted | Arrival | Cut | Withdrawn | GivenUp | SenderLost | SenderBack | Ended | Broken
Prepare = Callable[[Opened], Ring]
"""Plans a scan and gives its ring; raises a `StreamreconError` to refuse it."""


class Ingest(threading.Thread):
    """Receives one slab of a scan and hands its frames, in the ring, to the compute thread; carries what ranks say to each other.

    Parameters
    ----------
    config
        The options.
    prepare
        Called when a scan is announced.
    counters
        Kept up to date for frames, bytes and credit.
    doors
        Where senders come in; closed with this thread, unless they stay.
    failed
        Called with why this job cannot go on.
    rank
        Of this process.
    """

    def __init__(
        self,
        config: Config,
        prepare: Prepare,
        counters: Counters,
        doors: Doors,
        failed: Callable[[str], None],
        rank: int = 0,
    ) -> None:
        super().__init__(name="streamrecon-io", daemon=True)
        options = config.engine
        self.inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        """What happened, for the compute thread."""
        self.refusal: Exception | None = None
        """Why a scan was refused when it was announced."""
        self.reports: queue.SimpleQueue[tuple[int, Report]] = queue.SimpleQueue()
        """Of the other ranks, for rank 0's compute thread."""
        self.orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        """Of rank 0, for the compute thread of any other."""
        self.part: Callable[[Part | NotWritten], None] = lambda part: None
        """Called with what the other ranks say of their slabs of a version."""
        self.alarmed: Callable[[int, str], None] = lambda rank, alarm: None
        """Called with what another rank needs people for, when it begins."""
        self._prepare, self._counters, self._options = prepare, counters, options
        self._rank, self._rows = rank, config.recon.rows
        self._unit = config.emit.preview
        self._doors, self._receiver = doors, doors.receiver
        self._malformed = doors.receiver.malformed
        """Messages that were dropped before this scan."""
        self.failure: BaseException | None = None
        """Of this thread, which ends the scan."""
        self._end = ReceivingEnd(
            incarnation=uuid.uuid4().hex,
            lanes=self._lanes,
            heartbeat=options.heartbeat,
            peer_timeout=options.peer_timeout,
            return_timeout=options.return_timeout,
        )
        self._endpoints: list[str] = [doors.endpoint]
        self._decided: Decided | None = None
        self._open_to_all = False
        """Whether senders are let in."""
        self._held: Opened | None = None
        """Announced to this rank before rank 0 has decided."""
        self._ring: Ring | None = None
        self._wakeup, self._clock = Wakeup(), Clock()
        self._talk = Talk(options, counters, self._clock, failed, lambda rank, alarm: self.alarmed(rank, alarm))
        self._calls: deque[Callable[[], None]] = deque()
        self._stopped, self._over = False, threading.Event()

    def connect(self, endpoints: list[str], control: ControlHub | ControlLink | None) -> None:
        """Where all ranks listen, and how rank 0 and the others talk; before the thread is started."""
        self._endpoints = endpoints
        self._talk.connect(self._rank, len(endpoints), control)

    def _lanes(self, detector_rows: int) -> tuple[Lane, ...]:
        whole = self._rows or (0, detector_rows)
        return lanes(decompose(whole, len(self._endpoints), self._unit), self._endpoints, self._rank)

    @property
    def decided(self) -> Decided | None:
        """What rank 0 has planned for all."""
        return self._decided

    def decide(self, decided: Decided) -> None:
        """What rank 0 has planned for all; it tells the others."""
        self._decided = decided
        if not self._rank:
            self.tell(decided)

    def keep_rows(self, rows: Range) -> None:
        """A scan that was begun keeps its rows; before the thread is started."""
        self._rows = rows

    # Called by other threads: each is carried out by this one.

    def tell(self, order: Order) -> None:
        """Send an order to all other ranks."""
        self._do(lambda: self._talk.tell(order))

    def report(self, report: Report) -> None:
        """Send a report to rank 0."""
        self._do(lambda: self._talk.tell(report))

    def want_cut(self, number: int) -> None:
        """Ask the sender to place a cut."""
        self._do(lambda: setattr(self._end, "want_cut", number))

    def advise(self, why: str) -> None:
        """Tell the sender that the scan may be stopped."""
        self._do(lambda: setattr(self._end, "advice", why))

    def release(self, slot: int) -> None:
        """The frame in a slot was taken: its credit goes back to the sender."""
        self._do(lambda: self._free(slot))

    def durable(self, entries: int) -> None:
        """So many frames and withdrawals, in the order they came, survive a crash."""
        self._do(lambda: self._act(self._end.durable(entries, self._clock.now())))

    def finish(self) -> None:
        """The final volume can be read: tell the sender."""
        self._do(lambda: self._act(self._end.finish()))

    def refuse(self, reason: str) -> None:
        """End the scan from this side."""
        self._do(lambda: self._act(self._end.refuse(reason)))

    def dismiss(self, reason: str) -> None:
        """This process cannot go on: the sender is to wait for another one that does."""

        def dismiss() -> None:
            self._act(self._end.dismiss(reason))
            self._open_to_all = False

        self._do(dismiss)

    def resume(self, info: ScanInfo, rows: Range, ring: Ring, inventory: Inventory, ended: bool) -> None:
        """Go on with a scan that an earlier process received; before senders are let in."""

        def go_on() -> None:
            window = self._use(info, rows, ring)
            self._act(self._end.resume(info, rows, inventory, ended, window, self._clock.now()))

        self._do(go_on)

    def let_in(self) -> None:
        """Senders may come from now on."""

        def let_in() -> None:
            self._open_to_all = True
            self._end.wait_anew(self._clock.now())

        self._do(let_in)

    def in_volume(self, projections: int) -> None:
        """How many projections the volume holds, told with the next credit."""
        self._end.in_volume = projections

    def stop(self) -> None:
        """End the thread, after what was asked for before."""
        if self.ident is None:  # never started
            self._close()
            return
        self._do(self._stop)
        # Not by joining the thread: a KeyboardInterrupt in a join leaves Python 3.11 with a thread it takes for ended.
        self._over.wait()

    @property
    def unheard(self) -> bool:
        """Whether the volume is final and there is no sender to tell."""
        return self._end.peer is None and self._end.parting(self._clock.now())

    def abandon(self) -> None:
        """The sender is known to be gone for good."""
        self._do(self._end.abandon)

    def _do(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._wakeup.set()

    def _stop(self) -> None:
        self._stopped = True
        self._talk.let_go()

    # This thread.

    def run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            log.exception("the I/O thread failed")
            self.failure = error
            self.inbox.put(Broken(f"the I/O thread failed: {type(error).__name__}: {error}"))
        finally:
            self._close()
            self._over.set()

    def _close(self) -> None:
        if not self._doors.stay:
            self._doors.close()
        self._talk.close()
        self._wakeup.close()
        # Its memory is free, also where somebody still looks at the counters.
        self._ring, self._end.hash_payload = None, frame_hash

    def _loop(self) -> None:
        sockets = [each for each in (self._receiver, self._talk.control) if each is not None]
        poller = Poller(self._wakeup, *sockets)
        self._talk.begin()
        while not self._stopped or self._end.parting(self._clock.now()) or self._talk.owes:
            poller.wait(min(0.2, self._options.heartbeat / 2))
            began = time.perf_counter()
            while self._calls:
                self._calls.popleft()()
            self._talk.turn(self._hear)
            let_in = self._open_to_all and self._talk.complete
            for peer, message, payload in self._receiver.messages():
                if let_in:
                    self._act(self._end.hear(peer, message, payload, self._clock.now()))
                else:
                    self._receiver.send(peer, self._not_yet(message))
            if self._open_to_all:
                self._act(self._end.tick(self._clock.now()))
            self._count()
            self._counters.add("transport", time.perf_counter() - began)

    def _not_yet(self, message: Message) -> Message:
        """What a sender is told that comes before this engine is ready."""
        if isinstance(message, Hello):
            return Busy(reason="the engine is getting ready", retry_after=self._options.heartbeat, soon=True)
        return Reset(
            session=getattr(message, "session", 0), reason="this engine is getting ready; start over with HELLO"
        )

    def _hear(self, rank: int, message: Any) -> None:
        if isinstance(message, Part | NotWritten):
            self.part(message)
        elif isinstance(message, Decided):
            self._decided = message
            if self._held is not None:
                held, self._held = self._held, None
                self._open(held)
        elif self._rank:
            if self._ring is None:
                pass  # no rows, or none yet: nobody is to be told
            elif isinstance(message, Stop):
                self._act(self._end.refuse(message.reason))
            elif isinstance(message, Done):
                if message.again:
                    self.dismiss(message.reason or BROKE_OFF)
                else:
                    self._act(self._end.finish() if message.final else self._end.refuse(message.reason or BROKE_OFF))
            self.orders.put(message)
        else:
            self.reports.put((rank, message))

    def _act(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Reply):
                self._receiver.send(output.peer, output.message, output.payload)
            elif isinstance(output, Opened):
                self._open(output)
            elif isinstance(output, Arrived):
                self._store(output)
            elif isinstance(output, TurnedAway):
                log.warning("a sender was turned away: %s", output.reason)
            else:
                if isinstance(output, Ended | Broken):
                    self._counters.last = None
                self.inbox.put(output)

    def _open(self, opened: Opened) -> None:
        if self._rank and self._decided is None:
            self._held = opened
            return
        try:
            ring = self._prepare(opened)
        except (StreamreconError, MemoryError) as error:
            self.refusal = error
            self._act(self._end.refuse(str(error)))
            return
        window = self._use(opened.info, opened.rows, ring)
        self._act(self._end.accept(window, self._clock.now()))

    def _use(self, info: ScanInfo, rows: Range, ring: Ring) -> CreditWindow:
        """Receive into a ring; the credit that it allows."""
        self._ring, self._end.hash_payload = ring, ring.fill
        self._counters.ring_frames, self._counters.last = ring.slots, time.monotonic()
        self.inbox.put(Accepted(info, rows, ring))
        return CreditWindow(ring.nbytes, ring.slots)

    def _store(self, arrived: Arrived) -> None:
        assert self._ring is not None
        header, now = arrived.header, time.monotonic()
        if self._counters.began is None:
            self._counters.began = now
        self._counters.last = now
        slot = self._ring.take()  # filled when it was hashed
        self._counters.frames += 1
        self._counters.nbytes += header.nbytes
        kind = FrameKind(header.kind)
        if kind is FrameKind.PROJECTION and header.theta is not None:
            self._counters.projections += 1
            self._counters.angles += angles_of(np.array([header.theta]))
        self.inbox.put(Arrival(kind, header.index, header.theta, slot, header.xxh3, now, header.position))

    def _free(self, slot: int) -> None:
        assert self._ring is not None
        self._ring.release(slot)
        self._end.free(self._end.nbytes)

    def _count(self) -> None:
        counters = self._counters
        counters.malformed = self._receiver.malformed - self._malformed
        counters.duplicates = self._end.duplicates
        counters.sender = self._end.why_nothing_comes
        if self._end.window is not None:
            counters.credit_frames = self._end.window.told_frames - self._end.window.received_frames
