"""An axis beside the detector's middle: the views of a full turn join to what a detector of twice the width would see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from recon_oracle import METHODS, fill, grid, phantom_projections, reconstruct, relative

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.offset import FULL, TURN, overlap_weight
from streamrecon.recon.weights import arc_weights, covered_arc
from streamrecon.scan import Geometry
from streamrecon.sources.phantom import density, phantom

COLUMNS, ANGLES, HALF = 96, 240, 60.0
METHOD = pytest.mark.parametrize("method", sorted(METHODS))
THETA = np.arange(ANGLES) * TURN / ANGLES


def joined(
    method: str, name: str, center: float, options: ReconConfig | None = None, weighted: bool = True
) -> NDArray[np.float32]:
    """The slice of a full turn around an axis beside the middle; the phantom's unit is wider than the nearer half."""
    options = options or ReconConfig()
    acc = METHODS[method](Shape.of(Geometry(1, COLUMNS), options, center, True), options)
    projections = phantom_projections(name, COLUMNS, THETA, center, HALF)
    if not weighted:
        unweighted = acc._spreader.column_weight if isinstance(acc, FourierAccumulator) else acc._column_weight  # type: ignore[attr-defined]
        unweighted[:] = 1
    return snapshot(fill(acc, projections, THETA, arc_weights(THETA, TURN)))[0]


@pytest.mark.parametrize("center", [0.0, 0.3, 19.0, 24.7, 47.4, 47.5, 47.6, 70.2, 95.0])
def test_opposed_weights_sum_to_one(center: float) -> None:
    weight = overlap_weight(COLUMNS, center).astype(float)
    u = np.arange(COLUMNS)
    assert np.all((weight >= 0) & (weight <= 1))
    # Where both u and its mirror 2 center - u are on the detector; between columns the ramp is smooth.
    mirrored = 2 * center - u
    both = (mirrored >= 0) & (mirrored <= COLUMNS - 1)
    if min(center, COLUMNS - 1 - center) > 5:
        np.testing.assert_allclose((weight + np.interp(mirrored, u, weight))[both], 1, atol=2e-3)
    np.testing.assert_allclose(weight[~both], 1)
    assert max(weight[0], weight[-1]) == pytest.approx(1, abs=1e-3)


def test_opposed_weights_sum_to_one_exactly_where_columns_coincide() -> None:
    for center in (13.0, 20.5, 80.0):
        weight = overlap_weight(COLUMNS, center).astype(float)
        u = np.arange(COLUMNS)
        mirrored = np.rint(2 * center - u).astype(int)
        both = (mirrored >= 0) & (mirrored < COLUMNS)
        np.testing.assert_allclose(weight[both] + weight[mirrored[both]], 1, atol=1e-6)


@pytest.mark.parametrize("center", [-0.1, 95.1, -1e6])
def test_an_axis_beside_the_detector_is_refused(center: float) -> None:
    with pytest.raises(GeometryError, match=r"beside the detector's columns 0 to 95.*--center"):
        overlap_weight(COLUMNS, center)


@METHOD
@pytest.mark.parametrize("center", [19.0, 76.0])
@pytest.mark.parametrize("name", ["shepp-logan", "asymmetric"])
def test_it_is_what_a_wide_detector_gives(method: str, center: float, name: str) -> None:
    got = joined(method, name, center)
    side = 2 * 76 + 1
    assert got.shape == (side, side)
    half_turn = THETA[: ANGLES // 2]
    wide = phantom_projections(name, 2 * COLUMNS + 1, half_turn, float(COLUMNS), HALF)
    expected = reconstruct(method, wide, half_turn, float(COLUMNS), options=ReconConfig(side=side))[0]
    x, y = grid(side)
    inside = np.hypot(x, y) < 0.95 * HALF
    assert relative(got[inside], expected[inside]) < 1e-3
    assert relative(joined(method, name, center, weighted=False)[inside], expected[inside]) > 0.1


@METHOD
def test_the_scale_is_absolute_at_every_radius(method: str) -> None:
    """Near the axis two views share each ray, farther out one has it alone."""
    center = 18.3
    got = joined(method, "disc", center)
    x, y = grid(len(got))
    radius = np.hypot(x, y)
    for first in range(0, 40, 8):
        ring = (radius >= first) & (radius < first + 8)
        truth = density(phantom("disc"), x[ring] / HALF, y[ring] / HALF, 0.0).mean()
        assert got[ring].mean() == pytest.approx(truth, rel=0.005), first


@METHOD
def test_the_circle_is_that_of_the_farther_edge(method: str) -> None:
    got = joined(method, "disc", 18.3, ReconConfig(circle=True))
    x, y = grid(len(got))
    assert len(got) == 2 * math.ceil(76.7) + 1
    assert not got[np.hypot(x, y) > 77.7].any()
    assert np.abs(got[(np.hypot(x, y) > 70) & (np.hypot(x, y) < 76)]).max() > 0


def test_a_side_that_is_asked_for_wins() -> None:
    assert joined("direct", "disc", 18.3, ReconConfig(side=50)).shape == (50, 50)


# Angles of a full turn.


def test_opposed_angles_do_not_share_an_arc() -> None:
    theta = np.array([0.0, math.pi / 2, math.pi, 3 * math.pi / 2])
    np.testing.assert_allclose(arc_weights(theta, TURN), math.pi / 2)
    np.testing.assert_allclose(arc_weights(theta), math.pi / 4)
    # The end of the turn repeats its start.
    np.testing.assert_allclose(arc_weights(np.append(theta, TURN), TURN)[[0, 4]], math.pi / 4)


def test_the_arc_of_a_full_turn() -> None:
    assert covered_arc(THETA, TURN) == pytest.approx(TURN)
    assert covered_arc(THETA[: ANGLES // 2], TURN) == pytest.approx(math.pi, rel=0.02)
    assert covered_arc(THETA[: ANGLES // 2]) == pytest.approx(math.pi)
    # A half turn and one more projection at the end of the turn is no full turn.
    assert covered_arc(np.append(THETA[: ANGLES // 2], TURN), TURN) < FULL
    assert arc_weights(THETA[3:4], TURN) == pytest.approx([TURN])
