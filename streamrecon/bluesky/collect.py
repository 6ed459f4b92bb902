"""From a stream of documents to runs: several at once, in whatever order documents come, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from event_model import DocumentNames, DocumentRouter, EventModelError, unpack_datum_page, unpack_event_page

from streamrecon.bluesky.run import Run
from streamrecon.bluesky.sizes import size_of
from streamrecon.errors import MessageError, StreamreconError
from streamrecon.scan import UID_PATTERN

log = logging.getLogger(__name__)

NAMES = frozenset(kind.value for kind in DocumentNames)

ORPHANS = 20_000
"""Documents that may wait for one that they refer to; beyond, the oldest are given up."""
ORPHAN_BYTES = 256 << 20
"""Of what they take."""
REMEMBERED = 1000
"""Runs that are not wanted, or not any more: documents of others wait for their start."""


class Collector(DocumentRouter):
    """Sorts documents into runs; used by one thread.

    event-model's own router of runs takes it that nothing is late, missing or said twice, and fails a run otherwise. Here what
    comes too early waits for what it refers to.

    Parameters
    ----------
    opened
        Called with each run when its start document comes; False if it is not wanted: none of its documents is kept.
    added
        Called with each document that a run takes, in the order in which it does.
    ignored
        Called with the uid of a run that is not wanted, or not any more, and the kind of each document that comes of it.
    passed
        Called with each run of which a document comes that it does not need.
    """

    def __init__(
        self,
        opened: Callable[[Run], bool | None],
        added: Callable[[Run, str, Mapping[str, Any]], None] = lambda *_: None,
        ignored: Callable[[str, str], None] = lambda *_: None,
        passed: Callable[[Run], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._opened, self._added, self._ignored, self._passed = opened, added, ignored, passed
        self._runs: dict[str, Run] = {}
        self._owners: dict[str, str] = {}
        """Uid of the run, by that of a descriptor, resource or stream resource."""
        self._unwanted: dict[str, None] = {}
        """Runs that go on without being wanted: the newest, in their order."""
        self._seen: dict[str, set[str]] = {}
        """Documents that each run has, by the run's uid."""
        self._closed: dict[str, None] = {}
        """Runs that are over and done with: the newest, in their order."""
        self._orphans: dict[str, list[tuple[str, Mapping[str, Any], int]]] = {}
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
            self._refuse(name, error)
            log.warning("%s", self.last_refusal)
        except (StreamreconError, OSError):
            raise
        except Exception as error:  # nobody thought of it: the other documents are worth more
            self._refuse(name, error)
            log.exception("a bug in streamrecon: %s", self.last_refusal)

    def _refuse(self, name: str, error: Exception) -> None:
        self.refused += 1
        self.last_refusal = f"a {str(name)[:20]} document is not as it should be: {type(error).__name__}: {error}"[:300]

    def forget(self, run: Run) -> None:
        """A run is done with: what still comes of it is not wanted."""
        if self._runs.pop(run.uid, None) is not None:
            self._seen.pop(run.uid, None)
            if run.stop is None:
                self._unwant(run.uid)
            else:
                self._close(run.uid)

    def _unwant(self, uid: str) -> None:
        """A run goes on; who belongs to it is still known, so that its documents do not wait."""
        self._unwanted[uid] = None
        while len(self._unwanted) > REMEMBERED:
            self._close(next(iter(self._unwanted)))

    def _close(self, uid: str) -> None:
        self._unwanted.pop(uid, None)
        self._owners = {each: owner for each, owner in self._owners.items() if owner != uid}
        self._closed[uid] = None
        while len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]

    # One method for each kind of document, called by event-model.

    def start(self, doc: Any) -> None:
        """See `DocumentRouter`."""
        uid = _uid(doc, "uid")
        if uid in self._runs or uid in self._unwanted or uid in self._closed:
            self.duplicates += 1
            return
        run = self._runs[uid] = Run(doc)
        self._seen[uid] = set()
        if self._opened(run) is False:
            self.forget(run)
        else:
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
        uids = [run.uid for run in self._runs.values() if not run.over] or list(self._unwanted)
        for uid in uids:
            self._give(uid, "resource", doc, _text(doc, "uid"), owner=True)

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
        known = parent in self._runs or parent in self._unwanted
        run = parent if known else self._owners.get(parent)
        if run is not None:
            self._give(run, name, doc, uid, owner)
        elif parent not in self._closed:
            self._wait(parent, name, doc)

    def _give(self, run_uid: str, name: str, doc: Mapping[str, Any], uid: str, owner: bool) -> None:
        run = self._runs.get(run_uid)
        if run is not None and not run.needs(name, doc):
            self._passed(run)
            return
        if run is not None:
            seen, identity = self._seen[run_uid], f"{name} {uid}"
            if identity in seen:
                self.duplicates += 1
                return
            seen.add(identity)
        if owner:
            self._owners[uid] = run_uid
        if run is not None:
            run.add(name, doc)
            self._added(run, name, doc)
        else:
            self._ignored(run_uid, name)
            if name == "stop":
                self._close(run_uid)
        if owner:
            self._adopt(uid)

    def _wait(self, parent: str, name: str, doc: Mapping[str, Any]) -> None:
        nbytes = size_of(doc)
        self._orphans.setdefault(parent, []).append((name, doc, nbytes))
        self._waiting += 1
        self._waiting_bytes += nbytes
        while self._orphans and (self._waiting > ORPHANS or self._waiting_bytes > ORPHAN_BYTES):
            self.given_up += len(self._no_more_waiting(next(iter(self._orphans))))

    def _adopt(self, parent: str) -> None:
        """What has waited for this."""
        for name, doc, _ in self._no_more_waiting(parent):
            self.hear(name, doc)

    def _no_more_waiting(self, parent: str) -> list[tuple[str, Mapping[str, Any], int]]:
        found = self._orphans.pop(parent, [])
        self._waiting -= len(found)
        self._waiting_bytes -= sum(nbytes for _, _, nbytes in found)
        return found


def image_bytes(doc: Mapping[str, Any]) -> int:
    """What the data of an event take, whatever an image in them is: an array, bytes, or lists."""
    data = doc.get("data")
    return sum(map(size_of, data.values())) if isinstance(data, Mapping) else 0


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
