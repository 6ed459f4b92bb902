"""Backprojection in CUDA against the reference, its bits, and what it refuses."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import cuda_problems
import numpy as np
import pytest
from cuda_emulator import EmulationError
from cuda_target import EmulatedTarget, Target
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**31).map(np.random.default_rng)
SIZES = {
    "rng": SEEDS,
    "height": st.sampled_from([1, 2, 7, 15, 16, 17, 33]),
    "width": st.sampled_from([1, 2, 5, 15, 16, 31, 32, 33, 65]),
    "angles": st.integers(0, 5),
    "step": st.sampled_from([0.3, 1.0, 2.0, 2.1]),
    "radius": cuda_problems.RADII,
    "exact": st.booleans(),
}
ROWS = st.one_of(st.integers(1, 17), st.sampled_from([32, 33, 36, 63, 64, 65, 68]))


@SETTINGS
@given(**SIZES, rows=ROWS)
def test_float32(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.backproject(rng, **size).check(target)


@SETTINGS
@given(**SIZES, rows=ROWS, scale=st.sampled_from([1.0, 256.0, 2.0**-6]))
def test_float16(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.backproject(rng, half=True, **size).check(target)


@SETTINGS
@given(**SIZES, rows=st.sampled_from([4, 8, 36]))
def test_texture(target: Target, rng: np.random.Generator, **size: Any) -> None:
    cuda_problems.backproject(rng, texture=True, **size).check(target)


@SETTINGS
@given(**SIZES, rows=st.sampled_from([1, 4, 9]), half=st.booleans(), cuts=st.lists(st.integers(0, 5), max_size=3))
def test_bits_do_not_depend_on_how_the_angles_are_split(
    target: Target, rng: np.random.Generator, cuts: list[int], **size: Any
) -> None:
    problem = cuda_problems.backproject(rng, **size, scale=0.25)
    angles = size["angles"]
    split = problem.arguments["volume"].copy()
    ends = [0, *sorted(min(cut, angles) for cut in cuts), angles]
    for start, end in pairwise(ends):
        some = {key: problem.arguments[key][start:end] for key in ("filtered", "cos", "sin", "offset")}
        target.call(problem.function, problem.arguments | some | {"volume": split})
    np.testing.assert_array_equal(problem.check(target), split)


@SETTINGS
@given(**SIZES, half=st.booleans(), texture=st.booleans())
def test_pixels_outside_the_radius_are_left_alone(
    target: Target, rng: np.random.Generator, texture: bool, half: bool, **size: Any
) -> None:
    problem = cuda_problems.backproject(rng, rows=4, texture=texture, half=half and not texture, **size)
    before = problem.arguments["volume"].copy()
    after = problem.check(target)
    y, x = np.mgrid[: size["height"], : size["width"]]
    outside = (y - (size["height"] - 1) / 2) ** 2 + (x - (size["width"] - 1) / 2) ** 2 > size["radius"] ** 2
    np.testing.assert_array_equal(after[outside], before[outside])


def test_columns_that_are_not_there_are_nothing(target: Target) -> None:
    problem = cuda_problems.backproject(np.random.default_rng(0), width=40, height=40, angles=7)
    arguments = problem.arguments
    padded = np.pad(arguments["filtered"], ((0, 0), (40, 40), (0, 0)))[:, 50:-50].copy()
    wide = np.pad(padded, ((0, 0), (60, 60), (0, 0)))
    near, far = arguments["volume"].copy(), arguments["volume"].copy()
    for volume, filtered, more in ((near, padded, -10), (far, wide, 50)):
        changed = {"volume": volume, "filtered": filtered, "offset": arguments["offset"] + np.float32(more)}
        target.call(problem.function, arguments | changed)
    np.testing.assert_allclose(near, far, atol=1e-4)


@pytest.mark.parametrize(("step", "half"), [(5.4, False), (8.8, True)])
def test_the_largest_step(target: Target, step: float, half: bool) -> None:
    cuda_problems.backproject(np.random.default_rng(0), width=40, height=20, angles=12, step=step, half=half).check(
        target
    )


def test_a_step_that_is_larger_than_said_stops(emulated: EmulatedTarget) -> None:
    problem = cuda_problems.backproject(np.random.default_rng(0), width=40, height=40, step=2.1, exact=False)
    with pytest.raises(EmulationError, match="trap"):
        emulated.call(problem.function, problem.arguments | {"step": 0.5})


@pytest.mark.parametrize(
    "changed",
    [
        {"volume": np.zeros((9, 7, 5))},
        {"volume": np.zeros((9, 7, 4), np.float32)},
        {"volume": np.zeros((9, 7, 10), np.float32)[..., ::2]},
        {"filtered": np.zeros((4, 20), np.float32)},
        {"filtered": np.zeros((3, 20, 5), np.float32)},
        {"cos": np.ones(4)},
        {"sin": np.ones(3, np.float32)},
        {"offset": np.ones((4, 1), np.float32)},
        {"cos": np.full(4, np.nan, np.float32)},
        {"radius": -1.0},
        {"radius": math.nan},
        {"step": 9.0},
        {"step": math.inf},
        {"step": 5.5},
        {"half": True, "scale": 3.0},
        {"half": True, "scale": -1.0},
        {"half": True, "scale": math.inf},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_does_not_fit_is_refused(emulated: EmulatedTarget, changed: dict[str, Any]) -> None:
    problem = cuda_problems.backproject(np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected"):
        emulated.call(problem.function, problem.arguments | changed)


@pytest.mark.parametrize("rows", [3, 6])
def test_a_texture_takes_rows_by_fours(emulated: EmulatedTarget, rows: int) -> None:
    problem = cuda_problems.backproject(np.random.default_rng(0), rows=rows, texture=True)
    with pytest.raises(ValueError, match="a multiple of 4 rows"):
        emulated.call(problem.function, problem.arguments)
