"""The images of one stream, event by event, and what each is of the scan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from streamrecon.bluesky.mapping import FramesRule, bounds
from streamrecon.errors import MessageError
from streamrecon.scan import FrameKind

log = logging.getLogger(__name__)

MOST_EVENTS = 10_000_000
"""Of a stream."""
MOST_FRAMES = 1 << 20
"""Of a stream: each takes some hundred bytes as long as the run is in work."""


class Place(NamedTuple):
    """Where pixels are, in the file of a resource. Two images are the same where their places are."""

    resource: str
    row: int
    """Frame of the dataset, in its order."""


Pixels = Place | NDArray[Any]
Number = Callable[[str, str, int, int], float | None]
"""Gives what a data key has for a frame, once it has it: of a stream, a key, an event and which of its frames."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One image of a run, and what it is of the scan."""

    kind: FrameKind
    index: int
    """Among the frames of its kind."""
    stream: str
    """Name of the stream."""
    event: int
    """Number of the event in the stream, from 0."""
    part: int
    """Which of the event's frames."""
    pixels: Pixels
    measured: int = 0
    """How often this event had been measured before."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A projection that was measured again: the run was rewound after a pause."""

    index: int


class Stream:
    """The images of one data key of a stream, event by event.

    Parameters
    ----------
    name, key
        Of the stream, and of the data.
    rules
        What its frames are.
    per_event
        Frames of an event, until the first has come: that one tells.
    """

    def __init__(self, name: str, key: str, rules: Iterable[tuple[FrameKind, FramesRule]], per_event: int) -> None:
        self.name, self.key, self.per_event = name, key, per_event
        self._rules = [(kind, rule, bounds(rule.range)) for kind, rule in rules]
        self._events: dict[int, tuple[Any, tuple[Pixels, ...], int]] = {}
        """By number: what tells whether it is the same, the frames, and how often it had been measured before."""
        self._earlier: dict[int, list[tuple[Pixels, ...]]] = {}
        """The frames of those that were measured again, each time but the last."""
        self._open: list[tuple[int, int]] = []
        """Event and part of frames of which it is not known what they are."""
        self._shots: dict[tuple[int, int, FrameKind], Shot] = {}
        self._counts = dict.fromkeys(FrameKind, 0)
        """Frames of which only the order tells the index."""
        self._per: dict[FrameKind, int] = {}
        """Frames of an event of each kind: darks may be more than projections."""
        self._total = 0
        self.events = 0
        """One past the number of the last event that has come."""

    @property
    def frames(self) -> int:
        """That have come, with those that are missing between them."""
        return self.events * self.per_event

    def __contains__(self, event: int) -> bool:
        return event in self._events

    def put(self, event: int, identity: Any, frames: tuple[Pixels, ...]) -> None:
        """The images of an event; the newest counts, if there are others."""
        if not 0 <= event < MOST_EVENTS:
            raise MessageError(
                f"an event of the stream {self.name} has the number {event + 1}; expected 1 to {MOST_EVENTS}"
            )
        known = self._events.get(event)
        if known is not None and known[0] == identity:
            return
        if not self._events:
            self.per_event = len(frames)
        self._total += len(frames)
        if self._total > MOST_FRAMES:
            raise MessageError(f"the stream {self.name} has more than {MOST_FRAMES} frames")
        if known is not None:
            self._earlier.setdefault(event, []).append(known[1])
        self._events[event] = identity, frames, 0 if known is None else known[2] + 1
        self._open = [each for each in self._open if each[0] != event] if known else self._open
        self._open.extend((event, part) for part in range(len(frames)))
        self.events = max(self.events, event + 1)

    def decide(self, ended: bool, number: Number, late: bool = False) -> list[Shot | Withdrawn]:
        """What the frames are that have come.

        Parameters
        ----------
        ended
            Whether no more will.
        number
            Gives what an image key has for a frame.
        late
            Whether numbers are not waited for any more: a frame that has none is nothing.
        """
        found: list[Shot | Withdrawn] = []
        still: list[tuple[int, int]] = []
        waits = False
        for event, part in sorted(self._open):
            kinds: list[tuple[FrameKind, int | None]] = []
            count_here = len(self._events[event][1])
            known = True
            for kind, rule, limits in self._rules:
                if rule.select == "image_key":
                    # Only the order tells the index: none is told before those that come earlier.
                    value = None if waits else number(self.name, str(rule.image_key), event, part)
                    known = known and (value is not None or late)
                    if value is not None and value == int(kind):
                        kinds.append((kind, None))
                else:
                    single = rule.select == "frames"
                    unit, count = (event * self.per_event + part, self.frames) if single else (event, self.events)
                    place = _within(unit, limits, count, ended)
                    known = known and place is not None
                    if place is not None and place >= 0:
                        per = 1 if single else self._per.setdefault(kind, count_here)
                        if single or part < per:
                            kinds.append((kind, place if single else place * per + part))
                        elif part == per:
                            log.warning(
                                "event %d of the stream %s has %d frames, others have %d: the rest is left out",
                                event + 1,
                                self.name,
                                count_here,
                                per,
                            )
            if known:
                for kind, index in kinds:
                    found.extend(self._shot(kind, index, event, part))
            else:
                still.append((event, part))
                waits = True
        self._open = still
        return found

    def _shot(self, kind: FrameKind, index: int | None, event: int, part: int) -> list[Shot | Withdrawn]:
        before = self._shots.get((event, part, kind))
        if before is not None:
            index = before.index
        elif index is None:
            index = self._counts[kind]
        self._counts[kind] = max(self._counts[kind], index + 1)
        each = [*self._earlier.get(event, ()), self._events[event][1]]
        first = 0 if before is None else before.measured + 1
        shots = [
            Shot(kind, index, self.name, event, part, frames[part], measured)
            for measured, frames in enumerate(each)
            if measured >= first and part < len(frames)
        ]
        if not shots:
            return []
        self._shots[event, part, kind] = shots[-1]
        if kind is not FrameKind.PROJECTION:
            # What an engine has of flats stays with it, so the first one counts, whenever it was heard of.
            return [] if before is not None else [shots[0]]
        found: list[Shot | Withdrawn] = [] if before is None else [Withdrawn(index)]
        for shot in shots:
            found += [shot, Withdrawn(index)]
        return found[:-1]

    @property
    def undecided(self) -> int:
        """Frames of which it is not known what they are."""
        return len(self._open)

    def end(self, kind: FrameKind) -> int:
        """One past the largest index of a kind that there should be, by the number of events."""
        ranges = [limits for each, rule, limits in self._rules if each is kind and rule.select == "events"]
        chosen = sum(len(range(*slice(*limits).indices(self.events))) for limits in ranges)
        return min(max(self.count(kind), chosen * self._per.get(kind, self.per_event)), MOST_FRAMES)

    def count(self, kind: FrameKind) -> int:
        """One past the largest index of a kind so far."""
        return self._counts[kind]


def _within(unit: int, limits: tuple[int | None, int | None], count: int, ended: bool) -> int | None:
    """Place of a unit in a range, -1 if it is not in it, None as long as that depends on how many there will be."""
    first, end = limits
    if ended:
        chosen = range(*slice(first, end).indices(count))
        return unit - chosen.start if unit in chosen else -1
    if first is not None and first < 0:
        return -1 if unit < count + first else None
    start = first or 0
    if unit < start or (end is not None and unit >= end >= 0):
        return -1
    return None if end is not None and end < 0 and unit >= count + end else unit - start
