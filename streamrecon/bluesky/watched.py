"""A motor that was watched while it moved: where it was at a time, as far as that is known."""

from __future__ import annotations

import bisect
import math

import numpy as np

from streamrecon.bluesky.turns import continued

LATER = 3
"""Positions after one that tell how fast the motor went by then, and across the end of a turn which way."""
SAID = 2.0
"""How many times as long as between those it may be between two positions for the motor to have moved all the while."""


class Watched:
    """Positions of one motor, in whatever order they come.

    Between two positions that follow each other it moved evenly. Where one is missing between them it is not known how it
    moved: that is a hole, until it is filled.
    """

    def __init__(self) -> None:
        self.expected: int | None = None
        """Events that there were, where that is known."""
        self.heard = set[int]()
        """Numbers of the events that have come, from 1."""
        self._times: list[float] = []
        """Seconds, ascending."""
        self._positions: list[float] = []
        self._numbers: list[int] = []
        self._begun: tuple[int, bool, float | None] | None = None
        """When it began to move, and by how many positions that was told."""

    def __len__(self) -> int:
        return len(self._times)

    @property
    def complete(self) -> bool:
        """Whether no event is missing; where nobody has told how many there were, the last that came may not be the last."""
        return len(self.heard) >= (max(self.heard, default=0) + 1 if self.expected is None else self.expected)

    def add(self, number: int, time: float, position: float) -> bool:
        """Where it was in an event; False, and left out, where that is no number."""
        if not (math.isfinite(time) and math.isfinite(position)):
            return False
        place = bisect.bisect(self._times, time)
        self._times.insert(place, time)
        self._positions.insert(place, position)
        self._numbers.insert(place, number)
        self.heard.add(number)
        return True

    def at(self, time: float, ended: bool, turn: float = math.inf) -> float | None:
        """Where it was; None where that is not known.

        Before the first position it stood, and after the last one, where it is known which one that is.

        Parameters
        ----------
        time
            Seconds.
        ended
            Whether no more positions will come.
        turn
            After which positions begin anew, if they do.
        """
        place = bisect.bisect(self._times, time)
        if place and self._times[place - 1] == time:
            return self._positions[place - 1]
        after = place == len(self)
        if not self._times or (after and (not ended or self.expected is None)) or self._hole(place):
            return None
        if place == 0 or after:
            return self._positions[0 if place == 0 else -1]
        moved = self._moved(place, ended, turn)
        if moved is None:
            return None
        step, left = moved
        if time <= left:
            return self._positions[place - 1]
        return self._positions[place - 1] + step * (time - left) / (self._times[place] - left)

    def _moved(self, place: int, ended: bool, turn: float) -> tuple[float, float] | None:
        """How far it went to a position from the one before it, and when it left that; None where later ones are to tell.

        A motor that says nothing as long as it stands is heard of long after that position. It left it when it had to, to be at
        the next one at the speed that it had then.
        """
        last = min(place + LATER, len(self) - 1)
        whole = next((each for each in range(place + 1, last + 1) if self._hole(each)), last + 1) - 1
        if not ended and (last < place + LATER or whole < last):
            return None
        last = whole
        begin, end = self._times[place - 1 : place + 1]
        step = self._continued(place, turn)
        took = self._times[last] - end
        if last == place or took <= 0 or end - begin <= SAID * took / (last - place):
            return step, begin
        speed = abs(sum(self._continued(each, turn) for each in range(place + 1, last + 1))) / took
        return step, (max(begin, end - abs(step) / speed) if speed > 0 else begin)

    def _continued(self, place: int, turn: float) -> float:
        """The step to a position from the one before it, across the end of a turn where it leads across one."""
        return continued(self._step(place), [self._beside(place, side) for side in (-1, 1)], turn)[0]

    def _step(self, place: int) -> float:
        """To a position from the one before it."""
        return self._positions[place] - self._positions[place - 1]

    def _beside(self, place: int, side: int) -> tuple[float, float] | None:
        """The step before or after one, and how many times as long it took."""
        if not 0 < place + side < len(self):
            return None
        took, other = (self._times[each] - self._times[each - 1] for each in (place, place + side))
        return (self._step(place + side), other / took) if other > 0 and took > 0 else None

    def begun(self, still: float, ended: bool, turn: float = math.inf) -> float | None:
        """When it began to move: at the last position before those that are away from the first one, all to the same side, and of
        which two more are each at least half of `still` farther. Where that is long before, as of a motor that says nothing as
        long as it stands: when it would have had to, at the speed that it had then.

        Parameters
        ----------
        still
            By how much it may be away and still stand: noise is seldom beyond it, and does not go on from there.
        ended
            Whether no more positions will come: then it will do if the last is twice as far away.
        turn
            As in `at`.
        """
        if self._begun is None or (self._begun[2] is None and self._begun[:2] != (len(self), ended)):
            self._begun = len(self), ended, self._find_begun(still, ended, turn)
        return self._begun[2]

    def _find_begun(self, still: float, ended: bool, turn: float) -> float | None:
        if not self._positions:
            return None
        away = np.array(self._positions) - self._positions[0]
        away = np.unwrap(away, period=turn) if math.isfinite(turn) else away
        side, far = np.where(np.abs(away) > still, np.sign(away), 0.0), np.abs(away)
        first, farther, reached = 0, 0, 0.0
        for place in map(int, np.flatnonzero(side)):
            if place == 0 or side[place] != side[place - 1]:
                first, farther, reached = place, 0, far[place]
            elif far[place] > reached and far[place] >= reached + still / 2:
                farther, reached = farther + 1, far[place]
            if farther == 2 or (ended and place == len(far) - 1 and far[place] >= 2 * still):
                if any(map(self._hole, range(first + 1))):
                    return None
                moved = None if first == 0 else self._moved(first, ended, turn)
                return self._times[0] if first == 0 else None if moved is None else moved[1]
        return None

    def _hole(self, place: int) -> bool:
        """Whether events are missing right before a place, or after the last one."""
        before = self._numbers[place - 1] if place else 0
        if place == len(self):
            return self.expected is not None and self.expected > max(self.heard, default=0)
        low, high = sorted((before, self._numbers[place]))
        return high - low - 1 > len(self.heard) or any(number not in self.heard for number in range(low + 1, high))
