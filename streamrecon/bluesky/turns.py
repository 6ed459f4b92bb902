"""Positions of a motor that counts each turn anew: from 359 to 0 degrees is a step of one."""

from __future__ import annotations

import math
from collections.abc import Iterable

FARTHER = 2.0
"""How much longer than its neighbours a step may be that leads across the end of a turn."""


def continued(step: float, neighbours: Iterable[tuple[float, float] | None], turn: float) -> tuple[float, bool]:
    """A step between two positions, across the end of a turn where it is one.

    One is where the position jumps by about a turn, and the motor went on as before, or as after it. A motor that goes back
    to where it began jumps as far, but not so that it would have gone on by a step like those beside it.

    Parameters
    ----------
    step
        Second position less the first.
    neighbours
        The steps before and after it, where they are known, and how many times as long each took.
    turn
        What a turn is in these units, positive.

    Returns
    -------
    step
        The step.
    sure
        Whether a neighbour may not change it.
    """
    shorter = step - math.copysign(turn, step)
    if abs(step) <= turn / 2:
        return step, True
    for each in neighbours:
        if each is None or abs(each[0]) > turn / 2:
            continue
        expected = each[0] / each[1]
        if expected * shorter > 0 and abs(shorter) <= FARTHER * abs(expected):
            return shorter, True
    return step, False
