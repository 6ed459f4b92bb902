"""The receiver's end of a scan: who may send, what must come next, what was missing. Messages in, outputs out."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from streamrecon.errors import GeometryError, RemoteProtocolError
from streamrecon.scan import FrameKind, ScanInfo
from streamrecon.wire.admission import Candidate, difference, unfit
from streamrecon.wire.codec import Buffer, clip
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import Digest, frame_hash
from streamrecon.wire.inventory import Inventory
from streamrecon.wire.messages import (
    Abort,
    Ack,
    Busy,
    Credit,
    End,
    EndOk,
    FrameHeader,
    Gap,
    Hello,
    Lane,
    Message,
    Nack,
    Range,
    Reset,
    ScanOpen,
    Status,
    Welcome,
)
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
from streamrecon.wire.session import Role, Session, State

PARTING = 2.0
"""Seconds since a sender was last heard after which it is no longer waited for at the end."""

COUNT_LIMIT = 100_000_000
"""Most frames of one kind in a scan; bounds what is kept for each."""

Lanes = Callable[[int], tuple[Lane, ...]]
"""The lanes of a detector with so many rows: this receiver's own first, then those of others that a sender has to open, too."""


def lanes_of(rows: Range | None = None, others: tuple[Lane, ...] = ()) -> Lanes:
    """Lanes that are known beforehand; without rows, all come in one."""
    return lambda detector: (Lane(rows=rows or (0, detector)), *others)


@dataclass(slots=True)
class ReceivingEnd:
    """One scan, from the first HELLO to the last END_OK, in as many sessions as it takes.

    A frame is checked against the session, the numbering, the scan and the credit before it is let in. An error of the
    sender ends the scan with ABORT; what had been let in stays. A sender that falls silent, or whose connection breaks,
    leaves the scan waiting: it or a younger one may go on with what is not durable yet.
    """

    incarnation: str
    lanes: Lanes = field(default_factory=lanes_of)
    heartbeat: float = 1.0
    """Seconds."""
    peer_timeout: float = 30.0
    """Seconds."""
    return_timeout: float = 0.0
    """Seconds that a scan waits for a sender once it has none."""
    in_volume: int = 0
    """Projections in the volume, told with the credit."""
    want_cut: int = 0
    """Number of the cut that the sender shall place, told with the credit; forgotten with the session."""
    advice: str = ""
    """Why the scan may be stopped, told with the credit."""
    duplicates: int = 0
    """Frames that came twice and were dropped."""
    hash_payload: Callable[[Buffer], int] = frame_hash
    """XXH3 of a frame that fits the scan. It may copy the frame on the way; `Arrived` follows at once unless it is refused."""
    peer: bytes | None = None
    """Routing id of the sender that has the session; None where none has."""
    session: Session = field(default_factory=lambda: Session(Role.RECEIVER))
    window: CreditWindow | None = None
    info: ScanInfo | None = None
    inventory: Inventory = field(default_factory=Inventory)
    received: int = 0
    """Frames of this session let in, over all kinds: every n below this."""
    paused: bool = False
    """Whether the sender says that the scan is paused."""
    _lane: Range = (0, 0)
    _id: int = 0
    _ids: int = 0
    """Sessions begun."""
    _candidate: Candidate | None = None
    _digest: Digest = field(default_factory=Digest)
    """Of the frames of this session."""
    _arrivals: int = 0
    """Frames let in, over all sessions."""
    _durable_arrivals: int = 0
    _not_durable: deque[int] = field(default_factory=deque)
    """Of each frame of this session that is not durable, the number of arrivals that it waits for."""
    _heard: float = 0.0
    _told: float = 0.0
    _told_cut: int = 0
    _lost_at: float | None = None
    _lost_why: str = "the scan was taken up again without a sender"
    _end: EndOk | None = None
    _over: Broken | None = None
    _final: bool = False
    _parted: bool = False

    def resume(
        self, info: ScanInfo, rows: Range, inventory: Inventory, ended: bool, window: CreditWindow, now: float
    ) -> list[Output]:
        """Go on with a scan that an earlier process received: it waits for a sender.

        Parameters
        ----------
        info, rows
            Of the scan, as it was opened.
        inventory
            The frames that are durable here.
        ended
            Whether the sender had sent everything.
        window
            Room in the ring.
        now
            Seconds, monotonic.
        """
        self.info, self.inventory, self.window = info, inventory, window
        self._lane, self._lost_at = rows, now
        if not ended:
            return []
        self._end = EndOk(session=0, state="received", missing=self.missing()[:64], digest=0)
        return [self._ended()]

    def wait_anew(self, now: float) -> None:
        """Only from now on can a sender come back."""
        if self._lost_at is not None:
            self._lost_at = now

    def hear(self, peer: bytes, message: Message, payload: Buffer | None, now: float) -> list[Output]:
        """Take a message.

        Parameters
        ----------
        peer
            Routing id.
        message, payload
            As decoded.
        now
            Seconds, monotonic.
        """
        if isinstance(message, Hello):
            return self._hello(peer, message, now)
        if (
            isinstance(message, End)
            and peer == self.peer
            and self.session.state is State.CLOSED
            and self._end is not None
        ):
            return [Reply(peer, self._end)]  # the last END_OK was lost
        session = getattr(message, "session", 0)
        candidate = self._candidate
        if candidate is not None and (peer, session) == (candidate.peer, candidate.id):
            return self._announced(candidate, message, payload, now)
        if peer != self.peer or session != self._id:
            return [Reply(peer, Reset(session=session, reason="this session is not known here; start over with HELLO"))]
        self._heard = now
        if self.session.over:
            self._parted = True
        try:
            if not self.session.receive(message):
                return []
            return self._handle(message, payload, now)
        except RemoteProtocolError as error:
            return self._break(str(error))

    def _hello(self, peer: bytes, hello: Hello, now: float) -> list[Output]:
        if peer == self.peer and not self.session.over:
            return []  # said again before WELCOME was heard
        candidate = self._candidate
        if candidate is not None and (peer, hello.uid, hello.epoch) == (
            candidate.peer,
            candidate.hello.uid,
            candidate.hello.epoch,
        ):
            candidate.heard = now
            return []
        busy = self._busy(hello)
        if busy is not None:
            return [Reply(peer, busy)]
        lanes = self.lanes(hello.rows)
        fault = unfit(hello, (lanes[0].rows[0], max(lane.rows[1] for lane in lanes)))
        if fault is not None:
            return [Reply(peer, Abort(session=0, reason=fault)), TurnedAway(fault)]
        self._ids += 1
        self._candidate = candidate = Candidate(peer, self._ids, hello, lanes[0].rows, now)
        candidate.session.receive(hello)
        welcome = Welcome(incarnation=self.incarnation, session=candidate.id, lanes=lanes)
        candidate.session.send(welcome)
        return [Reply(peer, welcome)]

    def _busy(self, hello: Hello) -> Busy | None:
        """Why this sender cannot have the scan, if it cannot."""
        retry, candidate = max(1.0, self.heartbeat), self._candidate
        if self._over is not None or (self._final and self.info is not None and hello.uid != self.info.uid):
            return Busy(reason="this engine has ended its scan", retry_after=retry)
        uid = self.info.uid if self.info is not None else None if candidate is None else candidate.hello.uid
        if uid is not None and hello.uid != uid:
            return Busy(reason=f"scan {uid} is in work", retry_after=retry)
        epoch = self.inventory.epoch
        if hello.epoch < epoch:
            reason = f"a younger sender has scan {uid}: its epoch is {epoch}, this one's {hello.epoch}"
            return Busy(reason=reason, retry_after=retry, epoch=epoch)
        return None

    def _announced(self, candidate: Candidate, message: Message, payload: Buffer | None, now: float) -> list[Output]:
        """Take what a candidate says: with SCAN_OPEN it has the scan, and who had it is answered RESET from then on."""
        candidate.heard = now
        try:
            candidate.session.receive(message)
            if isinstance(message, Abort):
                self._candidate = None
                return [TurnedAway(f"the sender gave up: {message.reason}")]
            if not isinstance(message, ScanOpen):
                return []
            info = candidate.read(message, payload or b"")
            other = None if self.info is None else difference(self.info, info)
            if other is not None:
                raise RemoteProtocolError(f"scan {info.uid} is announced again, but {other} differs from before")
        except (RemoteProtocolError, GeometryError) as error:
            return self._turn_away(candidate, str(error))
        self._leave_session()
        self.peer, self.session, self._id = candidate.peer, candidate.session, candidate.id
        self._lane, self._heard, self._lost_at = candidate.rows, now, None
        self._candidate = None
        self.inventory.sender(candidate.hello.epoch)
        if self._end is not None:
            return self._go_on(now)
        if self.info is not None:
            self._arrivals += 1
            return [SenderBack(candidate.hello.epoch)]
        self.info = info
        return [Opened(info, self._lane, candidate.hello.can_replay, candidate.hello.epoch)]

    def _turn_away(self, candidate: Candidate, reason: str) -> list[Output]:
        self._candidate = None
        return [Reply(candidate.peer, Abort(session=candidate.id, reason=clip(reason))), TurnedAway(reason)]

    def _handle(self, message: Message, payload: Buffer | None, now: float) -> list[Output]:
        if isinstance(message, FrameHeader):
            return self._frame(message, payload or b"", now)
        if isinstance(message, Gap):
            return self._gap(message)
        if isinstance(message, Status):
            self.paused = message.paused
            # Only after all that was sent before; what was lost on the way makes the sender start over anyway.
            if message.cut and message.sent == self.received:
                return [Cut(message.cut)]
        if isinstance(message, End):
            return self._check_end(message)
        if isinstance(message, Abort):
            self._parted = True  # who gives up need not be answered
            return self._broken(f"the sender gave up: {message.reason}", given_up=True)
        return []

    def accept(self, window: CreditWindow, now: float) -> list[Output]:
        """Answer `Opened`: the plan fits, and there is a ring."""
        self.window = window
        return self._go_on(now) if self.session.state is State.OPENING else []

    def refuse(self, reason: str) -> list[Output]:
        """Answer `Opened`, or end a running scan from this side."""
        return self._break(reason)

    def dismiss(self, reason: str) -> list[Output]:
        """This process cannot go on, and another one may: the sender is to look for that."""
        live = self.peer is not None and not self.session.over
        return [self._reply(Reset(session=self._id, reason=reason))] if live else []

    def _go_on(self, now: float) -> list[Output]:
        """Let frames come, once all that came in earlier sessions is durable: so HAVE says all that need not come again."""
        if self._durable_arrivals < self._arrivals or self.window is None:
            return []
        self.window = CreditWindow(self.window.capacity_bytes, self.window.capacity_frames)
        have, payload = self.inventory.have(self._id, self._end is not None)
        return [self._reply(have, payload), *self._tell(now)]

    def durable(self, arrivals: int, now: float) -> list[Output]:
        """So many frames, of all that were let in and in their order, survive a crash from now on."""
        self._durable_arrivals = max(self._durable_arrivals, arrivals)
        waiting = len(self._not_durable)
        while self._not_durable and self._not_durable[0] <= self._durable_arrivals:
            self._not_durable.popleft()
        if self.session.state is State.OPENING:
            return self._go_on(now)
        # At once: until it hears it, a live sender keeps them in the little memory that it has.
        news = len(self._not_durable) < waiting and self.session.state in (State.STREAMING, State.ENDING)
        return self._tell(now) if news and self.window is not None else []

    def _gap(self, message: Gap) -> list[Output]:
        inventory, before = self.inventory, self.inventory.followed
        for first, end in message.indices:
            if not first <= end <= COUNT_LIMIT or message.kind not in set(FrameKind):
                raise RemoteProtocolError(
                    f"GAP names the frames {first} to {end} of kind {message.kind}; expected a range of a known kind"
                )
            inventory.note_gap(FrameKind(message.kind), (first, end), message.reason)
        projections = message.kind == FrameKind.PROJECTION
        # What flats and darks did cannot be undone: those that came stay.
        outputs: list[Output] = [] if projections else [GivenUp(FrameKind(message.kind), message.indices)]
        if message.number <= before:
            return outputs  # was followed: since then others may have come under the names
        named = message.indices if projections else ()
        here = list(dict.fromkeys(i for each in named for i in inventory.within(message.kind, *each)))
        if here and self._end is not None:
            raise RemoteProtocolError(f"GAP withdraws projection {here[0]} after the scan has ended")
        for index in here:
            inventory.remove(message.kind, index)
        inventory.followed = message.number
        # The last one says that the GAP was followed: after a crash between two of them it is to be said again.
        withdrawn = [
            *(Withdrawn(index, before) for index in here[:-1]),
            Withdrawn(here[-1] if here else None, message.number),
        ]
        self._arrivals += len(withdrawn)  # the journal has to note them, too
        return [*outputs, *withdrawn]

    def _frame(self, header: FrameHeader, payload: Buffer, now: float) -> list[Output]:
        assert self.window is not None
        nbytes = self.nbytes
        if header.nbytes != nbytes or len(payload) != nbytes or header.rows != self._lane or header.lane != 0:
            raise RemoteProtocolError(
                f"frame {header.n} has {len(payload)} bytes for rows {header.rows} of lane {header.lane}; expected {nbytes} "
                f"bytes for rows {self._lane} of lane 0"
            )
        if header.codec != "raw":
            raise RemoteProtocolError(f"frame {header.n} is coded as {header.codec!r}; 'raw' was agreed")
        self._check_identity(header)
        if self.hash_payload(payload) != header.xxh3:
            reason = f"frame {header.n} was damaged on the way: its bytes do not have the checksum in its header"
            return [self._reply(Nack(session=self._id, lane=0, n=header.n, reason=reason)), *self._break(reason)]
        seen = self.inventory.hash_of(header.kind, header.index)
        if seen is not None and seen != header.xxh3:
            raise RemoteProtocolError(
                f"frame {header.n} is {FrameKind(header.kind).name} {header.index} again, with other pixels than before"
            )
        if header.n < self.received and seen is not None:
            self.duplicates += 1  # the same message once more: it has had its credit
            return []
        if header.n != self.received:
            return self._reset(f"frame {header.n} came where frame {self.received} was due", now)
        self.window.receive(nbytes)
        self.received += 1
        self._digest.add(header.kind, header.index, header.xxh3)
        if seen is not None:
            self.duplicates += 1
            self.window.free(nbytes)
            self._not_durable.append(self._arrivals)
            return [Cut(header.cut)] if header.cut else []
        if self._end is not None:
            raise RemoteProtocolError(f"frame {header.n} is new, but the scan has ended")
        self.inventory.add(header.kind, header.index, header.xxh3)
        self._arrivals += 1
        self._not_durable.append(self._arrivals)
        return [Arrived(header, payload), *([Cut(header.cut)] if header.cut else [])]

    def _check_identity(self, header: FrameHeader) -> None:
        assert self.info is not None
        if header.kind not in set(FrameKind):
            raise RemoteProtocolError(f"frame {header.n} is of kind {header.kind}; expected 0, 1 or 2")
        expected = self.info.counts.get(FrameKind(header.kind))
        limit = COUNT_LIMIT if expected is None else expected
        if header.index >= limit:
            raise RemoteProtocolError(
                f"frame {header.n} is {FrameKind(header.kind).name} {header.index}, but {limit} were announced"
            )
        if (header.theta is None) != (header.kind != FrameKind.PROJECTION):
            raise RemoteProtocolError(
                f"frame {header.n} has theta {header.theta}; a projection has an angle, others none"
            )
        flat = header.kind != FrameKind.PROJECTION
        if (header.position is not None) != flat or (flat and (header.position or 0) > COUNT_LIMIT):
            raise RemoteProtocolError(
                f"frame {header.n} has position {header.position}; of a flat or dark it is the number of projections measured "
                "before it, a projection has none"
            )
        if header.theta is not None and self.info.theta is not None:
            announced = float(self.info.theta[header.index])
            if abs(header.theta - announced) > 1e-9:
                raise RemoteProtocolError(
                    f"projection {header.index} has theta {header.theta}, but the scan announced {announced}"
                )

    @property
    def nbytes(self) -> int:
        """Of a frame's rows of this lane."""
        assert self.info is not None
        return (self._lane[1] - self._lane[0]) * self.info.geometry.columns * self.info.dtype.itemsize

    @property
    def why_nothing_comes(self) -> str:
        """Where the sender is the reason; else empty."""
        if self.info is None or self._end is not None or self._over is not None:
            return ""
        if self.peer is None:
            return f"waiting {self.return_timeout:g} s for the sender to come back"
        return "paused by the sender" if self.paused else ""

    def missing(self) -> tuple[Range, ...]:
        """Ranges of projection indices that have not come, gaps included."""
        return self.inventory.missing(self.info.counts.get(FrameKind.PROJECTION) if self.info else None)

    def _ended(self) -> Ended:
        had = self.inventory
        return Ended(self.missing(), had.given_up(), len(had), had.digest.value)

    def _check_end(self, message: End) -> list[Output]:
        ours = tuple(self.inventory.counts[kind] for kind in FrameKind)
        theirs = (message.projections, message.flats, message.darks)
        if ours != theirs or message.digest != self._digest.value:
            raise RemoteProtocolError(
                f"the sender ends after {theirs} projections, flats and darks with digest {message.digest:016x}; "
                f"received were {ours} with {self._digest.value:016x}"
            )
        first = self._end is None
        state: Literal["received", "final"] = "final" if self._final else "received"
        self._end = EndOk(session=self._id, state=state, missing=self.missing()[:64], digest=self._digest.value)
        outputs: list[Output] = [self._reply(self._end)]
        return [*outputs, self._ended()] if first else outputs

    def finish(self) -> list[Output]:
        """The volume is final and on disk."""
        self._final = True
        if self.session.state is not State.ENDING or self._end is None:
            return []
        self._end = dataclasses.replace(self._end, state="final")
        return [self._reply(self._end)]

    def abandon(self) -> None:
        """No sender will come back: it need not be waited for."""
        self.return_timeout = 0.0

    def free(self, nbytes: int) -> None:
        """A frame has left the ring."""
        if self.window is not None:
            self.window.free(nbytes)

    def parting(self, now: float) -> bool:
        """Whether the sender may not have heard the last word yet, so that this end should stay."""
        if self._over is not None or self.session.over:
            return self.peer is not None and self.session.over and not self._parted and now - self._heard < PARTING
        if not self._final or self._lost_at is None:
            return self._final and self.peer is not None
        return now - self._lost_at < self.return_timeout

    def tick(self, now: float) -> list[Output]:
        """Credit that is due, the heartbeat, and whether the sender fell silent or does not come back; call often."""
        candidate = self._candidate
        if candidate is not None and now - candidate.heard > self.peer_timeout:
            self._candidate, reason = None, f"the sender has been silent for {self.peer_timeout:g} s"
            return [Reply(candidate.peer, Reset(session=candidate.id, reason=reason)), TurnedAway(reason)]
        if self._over is not None or self.session.over:
            return []
        if self.peer is None:
            waited = self._lost_at is not None and now - self._lost_at > self.return_timeout
            if not waited or self._end is not None:
                return []
            return self._broken(f"{self._lost_why}, and none came back within {self.return_timeout:g} s")
        if now - self._heard > self.peer_timeout:
            return self._lose(f"the sender has been silent for {self.peer_timeout:g} s", now)
        if self.session.state is State.OPENING and now - self._told >= self.heartbeat:
            self._told = now
            return [self._reply(Credit(session=self._id, lane=0, max_bytes=0, max_frames=0))]
        if self.window is None or self.session.state not in (State.STREAMING, State.ENDING):
            return []
        if now - self._told >= self.heartbeat or self.window.worth_telling() or self.want_cut != self._told_cut:
            return self._tell(now)
        return []

    def _tell(self, now: float) -> list[Output]:
        assert self.window is not None
        self._told, self._told_cut = now, self.want_cut
        max_bytes, max_frames = self.window.tell()
        credit = Credit(
            session=self._id,
            lane=0,
            max_bytes=max_bytes,
            max_frames=max_frames,
            in_volume=self.in_volume,
            want_cut=self.want_cut,
            advice=clip(self.advice),
        )
        outputs: list[Output] = [self._reply(credit)]
        marks = self.received, self.received - len(self._not_durable)
        if marks != (0, 0):  # also what was said before: it may have been lost
            outputs.append(self._reply(Ack(session=self._id, lane=0, received=marks[0], durable=marks[1])))
        return outputs

    def _lose(self, reason: str, now: float) -> list[Output]:
        if self.return_timeout <= 0 and self._end is None:
            return self._break(reason)
        self._leave_session()
        self._lost_at, self._lost_why = now, reason
        return [SenderLost(reason)]

    def _reset(self, reason: str, now: float) -> list[Output]:
        """Make the sender start a new session: what was lost on the way comes again."""
        reset = self._reply(Reset(session=self._id, reason=reason))
        self._leave_session()
        self._lost_at, self._lost_why = now, reason
        return [reset, SenderLost(reason)]

    def _leave_session(self) -> None:
        """Forget the session, but not the scan. Frames that are still in the ring were let in; they do not come again."""
        self.peer, self.session, self.paused = None, Session(Role.RECEIVER), False
        self.received, self._digest = 0, Digest()
        self.want_cut = self._told_cut = 0
        self._not_durable.clear()

    def _break(self, reason: str) -> list[Output]:
        if self.peer is None or self.session.over:
            return self._broken(reason)
        abort = self._reply(Abort(session=self._id, reason=clip(reason)))
        return [abort, *self._broken(reason)]

    def _broken(self, reason: str, given_up: bool = False) -> list[Output]:
        self._over = Broken(reason, given_up)
        return [self._over]

    def _reply(self, message: Message, payload: bytes | None = None) -> Reply:
        assert self.peer is not None
        self.session.send(message)
        return Reply(self.peer, message, payload)
