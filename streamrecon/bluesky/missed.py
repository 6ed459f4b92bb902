"""Events that did not come as documents, but are kept elsewhere: asked for when the run is over, and something is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from streamrecon.errors import SourceBusyError, SourceError

FIRST_PAUSE = 1.0
"""Seconds between the first two questions; each further pause is twice as long."""


class Reading(NamedTuple):
    """What a data key was in one event."""

    number: int
    """The event's seq_num."""
    time: float
    """Of the value, seconds since 1970."""
    values: tuple[float, ...]
    """Of the event's frames, or one for all of them."""


class Kept(NamedTuple):
    """What is kept of a data key."""

    readings: Sequence[Reading]
    """Those of one event in the order in which they were measured: the last counts."""
    complete: bool
    """Whether there will be no more of them."""


class Elsewhere(Protocol):
    """Where events are kept."""

    def kept(self, run: str, stream: str, key: str) -> Kept:
        """What a data key was in the events of a stream.

        Raises
        ------
        SourceBusyError
            If that is not known now; it may be later.
        SourceError
            If it never will be.
        """
        ...


class Gaps(Protocol):
    """Who misses events."""

    def missing(self, shots: Iterable[Any]) -> tuple[str, str] | None:
        """Stream and data key of events that are needed for these images and have not come; None if there are none."""

    def fill(self, stream: str, readings: Sequence[Reading]) -> None:
        """Take those that have not come; of those that have, what came as a document counts."""


class Missed:
    """Asks for the events that one run misses; for all passes over it, used by one thread at a time.

    Parameters
    ----------
    elsewhere
        Where they are kept; None: nowhere.
    run
        Its uid.
    patience
        Seconds to go on asking.
    clock
        Seconds, monotonic.
    """

    def __init__(self, elsewhere: Elsewhere | None, run: str, patience: float, clock: Callable[[], float]) -> None:
        self._elsewhere, self._run, self._patience, self._clock = elsewhere, run, patience, clock
        self._readings: Sequence[Reading] = ()
        """Kept, so that all passes have the same angles."""
        self._end: float | None = None
        """When asking is given up."""
        self._next, self._pause = -math.inf, FIRST_PAUSE
        self._filled: Gaps | None = None
        self._done = elsewhere is None
        self.why = ""
        """Why events are still missing."""

    def settled(self, gaps: Gaps, shots: Sequence[Any]) -> bool:
        """Whether all is known that will be. It may ask, which takes a moment, and is to be called when the run is over.

        Parameters
        ----------
        gaps
            Who misses events.
        shots
            Images that wait for theirs.
        """
        if self._elsewhere is None or (place := gaps.missing(shots)) is None:
            return True
        if gaps is not self._filled:
            self._filled = gaps
            gaps.fill(place[0], self._readings)
        now = self._clock()
        self._end = now + self._patience if self._end is None else self._end
        if not self._done and now >= self._next and gaps.missing(shots) is not None:
            self._ask(self._elsewhere, *place)
            gaps.fill(place[0], self._readings)
            self._next, self._pause = self._clock() + self._pause, 2 * self._pause
        if gaps.missing(shots) is None:
            return True
        self._done = self._done or self._clock() >= self._end
        return self._done

    def _ask(self, elsewhere: Elsewhere, stream: str, key: str) -> None:
        try:
            self._readings, self._done = elsewhere.kept(self._run, stream, key)
            self.why = f"{len(self._readings)} events of {stream} with {key} are kept, and this is not among them"
        except SourceBusyError as error:
            self.why = str(error)
        except SourceError as error:
            self.why, self._done = str(error), True
