"""Which images a run has, what each shows, and where its pixels are: documents in, shots out; no file is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamrecon.bluesky.assets import frames_per_event, shape_of
from streamrecon.bluesky.mapping import FramesRule
from streamrecon.bluesky.pixels import images_in
from streamrecon.bluesky.run import Document
from streamrecon.bluesky.stream import MOST_EVENTS, MOST_FRAMES, Number, Place, Shot, Stream, Withdrawn
from streamrecon.errors import MessageError, SourceError
from streamrecon.scan import FrameKind


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

    def none_of(self, name: str) -> str:
        """Why there is no image of a stream, as far as documents tell."""
        if name not in self.streams:
            return f"no descriptor of the stream {name} has come (streams: {', '.join(self.streams) or 'none'})"
        return f"no event of the stream {name} has come with one"

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

    def decide(self, ended: bool, number: Number, late: bool = False) -> list[Shot | Withdrawn]:
        """As `Stream.decide`, of all streams."""
        each = [stream.decide(ended, number, late) for streams in self.streams.values() for stream in streams]
        return [item for items in each for item in items]

    def per_event(self, stream: str, key: str, resource: str | None = None) -> int:
        """Frames, or numbers, that a data key has for an event; the document of the resource, which has them, counts first.

        Raises
        ------
        MessageError
            If the documents have no number that can be.
        """
        return frames_per_event(self.keys.get(stream, {}).get(key), self.resources.get(resource or ""))

    @property
    def undecided(self) -> int:
        """Frames of which it is not known what they are."""
        return sum(stream.undecided for streams in self.streams.values() for stream in streams)

    def count(self, kind: FrameKind) -> int:
        """One past the largest index of a kind so far."""
        return max((stream.count(kind) for streams in self.streams.values() for stream in streams), default=0)

    def frames_of(self, kind: FrameKind) -> int:
        """Frames of an event of the stream that has a kind."""
        rule = self._rules[kind]
        return next((each.per_event for each in self.streams.get(rule.stream, []) if rule.key in (None, each.key)), 1)

    def end(self, kind: FrameKind) -> int:
        """One past the largest index of a kind that there should be."""
        return max((stream.end(kind) for streams in self.streams.values() for stream in streams), default=0)

    def complete(self, counts: Mapping[str, int]) -> None:
        """The run is over, after so many events of each stream: those that no document has told of follow the last one."""
        for (resource, name), (index, event) in list(self._next.items()):
            count = counts.get(name)
            key = self.resources[resource].get("data_key")
            for stream in self.streams.get(name, []):
                if stream.key != key or stream.events != event or count is None or count > MOST_EVENTS:
                    continue
                self._put(stream, event, resource, range(index, index + count - event))
        for name, count in counts.items():
            for stream in self.streams.get(name, []):
                stream.events = max(stream.events, min(count, MOST_FRAMES))

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
        return [Stream(name, key, rules, frames_per_event(keys[key])) for key, rules in by_key.items()]

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
                frames = images_in(value, self.keys[name].get(stream.key), f"event {number} of the stream {name}")
                stream.put(number - 1, str(doc["uid"]), frames)

    def _from_datum(self, stream: Stream, event: int, datum: str) -> None:
        doc = self._datums[datum]
        resource, options = str(doc["resource"]), doc.get("datum_kwargs")
        point = options.get("point_number") if isinstance(options, Mapping) else None
        if not isinstance(point, int) or not 0 <= point < MOST_EVENTS:
            raise MessageError(
                f"the datum {datum[:60]!r} has the point_number {str(point)[:20]!r}; expected 0 to {MOST_EVENTS}"
            )
        self._put(stream, event, resource, range(point, point + 1))

    def _put(self, stream: Stream, event: int, resource: str, indices: range) -> None:
        """The frames of events, from one on, are those of indices in a resource."""
        per = self.per_event(stream.name, stream.key, resource)
        for number, index in enumerate(indices, event):
            stream.put(number, (resource, index), tuple(Place(resource, index * per + part) for part in range(per)))

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
                self._put(stream, event, resource, range(first, end))


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
    images = [key for key, each in keys.items() if isinstance(each, Mapping) and len(shape_of(each)) >= 2]
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
