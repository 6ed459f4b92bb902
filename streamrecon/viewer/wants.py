"""What all viewers of a source look at, put together."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

from streamrecon.viewer.source import Place


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be had."""

    places: tuple[Place, ...] = ()
    """Each once; those that were asked for last come first."""
    preview: int = 0
    """Voxels of its longest side, the most that anybody asked for; 0 for none."""
    projection: bool = False
    sinograms: tuple[int, ...] = ()
    """Slices, the one that was asked for last first."""


class Wants:
    """Of each viewer, what it looks at; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[object, Wanted] = {}

    def put(self, viewer: object, places: Collection[Place], preview: int = 0, beside: bool = False) -> None:
        """What a viewer looks at from now on; with nothing, it is forgotten."""
        rows = tuple(dict.fromkeys(index for axis, index in places if axis == "z"))[:1] if beside else ()
        wanted = Wanted(tuple(places), preview, beside, rows)
        with self._lock:
            if self._of.get(viewer) == wanted:
                return  # it looks at the same as before, and not later than who has looked elsewhere since
            self._of.pop(viewer, None)
            if places or preview or beside:
                self._of[viewer] = wanted

    def together(self) -> Wanted:
        """What all look at."""
        with self._lock:
            latest = list(reversed(self._of.values()))
        return Wanted(
            tuple(dict.fromkeys(place for each in latest for place in each.places)),
            max((each.preview for each in latest), default=0),
            any(each.projection for each in latest),
            tuple(dict.fromkeys(row for each in latest for row in each.sinograms)),
        )
