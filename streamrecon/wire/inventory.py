"""What has come of a scan, whatever session it came in."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamrecon.scan import FrameKind
from streamrecon.wire.digest import Digest
from streamrecon.wire.messages import Have, Range
from streamrecon.wire.ranges import Ranges
from streamrecon.wire.reasons import Reasons


@dataclass(slots=True)
class Inventory:
    """The frames of a scan that a receiver has, each by kind and index with the hash of its bytes."""

    counts: dict[FrameKind, int] = field(default_factory=lambda: dict.fromkeys(FrameKind, 0))
    digest: Digest = field(default_factory=Digest)
    """Of all of them."""
    followed: int = 0
    """Number of the last GAP of the present sender that is known to have been followed."""
    epoch: int = 0
    """Of the present sender."""
    _hashes: dict[tuple[int, int], int] = field(default_factory=dict)
    _reasons: dict[FrameKind, Reasons] = field(default_factory=lambda: {kind: Reasons() for kind in FrameKind})
    """Why frames were given up that a GAP named."""

    def __len__(self) -> int:
        return len(self._hashes)

    def hash_of(self, kind: int, index: int) -> int | None:
        """Of a frame that is here, else None."""
        return self._hashes.get((kind, index))

    def add(self, kind: int, index: int, xxh3: int) -> None:
        """Take in a frame that is not here yet."""
        self._hashes[kind, index] = xxh3
        self.counts[FrameKind(kind)] += 1
        self.digest.add(kind, index, xxh3)

    def remove(self, kind: int, index: int) -> None:
        """Give up a frame that is here."""
        self.digest.remove(kind, index, self._hashes.pop((kind, index)))
        self.counts[FrameKind(kind)] -= 1

    def sender(self, epoch: int) -> None:
        """A sender has the scan: its GAPs are numbered anew, unless it had it before."""
        if epoch != self.epoch:
            self.epoch, self.followed = epoch, 0

    def within(self, kind: int, first: int, end: int) -> list[int]:
        """Indices from `first` to `end` - 1 that are here, ascending."""
        # The shorter of the two is searched, whatever range a peer names.
        if end - first < len(self._hashes):
            return [index for index in range(first, end) if (kind, index) in self._hashes]
        return sorted(index for each, index in self._hashes if each == kind and first <= index < end)

    def note_gap(self, kind: FrameKind, indices: Range, reason: str) -> None:
        """Frames that will not come, as far as the sender knows; it may have said so before."""
        self._reasons[kind].say(*indices, reason)

    def given_up(self) -> tuple[tuple[FrameKind, str, int], ...]:
        """How many frames of each kind a GAP named that are not here, by its reason."""
        return tuple(
            (kind, reason, count)
            for kind, reasons in self._reasons.items()
            for reason, count in reasons.counts(self._indices(kind)).items()
        )

    def _indices(self, kind: FrameKind) -> list[int]:
        return sorted(index for each, index in self._hashes if each == kind)

    def missing(self, expected: int | None) -> tuple[Range, ...]:
        """Ranges of projection indices that have not come, gaps included.

        Parameters
        ----------
        expected
            Projections announced, where known.
        """
        have = self._indices(FrameKind.PROJECTION)
        end = (
            max(have[-1] + 1 if have else 0, self._reasons[FrameKind.PROJECTION].end) if expected is None else expected
        )
        return Ranges.of(have).gaps(end)

    def have(self, session: int, ended: bool) -> tuple[Have, bytes]:
        """HAVE and its payload."""
        parts = [Ranges.of(index for each, index in self._hashes if each == kind) for kind in FrameKind]
        projections, flats, darks = (len(part.ranges) for part in parts)
        message = Have(
            session=session, projections=projections, flats=flats, darks=darks, gaps=self.followed, ended=ended
        )
        return message, b"".join(part.to_bytes() for part in parts)
