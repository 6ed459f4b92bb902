"""The fast backprojection against the slow one, its bits, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamrecon_kernels import backproject, reference

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `backproject` whose pixels just fit, over odd, even and unequal sides."""
    height, width = draw(
        st.sampled_from([(1, 1), (1, 2), (2, 2), (3, 3), (5, 8), (16, 16), (7, 33), (2, 65), (31, 31)])
    )
    rows, angles = draw(st.integers(1, 17)), draw(st.integers(0, 7))
    seed = draw(st.integers(0, 2**31))
    radius = draw(st.one_of(st.just(math.inf), st.integers(0, 80).map(lambda quarter: quarter / 4)))
    step = draw(st.sampled_from([0.3, 1.0, 2.0]))
    exact = draw(st.booleans())
    rng = np.random.default_rng(seed)
    theta = rng.integers(-8, 8, angles) * math.pi / 4 if exact else rng.uniform(-10, 10, angles)
    cos, sin = (np.float32(step * f(theta)) for f in (np.cos, np.sin))
    far = step * min(radius, math.hypot(height - 1, width - 1) / 2) + 0.02
    offset = np.float32(far + rng.uniform(0, 3, angles))
    filtered = rng.normal(size=(angles, math.ceil(2 * far + 3) + 2, rows)).astype(np.float32)
    volume = rng.normal(size=(height, width, rows)).astype(np.float32)
    return {"volume": volume, "filtered": filtered, "cos": cos, "sin": sin, "offset": offset, "radius": radius}


def small(**changed: Any) -> dict[str, Any]:
    """A problem that is right but for what is changed."""
    good = {
        "volume": np.zeros((4, 4, 2), np.float32),
        "filtered": np.ones((3, 12, 2), np.float32),
        "cos": np.ones(3, np.float32),
        "sin": np.zeros(3, np.float32),
        "offset": np.full(3, 5, np.float32),
    }
    return good | changed


@SETTINGS
@given(problems())
def test_equals_the_reference(problem: dict[str, Any]) -> None:
    expected = reference.backproject(**problem)
    backproject(**problem)
    np.testing.assert_allclose(problem["volume"], expected, atol=1e-4)


@SETTINGS
@given(problems(), st.data())
def test_bits_do_not_depend_on_how_the_angles_are_split(problem: dict[str, Any], data: st.DataObject) -> None:
    angles = len(problem["cos"])
    cuts = sorted(data.draw(st.lists(st.integers(0, angles), max_size=4)))
    split = problem["volume"].copy()
    for start, end in zip([0, *cuts], [*cuts, angles], strict=True):
        some = {key: problem[key][start:end] for key in ("filtered", "cos", "sin", "offset")}
        backproject(split, radius=problem["radius"], **some)
    backproject(**problem)
    np.testing.assert_array_equal(split, problem["volume"])


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(3)
    theta = rng.uniform(0, 7, 20)
    cos, sin = np.float32(np.cos(theta)), np.float32(np.sin(theta))
    filtered = rng.normal(size=(20, 200, 7)).astype(np.float32)
    before = numba.get_num_threads()
    volumes = []
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            volumes.append(np.zeros((97, 97, 7), np.float32))
            backproject(volumes[-1], filtered, cos, sin, np.full(20, 99.7, np.float32))
    finally:
        numba.set_num_threads(before)
    assert np.abs(volumes[0]).max() > 1
    for volume in volumes[1:]:
        np.testing.assert_array_equal(volume, volumes[0])


def test_an_impulse_lands_where_the_geometry_says() -> None:
    volume, filtered = np.zeros((5, 5, 1), np.float32), np.zeros((2, 12, 1), np.float32)
    filtered[0, 6], filtered[1, 4] = 1, 10
    turn = np.array([0, math.pi / 2])
    backproject(volume, filtered, np.float32(np.cos(turn)), np.float32(np.sin(turn)), np.full(2, 5, np.float32))
    expected = np.zeros((5, 5))
    expected[:, 3] += 1  # theta 0: column 6 is one beyond the axis, along the last index
    expected[1, :] += 10  # a quarter turn: column 4 is one before the axis, along the first
    np.testing.assert_allclose(volume[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("radius", [0.0, 0.4, 0.5, 1.0, 2.0, 5.0, math.sqrt(50), 100.0, math.inf])
@pytest.mark.parametrize("side", [10, 11])
def test_pixels_outside_the_radius_are_left_alone(side: int, radius: float) -> None:
    volume = np.full((side, side, 2), 7, np.float32)
    backproject(volume, *_flat_rows(), radius)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    expected = np.where(x**2 + y**2 <= np.float32(radius) ** 2, 8, 7)
    np.testing.assert_array_equal(volume, np.repeat(expected[..., None], 2, axis=2))


def _flat_rows() -> tuple[np.ndarray, ...]:
    one = np.ones(1, np.float32)
    return np.ones((1, 40, 2), np.float32), one, 0 * one, 20 * one


@pytest.mark.parametrize(
    "changed",
    [
        {"volume": np.zeros((4, 4), np.float32)},
        {"volume": np.zeros((4, 4, 3), np.float32)},
        {"volume": np.zeros((4, 4, 2))},
        {"volume": np.zeros((4, 4, 2), np.complex64)},
        {"volume": np.zeros((4, 4, 2), ">f4")},
        {"volume": np.zeros((4, 4, 4), np.float32)[..., ::2]},
        {"volume": np.zeros((4, 4, 2), np.float32, order="F")},
        {"filtered": np.ones((3, 12), np.float32)},
        {"filtered": np.ones((2, 12, 2), np.float32)},
        {"filtered": np.ones((3, 12, 2), np.float64)},
        {"filtered": np.ones((3, 2, 12), np.float32).transpose(0, 2, 1)},
        {"filtered": np.ones((3, 0, 2), np.float32)},
        {"cos": np.ones(3)},
        {"cos": np.ones((3, 1), np.float32)},
        {"sin": np.zeros(2, np.float32)},
        {"offset": np.full(3, 5)},
        {"offset": np.array([5, 5, np.nan], np.float32)},
        {"cos": np.array([1, np.nan, 1], np.float32)},
        {"sin": np.array([np.inf, 0, 0], np.float32)},
        {"radius": math.nan},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    problem = small(**changed)
    before = problem["volume"].copy()
    with pytest.raises(ValueError, match=r"expected|pixels are seen"):
        backproject(**problem)
    np.testing.assert_array_equal(problem["volume"], before)


@pytest.mark.parametrize(("offset", "fits"), [(1.52, True), (1.48, False), (9.48, True), (9.52, False), (-40.0, False)])
def test_pixels_seen_outside_the_rows_are_refused(offset: float, fits: bool) -> None:
    problem = small(offset=np.array([5, offset, 5], np.float32))
    if fits:
        expected = reference.backproject(**problem)
        backproject(**problem)
        np.testing.assert_allclose(problem["volume"], expected, atol=1e-5)
        return
    with pytest.raises(ValueError, match="longer tails"):
        backproject(**problem)
    assert not problem["volume"].any()
