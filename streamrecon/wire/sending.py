"""The sender's end of a scan: what may be sent when. Messages in, messages out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from streamrecon.errors import PeerLostError, RemoteProtocolError, ScanAbortedError
from streamrecon.scan import Frame, FrameKind, ScanInfo
from streamrecon.wire.codec import clip
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
    Hello,
    Message,
    Nack,
    Range,
    ScanOpen,
    Status,
    Welcome,
)
from streamrecon.wire.session import Role, Session, State

log = logging.getLogger(__name__)

METADATA_LIMIT = 2048
"""Bytes of metadata in SCAN_OPEN."""


@dataclass(slots=True)
class SendingEnd:
    """One session of one scan, from HELLO to the last END_OK."""

    info: ScanInfo
    epoch: int
    can_replay: bool = True
    heartbeat: float = 1.0
    """Seconds."""
    peer_timeout: float = 30.0
    """Seconds."""
    session: Session = field(default_factory=lambda: Session(Role.SENDER))
    credit: CreditCursor = field(default_factory=CreditCursor)
    digest: Digest = field(default_factory=Digest)
    counts: dict[FrameKind, int] = field(default_factory=lambda: dict.fromkeys(FrameKind, 0))
    rows: Range = (0, 0)
    """Detector rows the receiver asked for; known once it has said WELCOME."""
    busy: Busy | None = None
    """The receiver's last word where it has no time."""
    received: int = 0
    """Frames the receiver has checked."""
    in_volume: int = 0
    """Projections that are in the volume."""
    missing: tuple[Range, ...] = ()
    _identities: set[tuple[FrameKind, int]] = field(default_factory=set)
    _id: int = 0
    _heard: float = 0.0
    _sent: float = 0.0

    def hello(self, now: float) -> Hello:
        """The first message, and again after BUSY."""
        self._heard = self._sent = now
        self.busy = None
        shape = self.info.geometry
        message = Hello(
            uid=self.info.uid, epoch=self.epoch, can_replay=self.can_replay, rows=shape.rows, columns=shape.columns
        )
        self.session.send(message)
        return message

    def hear(self, message: Message, now: float) -> list[tuple[Message, bytes | None]]:
        """Take a message; the messages to answer with, with their payloads.

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
        elif isinstance(message, Ack):
            self.received = max(self.received, message.received)
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
        self._id = message.session
        info = self.info
        if len(message.lanes) != 1 or message.lanes[0].endpoint:
            raise RemoteProtocolError(
                f"the engine offers {len(message.lanes)} lanes; this sender serves one connection"
            )
        first, end = message.lanes[0].rows
        if not first < end <= info.geometry.rows:
            raise RemoteProtocolError(f"the engine asks for rows {first}:{end} of {info.geometry.rows}")
        self.rows = (first, end)
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

    def frame(self, frame: Frame, now: float) -> FrameHeader:
        """Number a frame and take its credit; the payload is `frame.data`'s bytes.

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
            rows=self.rows,
            nbytes=payload.nbytes,
            xxh3=frame_hash(payload),
        )
        self.session.send(header)
        self.credit.spend(payload.nbytes)
        if (frame.kind, header.index) not in self._identities:  # a frame that a source gives twice counts once
            self._identities.add((frame.kind, header.index))
            self.counts[frame.kind] += 1
            self.digest.add(header.kind, header.index, header.xxh3)
        self._sent = now
        return header

    def end(self, now: float) -> End:
        """After the last frame, and again until it is answered."""
        self._sent = now
        message = End(
            session=self._id,
            projections=self.counts[FrameKind.PROJECTION],
            flats=self.counts[FrameKind.FLAT],
            darks=self.counts[FrameKind.DARK],
            digest=self.digest.value,
        )
        self.session.send(message)
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
            return self.end(now)
        if state in (State.OPENING, State.STREAMING):
            self._sent = now
            message = Status(session=self._id, sent=self.credit.sent_frames)
            self.session.send(message)
            return message
        return None


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
