"""The absolute scale: the mean inside a uniform disc is its attenuation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from recon_oracle import disc, grid, reconstruct
from scipy.special import j1

from streamrecon.config import ReconConfig
from streamrecon.recon.filters import FILTERS, WINDOWS
from streamrecon.recon.weights import arc_weights

COLUMNS, RADIUS, X, Y = 213, 42.0, 9.0, -5.5
PIXEL = 1.3e-6
ACCUMULATORS = {"fourier": ("fourier", 2), "direct": ("direct", 1), "direct upsampled": ("direct", 2)}
TURNS = {
    "180": np.linspace(0, math.pi, 260, endpoint=False),
    "180 with its end": np.linspace(0, math.pi, 261),
    "360": np.linspace(0, 2 * math.pi, 520, endpoint=False),
    "360 with its end": np.linspace(0, 2 * math.pi, 521),
    "360, odd": np.linspace(0, 2 * math.pi, 261, endpoint=False),
    "-90 to 90": np.linspace(-math.pi / 2, math.pi / 2, 261),
}
MU = np.array([5200.0, 12.5])  # 1/m, of each row


def means(name: str, theta: NDArray[np.float64], off: float, options: ReconConfig) -> NDArray[np.float64]:
    """Mean inside 0.8 radii of the disc over its attenuation: per pixel, then in 1/m, of both rows."""
    method, upsampling = ACCUMULATORS[name]
    options = ReconConfig(upsampling=upsampling, filter=options.filter, side=options.side, circle=options.circle)
    center = (COLUMNS - 1) / 2 + off
    projections = disc(COLUMNS, theta, center, RADIUS, X, Y) * (MU * PIXEL)[:, None]
    x, y = grid(options.side or COLUMNS)
    inside = np.hypot(x - X, y - Y) < 0.8 * RADIUS
    result = []
    for pixel_size, expected in ((None, MU * PIXEL), (PIXEL, MU)):
        volume = reconstruct(method, projections, theta, center, options=options, pixel_size=pixel_size)
        result.extend(volume[:, inside].mean(axis=1, dtype=np.float64) / expected)
    return np.array(result)


def blurred_mean(filter_name: str, radius: float = RADIUS) -> float:
    """Mean inside 0.8 radii of a disc of value 1 whose 2-D spectrum is multiplied with the filter's window.

    The disc's Hankel transform is R J1(2 pi R nu) / nu, and the mean of J0(2 pi r nu) over r < a is
    J1(2 pi a nu) / (pi a nu).
    """
    nu = (np.arange(400_000) + 0.5) / 800_000
    bessel = j1(2 * math.pi * radius * nu) * j1(2 * math.pi * 0.8 * radius * nu) / nu
    return float(2 / 0.8 * (WINDOWS[filter_name](2 * nu, 0.8, 8) * bessel).sum() / 800_000)


@pytest.mark.parametrize("off", [0.0, 45.0, -45.0])
@pytest.mark.parametrize("name", ACCUMULATORS)
@pytest.mark.parametrize("filter_name", [name for name in FILTERS if name != "none"])
def test_mean_of_a_disc_with_every_filter(filter_name: str, name: str, off: float) -> None:
    options = ReconConfig(filter=filter_name, side=120)  # type: ignore[arg-type]
    measured = means(name, TURNS["180"], off, options)
    print(f"{filter_name}, {name}, axis {off} off: {measured.round(5)}")
    np.testing.assert_allclose(measured, 1, atol=0.005)


def test_no_window_takes_from_the_mean_of_a_disc_of_this_size() -> None:
    """A window with a corner at zero frequency would: its blur falls with r^-3 only, and spills over the disc's edge."""
    for filter_name in WINDOWS:
        assert blurred_mean(filter_name) == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize("off", [0.0, 45.0])
@pytest.mark.parametrize("name", ACCUMULATORS)
@pytest.mark.parametrize("turn", TURNS)
def test_mean_of_a_disc_over_every_turn(turn: str, name: str, off: float) -> None:
    np.testing.assert_allclose(means(name, TURNS[turn], off, ReconConfig(side=120)), 1, atol=0.005)


@pytest.mark.parametrize("name", ACCUMULATORS)
@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("side", [107, 300])
def test_mean_of_a_disc_in_slices_of_every_size(side: int, circle: bool, name: str) -> None:
    np.testing.assert_allclose(means(name, TURNS["180"], 45.0, ReconConfig(side=side, circle=circle)), 1, atol=0.005)


@pytest.mark.parametrize("method", ["direct", "fourier"])
def test_without_a_filter_the_value_is_the_sum_of_the_line_integrals(method: str) -> None:
    """On the axis each projection of a disc there contributes its middle, 2 R, times its arc."""
    theta = TURNS["180"]
    projections = disc(COLUMNS, theta, (COLUMNS - 1) / 2, RADIUS)
    middle = reconstruct(method, projections, theta, options=ReconConfig(filter="none"))[0, COLUMNS // 2, COLUMNS // 2]
    assert middle == pytest.approx(math.pi * 2 * RADIUS, rel=2e-3)
    assert arc_weights(theta).sum() == pytest.approx(math.pi)
