"""Full turns around an axis beside the detector's middle: one weight of the columns makes one wide field of view.

At theta the detector sees the object from the axis to the farther edge, and at theta + pi the other half. Near the axis both
views see the same rays, p(theta, u) = p(theta + pi, 2 center - u); there the weights of the two sum to 1. The weight is
applied before the filter, and must be smooth for that: a step would be a streak at every angle. It is linear in the
projections, so they stream. (Wang, Med. Phys. 29, 1634, 2002; Cho, Rudd and Johnson, Comput. Med. Imaging Graph. 20, 49,
1996.)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import GeometryError

TURN = 2 * math.pi
"""Of such a scan, radians: opposed views do not repeat, they complete each other."""

FULL = 1.95 * math.pi
"""Least arc of angles, radians, that counts as a full turn."""


def beside_middle(center: float, columns: int) -> bool:
    """Whether an axis is so far from the detector's middle, an eighth of the columns, that it was put there on purpose."""
    return abs(center - (columns - 1) / 2) >= columns / 8


def overlap_weight(columns: int, center: float) -> NDArray[np.float32]:
    """Weight of each column, with w(u) + w(2 center - u) = 1.

    With d the distance of the axis to the nearer edge, s = (u - center) / d on the side of the farther edge, w = 0 for
    s <= -1, 1 for s >= 1 and sin^2(pi (1 + s) / 4) between.

    Parameters
    ----------
    columns
        Of the detector.
    center
        Column of the rotation axis.

    Returns
    -------
    weight
        (column,), 0 to 1.

    Raises
    ------
    GeometryError
        If the axis is not on the detector, so that no view reaches it.
    """
    if not 0 <= center <= columns - 1:
        raise GeometryError(
            f"the axis is at column {center:.1f}, beside the detector's columns 0 to {columns - 1}: opposed views of a scan "
            "with an offset axis (recon.offset_axis) would leave a gap between them; check the center (--center)"
        )
    near = min(center, columns - 1 - center)
    away = np.arange(columns) - center if center <= (columns - 1) / 2 else center - np.arange(columns)
    ramp = np.clip(away / max(near, 1e-6), -1, 1)
    return np.asarray(np.sin(math.pi / 4 * (1 + ramp)) ** 2, np.float32)
