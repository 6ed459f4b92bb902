"""Filters against their definitions, and what rows are padded with."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.config import FilterName
from streamrecon.recon.filters import FILTERS, padded_length, response

DEFINITIONS = {  # as TomoPy has them, over cycles per pixel
    "ramp": lambda nu: nu,
    "ramlak": lambda nu: nu,
    "shepp": lambda nu: np.sin(math.pi * nu) / math.pi,
    "cosine": lambda nu: nu * np.cos(math.pi * nu),
    "hann": lambda nu: nu * 0.5 * (1 + np.cos(2 * math.pi * nu)),
    "hamming": lambda nu: nu * (0.54 + 0.46 * np.cos(2 * math.pi * nu)),
    "parzen": lambda nu: nu * np.where(nu <= 0.25, 1 - 6 * (2 * nu) ** 2 * (1 - 2 * nu), 2 * (1 - 2 * nu) ** 3),
    "butterworth": lambda nu: nu / (1 + (nu / 0.4) ** 16),
}


@pytest.mark.parametrize("padded", [64, 65, 98, 1000, 1250, 1458, 3136, 4096])
@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_response_is_the_definition(name: str, padded: int) -> None:
    nu = np.fft.rfftfreq(padded)
    values = response(name, padded)
    assert values.shape == nu.shape
    np.testing.assert_allclose(values, DEFINITIONS[name](nu), atol=1 / padded)
    # The window itself, where the ramp's own discretisation is divided out.
    window = DEFINITIONS[name](nu[1:]) / nu[1:]
    np.testing.assert_allclose(values[1:], window * response("ramp", padded)[1:], rtol=1e-12, atol=1e-15)
    assert values[0] == response("ramp", padded)[0]


@pytest.mark.parametrize("padded", [32, 250, 1000, 8192])
def test_the_ramp_at_zero_is_small_and_positive(padded: int) -> None:
    """What the kernel's tail beyond the padded length would have taken away: 2 / pi^2 / padded."""
    zero = response("ramp", padded)[0]
    assert 0 < zero < 1 / padded
    assert zero == pytest.approx(2 / (math.pi**2 * padded), rel=0.01)


def test_the_spatial_kernel_is_the_band_limited_ramps() -> None:
    kernel = np.fft.irfft(response("ramp", 400), 400)
    n = np.arange(-199, 200)
    expected = np.where(n % 2 == 1, -1 / (math.pi * np.where(n == 0, 1, n)) ** 2, np.where(n == 0, 0.25, 0))
    np.testing.assert_allclose(kernel[n], expected, atol=1e-12)


@pytest.mark.parametrize(("cutoff", "order"), [(0.8, 8), (0.3, 2), (1.0, 1)])
def test_butterworth_options(cutoff: float, order: int) -> None:
    nu = np.fft.rfftfreq(512)
    expected = response("ramp", 512) / (1 + (2 * nu / cutoff) ** (2 * order))
    np.testing.assert_allclose(response("butterworth", 512, cutoff, order), expected, rtol=1e-12)
    at = round(cutoff * 256)
    assert response("butterworth", 512, cutoff, order)[at] == pytest.approx(response("ramp", 512)[at] / 2, rel=0.05)


@pytest.mark.parametrize("padded", [10, 11])
def test_none_is_one_everywhere(padded: int) -> None:
    np.testing.assert_array_equal(response("none", padded), np.ones(padded // 2 + 1))


def test_the_names_are_those_of_the_options() -> None:
    assert set(FILTERS) == set(get_args(FilterName)) == {*DEFINITIONS, "none"}
    assert len(FILTERS) == len(set(FILTERS))


@pytest.mark.parametrize("name", ["", "Ramp", "ram-lak", "custom"])
def test_unknown_filters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected one of: ramp, ramlak"):
        response(name, 64)


@given(st.integers(1, 9000), st.floats(-9000, 9000))
def test_the_padded_length_is_even_and_long_enough(columns: int, reach: float) -> None:
    padded = padded_length(columns, reach)
    assert padded % 2 == 0
    assert padded >= 2 * columns
    # What is read beyond an edge is on this side of the middle between two repetitions.
    assert (padded - columns) // 2 >= max(0, math.ceil(reach))
    assert padded < 2.3 * (columns + max(0.0, reach)) + 20
