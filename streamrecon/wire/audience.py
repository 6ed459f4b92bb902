"""Who waits for a version: the latest wins, and each viewer has at most one answer on its way."""

from __future__ import annotations

from streamrecon.wire.messages import Want

LIMIT = 256
"""Viewers that may wait at the same time."""

PRESENT = 10.0
"""Seconds since it was last heard in which a viewer counts as there."""


class Audience:
    """What viewers have asked for; messages in, answers due out.

    A viewer asks for what is newer than the version it has and gets one answer, now or when there is one. So a slow one costs
    updates only: what it missed meanwhile is never sent.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, Want] = {}
        self._heard: dict[bytes, float] = {}

    def hear(self, viewer: bytes, now: float) -> None:
        """A viewer has said something; seconds, monotonic."""
        self._heard.pop(viewer, None)
        self._heard[viewer] = now
        if len(self._heard) > 4 * LIMIT:
            del self._heard[next(iter(self._heard))]

    def ask(self, viewer: bytes, want: Want) -> None:
        """A viewer waits; for nothing else any more."""
        self._waiting.pop(viewer, None)
        if len(self._waiting) >= LIMIT:
            del self._waiting[next(iter(self._waiting))]  # who has waited longest is most likely gone
        self._waiting[viewer] = want

    def due(self, uid: str, version: int) -> tuple[bytes, Want] | None:
        """One of those who are to get this version, who then waits no more; None where there is none left."""
        for viewer, want in self._waiting.items():
            # Versions of another scan begin anew: what the viewer has is none of them.
            if want.after != version or want.uid not in ("", uid):
                del self._waiting[viewer]
                return viewer, want
        return None

    @property
    def wants(self) -> list[Want]:
        """Of those who wait."""
        return list(self._waiting.values())

    def present(self, now: float) -> int:
        """How many there are."""
        return sum(now - at < PRESENT for at in self._heard.values())
