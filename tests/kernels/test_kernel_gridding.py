"""The fast gridding against the slow one, its bits, what it refuses, and the kernel's transform."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streamrecon_kernels import KaiserBessel, grid_spokes, reference

SETTINGS = settings(max_examples=50, deadline=None)
KERNELS = [
    KaiserBessel(5, 1.25),
    KaiserBessel(4, 1.25),
    KaiserBessel(3, 1.5),
    KaiserBessel(6, 2.0),
    KaiserBessel(7, 1.1),
]


def spokes(rng: np.random.Generator, *shape: int) -> NDArray[np.complex64]:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `grid_spokes` whose spokes just fit."""
    kernel = draw(st.sampled_from(KERNELS))
    count, pairs, angles = 2 * draw(st.integers(0, 8)) + 1, draw(st.integers(1, 9)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    step = draw(st.sampled_from([0.13, 0.4999, 0.77, 1.0]))
    theta = rng.uniform(-7, 7, angles)
    cos, sin = step * np.cos(theta), step * np.sin(theta)
    samples = spokes(rng, angles, count, pairs)
    # Exactly at the kernel's end, where it jumps to zero, rounding decides; see the tests of symmetry for that.
    k = np.arange(count) - (count - 1) / 2
    for axis in (cos, sin):
        edge = np.abs((np.multiply.outer(axis, k) + kernel.width / 2 + 0.5) % 1 - 0.5) < 1e-4
        samples[edge] = 0
    middle = math.ceil(kernel.width / 2 + (count - 1) / 2 * step)
    grid = spokes(rng, 2 * middle + 1, 2 * middle + 1, pairs)
    return {"grid": grid, "samples": samples, "cos": cos, "sin": sin, "kernel": kernel}


def small(**changed: Any) -> dict[str, Any]:
    """A problem that is right but for what is changed."""
    good = {
        "grid": np.zeros((15, 15, 2), np.complex64),
        "samples": np.ones((3, 9, 2), np.complex64),
        "cos": np.full(3, 0.9),
        "sin": np.full(3, 0.2),
        "kernel": KaiserBessel(5, 1.25),
    }
    return good | changed


@SETTINGS
@given(problems())
def test_equals_the_reference(problem: dict[str, Any]) -> None:
    expected = reference.grid_spokes(**problem)
    grid_spokes(**problem)
    np.testing.assert_allclose(problem["grid"], expected, atol=1e-5)


@SETTINGS
@given(problems(), st.data())
def test_bits_do_not_depend_on_how_the_angles_are_split(problem: dict[str, Any], data: st.DataObject) -> None:
    angles = len(problem["cos"])
    cuts = sorted(data.draw(st.lists(st.integers(0, angles), max_size=4)))
    split = problem["grid"].copy()
    for start, end in zip([0, *cuts], [*cuts, angles], strict=True):
        some = {key: problem[key][start:end] for key in ("samples", "cos", "sin")}
        grid_spokes(split, kernel=problem["kernel"], **some)
    grid_spokes(**problem)
    np.testing.assert_array_equal(split, problem["grid"])


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(3)
    theta = rng.uniform(0, 7, 20)
    samples = spokes(rng, 20, 101, 5)
    before = numba.get_num_threads()
    grids = []
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            grids.append(np.zeros((111, 111, 5), np.complex64))
            grid_spokes(grids[-1], samples, np.cos(theta), np.sin(theta), KaiserBessel(5, 1.25))
    finally:
        numba.set_num_threads(before)
    assert np.abs(grids[0]).max() > 1
    for grid in grids[1:]:
        np.testing.assert_array_equal(grid, grids[0])


@pytest.mark.parametrize(
    ("width", "step", "theta"),
    [(5, 0.5, 0.0), (5, 0.5, math.pi / 2), (5, 0.4, 0.0), (4, 0.7, 0.3), (4, 1.0, 0.0), (6, 0.37, 1.1)],
)
def test_the_spoke_of_a_real_row_leaves_a_hermitian_grid(width: int, step: float, theta: float) -> None:
    """Otherwise the rows that are the real and the imaginary part of one image leak into each other."""
    rng = np.random.default_rng(1)
    half = spokes(rng, 10)
    middle = rng.normal(size=1).astype(np.complex64)
    samples = np.concatenate([half[::-1].conj(), middle, half])[None, :, None]
    grid = np.zeros((33, 33, 1), np.complex64)
    grid_spokes(
        grid, samples, np.array([step * math.cos(theta)]), np.array([step * math.sin(theta)]), KaiserBessel(width, 1.25)
    )
    np.testing.assert_allclose(grid[::-1, ::-1].conj(), grid, atol=1e-5)


@pytest.mark.parametrize(("width", "step"), [(5, 0.5), (4, 1.0), (4, 0.31)])
def test_equals_the_reference_where_cells_lie_exactly_at_the_kernels_end(width: int, step: float) -> None:
    problem = small(cos=np.full(3, step), sin=np.zeros(3), kernel=KaiserBessel(width, 1.25))
    expected = reference.grid_spokes(**problem)
    grid_spokes(**problem)
    np.testing.assert_allclose(problem["grid"], expected, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_transform_is_the_fourier_transform_of_the_table(kernel: KaiserBessel) -> None:
    per_cell = 4096
    table = kernel.table(per_cell).astype(np.float64)
    count = kernel.width * per_cell // 2 + 1
    assert not table[count:].any()
    assert table[0] == 1
    frequency = np.linspace(-2, 2, 161)
    t = np.arange(count) / per_cell
    expected = 2 * np.trapezoid(table[:count] * np.cos(2 * math.pi * frequency[:, None] * t), t, axis=1)
    np.testing.assert_allclose(kernel.transform(frequency), expected, atol=1e-6)
    np.testing.assert_array_equal(kernel.transform(-frequency), kernel.transform(frequency))


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_transform_is_smooth_where_its_two_branches_meet(kernel: KaiserBessel) -> None:
    meeting = kernel.beta / (math.pi * kernel.width)
    values = kernel.transform(meeting + np.array([-1e-9, 0.0, 1e-9]))
    np.testing.assert_allclose(values, values[1], rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_the_correction_stays_finite_over_the_image(kernel: KaiserBessel) -> None:
    edge = 0.5 / kernel.oversampling
    values = kernel.transform(np.linspace(-edge, edge, 101))
    assert values.min() > 1e-3 * values.max()


@pytest.mark.parametrize(
    "changed",
    [
        {"grid": np.zeros((15, 15), np.complex64)},
        {"grid": np.zeros((15, 17, 2), np.complex64)},
        {"grid": np.zeros((16, 16, 2), np.complex64)},
        {"grid": np.zeros((15, 15, 3), np.complex64)},
        {"grid": np.zeros((15, 15, 2), np.complex128)},
        {"grid": np.zeros((15, 15, 2), np.float32)},
        {"grid": np.zeros((15, 15, 4), np.complex64)[..., ::2]},
        {"grid": np.zeros((15, 15, 2), np.complex64, order="F")},
        {"samples": np.ones((3, 9), np.complex64)},
        {"samples": np.ones((3, 8, 2), np.complex64)},
        {"samples": np.ones((2, 9, 2), np.complex64)},
        {"samples": np.ones((3, 9, 2), np.complex128)},
        {"samples": np.ones((3, 2, 9), np.complex64).transpose(0, 2, 1)},
        {"cos": np.full(2, 0.9)},
        {"sin": np.full((3, 1), 0.9)},
        {"cos": np.full(3, 1.2)},
        {"sin": np.array([0.2, -1.2, 0.2])},
        {"sin": np.array([0.2, np.inf, 0.2])},
        {"samples": np.ones((3, 13, 2), np.complex64)},
        {"kernel": KaiserBessel(9, 1.25)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    problem = small(**changed)
    with pytest.raises(ValueError, match=r"expected|spokes reach"):
        grid_spokes(**problem)
    assert not problem["grid"].any()


@pytest.mark.parametrize("axis", ["cos", "sin"])
def test_directions_that_are_not_finite_are_refused(axis: str) -> None:
    """In a process of its own: a cell computed from NaN may lie anywhere in memory."""
    code = f"""
import numpy as np
from streamrecon_kernels import KaiserBessel, grid_spokes
direction = {{"cos": np.full(1, 0.5), "sin": np.full(1, 0.5)}} | {{{axis!r}: np.full(1, np.nan)}}
try:
    grid_spokes(np.zeros((15, 15, 2), "c8"), np.ones((1, 9, 2), "c8"), kernel=KaiserBessel(5, 1.25), **direction)
except ValueError:
    raise SystemExit(42)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 42


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.complex128])
def test_directions_of_another_kind_are_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        grid_spokes(**small(cos=np.zeros(3, dtype)))
