"""The fast gridding against the slow one, its symmetries, bits and vectors, what it refuses, and the kernel's transform."""

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
from kernel_arrays import ROWS_APART, ROWS_TOGETHER, complexes, hold, read_only, rebuilt
from numpy.typing import NDArray
from streamrecon_kernels import (
    KaiserBessel,
    Spokes,
    grid_spokes,
    gridding_vector,
    reference,
    spoke_cells,
    spoke_factors,
    spokes,
)
from streamrecon_kernels.gridding_numba import PER_CELL

SETTINGS = settings(max_examples=50, deadline=None)
GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
KERNELS = [
    KaiserBessel(5, 1.25),
    KaiserBessel(4, 1.25),
    KaiserBessel(3, 1.5),
    KaiserBessel(6, 2.0),
    KaiserBessel(7, 1.125),
    KaiserBessel(2, 1.25),
    KaiserBessel(12, 1.5),
]

Problem = dict[str, Any]


def side_of(cos: NDArray[np.float64], sin: NDArray[np.float64], half: int, width: int) -> int:
    """Of the smallest grid that holds the spokes."""
    step = max(abs(cos).max(initial=0), abs(sin).max(initial=0))
    return 2 * math.ceil(half * step + width / 2) + 1


@st.composite
def problems(draw: st.DrawFn, most_pairs: int = 9, edges: bool = False) -> Problem:
    """Arguments of `spokes` and `grid_spokes` whose spokes just fit."""
    kernel = draw(st.sampled_from(KERNELS))
    half, pairs, angles = draw(st.integers(1, 9)), draw(st.integers(1, most_pairs)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    step = draw(st.sampled_from([0.13, 0.4999, 0.5, 0.77, 1.0, 1.25]))
    kind = draw(st.sampled_from(["any", "eighths", "golden", "same"]))
    theta = {
        "any": rng.uniform(-7, 7, angles),
        "eighths": rng.integers(-8, 8, angles) * math.pi / 4,
        "golden": np.arange(angles) * GOLDEN,
        "same": np.full(angles, rng.uniform(-4, 4)),
    }[kind]
    cos, sin = step * np.cos(theta), step * np.sin(theta)
    spectra, factor = complexes(rng, angles, 2 * half, pairs), complexes(rng, angles, 2 * half + 1)
    if not edges:
        # Exactly at the kernel's end, where it jumps to zero, rounding decides; see the tests of symmetry for that.
        k = np.arange(2 * half + 1) - half
        for axis in (cos, sin):
            factor[np.abs((np.multiply.outer(axis, k) + kernel.width / 2 + 0.5) % 1 - 0.5) < 1e-6] = 0
    side = side_of(cos, sin, half, kernel.width) + 2 * draw(st.integers(0, 2))
    grid = complexes(rng, side, side, pairs)
    return {"grid": grid, "spectra": spectra, "factor": factor, "cos": cos, "sin": sin, "kernel": kernel}


def problem_of(
    pairs: int, kernel: KaiserBessel = KERNELS[0], seed: int = 0, half: int = 12, angles: int = 4
) -> Problem:
    """A problem with this many row pairs."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0, 7, angles)
    cos, sin = 0.9 * np.cos(theta), 0.9 * np.sin(theta)
    side = side_of(cos, sin, half, kernel.width)
    return {
        "grid": complexes(rng, side, side, pairs),
        "spectra": complexes(rng, angles, 2 * half, pairs),
        "factor": complexes(rng, angles, 2 * half + 1),
        "cos": cos,
        "sin": sin,
        "kernel": kernel,
    }


def where_of(problem: Problem, some: slice = slice(None)) -> Spokes:
    """Cells and weights of a problem's spokes."""
    samples = problem["factor"].shape[1]
    return spokes(problem["cos"][some], problem["sin"][some], samples, len(problem["grid"]), problem["kernel"])


def run(problem: Problem, **changed: Any) -> None:
    """Grid all spokes of a problem."""
    given_ = problem | {"where": where_of(problem)} | changed
    grid_spokes(given_["grid"], given_["spectra"], given_["factor"], given_["where"])


def small(**changed: Any) -> Problem:
    """Arguments of `grid_spokes` that are right but for what is changed."""
    good = {
        "grid": np.zeros((15, 15, 2), np.complex64),
        "spectra": np.ones((3, 8, 2), np.complex64),
        "factor": np.ones((3, 9), np.complex64),
        "where": spokes(np.full(3, 0.9), np.full(3, 0.2), 9, 15, KERNELS[0]),
    }
    return good | changed


@SETTINGS
@given(problems(), st.sampled_from(ROWS_TOGETHER), st.booleans())
def test_equals_the_reference(problem: Problem, laid: str, unaligned: bool) -> None:
    expected = reference.grid_spokes(**problem)
    grid = hold(problem["grid"], "unaligned" if unaligned else "plain")
    spectra = hold(problem["spectra"], laid)
    run(problem, grid=grid.array, spectra=spectra.array)
    np.testing.assert_allclose(grid.array, expected, atol=2e-5)
    grid.check()
    spectra.check_unchanged()


@pytest.mark.parametrize("pairs", range(1, 36))
def test_any_number_of_rows_is_made_up_of_groups(pairs: int) -> None:
    problem = problem_of(pairs, KERNELS[pairs % 2], half=4)
    expected = reference.grid_spokes(**problem)
    grid = hold(problem["grid"])
    run(problem, grid=grid.array)
    np.testing.assert_allclose(grid.array, expected, atol=2e-5)
    grid.check()


@pytest.mark.parametrize("laid", [*ROWS_APART, "odd_bytes", "odd_strides"])
@pytest.mark.parametrize("pairs", [1, 3])
def test_spectra_may_lie_in_memory_as_they_like(pairs: int, laid: str) -> None:
    problem = problem_of(pairs)
    expected = reference.grid_spokes(**problem)
    grid, spectra = hold(problem["grid"]), hold(problem["spectra"], laid)
    factor = hold(problem["factor"], "every_second")
    run(problem, grid=grid.array, spectra=read_only(spectra.array), factor=read_only(factor.array))
    np.testing.assert_allclose(grid.array, expected, atol=2e-5)
    grid.check()
    spectra.check_unchanged()


@SETTINGS
@given(problems(most_pairs=4, edges=True))
def test_the_plain_kernel_gives_what_the_vectors_give(problem: Problem) -> None:
    plain = hold(problem["grid"])
    run(problem, grid=plain.array, spectra=hold(problem["spectra"], "every_second").array)
    run(problem)
    np.testing.assert_allclose(plain.array, problem["grid"], atol=2e-5)
    plain.check()


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_vectors_of_every_length_equal_the_reference(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = rebuilt(gridding_vector.grid_spokes, add_window=gridding_vector.window_adder(lanes))
    monkeypatch.setattr(gridding_vector, "grid_spokes", kernel)
    for pairs in (1, 2, 3, 4, 7, 8, 15, 16, 35):
        for form in (KERNELS[0], KERNELS[3]):
            problem = problem_of(pairs, form, half=5)
            expected = reference.grid_spokes(**problem)
            grid, spectra = hold(problem["grid"], "unaligned"), hold(problem["spectra"], "unaligned")
            run(problem, grid=grid.array, spectra=spectra.array)
            np.testing.assert_allclose(grid.array, expected, atol=2e-5)
            grid.check()
    assert kernel.signatures


@SETTINGS
@given(problems(edges=True), st.data(), st.sampled_from(["plain", "every_second"]))
def test_bits_do_not_depend_on_how_the_angles_are_split(problem: Problem, data: st.DataObject, laid: str) -> None:
    angles = len(problem["cos"])
    cuts = sorted(data.draw(st.lists(st.integers(0, angles), max_size=4)))
    split, spectra = problem["grid"].copy(), hold(problem["spectra"], laid).array
    for start, end in zip([0, *cuts], [*cuts, angles], strict=True):
        some = slice(start, end)
        grid_spokes(split, spectra[some], problem["factor"][some], where_of(problem, some))
    run(problem, spectra=spectra)
    np.testing.assert_array_equal(split, problem["grid"])


@settings(max_examples=60, deadline=None)
@given(problems(edges=True), st.sampled_from([1, 2, 3, 7, 16, 31, 64, 1000]), st.integers(1, 40))
def test_bits_depend_neither_on_the_tiles_nor_on_who_has_them(problem: Problem, tile: int, hands: int) -> None:
    expected = problem["grid"].copy()
    run(problem, grid=expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoke_cells, "TILE", tile)
        where = where_of(problem)
        shares = where.deal(hands)
    assert len(shares) == hands
    for share in shares[::-1]:
        grid_spokes(problem["grid"], problem["spectra"], problem["factor"], where, share)
    np.testing.assert_array_equal(problem["grid"], expected)
    owned = np.zeros(expected.shape[:2], int)
    for share in shares:
        for top, bottom, left, right in share.tiles:
            owned[top:bottom, left:right] += 1
    assert owned.max(initial=0) <= 1


def test_a_share_of_other_spokes_and_no_hands_are_refused() -> None:
    problem = small()
    other = spokes(np.full(2, 0.9), np.full(2, 0.2), 9, 15, KERNELS[0]).deal(1)[0]
    with pytest.raises(ValueError, match="other spokes"):
        grid_spokes(**problem, share=other)
    assert not problem["grid"].any()
    for hands in (0, -1):
        with pytest.raises(ValueError, match="expected 1 or more"):
            problem["where"].deal(hands)


@pytest.mark.parametrize("laid", ["plain", "every_second"])
def test_bits_do_not_depend_on_the_number_of_threads(laid: str) -> None:
    problem = problem_of(5, half=50, angles=20)
    problem["spectra"] = hold(problem["spectra"], laid).array
    problem["grid"][:] = 0
    before = numba.get_num_threads()
    grids = []
    where = where_of(problem)
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            for dealt in (where, where_of(problem)):
                grids.append(problem["grid"].copy())
                run(problem, grid=grids[-1], where=dealt)
    finally:
        numba.set_num_threads(before)
    assert np.abs(grids[0]).max() > 1
    for grid in grids[1:]:
        np.testing.assert_array_equal(grid, grids[0])


@SETTINGS
@given(problems(edges=True))
def test_every_window_lies_in_the_grid_and_is_the_mirror_of_its_opposite(problem: Problem) -> None:
    where, width = where_of(problem), problem["kernel"].width
    middle = (where.side - 1) // 2
    count = problem["factor"].shape[1]
    for first, end, weight, axis in (
        (where.first_u, where.end_u, where.weight_u, problem["cos"]),
        (where.first_v, where.end_v, where.weight_v, problem["sin"]),
    ):
        assert end is not None
        together = weight.shape[2]
        assert first.min(initial=0) >= 0
        assert end.max(initial=0) <= where.side
        assert ((end - first >= width) & (end - first < width + together)).all()
        assert weight.min(initial=0) >= 0
        assert weight.max(initial=0) <= 1
        # By what it gives to every cell: at an end of the kernel the window may begin one cell earlier or later.
        given_ = np.zeros((len(axis), weight.shape[1] * together, where.side + weight.shape[3]))
        for a, g, t, j in np.ndindex(weight.shape):
            given_[a, g * together + t, first[a, g] + j] = weight[a, g, t, j]
        assert not given_[:, count:].any()
        assert not given_[..., where.side :].any()
        given_ = given_[:, :count, : where.side]
        np.testing.assert_allclose(given_, given_[:, ::-1, ::-1], atol=1e-6)
        t = np.arange(where.side) - middle - (np.multiply.outer(axis, np.arange(count) - count // 2))[..., None]
        assert not given_[abs(t) > width / 2 + 1e-6].any()


@pytest.mark.parametrize("laid", ["plain", "every_second"])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("step", [0.5, 0.37, 1.0])
def test_spokes_turned_by_half_a_turn_give_the_mirrored_grid(step: float, kernel: KaiserBessel, laid: str) -> None:
    rng = np.random.default_rng(4)
    theta = np.concatenate([np.arange(8) * math.pi / 4, np.arange(1, 9) * GOLDEN])
    spectra, factor = complexes(rng, len(theta), 20, 2), complexes(rng, len(theta), 21)
    grids = []
    for turn, form in ((0, np.asarray), (math.pi, np.conj)):
        cos, sin = step * np.cos(theta + turn), step * np.sin(theta + turn)
        side = 2 * (10 + 7) + 1
        grids.append(np.zeros((side, side, 2), np.complex64))
        where = spokes(cos, sin, 21, side, kernel)
        grid_spokes(grids[-1], hold(form(spectra), laid).array, form(factor), where)
    largest = abs(grids[0]).max()
    np.testing.assert_allclose(grids[1][::-1, ::-1].conj() / largest, grids[0] / largest, atol=1e-6)


@pytest.mark.parametrize("oversampling", [1.125, 1.25, 1.5, 2.0])
@pytest.mark.parametrize("width", range(2, 13))
def test_an_empty_row_beside_a_full_one_stays_empty(width: int, oversampling: float) -> None:
    """Rows are the real and the imaginary part of one image: where the grid is not Hermitian, they leak into each other."""
    rng = np.random.default_rng(width)
    theta = np.concatenate([np.arange(16) * math.pi / 8, np.arange(30) * GOLDEN, [math.atan2(3, 4), math.atan2(4, 3)]])
    for step in (0.5, 0.625, 0.9, 1.0):
        cos, sin = step * np.cos(theta), step * np.sin(theta)
        # Positions exactly on cells and halfway between them, where windows begin and end.
        cos[np.abs(cos) < 1e-9] = 0
        half = 24
        side = side_of(cos, sin, half, width)
        positive = complexes(rng, len(theta), half + 1, 1)
        positive[:, 0].imag, positive[:, -1].imag = 0, 0
        spectra = np.concatenate([positive, positive[:, -2:0:-1].conj()], axis=1)
        phase = complexes(rng, len(theta), half + 1)
        phase[:, 0].imag = 0
        factor = np.concatenate([phase[:, :0:-1].conj(), phase], axis=1)
        grid = np.zeros((side, side, 1), np.complex64)
        grid_spokes(grid, spectra, factor, spokes(cos, sin, 2 * half + 1, side, KaiserBessel(width, oversampling)))
        largest = abs(grid).max()
        np.testing.assert_allclose(grid[::-1, ::-1].conj() / largest, grid / largest, atol=1e-6)
        image = np.fft.ifft2(np.fft.ifftshift(grid[..., 0].astype(np.complex128)))
        assert abs(image.imag).max() < 1e-6 * abs(image.real).max()


@pytest.mark.parametrize(("width", "step"), [(5, 0.5), (4, 1.0), (4, 0.25), (2, 0.5), (12, 0.5), (3, 0.125)])
def test_equals_the_reference_where_cells_lie_exactly_at_the_kernels_end(width: int, step: float) -> None:
    problem = problem_of(2, KaiserBessel(width, 1.25))
    for cos, sin in ((step, 0.0), (0.0, -step), (-step, step)):
        problem["cos"], problem["sin"] = np.full(4, cos), np.full(4, sin)
        grid = complexes(np.random.default_rng(0), *(side_of(problem["cos"], problem["sin"], 12, width),) * 2, 2)
        problem["grid"] = grid
        expected = reference.grid_spokes(**problem)
        run(problem)
        np.testing.assert_allclose(problem["grid"], expected, atol=2e-5)


@SETTINGS
@given(problems(most_pairs=3))
def test_is_linear_and_the_negative_gives_the_grid_back(problem: Problem) -> None:
    before = problem["grid"].copy()
    rng = np.random.default_rng(1)
    other = complexes(rng, *problem["spectra"].shape)
    grids = [np.zeros_like(before) for _ in range(3)]
    for grid, spectra in zip(grids, (problem["spectra"], other, problem["spectra"] + 2 * other), strict=True):
        run(problem, grid=grid, spectra=spectra)
    np.testing.assert_allclose(grids[2], grids[0] + 2 * grids[1], atol=1e-4)
    run(problem)
    run(problem, factor=-problem["factor"])
    np.testing.assert_allclose(problem["grid"], before, atol=3e-5)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_the_table_holds_the_kernel(kernel: KaiserBessel) -> None:
    table = kernel.table()
    assert table.shape == (PER_CELL + 2, kernel.width)
    t = np.arange(PER_CELL + 1)[:, None] / PER_CELL + np.arange(kernel.width) - kernel.width / 2
    expected = np.i0(kernel.beta * np.sqrt(1 - (2 * t / kernel.width) ** 2)) / np.i0(kernel.beta)
    np.testing.assert_allclose(table[:-1], expected, atol=1e-7)
    assert np.isfinite(table).all()


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_transform_is_the_fourier_transform_of_the_table(kernel: KaiserBessel) -> None:
    phi = kernel.table()[:-1].astype(np.float64)
    line = np.concatenate([phi[:-1].T.reshape(-1), phi[-1:, -1]])
    t = np.arange(len(line)) / PER_CELL - kernel.width / 2
    frequency = np.linspace(-2, 2, 161)
    expected = np.trapezoid(line * np.cos(2 * math.pi * frequency[:, None] * t), t, axis=1)
    np.testing.assert_allclose(kernel.transform(frequency), expected, atol=2e-6)
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
        {"grid": np.zeros((13, 13, 2), np.complex64)},
        {"grid": np.zeros((17, 17, 2), np.complex64)},
        {"grid": np.zeros((15, 15, 3), np.complex64)},
        {"grid": np.zeros((15, 15, 2), np.complex128)},
        {"grid": np.zeros((15, 15, 2), ">c8")},
        {"grid": np.zeros((15, 15, 2), np.float32)},
        {"grid": np.zeros((15, 15, 4), np.complex64)[..., ::2]},
        {"grid": np.zeros((15, 15, 2), np.complex64, order="F")},
        {"grid": np.zeros((15, 15, 2), np.complex64)[::-1]},
        {"grid": read_only(np.zeros((15, 15, 2), np.complex64))},
        {"spectra": np.ones((3, 8), np.complex64)},
        {"spectra": np.ones((3, 9, 2), np.complex64)},
        {"spectra": np.ones((3, 0, 2), np.complex64)},
        {"spectra": np.ones((3, 10, 2), np.complex64)},
        {"spectra": np.ones((2, 8, 2), np.complex64)},
        {"spectra": np.ones((3, 8, 1), np.complex64)},
        {"spectra": np.ones((3, 8, 2), np.complex128)},
        {"spectra": np.ones((3, 8, 4), np.float32)},
        {"spectra": np.ones((3, 2, 8), np.complex64)},
        {"factor": np.ones((3, 8), np.complex64)},
        {"factor": np.ones((2, 9), np.complex64)},
        {"factor": np.ones((3, 9), np.float32)},
        {"factor": np.ones((3, 9), np.complex128)},
        {"factor": np.ones((3, 9, 1), np.complex64)},
        {"where": spokes(np.full(3, 0.9), np.full(3, 0.2), 9, 17, KERNELS[0])},
        {"where": spokes(np.full(3, 0.9), np.full(3, 0.2), 7, 15, KERNELS[0])},
        {"where": spokes(np.full(3, 0.9), np.full(3, 0.2), 11, 15, KERNELS[0])},
        {"where": spokes(np.full(2, 0.9), np.full(2, 0.2), 9, 15, KERNELS[0])},
        {"where": spokes(np.empty(0), np.empty(0), 9, 15, KERNELS[0])},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_does_not_fit_is_refused(changed: Problem) -> None:
    problem = small(**changed)
    with pytest.raises(ValueError, match="expected"):
        grid_spokes(**problem)
    assert not problem["grid"].any()


@pytest.mark.parametrize(
    "changed",
    [
        {"cos": np.full(2, 0.9)},
        {"cos": np.empty(0)},
        {"sin": np.full((3, 1), 0.9)},
        {"sin": np.array(0.9)},
        {"cos": np.full(3, 1.2)},
        {"cos": np.full(3, 1e300)},
        {"sin": np.array([0.2, -1.2, 0.2])},
        {"sin": np.array([0.2, np.inf, 0.2])},
        {"cos": np.zeros(3, np.int64)},
        {"cos": np.zeros(3, np.float32)},
        {"cos": np.zeros(3, np.complex128)},
        {"cos": np.zeros(3, ">f8")},
        {"samples": 8},
        {"samples": 13},
        {"samples": 2**31 + 1},
        {"samples": -1},
        {"samples": 0},
        {"side": 14},
        {"side": 11},
        {"side": 1},
        {"side": 0},
        {"side": -15},
        {"kernel": KaiserBessel(9, 1.25)},
        {"kernel": KaiserBessel(0, 1.25)},
        {"kernel": KaiserBessel(1, 1.25)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_spokes_that_do_not_fit_are_refused(changed: Problem) -> None:
    good = {"cos": np.full(3, 0.9), "sin": np.full(3, 0.2), "samples": 9, "side": 15, "kernel": KERNELS[0]}
    with pytest.raises(ValueError, match=r"."):
        spokes(**good | changed)


def test_nothing_to_grid_is_no_error() -> None:
    none = spokes(np.empty(0), np.empty(0), 9, 15, KERNELS[0])
    grid = np.zeros((15, 15, 2), np.complex64)
    grid_spokes(grid, np.empty((0, 8, 2), np.complex64), np.empty((0, 9), np.complex64), none)
    assert not grid.any()
    grid_spokes(**small(grid=np.zeros((15, 15, 0), np.complex64), spectra=np.ones((3, 8, 0), np.complex64)))


@pytest.mark.parametrize("laid", ["sliced", "every_second"])
def test_spectra_without_samples_are_not_read(laid: str) -> None:
    with pytest.raises(ValueError, match="3 or more"):
        spokes(np.zeros(3), np.zeros(3), 1, 15, KERNELS[0])
    where = spokes(np.zeros(3), np.zeros(3), 3, 15, KERNELS[0])
    grid, spectra = np.zeros((15, 15, 2), np.complex64), hold(np.ones((3, 0, 2), np.complex64), laid)
    with pytest.raises(ValueError, match="expected"):
        grid_spokes(grid, spectra.array, np.ones((3, 1), np.complex64), where)
    assert not grid.any()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(*(st.one_of(st.floats(-1.5, 1.5), st.sampled_from([0.0, 1e-300, 1e-9, 1.0, -1.0, 0.5, 1e9])),) * 2),
        max_size=3,
    ),
    st.integers(1, 8).map(lambda half: 2 * half + 1),
    st.integers(1, 12).map(lambda middle: 2 * middle + 1),
    st.sampled_from(KERNELS),
    st.sampled_from(["plain", "every_second"]),
)
def test_whatever_is_not_refused_stays_within_its_arrays(
    angles: list[tuple[float, float]], samples: int, side: int, kernel: KaiserBessel, laid: str
) -> None:
    cos, sin = np.array(angles, np.float64).reshape(-1, 2).T
    try:
        where = spokes(cos, sin, samples, side, kernel)
    except ValueError:
        return
    grid = hold(np.zeros((side, side, 2), np.complex64))
    spectra = hold(np.ones((len(angles), samples - 1, 2), np.complex64), laid)
    factor = np.ones((len(angles), samples), np.complex64)
    grid_spokes(grid.array, spectra.array, factor, where)
    grid.check()
    # Every sample gives the product of the sums of its weights, and none is lost.
    expected = (where.weight_u.sum(axis=3, dtype=float) * where.weight_v.sum(axis=3, dtype=float)).sum()
    np.testing.assert_allclose(grid.array.astype(np.complex128).sum(axis=(0, 1)), expected, rtol=1e-5)


@pytest.mark.parametrize("axis", ["cos", "sin"])
def test_directions_that_are_not_finite_are_refused(axis: str) -> None:
    """In a process of its own: a cell computed from NaN may lie anywhere in memory."""
    code = f"""
import numpy as np
from streamrecon_kernels import KaiserBessel, spokes
direction = {{"cos": np.full(1, 0.5), "sin": np.full(1, 0.5)}} | {{{axis!r}: np.full(1, np.nan)}}
try:
    spokes(samples=9, side=15, kernel=KaiserBessel(5, 1.25), **direction)
except ValueError:
    raise SystemExit(42)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 42


@SETTINGS
@given(st.integers(0, 5), st.integers(1, 300), st.floats(1e-4, 1.0), st.integers(0, 2**32 - 1))
def test_factors_are_their_definition(angles: int, half: int, spacing: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shift, weight = rng.uniform(-3000, 3000, angles), rng.random(angles)
    response = rng.random(half + 1, np.float32)
    k = np.arange(-half, half + 1)
    phase = np.exp(2j * math.pi * ((k * spacing * shift[:, None]) % 1))
    expected = weight[:, None] * response[abs(k)] * phase
    np.testing.assert_allclose(spoke_factors(shift, weight, response, spacing), expected, atol=1e-6)


def test_factors_that_do_not_fit_are_refused() -> None:
    good = {"shift": np.zeros(3), "weight": np.ones(3), "response": np.ones(5, np.float32), "spacing": 0.1}
    for changed in ({"weight": np.ones(2)}, {"shift": np.zeros((3, 1))}, {"response": np.ones(0, np.float32)}):
        with pytest.raises(ValueError, match="expected"):
            spoke_factors(**good | changed)
    assert spoke_factors(**good).shape == (3, 9)
