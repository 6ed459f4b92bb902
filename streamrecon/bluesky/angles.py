"""The angle of each projection of a run: from its events, a dataset, a motor that was watched, or even steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from streamrecon.bluesky.mapping import ThetaRule, Value, at_path
from streamrecon.bluesky.missed import Reading
from streamrecon.bluesky.run import Document
from streamrecon.bluesky.stream import Shot
from streamrecon.bluesky.turns import continued
from streamrecon.bluesky.watched import Watched
from streamrecon.errors import MessageError, SourceError, SourceFileError
from streamrecon.scan import FrameKind
from streamrecon.sources.recording import radians_per

EPICS = 631152000.0
"""Seconds from 1970 to 1990."""
MOST_NOTES = 10
MOST_TURN = 4 * math.pi
"""Beyond it angles are remarked: they may be in other units."""


class Numbers(Protocol):
    """Numbers that are in files; None as long as they are not there."""

    def of_key(self, stream: str, key: str, event: int, part: int) -> float | None:
        """What the file of a data key has for a frame."""

    def beside(self, shot: Shot, path: str, fills: bool = False) -> float | None:
        """What a dataset in the images' file has for a frame; whether several may well be its fill value."""

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
        self._watched = Watched()
        """Of a motor that was watched."""
        self._without: dict[str, tuple[set[int], str]] = {}
        """Events that came without the key, and the keys that they have; by stream."""
        self._units: str | None = None
        self._remarked = False
        self._shots: dict[int, Shot] = {}
        """Projections by index, for the neighbours of one."""
        self._raws: dict[int, float] = {}
        """What was read for a projection, by its index."""
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
        elif name == "stop":
            counts = doc.get("num_events")
            count = counts.get(self._rule.monitor) if isinstance(counts, Mapping) else None
            self._watched.expected = count if isinstance(count, int) else None

    def _event(self, doc: Mapping[str, Any]) -> None:
        stream, key = self._names.get(str(doc.get("descriptor"))), self._rule.key
        data = doc.get("data")
        value = data.get(key) if isinstance(data, Mapping) and key is not None else None
        if stream is None or self._rule.from_ not in ("event", "monitor"):
            return
        if value is None:
            if isinstance(data, Mapping):
                events, _ = self._without.setdefault(stream, (set(), ", ".join(map(str, data))[:200] or "none"))
                events.add(int(doc["seq_num"]) - 1)
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
            if stream == self._rule.monitor:
                times = doc.get("timestamps")
                at = times.get(key) if isinstance(times, Mapping) else None
                time = float(doc["time"] if at is None else at)
                if not self._watched.add(int(doc["seq_num"]), time, float(values[-1])):
                    self._note(f"event {doc['seq_num']} of {stream} is left out: its time is {time}")
        else:
            self._values.setdefault((stream, int(doc["seq_num"]) - 1), []).append(values.tolist())

    def missing(self, shots: Iterable[Shot]) -> tuple[str, str] | None:
        """See `Gaps`."""
        rule = self._rule
        if rule.from_ not in ("event", "monitor"):
            return None
        lacks = self._lacks_position if rule.from_ == "monitor" else lambda shot: self._raw(shot) is None
        shot = next((each for each in shots if each.kind is FrameKind.PROJECTION and lacks(each)), None)
        if shot is None:
            return None
        if rule.from_ == "event":
            return rule.stream or shot.stream, str(rule.key)
        return None if self._watched.complete else (self._rule.monitor, str(rule.key))

    def _lacks_position(self, shot: Shot) -> bool:
        if not self._watched:
            return True
        with contextlib.suppress(SourceError, SourceFileError):  # of its file, which is told of when it is given up
            at = self._at(shot, True)
            return at is not None and self._position(at, self._watched.expected is not None) is None
        return False

    def fill(self, stream: str, readings: Sequence[Reading]) -> None:
        """See `Gaps`."""
        if self._rule.from_ == "monitor":
            heard = set(self._watched.heard)
            for reading in readings:
                if reading.number not in heard:
                    self._watched.add(reading.number, reading.time, reading.values[-1])
            return
        kept = {reading.number: list(reading.values) for reading in readings}  # of a rewound event the newest
        for number, values in kept.items():
            told = self._values.setdefault((stream, number - 1), [values])[-1]
            if told != values:
                kept_as = f"event {number} of {stream} is kept with {self._rule.key} {values}"
                self._note(f"{kept_as}, and came with {told}, which counts"[:300])

    def _note(self, note: str) -> None:
        if note not in self.notes and len(self.notes) < MOST_NOTES:
            self.notes.append(note)

    def add(self, shot: Shot) -> None:
        """A projection, whose neighbours may need it."""
        if self._otherwise is not None:
            self._otherwise.add(shot)
        self._shots[shot.index] = shot
        self._raws.pop(shot.index, None)

    def renew(self) -> None:
        """What was read in files is not so any more."""
        self._raws.clear()
        if self._otherwise is not None:
            self._otherwise.renew()

    def theta(self, shot: Shot, over: bool, late: bool = False) -> float | None:
        """The angle of a projection, radians; None as long as it is not known.

        Parameters
        ----------
        shot
            The projection.
        over
            Whether no more documents will come.
        late
            Whether files are not waited for any more.

        Raises
        ------
        SourceError
            If there is a number that is no angle, or none where the mapping says that there is, and there will be none.
        """
        try:
            theta = self._theta(shot, over)
            if theta is not None or not late or self._otherwise is None:
                return theta
        except (SourceError, SourceFileError):
            if self._otherwise is None or not over:
                raise
        return self._otherwise.theta(shot, over, late)

    def _theta(self, shot: Shot, over: bool) -> float | None:
        self._over = over
        if self._rule.from_ == "monitor":
            at = self._at(shot, over)
            value = None if at is None else self._position(at, over)
            if over and (not self._watched or (at is not None and value is None)):
                raise SourceError(f"the run has ended, and {self._why_no_position()}{self._why()}")
        else:
            value = self._at(shot, over)
            if over and value is None and self._rule.from_ == "event":
                raise SourceError(f"the run has ended, and {self._why_no_event(shot)}{self._why()}")
        if value is None:
            return None
        theta = (value * self._scale() + self._number(self._rule.offset, "theta.offset")) * self._per_unit()
        if not math.isfinite(theta):
            raise SourceError(f"the angle of projection {shot.index} is {theta}; expected a finite angle")
        if abs(theta) > MOST_TURN and not self._remarked:
            self._remarked = True
            units = self._rule.units or self._units or "deg"
            self._note(
                f"the angle of projection {shot.index} is {math.degrees(theta):.6g} degrees, more than two turns: it is taken as "
                f"{units}; are these degrees? theta.units says what they are"
            )
        return theta

    def _why(self) -> str:
        return f": {self.why_missing}" if self.why_missing else ""

    def _why_no_event(self, shot: Shot) -> str:
        stream = self._rule.stream or shot.stream
        events, keys = self._without.get(stream, (set(), ""))
        if shot.event in events:
            return f"its event of {stream} came without {self._rule.key}; it has: {keys}: correct theta.key"
        return "its event with the angle has not come"

    def _why_no_position(self) -> str:
        key = self._rule.key
        if not self._watched and self._rule.monitor in self._without:
            return f"the events of {self._rule.monitor} came without {key}; they have: {self._without[self._rule.monitor][1]}"
        if not self._watched:
            streams = ", ".join(sorted(set(self._names.values()))) or "none"
            return f"no position of {key} has come in the stream {self._rule.monitor} (streams: {streams})"
        if self._rule.align == "first_motion" and self._motion(True) is None:
            return f"it is not known when {key} began to move: positions were missed, or it stood"
        return f"positions of {key} around its time were missed"

    def _scale(self) -> float:
        scale = self._number(self._rule.scale, "theta.scale")
        if not scale:
            raise SourceError("theta.scale is 0: all angles would be the same")
        return scale

    def _per_unit(self) -> float:
        rule = self._rule
        units = rule.units or self._units
        if units is None and rule.key is not None and rule.from_ in ("dataset", "attribute"):
            units = self._numbers.units_of(rule.stream or "", rule.key)
        if units is None:
            self._note(f"{rule.key or 'theta'} has no units: its angles are taken as degrees")
        return radians_per(units or "deg", f"theta.key {rule.key}" if rule.units is None else "theta.units")

    # What was measured for a projection: its angle, or for a motor that was watched its time.

    def _at(self, shot: Shot, over: bool) -> float | None:
        """At the middle of the exposure."""
        own = self._raw(shot)
        if own is None or self._rule.at == "middle" or self._rule.from_ == "event":
            return own
        before, after = self._step(shot.index - 1, over), self._step(shot.index, over)
        if self._rule.at == "start":
            step = before if after is None else after
            return None if after is None and not over else own + (step or 0.0) / 2
        step = after if before is None else before
        return None if step is None and not over else own - (step or 0.0) / 2

    def _step(self, index: int, over: bool) -> float | None:
        """From a projection to the next one; None as long as it is not known."""
        step = self._raw_step(index)
        if step is None or self._rule.from_ == "monitor":  # times do not begin anew
            return step
        sides = self._raw_step(index - 1), self._raw_step(index + 1)
        step, sure = continued(step, [None if each is None else (each, 1.0) for each in sides], self._turn())
        if not sure and sides[1] is None and not over:
            return None
        if not sure:
            key = self._rule.key or "theta"
            self._note(f"between projections {index} and {index + 1} {key} has gone {step:g}, more than half a turn")
        return step

    def _raw_step(self, index: int) -> float | None:
        first, second = self._neighbour(index), self._neighbour(index + 1)
        return None if first is None or second is None else second - first

    def _neighbour(self, index: int) -> float | None:
        shot = self._shots.get(index)
        return None if shot is None else self._raw(shot)

    def _turn(self) -> float:
        """In the units of the key."""
        return abs(2 * math.pi / (self._per_unit() * self._scale()))

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
            values = self._in_event(rule.stream or shot.stream, shot)
            value = values[0] if len(values) == 1 else values[shot.part] if shot.part < len(values) else None
        elif rule.from_ == "dataset":
            value = self._numbers.of_key(rule.stream or shot.stream, str(rule.key), shot.event, shot.part)
        elif rule.from_ == "attribute":
            value = self._numbers.beside(shot, str(rule.key))
        else:
            # Seconds are not 0, nanoseconds may be.
            parts = [self._numbers.beside(shot, path, fills=number > 0) for number, path in enumerate(rule.times)]
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
        if stream == shot.stream and len(each) > shot.measured:
            return each[shot.measured]
        return each[-1] if each and (self._over or stream != shot.stream) else []

    def _position(self, at: float, over: bool) -> float | None:
        """Position of the motor at a time; None as long as it is not known."""
        if self._rule.align == "first_motion":
            first, begun = self._neighbour(0), self._motion(over)
            if first is None or begun is None:
                return None
            at += begun - first
        return self._watched.at(at, over, self._turn())

    def _motion(self, over: bool) -> float | None:
        """When the motor began to move."""
        still = math.radians(self._rule.motion)
        begun = self._watched.begun(still / (2 * math.pi) * self._turn(), over, self._turn())
        if begun is not None:
            self._note(f"{self._rule.key} began to move, by more than {self._rule.motion:g} degrees, at {begun:.3f} s")
        return begun
