"""Which images a run has, what each shows, and where its pixels are: documents in, shots out; no file is opened."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrecon.bluesky.mapping import FramesRule, bounds
from streamrecon.bluesky.run import Document
from streamrecon.errors import MessageError, SourceError
from streamrecon.scan import FrameKind

MOST_EVENTS = 10_000_000
"""Of a stream."""
MOST_PER_EVENT = 1 << 17
"""Frames."""
MOST_FRAMES = 1 << 20
"""Of a stream: each takes some hundred bytes as long as the run is in work."""


class Place(NamedTuple):
    """Where pixels are, in the file of a resource. Two images are the same where their places are."""

    resource: str
    row: int
    """Frame of the dataset, in its order."""


Pixels = Place | NDArray[Any]
Moment = tuple[str, int]
"""A stream, and the number of a frame in it from 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One image of a run, and what it is of the scan."""

    kind: FrameKind
    index: int
    """Among the frames of its kind."""
    moment: Moment
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
        Frames of an event.
    """

    def __init__(self, name: str, key: str, rules: Iterable[tuple[FrameKind, FramesRule]], per_event: int) -> None:
        self.name, self.key, self.per_event = name, key, per_event
        self._rules = [(kind, rule, bounds(rule.range)) for kind, rule in rules]
        self._events: dict[int, tuple[Any, tuple[Pixels, ...], int]] = {}
        """By number: what tells whether it is the same, the frames, and how often it had been measured before."""
        self._open: list[tuple[int, int]] = []
        """Event and part of frames of which it is not known what they are."""
        self._shots: dict[tuple[int, int, FrameKind], Shot] = {}
        self._counts = dict.fromkeys(FrameKind, 0)
        """Frames of which only the order tells the index."""
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
        if (len(self._events) + 1) * self.per_event > MOST_FRAMES:
            raise MessageError(f"the stream {self.name} has more than {MOST_FRAMES} frames")
        self._events[event] = identity, frames, 0 if known is None else known[2] + 1
        self._open = [each for each in self._open if each[0] != event] if known else self._open
        self._open.extend((event, part) for part in range(len(frames)))
        self.events = max(self.events, event + 1)

    def decide(self, ended: bool, number: Callable[[str, Moment], float | None]) -> list[Shot | Withdrawn]:
        """What the frames are that have come.

        Parameters
        ----------
        ended
            Whether no more will.
        number
            Gives what a data key has for a frame, once it has it.
        """
        found: list[Shot | Withdrawn] = []
        still: list[tuple[int, int]] = []
        waits = False
        for event, part in sorted(self._open):
            moment = self.name, event * self.per_event + part
            kinds: list[tuple[FrameKind, int | None]] = []
            known = True
            for kind, rule, limits in self._rules:
                if rule.select == "image_key":
                    # Only the order tells the index: none is told before those that come earlier.
                    value = None if waits else number(str(rule.image_key), moment)
                    known = known and value is not None
                    if value is not None and value == int(kind):
                        kinds.append((kind, None))
                else:
                    unit, count = (event, self.events) if rule.select != "frames" else (moment[1], self.frames)
                    place = _within(unit, limits, count, ended)
                    known = known and place is not None
                    if place is not None and place >= 0:
                        kinds.append((kind, place if rule.select == "frames" else place * self.per_event + part))
            if known:
                for kind, index in kinds:
                    found.extend(self._shot(kind, index, moment, event, part))
            else:
                still.append((event, part))
                waits = True
        self._open = still
        return found

    def _shot(
        self, kind: FrameKind, index: int | None, moment: Moment, event: int, part: int
    ) -> list[Shot | Withdrawn]:
        before = self._shots.get((event, part, kind))
        if before is not None:
            # Of two projections the newer one counts; a flat is as good as another, and both do.
            index = before.index if kind is FrameKind.PROJECTION else None
        if index is None:
            index = self._counts[kind]
        self._counts[kind] = max(self._counts[kind], index + 1)
        _, frames, measured = self._events[event]
        shot = Shot(kind, index, moment, event, part, frames[part], measured)
        self._shots[event, part, kind] = shot
        return [shot] if before is None or kind is not FrameKind.PROJECTION else [Withdrawn(before.index), shot]

    @property
    def undecided(self) -> int:
        """Frames of which it is not known what they are."""
        return len(self._open)

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


class Shots:
    """The images of one run; used by one thread.

    Parameters
    ----------
    rules
        Where the frames of each kind are.
    """

    def __init__(self, rules: Mapping[FrameKind, FramesRule]) -> None:
        self._rules = dict(rules)
        self.streams: dict[str, list[Stream]] = {}
        """By name."""
        self.resources: dict[str, Mapping[str, Any]] = {}
        """Resource and stream resource documents by uid."""
        self.keys: dict[str, Mapping[str, Any]] = {}
        """What the descriptors say of data keys, by name of the stream."""
        self.configuration: dict[str, Any] = {}
        """Of devices, as the descriptors have it."""
        self._descriptors: dict[str, str] = {}
        """Names of streams."""
        self._datums: dict[str, Mapping[str, Any]] = {}
        self._awaited: dict[str, tuple[Stream, int]] = {}
        """Events whose datum document has not come, by its id."""
        self._next: dict[tuple[str, str], tuple[int, int]] = {}
        """One past the last index that a stream resource has named, and one past the event of that; by resource and stream."""
        self._image_keys = {rule.image_key for rule in self._rules.values() if rule.image_key is not None}
        self._numbers: dict[tuple[str, str, int], list[float]] = {}
        """What tells the kinds of frames, where it is in events; by stream, key and event."""
        self._links: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        """Of a data key that is in a file: first event, first index and resource, ascending; by stream and key."""

    def hear(self, document: Document) -> None:
        """Take the next document of the run.

        Raises
        ------
        MessageError
            If it is not as it should be; the next one may be.
        SourceError
            If the mapping does not fit the run.
        """
        name, doc = document
        if name == "descriptor":
            self._descriptor(doc)
        elif name == "event":
            self._event(doc)
        elif name in ("resource", "stream_resource"):
            self.resources[str(doc["uid"])] = doc
        elif name == "datum":
            datum = str(doc["datum_id"])
            self._datums[datum] = doc
            if (waiting := self._awaited.pop(datum, None)) is not None:
                self._from_datum(*waiting, datum)
        elif name == "stream_datum":
            self._stream_datum(doc)

    def decide(self, ended: bool, number: Callable[[str, Moment], float | None]) -> list[Shot | Withdrawn]:
        """As `Stream.decide`, of all streams."""
        return [
            item for streams in self.streams.values() for stream in streams for item in stream.decide(ended, number)
        ]

    @property
    def undecided(self) -> int:
        """Frames of which it is not known what they are."""
        return sum(stream.undecided for streams in self.streams.values() for stream in streams)

    def count(self, kind: FrameKind) -> int:
        """One past the largest index of a kind so far."""
        return max((stream.count(kind) for streams in self.streams.values() for stream in streams), default=0)

    def complete(self, counts: Mapping[str, Any]) -> None:
        """The run is over, after so many events of each stream: those that no document has told of follow the last one."""
        for (resource, name), (index, event) in list(self._next.items()):
            count = counts.get(name)
            key = self.resources[resource].get("data_key")
            for stream in self.streams.get(name, []):
                if stream.key != key or stream.events != event or not isinstance(count, int) or count > MOST_EVENTS:
                    continue
                for at in range(event, count):
                    row = (index + at - event) * stream.per_event
                    frames = tuple(Place(resource, row + part) for part in range(stream.per_event))
                    stream.put(at, (resource, index + at - event), frames)

    def number(self, stream: str, key: str, event: int, part: int) -> float | None:
        """What an image key has for a frame, where it is in events."""
        values = self._numbers.get((stream, key, event), [])
        return values[0] if len(values) == 1 else values[part] if part < len(values) else None

    def link(self, stream: str, key: str, event: int) -> tuple[str, int] | None:
        """Resource, and index in it, of what a data key that is in a file has for an event; None if no document says."""
        for first, index, resource in reversed(self._links.get((stream, key), ())):
            if event >= first:
                return resource, index + event - first
        return None

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        name, keys = str(doc.get("name", "primary")), doc.get("data_keys")
        if not isinstance(keys, Mapping):
            raise MessageError(f"a descriptor has the data keys {str(keys)[:60]!r}; expected a table")
        self._descriptors[str(doc["uid"])] = name
        self.keys[name] = {**self.keys.get(name, {}), **keys}
        devices = doc.get("configuration")
        for device, each in devices.items() if isinstance(devices, Mapping) else ():
            data = each.get("data") if isinstance(each, Mapping) else None
            self.configuration[device] = dict(data) if isinstance(data, Mapping) else {}
        if name not in self.streams:
            self.streams[name] = self._of(name, keys)

    def _of(self, name: str, keys: Mapping[str, Any]) -> list[Stream]:
        by_key: dict[str, list[tuple[FrameKind, FramesRule]]] = {}
        for kind, rule in self._rules.items():
            if rule.stream == name:
                by_key.setdefault(_image_key(name, rule, keys, kind), []).append((kind, rule))
        return [Stream(name, key, rules, _per_event(keys[key])) for key, rules in by_key.items()]

    def _stream_of(self, doc: Mapping[str, Any]) -> str | None:
        return self._descriptors.get(str(doc.get("descriptor")))

    def _event(self, doc: Mapping[str, Any]) -> None:
        name, data, number = self._stream_of(doc), doc.get("data"), doc.get("seq_num")
        if name is None:
            return
        if not isinstance(data, Mapping) or not isinstance(number, int) or isinstance(number, bool):
            raise MessageError(f"event {str(number)[:20]!r} of the stream {name} has no data or no number")
        for key in self._image_keys & data.keys():
            try:
                self._numbers[name, key, number - 1] = np.asarray(data[key], np.float64).ravel().tolist()
            except (TypeError, ValueError) as error:
                raise MessageError(f"{key} is {str(data[key])[:60]!r} in an event; expected numbers") from error
        for stream in self.streams.get(name, []):
            value = data.get(stream.key)
            if value is None:
                continue
            if isinstance(value, str):
                if value in self._datums:
                    self._from_datum(stream, number - 1, value)
                else:
                    self._awaited[value] = stream, number - 1
            else:
                frames = _images(value, self.keys[name].get(stream.key), f"event {number} of the stream {name}")
                stream.put(number - 1, str(doc["uid"]), frames)

    def _from_datum(self, stream: Stream, event: int, datum: str) -> None:
        doc = self._datums[datum]
        resource, options = str(doc["resource"]), doc.get("datum_kwargs")
        point = options.get("point_number") if isinstance(options, Mapping) else None
        if not isinstance(point, int) or not 0 <= point < MOST_EVENTS:
            raise MessageError(
                f"the datum {datum[:60]!r} has the point_number {str(point)[:20]!r}; expected 0 to {MOST_EVENTS}"
            )
        per = _multiplier(self.resources.get(resource)) or stream.per_event
        stream.per_event = per
        stream.put(event, (resource, point), tuple(Place(resource, point * per + part) for part in range(per)))

    def _stream_datum(self, doc: Mapping[str, Any]) -> None:
        resource, name = str(doc["stream_resource"]), self._stream_of(doc)
        known = self.resources.get(resource)
        if name is None or known is None:
            return
        (first, end), (number, last) = _range(doc, "indices"), _range(doc, "seq_nums")
        if end - first > MOST_FRAMES:
            raise MessageError(f"a stream datum names {end - first} rows; expected at most {MOST_FRAMES}")
        if end - first != last - number:
            raise MessageError(f"a stream datum has the indices {first} to {end} and the numbers {number} to {last}")
        event, key = number - 1, str(known.get("data_key"))
        # Of what was missed a later document tells all the same.
        index, expected = self._next.get((resource, name), (0, -1))
        if expected < 0 and first == event:
            expected = index = 0
        if 0 <= expected <= event and index < first and first - index == event - expected:
            first, event = index, expected
        self._next[resource, name] = end, event + end - first
        links = self._links.setdefault((name, key), [])
        if not links or (links[-1][2], links[-1][0] - links[-1][1]) != (resource, event - first):
            links.append((event, first, resource))
        for stream in self.streams.get(name, []):
            if stream.key == key:
                per = stream.per_event = _multiplier(known) or stream.per_event
                for at in range(first, end):
                    frames = tuple(Place(resource, at * per + part) for part in range(per))
                    stream.put(event + at - first, (resource, at), frames)


def _range(doc: Mapping[str, Any], key: str) -> tuple[int, int]:
    each = doc.get(key)
    start, stop = (each.get("start"), each.get("stop")) if isinstance(each, Mapping) else (None, None)
    if not (isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop <= MOST_EVENTS):
        raise MessageError(f"the {key} of a stream datum are {str(each)[:60]}; expected a range within {MOST_EVENTS}")
    return start, stop


def _image_key(stream: str, rule: FramesRule, keys: Mapping[str, Any], kind: FrameKind) -> str:
    """The data key of the images of a kind.

    Raises
    ------
    SourceError
        If there is none, or more than one.
    """
    images = [key for key, each in keys.items() if isinstance(each, Mapping) and len(each.get("shape") or ()) >= 2]
    table = kind.name.lower()
    if rule.key is not None:
        if rule.key not in keys:
            raise SourceError(
                f"the stream {stream} has no data key {rule.key}; expected one of: {', '.join(keys)}: correct {table}.key"
            )
        return rule.key
    if len(images) != 1:
        raise SourceError(
            f"the stream {stream} has {len(images)} data keys with images ({', '.join(images) or ', '.join(keys)}): name the one "
            f"that holds {table}s with {table}.key"
        )
    return images[0]


def _per_event(key: Mapping[str, Any]) -> int:
    shape = key.get("shape") or ()
    if len(shape) < 3:
        return 1
    count = math.prod(int(n) for n in shape[:-2] if n)
    if not 1 <= count <= MOST_PER_EVENT:
        raise MessageError(f"a data key has the shape {str(shape)[:60]}; expected at most {MOST_PER_EVENT} frames")
    return count


def _multiplier(resource: Mapping[str, Any] | None) -> int | None:
    options = (resource or {}).get("resource_kwargs")
    if not isinstance(options, Mapping):
        return None
    count = options.get("frame_per_point") or options.get("multiplier")
    return count if isinstance(count, int) and 1 <= count <= MOST_PER_EVENT else None


def _images(value: Any, key: Mapping[str, Any] | None, where: str) -> tuple[NDArray[Any], ...]:
    """The frames within an event, each (row, column)."""
    dtype = (key or {}).get("dtype_numpy")
    plain = isinstance(dtype, str) and re.fullmatch(r"[<>|=]?[biuf][1248]", dtype) is not None
    try:
        images = np.asarray(value, dtype if plain and not isinstance(value, np.ndarray) else None)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"{where} holds no image: {error}") from error
    if images.ndim < 2 or images.dtype.kind not in "biuf" or not images.size:
        raise MessageError(f"{where} holds {images.dtype} {images.shape}; expected an image")
    return tuple(images.reshape(-1, *images.shape[-2:]))
