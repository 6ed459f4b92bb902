"""The documents of one run, each after what it refers to."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

GRACE = 2.0
"""Seconds in which something of a run may come after its stop."""


class Document(NamedTuple):
    """One document."""

    name: str
    """start, descriptor, event, resource, datum, stream_resource, stream_datum or stop."""
    doc: Mapping[str, Any]


class Run:
    """One run; any thread.

    Parameters
    ----------
    start
        Its start document.
    """

    def __init__(self, start: Mapping[str, Any]) -> None:
        self.start = start
        self.uid = str(start["uid"])
        self.stop: Mapping[str, Any] | None = None
        """The stop document, once it is there."""
        self.gone: str | None = None
        """Why no more documents will come though there was no stop, where that is known."""
        self.streams: frozenset[str] | None = None
        """Streams whose events are needed; None: all."""
        self._unneeded: set[str] = set()
        """Descriptors of the others, by uid."""
        self._documents = [Document("start", start)]
        self._streams: dict[str, str] = {}
        """Names of streams that have events, by the uid of their descriptor."""
        self._events: dict[str, set[str]] = {}
        """Numbers of those that have come, by stream."""
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._documents)

    def needs(self, name: str, doc: Mapping[str, Any]) -> bool:
        """Whether a document is one to keep: a monitor that nothing is mapped to may tell of a beam current for days."""
        return name != "event" or str(doc.get("descriptor")) not in self._unneeded

    def add(self, name: str, doc: Mapping[str, Any]) -> None:
        """One more document."""
        with self._changed:
            self._documents.append(Document(name, doc))
            if name == "stop":
                self.stop = doc
            elif name == "descriptor":
                keys, stream = doc.get("data_keys"), str(doc.get("name", "primary"))
                if self.streams is not None and stream not in self.streams:
                    self._unneeded.add(str(doc.get("uid")))
                elif not isinstance(keys, Mapping) or not all(map(_in_stream_documents, keys.values())):
                    self._streams[str(doc.get("uid"))] = stream
            elif name == "event" and (known := self._streams.get(str(doc.get("descriptor")))) is not None:
                self._events.setdefault(known, set()).add(repr(doc.get("seq_num")))
            self._changed.notify_all()

    def give_up(self, why: str) -> None:
        """No more documents will come."""
        with self._changed:
            if self.stop is None:
                self.gone = why
            self._changed.notify_all()

    def come_back(self) -> None:
        """It had been given up, and documents come all the same."""
        with self._changed:
            self.gone = None

    @property
    def over(self) -> bool:
        """Whether no more documents are to be expected."""
        return self.stop is not None or self.gone is not None

    @property
    def short(self) -> bool:
        """Whether the stop document tells of events that have not come."""
        counts = self.num_events
        return any(counts.get(name, 0) > len(self._events.get(name, ())) for name in self._streams.values())

    @property
    def num_events(self) -> dict[str, int]:
        """Of each stream, as far as the stop document tells."""
        counts = (self.stop or {}).get("num_events")
        each = counts.items() if isinstance(counts, Mapping) else ()
        return {str(name): n for name, n in each if isinstance(n, int) and not isinstance(n, bool)}

    def since(self, count: int, timeout: float = 0.0) -> list[Document]:
        """Documents after the first `count`; waits so long for one where there is none and the run is not over."""
        with self._changed:
            if timeout and len(self._documents) <= count and not self.over:
                self._changed.wait(timeout)
            return self._documents[count:]


def _in_stream_documents(key: Any) -> bool:
    return isinstance(key, Mapping) and str(key.get("external")).startswith("STREAM")
