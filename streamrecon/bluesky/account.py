"""Which documents were taken, which were not, and why."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

log = logging.getLogger(__name__)

Document = tuple[str, dict[str, Any]]
"""Name and contents, as Bluesky calls its callbacks with."""


@cache
def document_names() -> frozenset[str]:
    """The names of all kinds of documents that the event model knows."""
    # Imported when it is needed: it brings jsonschema, and takes longer than all the rest.
    from event_model import DocumentNames

    return frozenset(kind.value for kind in DocumentNames)


class Account:
    """Counts and tells; the first, second, fourth, eighth, ... of what goes wrong, as a flood should not fill the log."""

    def __init__(self) -> None:
        self.received = 0
        """Documents that were taken."""
        self.malformed = 0
        """Documents, or what came in their place, that could not be read."""
        self.ignored = 0
        """Messages of names that are not those of documents."""
        self.last_error: str | None = None
        """What was wrong with the last of the malformed."""

    @property
    def refusal(self) -> str | None:
        """Why nothing can come, where that is known."""
        return None

    def silence(self) -> str | None:
        """Why nothing comes, where that can be found out; it may take some seconds."""
        return None

    def knows(self, name: object) -> bool:
        """Whether a name is one of documents; what is ignored is counted."""
        if isinstance(name, str) and name in document_names():
            return True
        self.ignored += 1
        if self.ignored & (self.ignored - 1) == 0:
            shown = repr(name)[:80] if isinstance(name, str) else f"a {type(name).__name__}"
            log.warning("ignored what is named %s, which is no kind of document (%d so far)", shown, self.ignored)
        return False

    def accept(self, name: str, contents: object) -> Document | None:
        """The document, if its contents are such."""
        if not isinstance(contents, dict):
            self.refuse(f"a document {name!r} is a {type(contents).__name__}; expected a dict")
            return None
        if not all(isinstance(key, str) for key in contents):
            self.refuse(f"a document {name!r} has keys that are not text")
            return None
        self.received += 1
        return name, contents

    def refuse(self, why: str, count: int = 1) -> None:
        """Count something malformed."""
        self.malformed += count
        self.last_error = why
        if self.malformed & (self.malformed - 1) == 0:
            log.warning("a document was not understood (%d so far): %s", self.malformed, why)
