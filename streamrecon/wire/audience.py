"""Who waits for a version: the latest wins, and each viewer has at most one answer on its way."""

from __future__ import annotations

from collections.abc import Collection

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
        self._looking: dict[bytes, Want] = {}

    def hear(self, viewer: bytes, now: float) -> None:
        """A viewer has asked what is happening; seconds, monotonic."""
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
        if not _alike(self._looking.get(viewer), want):
            self._looking.pop(viewer, None)
        self._looking[viewer] = want
        if len(self._looking) > LIMIT:
            del self._looking[next(iter(self._looking))]

    def next_version(self) -> None:
        """There is another version: who has not come back for it looks no more."""
        self._looking = {viewer: want for viewer, want in self._looking.items() if viewer in self._waiting}

    def due(self, key: tuple[str, int, int], busy: Collection[bytes] = ()) -> list[tuple[bytes, Want]]:
        """Those who are to get this version, and wait no more.

        Parameters
        ----------
        key
            Of what there is; see `Update`.
        busy
            Viewers that have not taken their last answer yet: they wait on.
        """
        uid, reconstruction, version = key

        def has_it(want: Want) -> bool:
            # Versions of another reconstruction begin anew: what the viewer has is none of them.
            return want.after == version and want.uid in ("", uid) and want.reconstruction in (0, reconstruction)

        due = [(viewer, want) for viewer, want in self._waiting.items() if viewer not in busy and not has_it(want)]
        for viewer, _ in due:
            del self._waiting[viewer]
        return due

    def put_back(self, viewer: bytes, want: Want) -> None:
        """An answer could not be sent: the viewer waits on, unless it has asked for something else meanwhile."""
        self._waiting.setdefault(viewer, want)

    @property
    def looking(self) -> list[Want]:
        """What those look at who wait, or have been answered since the newest version; who moved last is at the end."""
        return list(self._looking.values())

    def present(self, now: float) -> int:
        """How many there are."""
        return sum(now - at < PRESENT for at in self._heard.values())


def _alike(one: Want | None, other: Want) -> bool:
    """Whether they look at the same."""
    if one is None:
        return False
    looks = [({*want.planes, *want.also}, {*want.sinograms, *want.also_sinograms}) for want in (one, other)]
    return looks[0] == looks[1]
