"""Phantoms made of ellipsoids, whose projections are known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import ConfigError

Ellipsoids = tuple["Ellipsoid", ...]


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A body of constant value that is added to the others. Lengths are in half widths of the detector."""

    x: float
    """Center, along the volume's last axis."""
    y: float
    """Center, along the volume's second axis."""
    z: float
    """Center, along the rotation axis; grows with the detector row, 0 is the middle row."""
    a: float
    """Semi-axis along x before the rotation."""
    b: float
    """Semi-axis along y before the rotation."""
    c: float
    """Semi-axis along z; infinite for an upright cylinder."""
    value: float
    """Added to the density inside."""
    phi: float = 0.0
    """Rotation about z, from x towards y, radians."""


def project(
    ellipsoids: Sequence[Ellipsoid], theta: float, u: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Exact integrals along the rays of a parallel beam.

    Parameters
    ----------
    ellipsoids
        The phantom.
    theta
        Rotation angle, radians.
    u
        (column,) positions on the detector, half widths from the rotation axis: the ray of u runs through all points
        with x cos(theta) + y sin(theta) = u.
    z
        (row,) positions along the rotation axis, half widths.

    Returns
    -------
    (row, column) value times half widths.
    """
    sums = np.zeros((len(z), len(u)))
    for e in ellipsoids:
        # Squared: the axes' share left at this height, the half width seen from theta, the distance from its middle.
        height = 1.0 - np.square((z - e.z) / e.c)
        reach = (e.a * math.cos(theta - e.phi)) ** 2 + (e.b * math.sin(theta - e.phi)) ** 2
        offset = np.square(u - (e.x * math.cos(theta) + e.y * math.sin(theta)))
        rows, columns = np.flatnonzero(height > 0), np.flatnonzero(offset < reach)
        chord = np.sqrt(np.maximum(np.outer(height[rows], np.full(len(columns), reach)) - offset[columns], 0.0))
        sums[np.ix_(rows, columns)] += 2.0 * e.a * e.b * e.value / reach * chord
    return sums


def density(
    ellipsoids: Sequence[Ellipsoid], x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """The phantom at points.

    Parameters
    ----------
    ellipsoids
        The phantom.
    x, y, z
        Positions, half widths, in shapes that broadcast.

    Returns
    -------
    Values in the broadcast shape.
    """
    x, y, z = np.broadcast_arrays(x, y, z)
    total = np.zeros(x.shape)
    for e in ellipsoids:
        cos, sin = math.cos(e.phi), math.sin(e.phi)
        along = ((x - e.x) * cos + (y - e.y) * sin) / e.a
        across = ((y - e.y) * cos - (x - e.x) * sin) / e.b
        total += e.value * (along**2 + across**2 + ((z - e.z) / e.c) ** 2 < 1.0)
    return total


@lru_cache
def phantom(name: str) -> Ellipsoids:
    """The phantom of that name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in PHANTOMS:
        raise ConfigError(f"there is no phantom {name!r}; expected one of: {', '.join(PHANTOMS)}")
    return PHANTOMS[name]()


def _disc() -> Ellipsoids:
    return (Ellipsoid(0.0, 0.0, 0.0, 0.7, 0.7, math.inf, 1.0),)


def _asymmetric() -> Ellipsoids:
    """A body with marks that tell left from right, top from bottom and first row from last."""
    return (
        Ellipsoid(0.0, 0.0, 0.0, 0.75, 0.6, 2.0, 1.0, phi=0.3),
        Ellipsoid(0.45, 0.05, 0.0, 0.12, 0.12, 1.0, 1.0),
        Ellipsoid(-0.1, 0.35, 0.0, 0.18, 0.08, 1.0, -0.6, phi=0.9),
        Ellipsoid(-0.25, -0.2, 0.15, 0.2, 0.2, 0.2, 0.8),
    )


def _shepp_logan() -> Ellipsoids:
    """The head of Shepp and Logan in three dimensions, upright where y points down, with the contrast that is usual."""
    tilt = math.radians(18.0)
    return (
        Ellipsoid(0.0, 0.0, 0.0, 0.69, 0.92, 0.81, 1.0),
        Ellipsoid(0.0, 0.0184, 0.0, 0.6624, 0.874, 0.78, -0.8),
        Ellipsoid(0.22, 0.0, 0.0, 0.11, 0.31, 0.22, -0.2, phi=tilt),
        Ellipsoid(-0.22, 0.0, 0.0, 0.16, 0.41, 0.28, -0.2, phi=-tilt),
        Ellipsoid(0.0, -0.35, -0.15, 0.21, 0.25, 0.41, 0.1),
        Ellipsoid(0.0, -0.1, 0.25, 0.046, 0.046, 0.05, 0.1),
        Ellipsoid(0.0, 0.1, 0.25, 0.046, 0.046, 0.05, 0.1),
        Ellipsoid(-0.08, 0.605, 0.0, 0.046, 0.023, 0.05, 0.1),
        Ellipsoid(0.0, 0.606, 0.0, 0.023, 0.023, 0.02, 0.1),
        Ellipsoid(0.06, 0.605, 0.0, 0.023, 0.046, 0.02, 0.1),
    )


def _foam(voids: int = 40, grains: int = 5) -> Ellipsoids:
    """A column of resin with voids that do not overlap, larger to one side, and a few dense grains."""
    rng = np.random.default_rng(7)
    body = Ellipsoid(0.02, -0.03, 0.0, 0.86, 0.74, 4.0, 1.0, phi=0.4)
    cos, sin = math.cos(body.phi), math.sin(body.phi)
    placed: list[Ellipsoid] = []
    while len(placed) < voids + grains:
        along, across, z = rng.uniform((-0.8, -0.7, -0.3), (0.8, 0.7, 0.3))
        grain = len(placed) < grains
        # Largest first, since large ones would find no room later.
        shrink = 1.0 - 0.75 * (len(placed) - grains) / voids
        radius = rng.uniform(0.03, 0.06) if grain else rng.uniform(0.8, 1.0) * shrink * (0.19 + 0.06 * along)
        margin = 0.04 + radius
        if (along / (body.a - margin)) ** 2 + (across / (body.b - margin)) ** 2 > 1.0:
            continue
        x, y = body.x + along * cos - across * sin, body.y + along * sin + across * cos
        if all(math.dist((x, y, z), (e.x, e.y, e.z)) > radius + e.a + 0.01 for e in placed):
            placed.append(Ellipsoid(x, y, z, radius, radius, radius, 1.5 if grain else -1.0))
    return body, *placed


PHANTOMS: dict[str, Callable[[], Ellipsoids]] = {
    "foam": _foam,
    "shepp-logan": _shepp_logan,
    "disc": _disc,
    "asymmetric": _asymmetric,
}
"""Phantoms by name: what `simulated.phantom` may be."""
