"""Both accumulators against filtered backprojection with sinc interpolation, on exact line integrals."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray
from recon_oracle import grid, half_turn, phantom_projections, reconstruct, relative, sinc_fbp

from streamrecon.config import ReconConfig

POINTS = 600
Z = np.array([-0.15, 0.25])


def angles_of(columns: int) -> int:
    return round(columns * 1.57)


@lru_cache(maxsize=1)
def scan(columns: int, off: float) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
    """Projections of two rows, the pixels to look at, and (row, point) what they should be."""
    theta, center = half_turn(angles_of(columns)), (columns - 1) / 2 + off
    seen = min(center, columns - 1 - center)
    # The head is 0.92 units high: as wide as the detector suggests, smaller only where it would be cut off. What linear
    # interpolation costs depends on how many pixels are near an edge, so a smaller head has a larger relative error.
    half = min(columns / 2, (seen - 1) / 0.92)
    projections = phantom_projections("shepp-logan", columns, theta, center, half, Z)
    x, y = (axis.ravel() for axis in grid(columns))
    inside = np.flatnonzero(np.hypot(x, y) < 0.95 * seen)
    points = np.random.default_rng(5).choice(inside, POINTS, replace=False)
    expected = [sinc_fbp(projections[:, row], theta, center, x[points], y[points]) for row in range(len(Z))]
    return projections, points, np.stack(expected)


@pytest.mark.parametrize(
    ("columns", "off", "method", "upsampling", "limit"),
    [
        *(
            (512, off, *case)
            for off in (0.0, 45.3)
            for case in (("fourier", 2, 0.001), ("direct", 1, 0.065), ("direct", 2, 0.018))
        ),
        # From these on it is within the limit.
        (256, 0.0, "fourier", 2, 0.001),
        # In two bands.
        (768, 0.0, "fourier", 2, 0.001),
    ],
)
def test_error_against_sinc_interpolation(columns: int, off: float, method: str, upsampling: int, limit: float) -> None:
    projections, points, expected = scan(columns, off)
    options, center = ReconConfig(upsampling=upsampling), (columns - 1) / 2 + off
    volume = reconstruct(method, projections, half_turn(angles_of(columns)), center, options=options)
    error = relative(volume.reshape(len(Z), -1)[:, points], expected)
    print(f"{columns} columns, {method} upsampling {upsampling}, axis {off} off: {100 * error:.4f} %")
    assert error <= limit
