"""Stripes of columns that the flats do not correct: found, and taken out of what has been accumulated."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from recon_oracle import METHODS, accumulator, fill, grid, half_turn, phantom_projections, relative

from streamrecon.recon.accumulate import snapshot
from streamrecon.recon.rings import Stripes

ROWS, COLUMNS, ANGLES, CENTER = 2, 192, 120, 95.5
METHOD = pytest.mark.parametrize("method", sorted(METHODS))
THETA = half_turn(ANGLES)


def clean() -> NDArray[np.float32]:
    return np.repeat(phantom_projections("asymmetric", COLUMNS, THETA, CENTER, 80.0), ROWS, axis=1).astype(np.float32)


def stripe(seed: int = 0) -> NDArray[np.float32]:
    """Of eight bad columns in each row, as a response that is 1 to 5 % off makes them; line integrals reach 150."""
    rng = np.random.default_rng(seed)
    row = np.zeros((ROWS, COLUMNS), np.float32)
    for r in range(ROWS):
        row[r, rng.choice(np.arange(8, COLUMNS - 8), 8, replace=False)] = rng.choice([-1, 1], 8) * rng.uniform(
            1.5, 7.5, 8
        )
    return row


def learnt(projections: NDArray[np.float32], width: int = 9) -> Stripes:
    stripes = Stripes(ROWS, COLUMNS, width)
    stripes.learn(projections)
    stripes.refresh()
    return stripes


@METHOD
def test_rings_go(method: str) -> None:
    truth = snapshot(fill(accumulator(method, ROWS, COLUMNS), clean(), THETA))
    spoilt = clean() + stripe()
    before = snapshot(fill(accumulator(method, ROWS, COLUMNS), spoilt, THETA))
    after = snapshot(fill(accumulator(method, ROWS, COLUMNS), spoilt - learnt(spoilt).row, THETA))
    x, y = grid(COLUMNS)
    inside = np.hypot(x, y) < 88
    errors = [relative(v[:, inside], truth[:, inside]) for v in (before, after)]
    print(f"error by rings, {method}: {errors[0]:.3f} before, {errors[1]:.3f} after")
    assert errors[1] < errors[0] / 2


@METHOD
def test_a_stripe_found_late_is_exact(method: str) -> None:
    """Refreshed at any time: the volume is that from which the last stripe was subtracted from the start."""
    spoilt = clean() + stripe()
    stripes, acc = Stripes(ROWS, COLUMNS, 8), accumulator(method, ROWS, COLUMNS)
    weight = np.random.default_rng(1).uniform(0.5, 1.5, ANGLES) * math.pi / ANGLES
    for first in range(0, ANGLES, 20):
        some = slice(first, first + 20)
        stripes.learn(spoilt[some])
        acc.add(spoilt[some] - stripes.row, THETA[some], weight[some])
        if first in (40, 100):
            done = slice(first + 20)
            acc.add_constant(stripes.refresh(), THETA[done], weight[done])
    np.testing.assert_allclose(stripes.row, learnt(spoilt).row, atol=1e-4)
    expected = snapshot(fill(accumulator(method, ROWS, COLUMNS), spoilt - learnt(spoilt).row, THETA, weight))
    assert relative(snapshot(acc), expected) < 1e-5


@METHOD
@pytest.mark.parametrize("angles", [0, 1, 16, 37])
def test_a_constant_is_that_row_at_every_angle(method: str, angles: int) -> None:
    row = np.random.default_rng(0).random((ROWS, COLUMNS)).astype(np.float32)
    theta, weight = THETA[:angles], np.linspace(0.5, 1, angles)
    got, expected = (accumulator(method, ROWS, COLUMNS) for _ in range(2))
    got.add_constant(row, theta, weight)
    fill(expected, np.repeat(row[None], angles, axis=0), theta, weight)
    np.testing.assert_allclose(snapshot(got), snapshot(expected), atol=3e-6 * (1 + np.abs(snapshot(expected)).max()))
    assert snapshot(got).any() == bool(angles)


def test_the_stripe_is_the_mean_less_its_running_median() -> None:
    projections = np.zeros((3, ROWS, COLUMNS), np.float32)
    projections[:] = np.arange(COLUMNS)  # a slope is its own median, but at the borders
    projections[:, 0, 50] += np.array([1.0, 2.0, 6.0], np.float32)
    row = learnt(projections, width=5).row
    assert row[0, 50] == pytest.approx(3 - 1)  # the median moves to the next column of the slope
    assert not row[1, 2:-2].any()


def test_an_even_width_is_the_next_odd_one() -> None:
    spoilt = clean() + stripe()
    np.testing.assert_array_equal(learnt(spoilt, 8).row, learnt(spoilt, 9).row)
    assert not np.array_equal(learnt(spoilt, 10).row, learnt(spoilt, 9).row)


def test_a_median_wider_than_the_detector() -> None:
    assert np.isfinite(learnt(clean(), 1001).row).all()


def test_neither_order_nor_batches_matter() -> None:
    spoilt = clean() + stripe()
    stripes = Stripes(ROWS, COLUMNS, 9)
    for part in np.array_split(spoilt[::-1], 7):
        stripes.learn(part)
    stripes.refresh()
    np.testing.assert_allclose(stripes.row, learnt(spoilt).row, atol=1e-5)


def test_corrections_of_the_line_integrals_are_learnt_without_new_angles() -> None:
    spoilt, flats = clean() + stripe(), np.random.default_rng(3).random((ROWS, COLUMNS)).astype(np.float32)
    stripes = Stripes(ROWS, COLUMNS, 9)
    stripes.learn(spoilt)
    stripes.learn(np.repeat(flats[None], ANGLES, axis=0), count=0)
    stripes.refresh()
    np.testing.assert_allclose(stripes.row, learnt(spoilt + flats).row, atol=1e-4)


def test_the_stripe_is_stale_when_the_projections_have_doubled() -> None:
    stripes = Stripes(ROWS, COLUMNS, 9)
    assert not stripes.stale
    stripes.learn(clean()[:10])
    assert stripes.stale
    stripes.refresh()
    stripes.learn(clean()[:9])
    assert not stripes.stale
    stripes.learn(clean()[:1])
    assert stripes.stale
    stripes.forget()
    assert not stripes.row.any()
    assert not stripes.stale
