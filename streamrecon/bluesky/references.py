"""Runs that hold the flats and darks of the scans that follow them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from streamrecon.bluesky.mapping import Mapping
from streamrecon.bluesky.run import Run
from streamrecon.scan import FrameKind

MOST_OPEN = 8
"""That may go on at once."""
IMAGES = frozenset(("event", "datum", "stream_datum"))
"""Documents that tell of some."""


class References:
    """The newest good run of each kind; used by one thread.

    Parameters
    ----------
    tell
        Called with a sentence about a run that has ended.
    """

    def __init__(self, tell: Callable[[Run, str], None]) -> None:
        self._tell = tell
        self._good: dict[FrameKind, Run] = {}
        self._open: dict[str, tuple[Run, Sequence[FrameKind]]] = {}
        """By uid."""
        self._old: list[Run] = []
        """That no scan will use any more."""

    def __contains__(self, uid: object) -> bool:
        return uid in self._open or any(run.uid == uid for run in self._good.values())

    def begin(self, run: Run, kinds: Sequence[FrameKind]) -> None:
        """A run has begun that should have these kinds of frames."""
        self._open[run.uid] = run, kinds
        if len(self._open) > MOST_OPEN:
            self._old.append(self._open.pop(next(iter(self._open)))[0])

    def end(self, run: Run) -> None:
        """A run has ended: it counts if it ended well, and has something."""
        _, kinds = self._open.pop(run.uid, (run, ()))
        if not kinds:
            return
        status, counts = str((run.stop or {}).get("exit_status", "success")), run.num_events
        if status != "success" or (counts and not any(counts.values())):
            why = "without an event" if status == "success" else f"with {status[:20]}"
            self._tell(run, f"has ended {why}: the {_names(kinds)} before it stay those of the scans that follow")
            self._old.append(run)
            return
        self._take(run, kinds)

    def _take(self, run: Run, kinds: Sequence[FrameKind], how: str = "") -> None:
        self._old += {id(old): old for kind in kinds if (old := self._good.get(kind)) is not None}.values()
        self._good.update(dict.fromkeys(kinds, run))
        self._tell(run, f"{how}has the {_names(kinds)} of the scans that follow")

    def another(self) -> None:
        """Another run begins: of those that go on the stop documents were lost. They count if they have something."""
        for run, kinds in list(self._open.values()):
            if any(each.name in IMAGES for each in run.since(0)):
                del self._open[run.uid]
                run.give_up("another run has begun, and its own stop document did not come")
                self._take(run, kinds, "has no stop document, and another run has begun: as it is it ")

    def of(self, mapping: Mapping) -> list[tuple[FrameKind, Run]]:
        """Those that a scan uses which begins now."""
        kinds = [kind for kind, rule in mapping.rules().items() if rule.select == "run"]
        return [(kind, self._good[kind]) for kind in kinds if kind in self._good]

    def done_with(self, used: Collection[Run]) -> list[Run]:
        """Runs that are not needed any more, apart from those that scans still use."""
        needed = {id(run) for run in (*used, *self._good.values())}
        done = [run for run in self._old if id(run) not in needed]
        self._old = [run for run in self._old if id(run) in needed and run not in self._good.values()]
        return done


def _names(kinds: Sequence[FrameKind]) -> str:
    return " and ".join(f"{kind.name.lower()}s" for kind in kinds)
