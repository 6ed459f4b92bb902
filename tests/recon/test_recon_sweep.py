"""Candidates for the center in one backprojection: each is the slice that a reconstruction with that center gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrecon.config import ReconConfig
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.device import CPU
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.offset import TURN
from streamrecon.recon.sweep import COLUMNS, sweep_centers
from streamrecon.recon.weights import arc_weights
from streamrecon.scan import Geometry


def sinogram(columns: int, center: float, theta: NDArray[np.float64]) -> NDArray[np.float32]:
    """Two discs, (projection, column)."""
    u = np.arange(columns)[None] - center

    def disc(x: float, y: float, radius: float, mu: float) -> NDArray[np.float64]:
        s = u - (x * np.cos(theta) + y * np.sin(theta))[:, None]
        return np.asarray(2 * mu * np.sqrt(np.maximum(0, radius**2 - s**2)))

    scale = columns / 128
    rows = disc(8 * scale, 4 * scale, 28 * scale, 0.01) + disc(-14 * scale, 10 * scale, 7 * scale, 0.02)
    return rows.astype(np.float32)


def single(
    rows: NDArray[np.float32], theta: NDArray[np.float64], center: float, filter: str = "ramp"
) -> NDArray[np.float32]:
    options = ReconConfig(filter=filter)  # type: ignore[arg-type]
    shape = Shape.of(Geometry(1, rows.shape[1]), options, center)
    accumulator = FourierAccumulator(shape, options, CPU)
    accumulator.add(rows[:, None], theta, arc_weights(theta))
    return snapshot(accumulator)[0]


@pytest.mark.parametrize("filter", ["ramp", "hann"])
def test_each_is_the_slice_of_its_center(filter: str) -> None:
    theta = np.arange(90) * math.pi / 90
    rows = sinogram(128, 66.3, theta)
    centers = np.array([60.3, 64.0, 66.3, 66.8, 70.0])
    slices = sweep_centers(rows, theta, centers, ReconConfig(filter=filter, side=64, circle=True))  # type: ignore[arg-type]
    assert slices.shape == (5, 128, 128)
    inside = np.hypot(*np.meshgrid(*[np.arange(128) - 63.5] * 2)) < 55
    for center, each in zip(centers, slices, strict=True):
        expected = single(rows, theta, center, filter)
        assert np.abs(each - expected)[inside].max() < 0.02 * np.ptp(expected)


def test_wide_rows_are_binned() -> None:
    theta = np.arange(60) * math.pi / 60
    rows = sinogram(2 * COLUMNS, COLUMNS + 30.0, theta)
    slices = sweep_centers(rows, theta, np.array([COLUMNS + 10.0, COLUMNS + 30.0]), ReconConfig())
    assert slices.shape == (2, COLUMNS, COLUMNS)
    binned = rows.reshape(60, COLUMNS, 2).mean(axis=2)
    expected = single(binned, theta, (COLUMNS + 30.5) / 2 - 0.5)
    alike = [np.corrcoef(each.ravel(), expected.ravel())[0, 1] for each in slices]
    assert alike[1] > 0.99 > alike[0]
    # Per column, as the slices of all columns are.
    assert slices[1].std() == pytest.approx(expected.std() / 2, rel=0.05)
    in_meters = sweep_centers(rows, theta, np.array([COLUMNS + 30.0]), ReconConfig(), pixel_size=1e-6)
    np.testing.assert_allclose(in_meters[0], slices[1] * 1e6, rtol=1e-4, atol=1e-4 * np.ptp(in_meters))


def test_opposed_views_are_joined_around_each_axis() -> None:
    theta = np.arange(240) * TURN / 240
    wide = sinogram(129, 64.0, theta)
    rows = wide[:, 40:]  # the axis is at column 24 of 89
    slices = sweep_centers(rows, theta, np.array([22.0, 24.0]), ReconConfig(), offset_axis=True)
    expected = single(wide, theta, 64.0)
    side = slices.shape[1]
    first = (side - 129) // 2
    seen = slices[1][first : first + 129, first : first + 129]
    inside = np.hypot(*np.meshgrid(*[np.arange(129) - 64] * 2)) < 50
    assert np.abs(seen - expected)[inside].mean() < 0.02 * np.ptp(expected)


def test_it_lets_others_have_their_turn() -> None:
    theta = np.arange(40) * math.pi / 40
    turns: list[int] = []
    sweep_centers(sinogram(32, 16.0, theta), theta, np.array([16.0]), ReconConfig(), lambda: turns.append(1))
    assert len(turns) == 3
