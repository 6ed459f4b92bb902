"""The sender's end of a scan: what may be sent when. Messages in, messages out."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from streamrecon.errors import PeerLostError, RemoteProtocolError, ScanAbortedError
from streamrecon.scan import Frame, FrameKind, ScanInfo
from streamrecon.wire.codec import Buffer, clip
from streamrecon.wire.credit import CreditCursor
from streamrecon.wire.digest import Digest, frame_hash
from streamrecon.wire.messages import (
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
    ScanOpen,
    Status,
    Welcome,
)
from streamrecon.wire.ranges import Ranges
from streamrecon.wire.session import Role, Session, State

log = logging.getLogger(__name__)

METADATA_LIMIT = 2048
"""Bytes of metadata in SCAN_OPEN."""


@dataclass(slots=True)
class SendingEnd:
    """One session of one lane of a scan, from HELLO to the last END_OK."""

    info: ScanInfo
    epoch: int
    can_replay: bool = True
    retain_bytes: int = 0
    """How much the sender keeps until it is durable."""
    heartbeat: float = 1.0
    """Seconds."""
    peer_timeout: float = 30.0
    """Seconds."""
    session: Session = field(default_factory=lambda: Session(Role.SENDER))
    credit: CreditCursor = field(default_factory=CreditCursor)
    digest: Digest = field(default_factory=Digest)
    lanes: tuple[Lane, ...] = ()
    """As the receiver's WELCOME names them; the first one is this session's."""
    busy: Busy | None = None
    """The receiver's last word where it has no time; None once it has."""
    have: dict[FrameKind, Ranges] = field(default_factory=dict)
    """Frames that the receiver had before this session."""
    followed: int = 0
    """Number of the last GAP that it had followed by then."""
    ended: bool = False
    """Whether it had END by then."""
    received: int = 0
    """Frames of this session that the receiver has checked."""
    durable: int = 0
    """Frames of this session that survive a crash of the receiver."""
    paused: bool = False
    """Told with the heartbeat."""
    in_volume: int = 0
    """Projections that are in the volume."""
    want_cut: int = 0
    """Number of the cut that the receiver wants last; 0 is none."""
    advice: str = ""
    """Why people who watch the scan advise to stop it, where they do."""
    missing: tuple[Range, ...] = ()
    _id: int = 0
    _heard: float = 0.0
    _sent: float = 0.0
    _ending: End | None = None

    def hello(self, now: float) -> Hello:
        """The first message, and again after BUSY."""
        self._heard = self._sent = now
        shape = self.info.geometry
        message = Hello(
            uid=self.info.uid,
            epoch=self.epoch,
            can_replay=self.can_replay,
            retain_bytes=self.retain_bytes,
            rows=shape.rows,
            columns=shape.columns,
        )
        self.session.send(message)
        return message

    @property
    def rows(self) -> Range:
        """Detector rows the receiver asked for; known once it has said WELCOME."""
        return self.lanes[0].rows if self.lanes else (0, 0)

    def hear(self, message: Message, payload: Buffer | None, now: float) -> list[tuple[Message, bytes | None]]:
        """Take a message and its payload; the messages to answer with, with their payloads.

        Raises
        ------
        RemoteProtocolError
            If the receiver's message does not fit.
        ScanAbortedError
            If the receiver ended the scan.
        """
        self._heard = now
        if self._id and getattr(message, "session", self._id) != self._id:
            return []  # of an earlier session
        if not self.session.receive(message):
            return []
        if isinstance(message, Welcome):
            return [self._welcomed(message, now)]
        if isinstance(message, Busy):
            self.busy = message
        elif isinstance(message, Credit):
            self.credit.extend(message.max_bytes, message.max_frames)
            self.in_volume = message.in_volume
            self.want_cut = message.want_cut
            self.advice = message.advice
        elif isinstance(message, Have):
            self.have = _read_have(message, bytes(payload or b""))
            self.followed, self.ended = message.gaps, message.ended
        elif isinstance(message, Ack):
            if not message.durable <= message.received <= self.credit.sent_frames:
                raise RemoteProtocolError(
                    f"the engine acknowledges {message.received} frames, {message.durable} of them as durable; "
                    f"{self.credit.sent_frames} were sent"
                )
            self.received = max(self.received, message.received)
            self.durable = max(self.durable, message.durable)
        elif isinstance(message, Nack):
            log.error("the engine refused frame %d: %s", message.n, message.reason)
        elif isinstance(message, EndOk):
            if message.digest != self.digest.value:
                raise RemoteProtocolError(
                    f"the engine ended with digest {message.digest:016x}; this side sent {self.digest.value:016x}"
                )
            self.missing = message.missing
        elif isinstance(message, Abort):
            raise ScanAbortedError(f"the engine ended the scan: {message.reason}")
        return []

    def _welcomed(self, message: Welcome, now: float) -> tuple[Message, bytes | None]:
        self._id, self.busy = message.session, None
        info = self.info
        if not message.lanes or message.lanes[0].endpoint:
            raise RemoteProtocolError("the engine's WELCOME does not say which rows come over this connection")
        for lane in message.lanes:
            if not lane.rows[0] < lane.rows[1] <= info.geometry.rows:
                raise RemoteProtocolError(
                    f"the engine asks for rows {lane.rows[0]}:{lane.rows[1]} of {info.geometry.rows}"
                )
        self.lanes = message.lanes
        theta = b"" if info.theta is None else np.ascontiguousarray(info.theta, "<f8").tobytes()
        reply = ScanOpen(
            session=self._id,
            uid=info.uid,
            rows=info.geometry.rows,
            columns=info.geometry.columns,
            dtype=info.dtype.newbyteorder("<").str,
            projections=info.counts.get(FrameKind.PROJECTION),
            flats=info.counts.get(FrameKind.FLAT),
            darks=info.counts.get(FrameKind.DARK),
            pixel_size=info.geometry.pixel_size,
            center=info.geometry.center,
            has_theta=info.theta is not None,
            metadata=_portable(info.metadata),
        )
        self.session.send(reply)
        self._sent = now
        return reply, theta

    @property
    def streaming(self) -> bool:
        """Whether frames may be sent, as far as credit goes."""
        return self.session.state is State.STREAMING

    def frame(self, frame: Frame, now: float, cut: int = 0) -> FrameHeader:
        """Number a frame and take its credit; the payload is `frame.data`'s bytes.

        Parameters
        ----------
        frame
            With the rows of this lane.
        now
            Seconds, monotonic.
        cut
            Number of the cut that comes after it; 0 is none.

        Raises
        ------
        LocalProtocolError
            If the session is not streaming.
        """
        payload = frame.data.data.cast("B")
        header = FrameHeader(
            session=self._id,
            lane=0,
            n=self.credit.sent_frames,
            kind=int(frame.kind),
            index=int(frame.index),
            theta=None if frame.theta is None else float(frame.theta),
            position=None if frame.position is None else int(frame.position),
            rows=self.rows,
            nbytes=payload.nbytes,
            xxh3=frame_hash(payload),
            cut=cut,
        )
        self.session.send(header)
        self.credit.spend(payload.nbytes)
        self.digest.add(header.kind, header.index, header.xxh3)
        self._sent = now
        return header

    def cut(self, number: int, now: float) -> Status:
        """A cut where there is no frame to carry it."""
        self._sent = now
        message = Status(session=self._id, sent=self.credit.sent_frames, paused=self.paused, cut=number)
        self.session.send(message)
        return message

    def gap(self, number: int, kind: FrameKind, indices: tuple[Range, ...], reason: str, now: float) -> Gap:
        """Give up frames, withdraw projections that were sent, or say again why."""
        self._sent = now
        message = Gap(session=self._id, number=number, kind=int(kind), indices=indices, reason=clip(reason))
        self.session.send(message)
        return message

    def end(self, counts: Mapping[FrameKind, int], now: float) -> End:
        """After the last frame, and again until it is answered.

        Parameters
        ----------
        counts
            Frames of each kind that the receiver must have by now, whatever session they came in.
        now
            Seconds, monotonic.
        """
        message = End(
            session=self._id,
            projections=counts[FrameKind.PROJECTION],
            flats=counts[FrameKind.FLAT],
            darks=counts[FrameKind.DARK],
            digest=self.digest.value,
        )
        self.session.send(message)
        self._sent, self._ending = now, message
        return message

    def abort(self, reason: str) -> Abort | None:
        """To give up; None where there is nobody to tell."""
        if self.session.over or self.session.state is State.NEW:
            return None
        message = Abort(session=self._id, reason=clip(reason))
        self.session.send(message)
        return message

    def farewell(self) -> Status:
        """To be sent once the receiver has ended the session, so that it need not keep the connection any longer."""
        return Status(session=self._id, sent=self.credit.sent_frames)

    def tick(self, now: float) -> Message | None:
        """The heartbeat, where one is due; call often.

        Raises
        ------
        PeerLostError
            If the receiver fell silent after it had said WELCOME.
        """
        state = self.session.state
        if (
            state in (State.WELCOMED, State.OPENING, State.STREAMING, State.ENDING)
            and now - self._heard > self.peer_timeout
        ):
            raise PeerLostError(
                f"the engine has been silent for {self.peer_timeout:g} s; {self.received} frames were received there, "
                f"{self.credit.sent_frames} sent"
            )
        if now - self._sent < self.heartbeat:
            return None
        if state is State.ENDING:
            assert self._ending is not None
            self._sent = now
            self.session.send(self._ending)
            return self._ending
        if state in (State.OPENING, State.STREAMING):
            self._sent = now
            message = Status(session=self._id, sent=self.credit.sent_frames, paused=self.paused)
            self.session.send(message)
            return message
        return None


def _read_have(message: Have, payload: bytes) -> dict[FrameKind, Ranges]:
    sizes = [16 * count for count in (message.projections, message.flats, message.darks)]
    if len(payload) != sum(sizes):
        raise RemoteProtocolError(f"HAVE carries {len(payload)} bytes for {sum(sizes) // 16} ranges; expected 16 each")
    ends = list(itertools.accumulate(sizes))
    return {
        kind: Ranges.from_bytes(payload[end - size : end])
        for kind, end, size in zip(FrameKind, ends, sizes, strict=True)
    }


def _portable(metadata: Mapping[str, str | float | int]) -> dict[str, str | float | int]:
    """What of the metadata a header can carry: short texts and finite numbers, as far as there is room."""
    out: dict[str, str | float | int] = {}
    room = METADATA_LIMIT
    for key, value in metadata.items():
        name = clip(str(key), 64)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            value = clip(str(value), 256)
        elif isinstance(value, int):
            value = int(value) if -(1 << 63) <= value < 1 << 64 else clip(str(value), 256)
        else:
            value = float(value)
        room -= len(name.encode()) + (len(value.encode()) if isinstance(value, str) else 9) + 6
        if room < 0:
            log.warning("metadata from %r on does not fit into the scan's announcement and is left out", name)
            break
        out[name] = value
    return out
