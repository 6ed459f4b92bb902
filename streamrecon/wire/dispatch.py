"""The sender of a scan over all its lanes and sessions: what to say to whom, which frame goes where next, what may be forgotten.

Messages and frames in, messages and frames out; `transport.sender` moves them.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic

from streamrecon.errors import PeerLostError, RemoteProtocolError
from streamrecon.scan import Frame, FrameKind, ScanInfo
from streamrecon.wire.codec import Buffer
from streamrecon.wire.messages import Busy, FrameHeader, Message, Range, Reset
from streamrecon.wire.outbox import Identity, Kept, Outbox, spans
from streamrecon.wire.positions import Positions
from streamrecon.wire.ranges import Ranges
from streamrecon.wire.sending import SendingEnd
from streamrecon.wire.session import State

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Sessions in a row in which no frame arrives before a scan is given up."""

HELLO_AGAIN = 1.0
"""Seconds after which HELLO is said again: an engine may have been replaced before it could answer."""

MOST_PATIENT = 30.0
"""Seconds after which HELLO is said again, whatever an engine that is busy asks for."""

NO_ROOM = "dropped by the sender, which had no room to keep them"
LOST = "lost by the engine, and not kept by the sender"


TAKE_OVER = 1_000_000
"""Epochs, nanoseconds, by which senders that take over are apart at most."""

AT_ONCE = 200
"""Ranges in one GAP that says several again."""

_Gap = tuple[int, FrameKind, tuple[Range, ...], str]
"""Number, kind, indices, reason."""


@dataclass(slots=True)
class _Lane:
    endpoint: str
    end: SendingEnd
    hello_at: float = 0.0
    gaps: list[_Gap] = field(default_factory=list)
    """To be said."""


@dataclass(slots=True, eq=False)
class Dispatch(Generic[Kept]):
    """One scan, from the first HELLO to the last END_OK."""

    info: ScanInfo
    endpoint: str
    """Of the engine; it says where other lanes are."""
    epoch: int
    can_replay: bool = True
    """Whether the source can give everything again: then a frame is kept only until it has arrived."""
    drop: bool = False
    """Whether a frame that finds no room is given up; else the source waits."""
    ahead: bool = False
    """Whether frames are taken from the source before a lane could send them."""
    retain_bytes: int = 0
    heartbeat: float = 1.0
    peer_timeout: float = 30.0
    connect_timeout: float | None = None
    """Seconds to wait for an engine at first; None waits for ever."""
    return_timeout: float = 60.0
    """Seconds to wait for an engine that had the scan."""
    lanes: list[_Lane] = field(default_factory=list)
    session: int = 0
    """Grows with every new session; all connections of the one before are to be closed then."""
    passes: int = 0
    """Times that the source has to be read from its start, so far."""
    rows: Range = (0, 0)
    """Detector rows to read."""
    paused: bool = False
    joined: int = 0
    """Sessions in which all lanes were open."""
    dropped: int = 0
    outbox: Outbox[Kept] = field(default_factory=Outbox)
    _out: list[tuple[int, Message, bytes | None]] = field(default_factory=list)
    _free: list[Kept] = field(default_factory=list)
    _gaps: list[_Gap] = field(default_factory=list)
    """All frames that were given up, in the order of their numbers: a new session hears of them again."""
    _positions: Positions = field(default_factory=Positions)
    """Where the flats and darks of this pass lie."""
    _open: bool = False
    """Whether all lanes of this session are open."""
    _began: float | None = None
    _ended: bool = False
    """Whether the source has given everything."""
    _idle: int = 0
    """Sessions in a row that ended without a frame having arrived."""
    _cut: int = 0
    """Number of the last cut placed in this session."""
    _behind: list[tuple[int, int]] = field(default_factory=list)
    """Position and number of lanes that may have a frame to send, the one that is furthest behind first (a heap); looked for anew
    with whatever is heard, and now and then, so that a thousand lanes are not looked at for each frame."""

    @property
    def main(self) -> SendingEnd:
        """The session of the first lane."""
        return self.lanes[0].end

    @property
    def done(self) -> bool:
        """Whether the final volume is there."""
        return bool(self.lanes) and all(lane.end.session.state is State.CLOSED for lane in self.lanes)

    @property
    def streaming(self) -> bool:
        """Whether frames may be sent, as far as credit goes."""
        return self._open

    def messages(self) -> list[tuple[int, Message, bytes | None]]:
        """Lane, message and payload of what is to be sent, in this order."""
        out, self._out = self._out, []
        return out

    def forgotten(self) -> list[Kept]:
        """Frames that need not be kept any more."""
        free, self._free = self._free, []
        return free

    # Sessions.

    def begin(self, now: float) -> None:
        """Start a new session."""
        self.session += 1
        self._open, self._out, self._began, self._behind = False, [], now, []
        self.lanes = [self._lane(self.endpoint)]

    def _lane(self, endpoint: str) -> _Lane:
        end = SendingEnd(self.info, self.epoch, self.can_replay, self.retain_bytes, self.heartbeat, self.peer_timeout)
        return _Lane(endpoint, end)

    def greet(self, lane: int, now: float) -> None:
        """Someone is there and can be talked to: say HELLO if that is due."""
        each = self.lanes[lane]
        if each.end.session.state in (State.NEW, State.GREETING) and now >= each.hello_at:
            each.hello_at = now + HELLO_AGAIN
            self._say(lane, each.end.hello(now))

    def hear(self, lane: int, message: Message, payload: Buffer | None, now: float) -> None:
        """Take a message of a lane.

        Raises
        ------
        RemoteProtocolError
            If it does not fit, or a younger sender has the scan.
        ScanAbortedError
            If the engine ended the scan.
        """
        end = self.lanes[lane].end
        self._behind = []
        for reply, reply_payload in end.hear(message, payload, now):
            self._say(lane, reply, reply_payload)
        if isinstance(message, Busy):
            self.lanes[lane].hello_at = now + min(max(message.retry_after, HELLO_AGAIN), MOST_PATIENT)
            if message.soon:
                self._began = now
        self._supersede(end)
        if lane == 0 and len(end.lanes) > len(self.lanes):
            for other in end.lanes[1:]:
                if not other.endpoint:
                    raise RemoteProtocolError(
                        f"the engine's WELCOME gives no endpoint for rows {other.rows[0]}:{other.rows[1]}"
                    )
                self.lanes.append(self._lane(other.endpoint))
        if end.session.state is State.LOST:
            self._idle += 1
            if self._idle >= ATTEMPTS:
                raise PeerLostError(
                    f"the engine at {self.endpoint} did not know the session {ATTEMPTS} times without having taken a frame; "
                    "is it being restarted again and again, or does it forget the scan each time?"
                )
            why = message.reason if isinstance(message, Reset) else "the engine does not know the session any more"
            self._lose(why, now)
        elif end.session.state is State.OPENING:
            self._began = now  # it is there, and has to do something first
        elif (
            not self._open
            and len(self.lanes) == len(self.main.lanes)
            and all(lane.end.streaming for lane in self.lanes)
        ):
            self._join()
        elif self._open:
            count = end.received if self.can_replay else end.durable
            self._free += self.outbox.acknowledge(lane, count)
            self._idle = 0 if count else self._idle

    def tick(self, now: float) -> None:
        """Heartbeats, and whether the engine fell silent; call often.

        Raises
        ------
        PeerLostError
            If there is no engine, or none that keeps the scan.
        """
        self._behind = []
        patience = self.return_timeout if self.joined else self.connect_timeout
        if not self._open and patience is not None and self._began is not None and now - self._began > patience:
            why = f": {self.main.busy.reason}" if self.main.busy else ""
            if self.joined:
                raise PeerLostError(f"the engine at {self.endpoint} did not come back within {patience:g} s{why}")
            raise PeerLostError(f"no engine took the scan at {self.endpoint} within {patience:g} s{why}")
        try:
            for number, lane in enumerate(self.lanes):
                lane.end.paused = self.paused
                message = lane.end.tick(now)
                if message is not None:
                    self._say(number, message)
        except PeerLostError as error:
            self._lose(str(error), now)
        self._place_cut(now)
        self._end(now)

    def _lose(self, reason: str, now: float) -> None:
        log.warning("%s: %s; the scan goes on in a new session", self.endpoint, reason)
        began = self._began if not self._open and self._began is not None else now
        self.begin(now)
        self._began = began  # an engine that only ever greets does not make the time to wait for it start anew

    def _supersede(self, end: SendingEnd) -> None:
        """Where the scan has a sender that calls itself younger: take over, unless this one has had its turn."""
        busy = end.busy
        if busy is None or busy.epoch <= self.epoch:
            return
        if self.joined:
            raise RemoteProtocolError(f"this sender was replaced: {busy.reason}")
        # The clocks of two machines, or of one that was set, do not say who came first: who was never let in is the new one.
        # Two that take over at once are not to call themselves the same: their GAPs would be taken for each other's.
        self.epoch = end.epoch = busy.epoch + 1 + self.epoch % TAKE_OVER

    def _join(self) -> None:
        """All lanes are open: see what their receivers have."""
        rows = min(lane.end.rows[0] for lane in self.lanes), max(lane.end.rows[1] for lane in self.lanes)
        if self.joined and rows != self.rows:
            raise RemoteProtocolError(
                f"the engine asks for rows {rows[0]}:{rows[1]} now; before, it asked for {self.rows[0]}:{self.rows[1]}"
            )
        self.rows, self._open, self._cut = rows, True, 0
        self.joined += 1
        haves = [(each.end.have, each.end.followed, each.end.ended) for each in self.lanes]
        free, forgotten = self.outbox.join(haves, durable=not self.can_replay)
        self._free += free
        for number, lane in enumerate(self.lanes):
            lane.gaps = [] if lane.end.ended else self._said_again(number)
        self._idle = self._idle if forgotten else 0
        if not self.passes:
            self.passes = 1
            if not self.can_replay:
                self._positions = Positions(
                    {index for have, _, _ in haves for index in have.get(FrameKind.PROJECTION, ())}
                )
        elif forgotten and self.can_replay:
            self.outbox.start_over()
            self.passes, self._ended, self._positions = self.passes + 1, False, Positions()
        elif forgotten:
            log.error("the engine lost %d frames that this sender does not have any more", len(forgotten))
            self._give_up_all(forgotten)
        if not self.can_replay:
            # Of a sender before this one, which died before all lanes had them: nobody has them any more.
            self._give_up_all(self.outbox.uneven)

    def _said_again(self, number: int) -> list[_Gap]:
        """What a lane's new session has to hear: what its receiver may not have followed and, for their reasons, all others."""
        followed, again, found = self.lanes[number].end.followed, self.outbox.again(number), list[_Gap]()
        for gap in self._gaps:
            name, kind, ranges, reason = gap
            if name > followed:
                indices = Ranges.of(i for each in ranges for i in range(*each) if (kind, i) not in again)
                found.append((name, kind, indices.ranges if again else ranges, reason))
            elif found and found[-1][1::2] == (kind, reason) and len(found[-1][2]) < AT_ONCE:
                found[-1] = name, kind, Ranges.union(found[-1][2], ranges).ranges, reason
            else:
                found.append(gap)
        return found

    def _give_up_all(self, frames: Iterable[Identity]) -> None:
        for kind, ranges in spans(frames).items():
            for indices in ranges:
                self.give_up(kind, indices, LOST)

    # Frames.

    @property
    def hungry(self) -> bool:
        """Whether to take the next frame from the source."""
        if not self.joined or self.paused or self._ended:
            return False
        if not self._open:
            return self.ahead  # a detector gives its frames also while the engine is being restarted
        if all(lane.end.ended for lane in self.lanes):
            return False
        # Where the source can wait it does, as long as no lane has to.
        return self.ahead or any(self.outbox.next(lane) is None for lane in range(len(self.lanes)))

    def place(self, frame: Frame) -> Frame:
        """A frame that the source gave, with its position among the projections; of each, in the order of the source."""
        return self._positions.place(frame)

    def put(self, identity: Identity, kept: Kept) -> bool:
        """Take in a frame that the source gave; False where it need not be kept."""
        return self.outbox.put(identity, kept)

    def no_room(self, identity: Identity) -> bool:
        """There is no room to keep a frame; whether it is given up."""
        if self.drop:
            self.dropped += 1
            log.warning("%s %d was dropped: there is no room to keep it", identity[0].name.lower(), identity[1])
            self.give_up(identity[0], (identity[1], identity[1] + 1), NO_ROOM)
        return self.drop

    def give_up(self, kind: FrameKind, indices: Range, reason: str) -> None:
        """Frames will not come, or are withdrawn. Flats and darks that were given stay: what they did cannot be undone."""
        ranges: tuple[Range, ...] = (indices,)
        if kind is FrameKind.PROJECTION:
            self._free += self.outbox.withdraw(kind, indices)
        else:
            given = set(self.outbox.given(kind, indices))
            if given:
                log.error("%s %d to %d cannot be withdrawn any more", kind.name.lower(), min(given), max(given))
            rest = Ranges.of(index for index in range(*indices) if index not in given)
            if not rest:
                return
            ranges = rest.ranges
            self.outbox.forgo(kind, rest)
        self._gaps.append((self.outbox.withdrawals, kind, ranges, reason))
        for lane in self.lanes:
            if self._open and not lane.end.ended:
                lane.gaps.append(self._gaps[-1])

    def source_ended(self) -> None:
        """The source has given everything."""
        self._ended = True

    def next(self, ready: Callable[[int], bool]) -> tuple[int, Kept] | None:
        """The lane that is furthest behind of those that can send, and its next frame.

        Parameters
        ----------
        ready
            Whether a message of a lane could leave now.
        """
        for fresh in (False, True):
            if fresh:
                found = [(self.outbox.next(number), number) for number in range(len(self.lanes) if self._open else 0)]
                self._behind = [(following[0], number) for following, number in found if following is not None]
                heapq.heapify(self._behind)
            while self._behind:
                position, number = self._behind[0]
                end, following = self.lanes[number].end, self.outbox.next(number)
                if following is None or not (
                    end.streaming and end.credit.allows(self.nbytes(number)) and ready(number)
                ):
                    heapq.heappop(self._behind)
                elif following[0] != position:
                    heapq.heapreplace(self._behind, (following[0], number))
                else:
                    return number, following[1]
        return None

    def waits_for_credit(self) -> bool:
        """Whether some lane has a frame and no credit for it."""
        return self._open and any(
            self.outbox.next(number) is not None and not lane.end.credit.allows(self.nbytes(number))
            for number, lane in enumerate(self.lanes)
        )

    def nbytes(self, lane: int) -> int:
        """Of a frame's rows of a lane."""
        first, end = self.lanes[lane].end.rows
        return (end - first) * self.info.geometry.columns * self.info.dtype.itemsize

    def send(self, lane: int, frame: Frame, now: float) -> FrameHeader:
        """Number the frame that `next` gave, with the rows of its lane; its pixels are the payload."""
        self._say_gaps(lane, now)
        header = self.lanes[lane].end.frame(frame, now, self.outbox.cut(lane))
        self.outbox.sent(lane)
        return header

    # Cuts.

    def _place_cut(self, now: float) -> None:
        """Place the cut that the engine wants where all lanes have had the same frames."""
        want = self.main.want_cut
        if not self._open or not all(lane.end.streaming for lane in self.lanes):
            return
        if want <= self._cut and not self.outbox.cut_wanted:
            return
        self._cut = want
        if self.outbox.place(want):
            for number, lane in enumerate(self.lanes):
                self._say_gaps(number, now)
                self._say(number, lane.end.cut(want, now))

    # The end.

    def _end(self, now: float) -> None:
        """Say what is left to be said on lanes that have no frame to send, and END where there will be none."""
        if not self._open:
            return
        for number, lane in enumerate(self.lanes):
            if lane.end.streaming:
                self._say_gaps(number, now)
                if lane.end.ended or (self._ended and self.outbox.next(number) is None):
                    self._say(number, lane.end.end(self.outbox.counts(number), now))

    def _say_gaps(self, number: int, now: float) -> None:
        lane = self.lanes[number]
        for gap in lane.gaps:
            self._say(number, lane.end.gap(*gap, now))
        lane.gaps = []

    def abort(self, reason: str) -> bool:
        """Tell the engine that the scan ends here; whether it has to hear it."""
        told = False
        for number, lane in enumerate(self.lanes):
            message = lane.end.abort(reason)
            if message is not None:
                self._say(number, message)
                told = True
            elif lane.end.session.over:
                self._say(number, lane.end.farewell())
        return told

    def farewell(self) -> None:
        """The engine need not keep the connections any longer."""
        for number, lane in enumerate(self.lanes):
            self._say(number, lane.end.farewell())

    def _say(self, lane: int, message: Message, payload: bytes | None = None) -> None:
        self._out.append((lane, message, payload))


def missing(ends: Iterable[SendingEnd]) -> tuple[Range, ...]:
    """Projections that the engine never got, as its lanes say."""
    return next((end.missing for end in ends if end.missing), ())
