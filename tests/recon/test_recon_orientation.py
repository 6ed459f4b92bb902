"""Which way is up: what the sources project is where the volume shows it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from recon_oracle import METHODS, half_turn, phantom_projections, reconstruct

from streamrecon.config import ReconConfig
from streamrecon.sources.phantom import density, phantom

COLUMNS, ROWS, ANGLES = 96, 40, 150
Z = (np.arange(ROWS) - (ROWS - 1) / 2) / (COLUMNS / 2)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("off", [0.0, 7.4])
@pytest.mark.parametrize("turn", [1, 2, -1])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_volume_is_the_phantom_in_place(method: str, turn: int, off: float) -> None:
    half, theta = COLUMNS / 2 - 8, turn * half_turn(ANGLES)
    center = (COLUMNS - 1) / 2 + off
    z = Z * COLUMNS / 2 / half
    projections = phantom_projections("asymmetric", COLUMNS, theta, center, half, z)
    volume = reconstruct(method, projections, theta, center)
    axis = (np.arange(COLUMNS) - (COLUMNS - 1) / 2) / half
    expected = density(phantom("asymmetric"), axis, axis[:, None], z[:, None, None])
    assert alike(volume, expected) > 0.95
    for slices, up, left, transpose in product((False, True), repeat=4):
        wrong = np.flip(expected, [axis for axis, flip in enumerate((slices, up, left)) if flip])
        wrong = wrong.transpose(0, 2, 1) if transpose else wrong
        # Where the two tell apart: most of the body is the same both ways.
        marks = np.abs(wrong - expected) > 0.3
        if marks.any():
            assert alike(volume, wrong) < alike(volume, expected) - 0.01
            assert alike(volume[marks], expected[marks]) > 0.8
            assert alike(volume[marks], wrong[marks]) < 0.2
        else:
            assert (slices, up, left, transpose) == (False,) * 4


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("side", [64, 65])
def test_a_point_is_reconstructed_where_it_was(method: str, side: int) -> None:
    """A spot's center of mass, to a hundredth of a pixel."""
    theta = half_turn(200)
    for x0, y0 in ((0.0, 0.0), (13.25, -7.5), (-4.0, 15.75)):
        u = np.arange(64) - 31.5 - (x0 * np.cos(theta) + y0 * np.sin(theta))[:, None]
        projections = np.exp(-(u**2) / 8)[:, None]
        image = reconstruct(method, projections, theta, options=ReconConfig(side=side))[0].astype(np.float64)
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        near = np.hypot(x - x0, y - y0) < 7
        image = np.where(near, image, 0) / image[near].sum()
        assert (image * x).sum() == pytest.approx(x0, abs=0.01)
        assert (image * y).sum() == pytest.approx(y0, abs=0.01)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("rows", [1, 6, 37, 65])
def test_rows_map_to_slices_in_order(method: str, rows: int) -> None:
    theta = half_turn(24)
    u = np.arange(32) - 15.5
    chord = 2 * np.sqrt(np.clip(100 - u**2, 0, None))
    value = np.random.default_rng(2).permutation(np.arange(1.0, rows + 1))
    projections = np.broadcast_to(value[:, None] * chord, (24, rows, 32))
    volume = reconstruct(method, projections, theta)
    assert volume.shape == (rows, 32, 32)
    np.testing.assert_allclose(volume[:, 12:20, 12:20].mean(axis=(1, 2)), value, rtol=0.03)
