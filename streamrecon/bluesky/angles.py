"""The angle of each projection of a run: from its events, a dataset, a motor that was watched, or even steps."""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from streamrecon.bluesky.mapping import ThetaRule, Value, at_path
from streamrecon.bluesky.missed import Reading
from streamrecon.bluesky.run import Document
from streamrecon.bluesky.shots import Shot
from streamrecon.errors import MessageError, SourceError, SourceFileError
from streamrecon.scan import FrameKind
from streamrecon.sources.recording import radians_per

EPICS = 631152000.0
"""Seconds from 1970 to 1990."""
MOST_NOTES = 10
MOTION = math.radians(0.02)
"""By which a motor has moved from where it stood, for it to have begun to."""


class Numbers(Protocol):
    """Numbers that are in files; None as long as they are not there."""

    def of_key(self, stream: str, key: str, event: int, part: int) -> float | None:
        """What the file of a data key has for a frame."""

    def beside(self, shot: Shot, path: str) -> float | None:
        """What a dataset in the images' file has for a frame."""

    def units_of(self, stream: str, key: str) -> str | None:
        """Of a data key or a dataset in the images' file, where it has some."""


def value_of(value: Value, start: Mapping[str, Any], configuration: Mapping[str, Any], option: str) -> float:
    """A number of a mapping, or the one in the run that it names.

    Raises
    ------
    SourceError
        If there is no number.
    """
    if not isinstance(value, str):
        return float(value)
    where, _, path = value.partition(".")
    found = at_path(start if where == "start" else configuration, path)
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SourceError(f"{option} is {value}, and that is {str(found)[:60]!r} in this run; expected a number")
    return number


class Angles:
    """Finds angles for the projections of one run; used by one thread.

    Parameters
    ----------
    rule
        Where they are.
    number
        Gives the number that an option of the mapping stands for.
    numbers
        Reads those in files.
    more
        Whether events that were missed may be had when the run is over.
    """

    def __init__(
        self, rule: ThetaRule, number: Callable[[Value, str], float], numbers: Numbers, more: bool = False
    ) -> None:
        self._rule, self._number, self._numbers, self._more = rule, number, numbers, more
        self._names: dict[str, str] = {}
        self._values: dict[tuple[str, int], list[list[float]]] = {}
        """In the units of the key, of the frames of an event, one for all of them counts as well; of one that was measured again
        each time. By stream and event."""
        self._over = False
        self._times: list[float] = []
        """Seconds at which a motor was watched, ascending."""
        self._positions: list[float] = []
        self._events: list[int] = []
        """Numbers of the events that they were in."""
        self._units: str | None = None
        self._shots: dict[int, Shot] = {}
        """Projections by index, for the neighbours of one."""
        self._raws: dict[int, float] = {}
        """What was read for a projection, by its index."""
        self._begun: float | None = None
        """When the motor began to move."""
        self._otherwise = None if rule.otherwise is None else Angles(rule.otherwise, number, numbers)
        """Where the others are looked for."""
        self.why_missing = ""
        """What became of looking elsewhere for events that were missed."""
        self.notes: list[str] = []

    def hear(self, document: Document) -> None:
        """Take the next document of the run.

        Raises
        ------
        MessageError
            If it has a value that is no angle.
        """
        if self._otherwise is not None:
            self._otherwise.hear(document)
        name, doc = document
        if name == "descriptor":
            stream, keys = str(doc.get("name", "primary")), doc.get("data_keys") or {}
            self._names[str(doc["uid"])] = stream
            key = keys.get(self._rule.key)
            if isinstance(key, Mapping) and isinstance(key.get("units"), str):
                self._units = self._units or key["units"]
        elif name == "event":
            self._event(doc)

    def _event(self, doc: Mapping[str, Any]) -> None:
        stream, key = self._names.get(str(doc.get("descriptor"))), self._rule.key
        data = doc.get("data")
        value = data.get(key) if isinstance(data, Mapping) and key is not None else None
        if value is None or stream is None or self._rule.from_ not in ("event", "monitor"):
            return
        try:
            values = np.asarray(value, np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise MessageError(f"{key} is {str(value)[:60]!r} in an event; expected numbers") from error
        if not np.isfinite(values).all():
            raise MessageError(
                f"{key} is {str(value)[:60]} in event {doc.get('seq_num')} of {stream}; expected finite angles"
            )
        if self._rule.from_ == "monitor":
            if stream == self._monitor:
                times = doc.get("timestamps")
                at = times.get(key) if isinstance(times, Mapping) else None
                self._watch(int(doc["seq_num"]), float(doc["time"] if at is None else at), float(values[-1]))
        else:
            self._values.setdefault((stream, int(doc["seq_num"]) - 1), []).append(values.tolist())

    @property
    def _monitor(self) -> str:
        return self._rule.stream or f"{self._rule.key}_monitor"

    def _watch(self, number: int, time: float, position: float) -> None:
        place = bisect.bisect(self._times, time)
        self._times.insert(place, time)
        self._positions.insert(place, position)
        self._events.insert(place, number)

    def missing(self, shots: Iterable[Shot], counts: Mapping[str, Any]) -> tuple[str, str] | None:
        """See `Gaps`."""
        rule = self._rule
        if rule.from_ not in ("event", "monitor"):
            return None
        lacks = self._lacks_position if rule.from_ == "monitor" else lambda shot: self._raw(shot) is None
        shot = next((each for each in shots if each.kind is FrameKind.PROJECTION and lacks(each)), None)
        if shot is None:
            return None
        if rule.from_ == "event":
            return rule.stream or shot.moment[0], str(rule.key)
        count = counts.get(self._monitor)
        # Where nobody has told how many there were, the last one that came need not have been the last.
        expected = count if isinstance(count, int) else 1 + max(self._events, default=0)
        return (self._monitor, str(rule.key)) if len(set(self._events)) < expected else None

    def _lacks_position(self, shot: Shot) -> bool:
        if not self._times:
            return True
        with contextlib.suppress(SourceError, SourceFileError):  # of its file, which is told of when it is given up
            at = self._at(shot, True)
            return at is not None and self._interpolated(at, False) is None
        return False

    def fill(self, stream: str, readings: Sequence[Reading]) -> None:
        """See `Gaps`."""
        if self._rule.from_ == "monitor":
            heard = set(self._events)
            for reading in readings:
                if reading.number not in heard and math.isfinite(reading.time):
                    self._watch(reading.number, reading.time, reading.values[-1])
            return
        kept = {reading.number: list(reading.values) for reading in readings}  # of a rewound event the newest
        for number, values in kept.items():
            told = self._values.setdefault((stream, number - 1), [values])[-1]
            if told != values:
                note = f"event {number} of {stream} is kept with {self._rule.key} {values}, and came with {told}, which counts"
                self.notes += [note[:300]] if len(self.notes) < MOST_NOTES else []

    def add(self, shot: Shot) -> None:
        """A projection, whose neighbours may need it."""
        if self._otherwise is not None:
            self._otherwise.add(shot)
        self._shots[shot.index] = shot
        self._raws.pop(shot.index, None)

    def theta(self, shot: Shot, over: bool) -> float | None:
        """The angle of a projection, radians; None as long as it is not known.

        Parameters
        ----------
        shot
            The projection.
        over
            Whether no more documents will come.

        Raises
        ------
        SourceError
            If there is a number that is no angle, or none where the mapping says that there is, and there will be none.
        """
        try:
            return self._theta(shot, over)
        except (SourceError, SourceFileError):
            if self._otherwise is None or not over:
                raise
            return self._otherwise.theta(shot, over)

    def _theta(self, shot: Shot, over: bool) -> float | None:
        self._over = over
        if over and self._rule.from_ == "event" and self._raw(shot) is None:
            raise SourceError(f"the run has ended, and event {shot.event + 1} with its angle has not come{self._why()}")
        if over and self._rule.from_ == "monitor" and not self._times:
            raise SourceError(f"the run has ended, and no position of {self._rule.key} has come{self._why()}")
        if self._rule.from_ == "monitor":
            at = self._at(shot, over)
            value = None if at is None else self._interpolated(at, over)
        else:
            value = self._at(shot, over)
        if value is None:
            return None
        return (value * self._scale() + self._number(self._rule.offset, "theta.offset")) * self._per_unit()

    def _why(self) -> str:
        return f": {self.why_missing}" if self.why_missing else ""

    def _scale(self) -> float:
        return self._number(self._rule.scale, "theta.scale")

    def _per_unit(self) -> float:
        rule = self._rule
        units = rule.units or self._units
        if units is None and rule.key is not None and rule.from_ in ("dataset", "attribute"):
            units = self._numbers.units_of(rule.stream or "", rule.key)
        if units is None:
            note = f"{rule.key or 'theta'} has no units: its angles are taken as degrees"
            self.notes += [] if note in self.notes else [note]
        return radians_per(units or "deg", f"theta.key {rule.key}" if rule.units is None else "theta.units")

    # What was measured for a projection: its angle, or for a motor that was watched its time.

    def _at(self, shot: Shot, over: bool) -> float | None:
        """At the middle of the exposure."""
        own = self._raw(shot)
        if own is None or self._rule.at == "middle" or self._rule.from_ == "event":
            return own
        before, after = self._neighbour(shot.index - 1), self._neighbour(shot.index + 1)
        if self._rule.at == "start":
            if after is None and not over:
                return None
            step = after - own if after is not None else own - before if before is not None else 0.0
            return own + step / 2
        step = own - before if before is not None else after - own if after is not None else 0.0
        return None if before is None and after is None and not over else own - step / 2

    def _neighbour(self, index: int) -> float | None:
        shot = self._shots.get(index)
        return None if shot is None else self._raw(shot)

    def _raw(self, shot: Shot) -> float | None:
        rule = self._rule
        if shot.index in self._raws:
            return self._raws[shot.index]
        value: float | None
        if rule.from_ == "linear":
            assert rule.start is not None
            assert rule.step is not None
            value = self._number(rule.start, "theta.start") + shot.index * self._number(rule.step, "theta.step")
        elif rule.from_ == "event":
            values = self._in_event(rule.stream or shot.moment[0], shot)
            value = values[0] if len(values) == 1 else values[shot.part] if shot.part < len(values) else None
        elif rule.from_ == "dataset":
            value = self._numbers.of_key(rule.stream or shot.moment[0], str(rule.key), shot.event, shot.part)
        elif rule.from_ == "attribute":
            value = self._numbers.beside(shot, str(rule.key))
        else:
            parts = [self._numbers.beside(shot, path) for path in rule.times]
            value = (
                None if None in parts else sum(p * s for p, s in zip(parts, (1.0, 1e-9), strict=False) if p is not None)
            )
            if value is not None and rule.clock == "epics":
                value += EPICS
        if value is not None:
            if not math.isfinite(value):
                raise SourceError(f"the angle of projection {shot.index} is {value}; expected a finite angle")
            self._raws[shot.index] = value
        return value

    def _in_event(self, stream: str, shot: Shot) -> list[float]:
        """Of an event that was measured again: those of the same time, as its image may come before its angle."""
        each = self._values.get((stream, shot.event), [])
        if stream == shot.moment[0] and len(each) > shot.measured:
            return each[shot.measured]
        return each[-1] if each and (self._over or stream != shot.moment[0]) else []

    def _interpolated(self, at: float, over: bool) -> float | None:
        """Position of the motor at a time; None until it is known on both sides."""
        if self._rule.align == "first_motion":
            first, begun = self._neighbour(0), self._motion(over)
            if first is None or begun is None:
                return None
            at += begun - first
        times, positions = self._times, self._positions
        if not times or (at > times[-1] and not over):
            return None
        if not over and self._missed(bisect.bisect(times, at)):
            return None
        place = min(max(bisect.bisect(times, at), 1), len(times) - 1) if len(times) > 1 else 0
        near = slice(max(0, place - 1), place + 1)
        return float(np.interp(at, times[near], positions[near]))

    def _missed(self, place: int) -> bool:
        """Whether positions are missing right before one, which may still be had."""
        before = self._events[place - 1] if place else 0
        return self._more and self._events[place : place + 1] not in ([], [before + 1])

    def _motion(self, over: bool) -> float | None:
        """When the motor began to move."""
        if self._begun is None and self._times:
            still, first = abs(MOTION / (self._per_unit() * self._scale())), self._positions[0]
            moved = next((i for i, each in enumerate(self._positions) if abs(each - first) > still), None)
            if moved is None or (not over and any(map(self._missed, range(moved + 1)))):
                return None
            self._begun = self._times[max(0, moved - 1)]
        return self._begun
