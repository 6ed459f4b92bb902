"""Slabs become versions: rank 0 keeps what is known of each slab until those of one cut are all there, and hold the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from streamrecon.engine.orders import LAST, NotWritten, Part


class Assembly:
    """The versions in the making; any thread.

    A cut that sessions or withdrawals have spoilt shows as slabs that differ in content: it is given up, and another one can be
    asked for. So what is published holds the same projections in every slab, whatever happened on the way.

    Parameters
    ----------
    slabs
        Ranks that have one.
    complete
        Called with a cut and its parts, in the order of ranks, when they are all there and agree.
    spoilt
        Called with a cut that will not become a version, why, and whether another one may do better at once.
    """

    def __init__(
        self,
        slabs: Collection[int],
        complete: Callable[[int, list[Part]], None],
        spoilt: Callable[[int, str, bool], None],
    ) -> None:
        self._slabs, self._complete, self._spoilt = set(slabs), complete, spoilt
        self._lock = threading.Lock()
        self._parts: dict[int, dict[int, Part]] = {}
        self._over = 0
        """Number of the newest cut that is complete or was given up."""

    def over(self, cut: int) -> bool:
        """Whether a cut is complete or was given up."""
        return cut <= self._over

    def give_up(self, cut: int, why: str) -> None:
        """This cut and those before it will not become versions."""
        with self._lock:
            if cut <= self._over:
                return
            self._close(cut)
        self._spoilt(cut, why, False)

    def hear(self, report: Part | NotWritten) -> None:
        """Take in what a rank says of its slab."""
        if isinstance(report, NotWritten):
            if report.cut != LAST:
                self.give_up(report.cut, report.reason)
            return
        with self._lock:
            if LAST != report.cut <= self._over:
                return
            parts = self._parts.setdefault(report.cut, {})
            parts[report.rank] = report
            if set(parts) != self._slabs:
                return
            found = [parts[rank] for rank in sorted(parts)]
            same = all(part.content == found[0].content for part in found)
            self._close(report.cut)
        if same:
            self._complete(report.cut, found)
        else:
            others = [str(part.rank) for part in found if part.content != found[0].content]
            self._spoilt(
                report.cut, f"the slabs of ranks {', '.join(others)} differ from that of rank {found[0].rank}", True
            )

    def _close(self, cut: int) -> None:
        over = [other for other in self._parts if cut == LAST or LAST != other <= cut]
        for other in over:
            del self._parts[other]
        self._over = max(self._over, cut)
