"""Credit: what a receiver allows, as absolute offsets in bytes and in frames that only ever grow."""

from __future__ import annotations

from dataclasses import dataclass

from streamrecon.errors import RemoteProtocolError


@dataclass(slots=True)
class CreditWindow:
    """The receiver's side: room in its ring.

    The sender may have sent, since the session began, at most what has left the ring plus what the ring holds. Credit is
    told again once half a window has been freed, as one message then stands for many frames.
    """

    capacity_bytes: int
    capacity_frames: int
    received_bytes: int = 0
    received_frames: int = 0
    freed_bytes: int = 0
    freed_frames: int = 0
    told_bytes: int = 0
    told_frames: int = 0

    @property
    def max_bytes(self) -> int:
        """Bytes the sender may have sent in all."""
        return self.freed_bytes + self.capacity_bytes

    @property
    def max_frames(self) -> int:
        """Frames the sender may have sent in all."""
        return self.freed_frames + self.capacity_frames

    def receive(self, nbytes: int) -> None:
        """Count a frame that arrived.

        Raises
        ------
        RemoteProtocolError
            If the sender went beyond the credit it was told.
        """
        if self.received_frames + 1 > self.told_frames or self.received_bytes + nbytes > self.told_bytes:
            raise RemoteProtocolError(
                f"the sender went beyond its credit: frame {self.received_frames} of {nbytes} bytes; credit was for "
                f"{self.told_frames} frames and {self.told_bytes} bytes, {self.received_bytes} of them used"
            )
        self.received_frames += 1
        self.received_bytes += nbytes

    def free(self, nbytes: int) -> None:
        """Count a frame that left the ring."""
        self.freed_frames += 1
        self.freed_bytes += nbytes

    def worth_telling(self) -> bool:
        """Whether half a window has been freed since the credit was last told."""
        return (
            2 * (self.max_frames - self.told_frames) >= self.capacity_frames
            or 2 * (self.max_bytes - self.told_bytes) >= self.capacity_bytes
        )

    def tell(self) -> tuple[int, int]:
        """(max_bytes, max_frames) as now told to the sender."""
        self.told_bytes, self.told_frames = self.max_bytes, self.max_frames
        return self.told_bytes, self.told_frames


@dataclass(slots=True)
class CreditCursor:
    """The sender's side: how far it may go."""

    max_bytes: int = 0
    max_frames: int = 0
    sent_bytes: int = 0
    sent_frames: int = 0

    def extend(self, max_bytes: int, max_frames: int) -> None:
        """Take note of credit; what comes late and is less changes nothing."""
        self.max_bytes = max(self.max_bytes, max_bytes)
        self.max_frames = max(self.max_frames, max_frames)

    def allows(self, nbytes: int) -> bool:
        """Whether a frame of this size may be sent now."""
        return self.sent_frames < self.max_frames and self.sent_bytes + nbytes <= self.max_bytes

    def spend(self, nbytes: int) -> None:
        """Count a frame that is being sent."""
        self.sent_frames += 1
        self.sent_bytes += nbytes
