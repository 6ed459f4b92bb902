"""The receiver's end of a scan: who may send, what must come next, what was missing. Messages in, outputs out."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass, field

import numpy as np

from streamrecon.errors import GeometryError, RemoteProtocolError
from streamrecon.scan import UID_PATTERN, FrameKind, Geometry, ScanInfo
from streamrecon.wire.codec import Buffer, clip
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import Digest, frame_hash
from streamrecon.wire.messages import (
    VERSION,
    Abort,
    Ack,
    Busy,
    Credit,
    End,
    EndOk,
    FrameHeader,
    Gap,
    Have,
    Hello,
    Lane,
    Message,
    Nack,
    Range,
    Reset,
    ScanOpen,
    Welcome,
)
from streamrecon.wire.outputs import Arrived, Broken, Ended, Opened, Output, Reply, TurnedAway
from streamrecon.wire.session import Role, Session, State

PARTING = 2.0
"""Seconds since a sender was last heard after which it is no longer waited for at the end."""

COUNT_LIMIT = 100_000_000
"""Most frames of one kind in a scan; bounds what is kept for each."""


@dataclass(slots=True)
class ReceivingEnd:
    """One scan, from HELLO to the last END_OK.

    A frame is checked against the session, the numbering, the scan and the credit before it is let in. An error of the
    sender ends the session with ABORT; what had been let in stays.
    """

    incarnation: str
    rows: Range | None = None
    """Detector rows to ask for; None is all."""
    heartbeat: float = 1.0
    """Seconds."""
    peer_timeout: float = 30.0
    """Seconds."""
    in_volume: int = 0
    """Projections in the volume, told with the credit."""
    duplicates: int = 0
    """Frames that came twice and were dropped."""
    peer: bytes | None = None
    session: Session = field(default_factory=lambda: Session(Role.RECEIVER))
    window: CreditWindow | None = None
    info: ScanInfo | None = None
    received: int = 0
    """Frames let in, over all kinds: every n below this."""
    counts: dict[FrameKind, int] = field(default_factory=lambda: dict.fromkeys(FrameKind, 0))
    digest: Digest = field(default_factory=Digest)
    _lane: Range = (0, 0)
    _id: int = 0
    _seen: dict[tuple[int, int], int] = field(default_factory=dict)
    _gap_end: int = 0
    """One past the last projection that a GAP named."""
    _announced: tuple[int, int] = (0, 0)
    _uid: str = ""
    _heard: float = 0.0
    _told: float = 0.0
    _acked: int = 0
    _end: EndOk | None = None
    _parted: bool = False

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
        if peer != self.peer or getattr(message, "session", None) != self._id:
            session = getattr(message, "session", 0)
            return [Reply(peer, Reset(session=session, reason="this session is not known here; start over with HELLO"))]
        self._heard = now
        if self.session.over:
            self._parted = True
        try:
            if not self.session.receive(message):
                return []
            return self._handle(message, payload)
        except (RemoteProtocolError, GeometryError) as error:
            return self._turn_away(str(error)) if self.info is None else self._break(str(error))

    def _hello(self, peer: bytes, hello: Hello, now: float) -> list[Output]:
        if peer == self.peer and hello.uid == self._uid and self.session.state is State.WELCOMED:
            self._heard = now
            return []  # said again before WELCOME was heard
        if self.peer is not None:
            reason = "this engine has ended its scan" if self.session.over else f"scan {self._uid} is in work"
            return [Reply(peer, Busy(reason=reason, retry_after=max(1.0, self.heartbeat)))]
        rows = self.rows or (0, hello.rows)
        fault: str | None = None
        if not hello.version_min <= VERSION <= hello.version_max:
            fault = (
                f"this engine speaks protocol version {VERSION}, the sender {hello.version_min} to {hello.version_max}"
            )
        elif not UID_PATTERN.fullmatch(hello.uid):
            fault = "the scan's uid is not 1 to 64 letters, digits, '_' or '-'"
        elif "raw" not in hello.codecs:
            fault = "this engine knows the codec 'raw' only, which the sender does not offer"
        elif rows[1] > hello.rows or rows[0] >= rows[1]:
            fault = f"rows {rows[0]}:{rows[1]} were asked for (--rows), but the detector has {hello.rows}"
        if fault is not None:
            return [Reply(peer, Abort(session=0, reason=fault)), TurnedAway(fault)]
        self.peer, self._uid, self._lane, self._heard = peer, hello.uid, rows, now
        self._announced = hello.rows, hello.columns
        self._id += 1
        self.session.receive(hello)
        return [self._reply(Welcome(incarnation=self.incarnation, session=self._id, lanes=(Lane(rows=rows),)))]

    def _handle(self, message: Message, payload: Buffer | None) -> list[Output]:
        if isinstance(message, ScanOpen):
            self.info = self._read_scan(message, payload or b"")
            return [Opened(self.info, self._lane)]
        if isinstance(message, FrameHeader):
            return self._frame(message, payload or b"")
        if isinstance(message, Gap):
            self._note_gap(message)
        if isinstance(message, End):
            return self._ended(message)
        if isinstance(message, Abort):
            reason = f"the sender gave up: {message.reason}"
            return self._turn_away(reason) if self.info is None else [Broken(reason)]
        return []

    def _note_gap(self, message: Gap) -> None:
        for first, end in message.indices:
            if not first <= end <= COUNT_LIMIT or message.kind not in set(FrameKind):
                raise RemoteProtocolError(
                    f"GAP names the frames {first} to {end} of kind {message.kind}; expected a range of a known kind"
                )
            # What was sent cannot be withdrawn yet. The shorter of the two is searched, whatever range a peer names.
            come = (i for i in range(first, end)) if end - first < len(self._seen) else (i for _, i in self._seen)
            if any(first <= i < end and (message.kind, i) in self._seen for i in come):
                raise RemoteProtocolError(
                    f"GAP names frames of {first} to {end} that have come; they cannot be withdrawn"
                )
            if message.kind == FrameKind.PROJECTION:
                self._gap_end = max(self._gap_end, end)

    def _read_scan(self, message: ScanOpen, payload: Buffer) -> ScanInfo:
        if message.uid != self._uid:
            raise RemoteProtocolError(f"SCAN_OPEN is of scan {message.uid}, HELLO was of {self._uid}")
        if (message.rows, message.columns) != self._announced:
            raise RemoteProtocolError(
                f"SCAN_OPEN has {message.rows} rows x {message.columns} columns, HELLO had "
                f"{self._announced[0]} x {self._announced[1]}"
            )
        theta = None
        if not message.has_theta and len(payload):
            raise RemoteProtocolError(f"SCAN_OPEN carries {len(payload)} bytes, but says that it has no angles")
        if message.has_theta:
            if message.projections is None or len(payload) != 8 * message.projections:
                raise RemoteProtocolError(
                    f"SCAN_OPEN carries {len(payload)} bytes of angles for {message.projections} projections; expected 8 each"
                )
            theta = np.frombuffer(bytes(payload), "<f8").astype(np.float64)
        if not re.fullmatch(r"[<|][uif][1248]", message.dtype):
            raise RemoteProtocolError(f"SCAN_OPEN names the dtype {message.dtype[:40]!r}; expected one like '<u2'")
        dtype = np.dtype(message.dtype)
        counts = {
            FrameKind.PROJECTION: message.projections,
            FrameKind.FLAT: message.flats,
            FrameKind.DARK: message.darks,
        }
        geometry = Geometry(message.rows, message.columns, message.pixel_size, message.center)
        return ScanInfo(message.uid, geometry, dtype, counts, theta, message.metadata)

    def accept(self, window: CreditWindow, now: float) -> list[Output]:
        """Answer `Opened`: the plan fits, and there is a ring."""
        if self.session.state is not State.OPENING:
            return []
        self.window = window
        return [self._reply(Have(session=self._id)), *self._tell(now)]

    def refuse(self, reason: str) -> list[Output]:
        """Answer `Opened`, or end a running scan from this side."""
        return self._break(reason)

    def _frame(self, header: FrameHeader, payload: Buffer) -> list[Output]:
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
        self.window.receive(nbytes)
        if frame_hash(memoryview(payload)) != header.xxh3:
            reason = f"frame {header.n} was damaged on the way: its bytes do not have the checksum in its header"
            return [self._reply(Nack(session=self._id, lane=0, n=header.n, reason=reason)), *self._break(reason)]
        seen = self._seen.get((header.kind, header.index))
        if seen is not None and header.n <= self.received:
            if seen != header.xxh3:
                raise RemoteProtocolError(
                    f"frame {header.n} is {FrameKind(header.kind).name} {header.index} again, with other pixels than before"
                )
            self.duplicates += 1
            self.window.free(nbytes)
            self.received = max(self.received, header.n + 1)
            return []
        if header.n != self.received:
            raise RemoteProtocolError(
                f"frame {header.n} came where frame {self.received} was due: the frames between were lost when the "
                "connection broke"
            )
        self._seen[header.kind, header.index] = header.xxh3
        self.received += 1
        self.counts[FrameKind(header.kind)] += 1
        self.digest.add(header.kind, header.index, header.xxh3)
        return [Arrived(header, payload)]

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
        if header.theta is not None and self.info.theta is not None:
            announced = float(self.info.theta[header.index])
            if abs(header.theta - announced) > 1e-9:
                raise RemoteProtocolError(
                    f"projection {header.index} has theta {header.theta}, but the scan announced {announced}"
                )

    def _expected(self) -> int | None:
        return self.info.counts.get(FrameKind.PROJECTION) if self.info else None

    @property
    def nbytes(self) -> int:
        """Of a frame's rows of this lane."""
        assert self.info is not None
        return (self._lane[1] - self._lane[0]) * self.info.geometry.columns * self.info.dtype.itemsize

    def missing(self) -> tuple[Range, ...]:
        """Ranges of projection indices that have not come, gaps included."""
        have = sorted(index for kind, index in self._seen if kind == FrameKind.PROJECTION)
        end = self._expected()
        if end is None:
            end = max(max(have, default=-1) + 1, self._gap_end)
        edges = [-1, *have, end]
        return tuple((a + 1, b) for a, b in itertools.pairwise(edges) if b > a + 1)

    def _ended(self, message: End) -> list[Output]:
        ours = tuple(self.counts[kind] for kind in FrameKind)
        theirs = (message.projections, message.flats, message.darks)
        if ours != theirs or message.digest != self.digest.value:
            raise RemoteProtocolError(
                f"the sender ends after {theirs} projections, flats and darks with digest {message.digest:016x}; "
                f"received were {ours} with {self.digest.value:016x}"
            )
        first = self._end is None
        if first:
            self._end = EndOk(session=self._id, state="received", missing=self.missing()[:64], digest=self.digest.value)
        assert self._end is not None
        outputs: list[Output] = [self._reply(self._end)]
        return [*outputs, Ended(self.missing())] if first else outputs

    def finish(self) -> list[Output]:
        """The volume is final and on disk."""
        if self.session.state is not State.ENDING or self._end is None:
            return []
        self._end = dataclasses.replace(self._end, state="final")
        return [self._reply(self._end)]

    def free(self, nbytes: int) -> None:
        """A frame has left the ring."""
        if self.window is not None:
            self.window.free(nbytes)

    def parting(self, now: float) -> bool:
        """Whether the sender may not have read the last message yet, so that the connection should be kept."""
        return self.peer is not None and self.session.over and not self._parted and now - self._heard < PARTING

    def tick(self, now: float) -> list[Output]:
        """Credit that is due, the heartbeat, and whether the sender fell silent; call often."""
        if self.peer is None or self.session.over:
            return []
        if now - self._heard > self.peer_timeout:
            reason = f"the sender has been silent for {self.peer_timeout:g} s"
            return self._turn_away(reason) if self.info is None else self._break(reason)
        if self.window is None or self.session.state not in (State.STREAMING, State.ENDING):
            return []
        if now - self._told >= self.heartbeat or self.window.worth_telling():
            return self._tell(now)
        return []

    def _tell(self, now: float) -> list[Output]:
        assert self.window is not None
        self._told = now
        max_bytes, max_frames = self.window.tell()
        outputs: list[Output] = [
            self._reply(
                Credit(session=self._id, lane=0, max_bytes=max_bytes, max_frames=max_frames, in_volume=self.in_volume)
            )
        ]
        if self.received > self._acked:
            self._acked = self.received
            outputs.append(self._reply(Ack(session=self._id, lane=0, received=self.received)))
        return outputs

    def _break(self, reason: str) -> list[Output]:
        if self.peer is None or self.session.over:
            return [Broken(reason)]
        abort = self._reply(Abort(session=self._id, reason=clip(reason)))
        return [abort, Broken(reason)]

    def _turn_away(self, reason: str) -> list[Output]:
        """Nothing was announced yet: the engine goes on waiting for a scan."""
        outputs: list[Output] = [] if self.session.over else [self._reply(Abort(session=self._id, reason=clip(reason)))]
        self.peer, self.session, self._uid = None, Session(Role.RECEIVER), ""
        return [*outputs, TurnedAway(reason)]

    def _reply(self, message: Message) -> Reply:
        assert self.peer is not None
        self.session.send(message)
        return Reply(self.peer, message)
