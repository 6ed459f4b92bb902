"""Projections of phantoms against integrals of their density."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamrecon.errors import ConfigError
from streamrecon.sources.phantom import PHANTOMS, Ellipsoid, density, phantom, project


@pytest.mark.parametrize("name", sorted(PHANTOMS))
@pytest.mark.parametrize("theta", [0.0, 0.7, math.pi / 2, 2.9, -1.1])
def test_projection_is_the_integral_of_the_density(name: str, theta: float) -> None:
    u, z = np.linspace(-1.0, 1.0, 41), np.array([-0.2, 0.0, 0.13])
    t = (np.arange(6000) + 0.5) / 2000.0 - 1.5
    x = u[:, None] * math.cos(theta) - t * math.sin(theta)
    y = u[:, None] * math.sin(theta) + t * math.cos(theta)
    body = phantom(name)
    expected = np.stack([density(body, x, y, height).sum(axis=-1) / 2000.0 for height in z])
    np.testing.assert_allclose(project(body, theta, u, z), expected, atol=4e-3)


def test_orientation_is_the_one_of_the_geometry() -> None:
    spot = (Ellipsoid(0.5, -0.25, 0.1, 0.05, 0.05, 0.05, 1.0),)
    u, z = np.linspace(-1.0, 1.0, 201), np.linspace(-0.2, 0.2, 41)
    for theta, expected in ((0.0, 0.5), (math.pi / 2, -0.25), (math.pi, -0.5)):
        row, column = np.unravel_index(project(spot, theta, u, z).argmax(), (41, 201))
        assert u[column] == pytest.approx(expected, abs=1e-9)
        assert z[row] == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("name", sorted(PHANTOMS))
def test_phantoms_are_positive_and_inside_the_detector(name: str) -> None:
    x, y = np.meshgrid(np.linspace(-1.2, 1.2, 241), np.linspace(-1.2, 1.2, 241))
    for z in (-0.25, -0.1, 0.0, 0.1, 0.25):
        values = density(phantom(name), x, y, z)
        assert values.min() > -1e-12
        assert values.max() > 0
        assert not values[np.hypot(x, y) > 1.0].any()


def test_opposite_views_are_mirrored() -> None:
    u, z = np.linspace(-1.0, 1.0, 65), np.array([0.0, 0.2])
    body = phantom("asymmetric")
    np.testing.assert_allclose(project(body, 0.4, u, z), project(body, 0.4 + math.pi, u, z)[:, ::-1], atol=1e-6)
    assert not np.allclose(project(body, 0.4, u, z), project(body, 0.4, u, z)[:, ::-1], atol=0.1)


def test_disc_is_the_same_at_every_height() -> None:
    sums = project(phantom("disc"), 0.3, np.array([0.0, 0.8]), np.array([-5.0, 0.0, 5.0]))
    np.testing.assert_allclose(sums, [[1.4, 0.0]] * 3)


def test_unknown_phantom_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of: foam"):
        phantom("cat")
