"""The receiver's end of a scan: who may send, what must come next, what was missing. Messages in, outputs out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from streamrecon.errors import GeometryError, RemoteProtocolError
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.codec import Buffer
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
from streamrecon.wire.session import Role, Session, State

COUNT_LIMIT = 100_000_000
"""Most frames of one kind in a scan; bounds what is kept for each."""


@dataclass(frozen=True, slots=True)
class Reply:
    """To be sent to a peer."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Opened:
    """A scan was announced; answer with `accept` or `refuse`."""

    info: ScanInfo
    rows: Range


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame was checked; its payload is still the message's buffer."""

    header: FrameHeader
    payload: Buffer


@dataclass(frozen=True, slots=True)
class Ended:
    """The sender has sent everything."""

    missing: tuple[Range, ...]
    """Projection indices that never came."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The scan will not be completed."""

    reason: str


Output = Reply | Opened | Arrived | Ended | Broken


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
    _gaps: set[int] = field(default_factory=set)
    _uid: str = ""
    _heard: float = 0.0
    _told: float = 0.0
    _acked: int = 0
    _end: EndOk | None = None

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
        if peer != self.peer or getattr(message, "session", None) != self._id:
            session = getattr(message, "session", 0)
            return [Reply(peer, Reset(session=session, reason="this session is not known here; start over with HELLO"))]
        self._heard = now
        try:
            if not self.session.receive(message):
                return []
            return self._handle(message, payload)
        except (RemoteProtocolError, GeometryError) as error:
            return self._break(str(error))

    def _hello(self, peer: bytes, hello: Hello, now: float) -> list[Output]:
        if self.peer is not None and (self.peer != peer or self.session.state is not State.GREETING):
            reason = "this engine has ended its scan" if self.session.over else f"scan {self._uid} is in work"
            return [Reply(peer, Busy(reason=reason, retry_after=max(1.0, self.heartbeat)))]
        if not hello.version_min <= VERSION <= hello.version_max:
            reason = (
                f"this engine speaks protocol version {VERSION}, the sender {hello.version_min} to {hello.version_max}"
            )
            return [Reply(peer, Abort(session=0, reason=reason))]
        rows = self.rows or (0, hello.rows)
        if rows[1] > hello.rows:
            reason = f"rows {rows[0]}:{rows[1]} were asked for (--rows), but the detector has {hello.rows}"
            return [Reply(peer, Abort(session=0, reason=reason)), Broken(reason)]
        if "raw" not in hello.codecs:
            return [Reply(peer, Abort(session=0, reason=f"codecs are {hello.codecs}; this engine knows 'raw'"))]
        self.peer, self._uid, self._lane, self._heard = peer, hello.uid, rows, now
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
            for first, end in message.indices:
                if not first <= end <= COUNT_LIMIT:
                    raise RemoteProtocolError(f"GAP names the frames {first} to {end}; expected a range")
                if message.kind == FrameKind.PROJECTION:
                    self._gaps.update(range(first, min(end, self._expected() or end)))
        if isinstance(message, End):
            return self._ended(message)
        if isinstance(message, Abort):
            return [Broken(f"the sender gave up: {message.reason}")]
        return []

    def _read_scan(self, message: ScanOpen, payload: Buffer) -> ScanInfo:
        if message.uid != self._uid:
            raise RemoteProtocolError(f"SCAN_OPEN is of scan {message.uid}, HELLO was of {self._uid}")
        theta = None
        if message.has_theta:
            if message.projections is None or len(payload) != 8 * message.projections:
                raise RemoteProtocolError(
                    f"SCAN_OPEN carries {len(payload)} bytes of angles for {message.projections} projections; expected 8 each"
                )
            theta = np.frombuffer(bytes(payload), "<f8").astype(np.float64)
        try:
            dtype = np.dtype(message.dtype)
        except TypeError:
            raise RemoteProtocolError(
                f"SCAN_OPEN names the dtype {message.dtype[:40]!r}; expected one like '<u2'"
            ) from None
        counts = {
            FrameKind.PROJECTION: message.projections,
            FrameKind.FLAT: message.flats,
            FrameKind.DARK: message.darks,
        }
        geometry = Geometry(message.rows, message.columns, message.pixel_size, message.center)
        return ScanInfo(message.uid, geometry, dtype, counts, theta, message.metadata)

    def accept(self, window: CreditWindow, now: float) -> list[Output]:
        """Answer `Opened`: the plan fits, and there is a ring."""
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
        if seen is not None:
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
            end = max([*have, *self._gaps], default=-1) + 1
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
        return [self._reply(EndOk(session=self._id, state="final", missing=self._end.missing, digest=self._end.digest))]

    def free(self, nbytes: int) -> None:
        """A frame has left the ring."""
        if self.window is not None:
            self.window.free(nbytes)

    def tick(self, now: float) -> list[Output]:
        """Credit that is due, the heartbeat, and whether the sender fell silent; call often."""
        if self.peer is None or self.session.over:
            return []
        if now - self._heard > self.peer_timeout:
            return self._break(f"the sender has been silent for {self.peer_timeout:g} s")
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
        return [self._reply(Abort(session=self._id, reason=reason[:900])), Broken(reason)]

    def _reply(self, message: Message) -> Reply:
        assert self.peer is not None
        self.session.send(message)
        return Reply(self.peer, message)
