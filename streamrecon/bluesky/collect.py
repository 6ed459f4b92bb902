"""From a stream of documents to runs: several at once, in whatever order documents come, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from event_model import DocumentNames, DocumentRouter, EventModelError, unpack_datum_page, unpack_event_page

from streamrecon.bluesky.run import Run
from streamrecon.errors import MessageError
from streamrecon.scan import UID_PATTERN

log = logging.getLogger(__name__)

NAMES = frozenset(kind.value for kind in DocumentNames)

ORPHANS = 20_000
"""Documents that may wait for one that they refer to; beyond, the oldest are given up."""
ORPHAN_BYTES = 256 << 20
"""Of the images in them."""


class Collector(DocumentRouter):
    """Sorts documents into runs; used by one thread.

    event-model's own router of runs takes it that nothing is late, missing or said twice, and fails a run otherwise. Here what
    comes too early waits for what it refers to.

    Parameters
    ----------
    opened
        Called with each run when its start document comes.
    added
        Called with each document that a run takes, in the order in which it does.
    """

    def __init__(
        self, opened: Callable[[Run], None], added: Callable[[Run, str, Mapping[str, Any]], None] = lambda *_: None
    ) -> None:
        super().__init__()
        self._opened, self._added = opened, added
        self._runs: dict[str, Run] = {}
        self._owners: dict[str, Run] = {}
        """By uid of a descriptor, resource or stream resource."""
        self._seen: dict[str, set[str]] = {}
        """Documents that each run has, by the run's uid."""
        self._closed: dict[str, None] = {}
        """Runs that are over and done with: the newest, in their order."""
        self._orphans: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        """By what they wait for."""
        self._waiting = self._waiting_bytes = 0
        self.duplicates = self.refused = self.given_up = 0
        """Documents that had come before, that are none, and that belonged to nothing."""
        self.last_refusal: str | None = None

    @property
    def waiting(self) -> int:
        """Documents whose run, or something else that they refer to, has not come."""
        return self._waiting

    def hear(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document; one that is malformed is counted and left out.

        Parameters
        ----------
        name, doc
            As Bluesky emits them.
        """
        try:
            if name not in NAMES:  # event-model would call the method of that name
                raise MessageError(f"there is no such kind of document; expected one of: {', '.join(sorted(NAMES))}")
            self(name, dict(doc))
        except (EventModelError, MessageError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            self.refused += 1
            self.last_refusal = f"a {str(name)[:20]} document is not as it should be: {type(error).__name__}: {error}"[
                :300
            ]
            log.warning("%s", self.last_refusal)

    def forget(self, run: Run) -> None:
        """A run is done with: what still comes of it is not wanted."""
        if self._runs.pop(run.uid, None) is not None:
            self._owners = {uid: owner for uid, owner in self._owners.items() if owner is not run}
            self._seen.pop(run.uid, None)
            self._closed[run.uid] = None
            while len(self._closed) > 1000:
                del self._closed[next(iter(self._closed))]

    # One method for each kind of document, called by event-model.

    def start(self, doc: Any) -> None:
        """See `DocumentRouter`."""
        uid = _uid(doc, "uid")
        if uid in self._runs or uid in self._closed:
            self.duplicates += 1
            return
        run = self._runs[uid] = Run(doc)
        self._seen[uid] = set()
        self._opened(run)
        self._added(run, "start", doc)
        self._adopt(uid)

    def descriptor(self, doc: Any) -> None:
        """See `DocumentRouter`."""
        self._take("descriptor", doc, _uid(doc, "run_start"), _text(doc, "uid"), owner=True)

    def event(self, doc: Any) -> Any:
        """See `DocumentRouter`."""
        self._take("event", doc, _text(doc, "descriptor"), _text(doc, "uid"))

    def event_page(self, doc: Any) -> Any:
        """See `DocumentRouter`."""
        for event in unpack_event_page(doc):
            self.event(event)

    def resource(self, doc: Any) -> None:
        """See `DocumentRouter`."""
        if "run_start" in doc:
            self._take("resource", doc, _uid(doc, "run_start"), _text(doc, "uid"), owner=True)
            return
        # Of before resources named their run: it can be any that is going on.
        for run in self._runs.values():
            if not run.over:
                self._give(run, "resource", doc, _text(doc, "uid"), owner=True)

    def datum(self, doc: Any) -> Any:
        """See `DocumentRouter`."""
        self._take("datum", doc, _text(doc, "resource"), _text(doc, "datum_id"))

    def datum_page(self, doc: Any) -> Any:
        """See `DocumentRouter`."""
        for datum in unpack_datum_page(doc):
            self.datum(datum)

    def stream_resource(self, doc: Any) -> None:
        """See `DocumentRouter`."""
        self._take("stream_resource", doc, _uid(doc, "run_start"), _text(doc, "uid"), owner=True)

    def stream_datum(self, doc: Any) -> None:
        """See `DocumentRouter`."""
        resource = _text(doc, "stream_resource")
        # The rows that it names come later, under the descriptor that it names: it waits for both.
        descriptor = _text(doc, "descriptor")
        if resource in self._owners and descriptor not in self._owners:
            self._wait(descriptor, "stream_datum", doc)
            return
        self._take("stream_datum", doc, resource, _text(doc, "uid"))

    def stop(self, doc: Any) -> None:
        """See `DocumentRouter`."""
        self._take("stop", doc, _uid(doc, "run_start"), _text(doc, "uid"))

    def _take(self, name: str, doc: Mapping[str, Any], parent: str, uid: str, owner: bool = False) -> None:
        run = self._runs.get(parent) or self._owners.get(parent)
        if run is not None:
            self._give(run, name, doc, uid, owner)
        elif parent not in self._closed:
            self._wait(parent, name, doc)

    def _give(self, run: Run, name: str, doc: Mapping[str, Any], uid: str, owner: bool) -> None:
        seen, identity = self._seen[run.uid], f"{name} {uid}"
        if identity in seen:
            self.duplicates += 1
            return
        seen.add(identity)
        if owner:
            self._owners[uid] = run
        run.add(name, doc)
        self._added(run, name, doc)
        if owner:
            self._adopt(uid)

    def _wait(self, parent: str, name: str, doc: Mapping[str, Any]) -> None:
        self._orphans.setdefault(parent, []).append((name, doc))
        self._waiting += 1
        self._waiting_bytes += image_bytes(doc)
        while self._orphans and (self._waiting > ORPHANS or self._waiting_bytes > ORPHAN_BYTES):
            self.given_up += len(self._no_more_waiting(next(iter(self._orphans))))

    def _adopt(self, parent: str) -> None:
        """What has waited for this."""
        for name, doc in self._no_more_waiting(parent):
            self.hear(name, doc)

    def _no_more_waiting(self, parent: str) -> list[tuple[str, Mapping[str, Any]]]:
        found = self._orphans.pop(parent, [])
        self._waiting -= len(found)
        self._waiting_bytes -= sum(image_bytes(doc) for _, doc in found)
        return found


def image_bytes(doc: Mapping[str, Any]) -> int:
    """Of the arrays in an event."""
    data = doc.get("data")
    return sum(getattr(value, "nbytes", 0) for value in data.values()) if isinstance(data, Mapping) else 0


def _text(doc: Mapping[str, Any], key: str) -> str:
    value = doc.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise MessageError(f"{key} is {str(value)[:60]!r}; expected a text of 1 to 256 characters")
    return value


def _uid(doc: Mapping[str, Any], key: str) -> str:
    value = _text(doc, key)
    if not UID_PATTERN.fullmatch(value):
        raise MessageError(f"{key} is {value[:80]!r}; expected 1 to 64 letters, digits, '_' or '-'")
    return value
