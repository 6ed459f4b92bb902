"""What a sender keeps: every frame until all lanes are done with it, and where each lane stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streamrecon.scan import FrameKind
from streamrecon.wire.messages import Range
from streamrecon.wire.ranges import Ranges

Identity = tuple[FrameKind, int]
"""Kind, and index among its kind."""

Kept = TypeVar("Kept")
"""How the caller keeps a frame's pixels."""


@dataclass(slots=True)
class _Entry(Generic[Kept]):
    identity: Identity
    kept: Kept
    waiting: set[int]
    """Lanes that are not done with it."""
    cut: int = 0
    """Number of the cut that comes after it; 0 is none."""


@dataclass(slots=True)
class _Lane:
    have: dict[FrameKind, Ranges]
    """What its receiver had when the session began, without what it has to give up first."""
    cursor: int = 0
    """Position of the next frame to look at."""
    sent: set[Identity] = field(default_factory=set)
    on_their_way: deque[int] = field(default_factory=deque)
    """Positions of the frames sent in this session that are not acknowledged."""
    acknowledged: int = 0
    ended: bool = False
    """Whether its receiver takes nothing more."""
    again: set[Identity] = field(default_factory=set)
    """What came there again under a name that was given up: it may hear of that once more, and has to keep these."""

    def has(self, identity: Identity) -> bool:
        return self.ended or identity[1] in self.have.get(identity[0], Ranges())


class Outbox(Generic[Kept]):
    """The frames of one scan between its source and its lanes. Positions number them in the order they were put in.

    A lane sends them in that order, without those that its receiver has already. Sessions come and go (`join`), the outbox stays.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Entry[Kept]] = {}
        self._lanes: list[_Lane] = []
        self._end = 0
        self._given: set[Identity] = set()
        """All that were put in and not withdrawn."""
        self._done: set[Identity] = set()
        """Of them, those that are not kept any more, as all lanes were done with them."""
        self.withdrawals = 0
        """Times that frames were given up."""
        self._withdrawn: dict[Identity, int] = {}
        """The last time that each was, of those that ever were, whether or not they were given again."""
        self._earlier: set[Identity] = set()
        """Given when the source was read the last time, and not yet this time."""
        self._uneven: set[Identity] = set()
        """What some receivers have and others do not, and is not kept here: until it is given again no place is a cut."""
        self._level = 0
        """Position from which on no receiver has anything yet."""
        self.cut_wanted = 0
        """Number of a cut for which there is no place yet; 0 is none."""
        self._newest = 0
        """Number of the cut that was asked for last in this session."""

    def __len__(self) -> int:
        """Frames kept."""
        return len(self._entries)

    @property
    def frames(self) -> int:
        """Frames put in and not withdrawn."""
        return len(self._given)

    def kept(self) -> set[Identity]:
        """Frames that some lane is not done with."""
        return {entry.identity for entry in self._entries.values()}

    def join(
        self, haves: Sequence[tuple[dict[FrameKind, Ranges], int, bool]], durable: bool = False
    ) -> tuple[list[Kept], list[Identity]]:
        """Begin new sessions, one for each lane.

        Parameters
        ----------
        haves
            What each lane's receiver has, the last time that it has heard of frames being given up, and whether it has
            had the scan's end, after which it takes nothing more.
        durable
            Whether lanes were done with frames only when these were durable.

        Returns
        -------
        free
            What need not be kept any more.
        forgotten
            Frames that are not kept here and that some receiver does not have, though it once had them.
        """
        first = min(self._entries, default=self._end)
        self._lanes = [_Lane(have, first, ended=ended) for have, _, ended in haves]
        for lane, (have, followed, ended) in zip(self._lanes, haves, strict=True):
            # It will be told once more to give these up, and may have an older one under the name.
            gone = {identity for identity, time in self._withdrawn.items() if time > followed and lane.has(identity)}
            # Not where the one that was given since is durable there: then it has followed, and its journal does not tell so.
            lane.again = gone & self._done if durable else set()
            gone -= lane.again
            if gone and not ended:
                lane.have = {kind: Ranges.of(i for i in have[kind] if (kind, i) not in gone) for kind in have}
        free = []
        for position, entry in list(self._entries.items()):
            entry.waiting = {n for n, lane in enumerate(self._lanes) if not lane.has(entry.identity)}
            if not entry.waiting:
                free.append(self._drop(position))
        forgotten = [
            identity for identity in self._done - self.kept() if not all(lane.has(identity) for lane in self._lanes)
        ]
        self._done.difference_update(forgotten)
        self._given.difference_update(forgotten)
        self._begin_cuts()
        return free, sorted(forgotten)

    def _begin_cuts(self) -> None:
        """A cut is of one session."""
        self.cut_wanted, self._newest = 0, 0
        self._level, everyone = 0, set(range(len(self._lanes)))
        for position, entry in self._entries.items():
            entry.cut = 0
            if entry.waiting != everyone:
                self._level = position + 1
        had = [{(kind, index) for kind, ranges in lane.have.items() for index in ranges} for lane in self._lanes]
        self._uneven = set().union(*had) - set(had[0]).intersection(*had) - self.kept() if len(had) > 1 else set()

    def place(self, cut: int) -> bool:
        """Let a cut come after the first frame before which all lanes will have had the same, and which none has had.

        Returns
        -------
        now
            True where that is now: every lane has had everything, so no frame carries it.
        """
        self._newest = cut
        first = max([self._level, *(lane.cursor for lane in self._lanes)])
        after = next((p for p in range(first, self._end) if p in self._entries), None)
        if self._uneven or any(lane.ended for lane in self._lanes):
            after = None
        elif after is None and all(self.next(n) is None for n in range(len(self._lanes))):
            self.cut_wanted = 0
            return True
        self.cut_wanted = cut if after is None else 0
        if after is not None:
            self._entries[after].cut = cut
        return False

    @property
    def uneven(self) -> set[Identity]:
        """Frames that some receivers have and others do not, and that are not kept here."""
        return set(self._uneven)

    def again(self, lane: int) -> set[Identity]:
        """Frames that came to a lane's receiver under names that were given up before, which it may not know."""
        return self._lanes[lane].again

    def given(self, kind: FrameKind, indices: Range) -> list[int]:
        """Which of these frames were put in, and not withdrawn."""
        return [index for index in range(*indices) if (kind, index) in self._given]

    def start_over(self) -> None:
        """The source begins to give its frames from the first one on again."""
        self._earlier = set(self._given)

    def put(self, identity: Identity, kept: Kept) -> bool:
        """Take in a frame; False where it need not be kept, as it was given before or all lanes have it."""
        if identity in self._earlier:
            self._earlier.discard(identity)
            return False
        self._given.add(identity)
        self._uneven.discard(identity)
        waiting = {n for n, lane in enumerate(self._lanes) if not lane.has(identity)}
        if not waiting:
            self._done.add(identity)
            return False
        entry = self._entries[self._end] = _Entry(identity, kept, waiting)
        if len(waiting) < len(self._lanes):
            self._level = self._end + 1
        elif self.cut_wanted and not self._uneven:
            entry.cut, self.cut_wanted = self.cut_wanted, 0
        self._end += 1
        return True

    def next(self, lane: int) -> tuple[int, Kept] | None:
        """Position and frame that a lane has to send next, if there is one."""
        each = self._lanes[lane]
        while each.cursor < self._end:
            entry = self._entries.get(each.cursor)
            if entry is not None and lane in entry.waiting:
                return each.cursor, entry.kept
            each.cursor += 1
        return None

    def cut(self, lane: int) -> int:
        """Number of the cut that comes after the frame that `next` gave; 0 is none."""
        return self._entries[self._lanes[lane].cursor].cut

    def sent(self, lane: int) -> None:
        """The frame that `next` gave was sent."""
        each = self._lanes[lane]
        each.sent.add(self._entries[each.cursor].identity)
        each.on_their_way.append(each.cursor)
        each.cursor += 1

    def acknowledge(self, lane: int, count: int) -> list[Kept]:
        """A lane's receiver has so many frames of this session for good; what need not be kept any more."""
        each, free = self._lanes[lane], []
        while each.acknowledged < count and each.on_their_way:
            each.acknowledged += 1
            position = each.on_their_way.popleft()
            entry = self._entries.get(position)
            if entry is None:
                continue  # withdrawn meanwhile
            entry.waiting.discard(lane)
            if not entry.waiting:
                free.append(self._drop(position))
        return free

    def withdraw(self, kind: FrameKind, indices: Range) -> list[Kept]:
        """Give up projections, whether or not they were put in or sent; what need not be kept any more."""
        gone = {(kind, index) for index in range(*indices)}
        self.withdrawals += 1
        self._withdrawn.update(dict.fromkeys(gone, self.withdrawals))
        free = []
        for position in [p for p, entry in self._entries.items() if entry.identity in gone]:
            entry = self._entries.pop(position)
            free.append(entry.kept)
            if entry.cut == self._newest:  # some lane may not have come to it; an older one is over
                self.cut_wanted = entry.cut
        self._given -= gone
        self._done -= gone
        self._earlier -= gone
        self._uneven -= gone
        for lane in self._lanes:
            lane.sent -= gone
            if kind in lane.have and not lane.ended:
                lane.have[kind] = Ranges.of(i for i in lane.have[kind] if (kind, i) not in gone)
        return free

    def forgo(self, kind: FrameKind, indices: Iterable[int]) -> None:
        """Flats or darks that are not here will not come; who has them keeps them."""
        self.withdrawals += 1
        self._uneven.difference_update((kind, index) for index in indices)

    def counts(self, lane: int) -> dict[FrameKind, int]:
        """Frames of each kind that a lane's receiver has once all that was sent has arrived."""
        each = self._lanes[lane]
        return {
            kind: len(each.have.get(kind, Ranges())) + sum(k == kind and not each.has((k, i)) for k, i in each.sent)
            for kind in FrameKind
        }

    def _drop(self, position: int) -> Kept:
        entry = self._entries.pop(position)
        self._done.add(entry.identity)
        return entry.kept


def spans(identities: Iterable[Identity]) -> dict[FrameKind, tuple[Range, ...]]:
    """Identities as ranges of indices by kind."""
    by_kind: dict[FrameKind, list[int]] = {}
    for kind, index in identities:
        by_kind.setdefault(kind, []).append(index)
    return {kind: Ranges.of(indices).ranges for kind, indices in by_kind.items()}
