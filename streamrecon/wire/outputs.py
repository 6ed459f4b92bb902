"""What the receiver's end wants done: the only things that leave it."""

from __future__ import annotations

from dataclasses import dataclass

from streamrecon.scan import FrameKind, ScanInfo
from streamrecon.wire.codec import Buffer
from streamrecon.wire.messages import FrameHeader, Message, Range


@dataclass(frozen=True, slots=True)
class Reply:
    """To be sent to a peer."""

    peer: bytes
    message: Message
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A scan was announced; answer with `accept` or `refuse`."""

    info: ScanInfo
    rows: Range
    can_replay: bool = True
    """Whether the sender can send the scan again from its start."""
    epoch: int = 0
    """Of the sender."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame was checked; its payload is still the message's buffer."""

    header: FrameHeader
    payload: Buffer


@dataclass(frozen=True, slots=True)
class Cut:
    """A version of the volume ends with what has arrived so far, here as in every other lane."""

    number: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The sender gave frames up: a projection that had come does not count any more."""

    index: int | None
    """None where none of them had come."""
    number: int
    """Of the last GAP that has been followed by then."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The sender does not have these flats or darks: as far as they have not come, they are not to be waited for."""

    kind: FrameKind
    indices: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class SenderLost:
    """The sender fell silent; the scan waits for it, or for another one."""

    reason: str


@dataclass(frozen=True, slots=True)
class SenderBack:
    """The scan goes on, with the same sender or another one."""

    epoch: int
    """Of the sender; to be remembered like a frame, so that an older one is known as such."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The sender has sent everything."""

    missing: tuple[Range, ...]
    """Projection indices that never came."""
    gaps: tuple[tuple[FrameKind, str, int], ...] = ()
    """How many frames of each kind never came as the sender gave them up, by the reason it gave."""
    frames: int = 0
    """That are here, over all kinds."""
    digest: int = 0
    """Of them."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The scan will not be completed."""

    reason: str
    given_up: bool = False
    """Whether the sender ended it, and will not go on with it."""


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A sender that said HELLO did not get as far as announcing a scan; the next one may try."""

    reason: str


Output = Reply | Opened | Arrived | Cut | Withdrawn | GivenUp | SenderLost | SenderBack | Ended | Broken | TurnedAway
