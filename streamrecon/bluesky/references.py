"""Runs that hold the flats and darks of the scans that follow them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from streamrecon.bluesky.mapping import Mapping
from streamrecon.bluesky.run import Run
from streamrecon.scan import FrameKind

MOST_OPEN = 8
"""That may go on at once."""


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
        names = " and ".join(f"{kind.name.lower()}s" for kind in kinds)
        status, counts = str((run.stop or {}).get("exit_status", "success")), run.num_events
        if status != "success" or (counts and not any(counts.values())):
            why = "without an event" if status == "success" else f"with {status[:20]}"
            self._tell(run, f"has ended {why}: the {names} before it stay those of the scans that follow")
            self._old.append(run)
            return
        self._old += {id(old): old for kind in kinds if (old := self._good.get(kind)) is not None}.values()
        self._good.update(dict.fromkeys(kinds, run))
        self._tell(run, f"has the {names} of the scans that follow")

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
