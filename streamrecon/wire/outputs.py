"""What the receiver's end wants done: the only things that leave it."""

from __future__ import annotations

from dataclasses import dataclass

from streamrecon.scan import ScanInfo
from streamrecon.wire.codec import Buffer
from streamrecon.wire.messages import FrameHeader, Message, Range


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


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A sender that said HELLO did not get as far as announcing a scan; the next one may try."""

    reason: str


Output = Reply | Opened | Arrived | Ended | Broken | TurnedAway
