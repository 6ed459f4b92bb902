"""Documents of a RunEngine in this process."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from streamrecon.bluesky.account import Account, Document
from streamrecon.bluesky.plain import plain
from streamrecon.bluesky.sizes import size_of

log = logging.getLogger(__name__)

LIMIT = 10_000
"""Documents that wait to be taken."""
LIMIT_BYTES = 256 << 20
"""Of all of them together."""
RESERVE, RESERVE_BYTES = 1000, 32 << 20
"""How many more there may be of those without which nothing else can be understood: the start, the stop, descriptors."""
MANY = frozenset(("event", "event_page", "bulk_events", "datum", "datum_page", "bulk_datum", "stream_datum"))
"""Kinds of which a run has any number."""
SIZE_LIMIT = 1 << 26
"""What a document of this process may take, as if it were a message of so many bytes."""


class DocumentQueue(Account):
    """A callback for `RE.subscribe` that never waits and never raises, so that nothing it feeds can hold up the measurement.

    Each document is copied, as the RunEngine and other callbacks go on with theirs. Any thread may call it, and any may take.

    Parameters
    ----------
    limit
        Documents that wait to be taken. Beyond, new ones are dropped: counted, and told once.
    limit_bytes
        What these may take in memory; more where images are in the documents and the engine may be slow.
    """

    can_wait = False
    """The RunEngine is not to be held up, and the queue is bounded."""

    def __init__(self, limit: int = LIMIT, limit_bytes: int = LIMIT_BYTES) -> None:
        super().__init__()
        self.dropped = 0
        """Documents for which there was no room."""
        self.nbytes = 0
        """What those take that wait."""
        self._limit, self._limit_bytes = limit, limit_bytes
        self._waiting, self._closed = deque[tuple[Document, int]](), False
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether it was closed, and all is taken."""
        with self._changed:
            return self._closed and not self._waiting

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document from the RunEngine."""
        try:
            contents = plain(doc, SIZE_LIMIT, own_arrays=True)
            self._take_in(name, contents, size_of(contents))
        except Exception as error:
            # Whatever is wrong with a document, the measurement goes on.
            self.refuse(f"{type(error).__name__}: {ascii(str(error))[:200]}")

    def _take_in(self, name: str, contents: Any, nbytes: int) -> None:
        with self._changed:
            if self._closed or not self.knows(name):
                return
            limit, limit_bytes = self._limit, self._limit_bytes
            if name not in MANY:
                limit, limit_bytes = limit + RESERVE, limit_bytes + RESERVE_BYTES
            if len(self._waiting) >= limit or self.nbytes + nbytes > limit_bytes:
                self._drop(name)
            elif (document := self.accept(name, contents)) is not None:
                self._waiting.append((document, nbytes))
                self.nbytes += nbytes
                self._changed.notify()

    def _drop(self, name: str) -> None:
        self.dropped += 1
        if self.dropped == 1:
            self.last_error = (
                f"{len(self._waiting)} documents of {self.nbytes} bytes wait to be taken; {name} was dropped"
            )
            log.error(
                "documents of the RunEngine come faster than they are taken: %s, and more may be", self.last_error
            )

    def take(self, timeout: float) -> Document | None:
        """The next document, if one comes within the time (seconds)."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            if not self._waiting:
                return None
            document, nbytes = self._waiting.popleft()
            self.nbytes -= nbytes
            return document

    def close(self) -> None:
        """Take no more; who waits is told."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
