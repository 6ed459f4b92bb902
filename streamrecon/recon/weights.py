"""Weights of angles: each counts for the arc it stands for, modulo half a turn, or a whole one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamrecon.scan import check_theta

GAP_LIMIT = 3.0
"""A gap counts at most this many times the typical gap: uncapped, the end angles of half a scan weigh as much as a quarter."""

SAME = 0.05
"""Angles closer than this share of the typical gap count as one, so that jitter between two turns leaves each its share."""


def arc_weights(theta: NDArray[np.float64], turn: float = math.pi) -> NDArray[np.float64]:
    """Weight of each projection in the sum over angles.

    Half the arc to the next angle on either side, modulo the turn; each gap at most `GAP_LIMIT` times the typical one.
    Angles that coincide modulo the turn, such as 0 and 180 degrees, share their arc. One angle alone weighs the turn.

    The typical gap is the median of those that are neither zero nor the largest; or their mean, where the median is less
    than 0.6 of it, as where two turns do not quite meet and half of the gaps are slivers.

    Parameters
    ----------
    theta
        (projection,) radians, in any order.
    turn
        Radians after which views repeat: pi, or 2 pi where opposed views complete each other (`recon.offset`).

    Returns
    -------
    weights
        (projection,) radians; they sum to `covered_arc(theta, turn)`, which is the turn without large gaps.

    Raises
    ------
    GeometryError
        If an angle is not finite.
    """
    gaps, group, order = _gaps(theta, turn)
    if gaps.size == 0:
        return np.zeros(0)
    arcs = (gaps + np.roll(gaps, 1)) / 2
    weights = np.empty(theta.size)
    weights[order] = arcs[group] / np.bincount(group)[group]
    return weights


def covered_arc(theta: NDArray[np.float64], turn: float = math.pi) -> float:
    """Arc that the angles cover, radians of the turn: the sum of their gaps, each capped as in `arc_weights`.

    One angle alone covers nothing.

    Parameters
    ----------
    theta
        (projection,) radians, in any order.
    turn
        Radians, as in `arc_weights`.

    Raises
    ------
    GeometryError
        If an angle is not finite.
    """
    gaps = _gaps(theta, turn)[0]
    return float(gaps.sum()) if gaps.size > 1 else 0.0


def _gaps(theta: NDArray[np.float64], turn: float) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Capped gap behind each distinct angle, the distinct angle of each sorted projection, and the sorting order."""
    check_theta(theta)
    if theta.size == 0:
        return np.zeros(0), np.zeros(0, np.intp), np.zeros(0, np.intp)
    folded = np.mod(theta, turn)
    order = np.argsort(folded, kind="stable")
    folded = folded[order]
    # The circle is cut at its largest gap, so that no group of coinciding angles lies across the cut.
    gaps = np.diff(folded, append=folded[0] + turn)
    cut = int(np.argmax(gaps)) + 1
    order, gaps = np.roll(order, -cut), np.roll(gaps, -cut)
    typical = _typical(gaps, turn)
    group = np.concatenate([[0], np.cumsum(gaps[:-1] > SAME * typical)]).astype(np.intp)
    return np.minimum(np.bincount(group, weights=gaps), GAP_LIMIT * typical), group, order


def _typical(gaps: NDArray[np.float64], turn: float) -> float:
    rest = np.sort(gaps[gaps > 1e-9])[:-1]
    if not rest.size:
        return turn
    median, mean = float(np.median(rest)), float(rest.mean())
    # Angles on a grid can lie on the limit itself: rounding is not to decide then.
    return median if median >= (0.6 - 1e-9) * mean else mean
