"""The fast steps of a snapshot against the slow ones, for every shape, index and length of vector, and what they refuse."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import complexes, floats, hold, read_only, rebuilt
from numpy.typing import NDArray
from streamrecon_kernels import (
    bin_voxels,
    fold_grid,
    folding_vector,
    lay_columns,
    reference,
    slices_numba,
    slices_vector,
    take_slices,
)

SETTINGS = settings(max_examples=60, deadline=None)
FORWARD = ("plain", "unaligned", "sliced", "skipping", "swapped", "every_second", "fortran", "odd_bytes")
"""Layouts without negative strides."""

Problem = dict[str, Any]


def fold(grid: NDArray[Any], period: int, factors: tuple[NDArray[Any], NDArray[Any]], cuts: list[int]) -> NDArray[Any]:
    """All rows of an FFT's input, in pieces that end at the cuts."""
    length = len(factors[0])
    out = hold(np.full((length, length, grid.shape[2]), 7, np.complex64))
    edges = sorted({0, length, *(cut % (length + 1) for cut in cuts)})
    for first, end in itertools.pairwise(edges):
        fold_grid(grid, period, first, *factors, out.array[first:end])
    out.check()
    return out.array


@SETTINGS
@given(
    st.integers(1, 8), st.data(), st.integers(1, 5), st.booleans(), st.lists(st.integers(0, 30), max_size=3),
    st.sampled_from(["plain", "unaligned"]),
)  # fmt: skip
def test_a_folded_grid_equals_the_reference(
    half: int, data: st.DataObject, pairs: int, plain: bool, cuts: list[int], laid: str
) -> None:
    period = 2 * half
    side = data.draw(st.integers(half, period - 1).map(lambda middle: 2 * middle + 1), "side")
    length = data.draw(st.integers(1, half).map(lambda n: 2 * n), "length")
    rng = np.random.default_rng(side)
    held = hold(complexes(rng, side, side, pairs), laid)
    one = np.ones(length, np.complex64)
    factors = (one, one) if plain else (complexes(rng, length), complexes(rng, length))
    expected = reference.fold_grid(held.array, period, length, *factors)
    np.testing.assert_allclose(fold(held.array, period, factors, cuts), expected, rtol=1e-5, atol=1e-5)
    held.check_unchanged()


@SETTINGS
@given(st.integers(3, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.sampled_from([1, 2, 8]))
def test_frequencies_without_a_factor_are_not_looked_at(half: int, times: int, u: int, v: int, pairs: int) -> None:
    period, length = 2 * half, 2 * min(times, half)
    side = period + 3
    rng = np.random.default_rng(u)
    grid = complexes(rng, side, side, pairs)
    nu = np.fft.fftfreq(length, 1 / length)
    factors = [(complexes(rng, length) * (abs(nu) <= most)).astype(np.complex64) for most in (v, u)]
    expected = reference.fold_grid(grid, period, length, *factors)
    far = np.abs(np.arange(side) - side // 2)
    near = np.minimum(far, abs(far - period))
    # Whatever is there: the range of u ends where the last factor does, on both sides.
    grid[near > v] = np.nan
    grid[:, (near > u) & (near > abs(nu[factors[1] != 0]).max(initial=-1) + 1)] = np.nan
    out = np.full((length, length, pairs), 7, np.complex64)
    fold_grid(grid, period, 0, *factors, out)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@SETTINGS
@given(st.integers(2, 20), st.integers(0, 6), st.floats(0, 30), st.integers(1, 3))
def test_cells_beyond_the_reach_are_not_looked_at(half: int, margin: int, reach: float, pairs: int) -> None:
    period, side = 2 * half, 2 * half + 1 + 2 * min(margin, half // 2)
    rng = np.random.default_rng(half)
    grid = complexes(rng, side, side, pairs)
    v, u = np.indices((side, side)) - side // 2
    grid[np.hypot(v, u) > reach] = 0
    one = np.ones(period, np.complex64)
    expected = reference.fold_grid(grid, period, period, one, one)
    # In a row within the period, what is farther than a cell beyond the reach; cells a period away are added all the same.
    inner = (-half <= v) & (v < half) & (-half <= u) & (u < half)
    grid[inner & (abs(u) > np.sqrt(np.clip(reach**2 - v**2, 0, None)) + 1)] = np.nan
    out = np.full((period, period, pairs), 7, np.complex64)
    fold_grid(grid, period, 0, one, one, out, reach)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", range(2, 13, 2))
@pytest.mark.parametrize("side", [13, 15, 17, 23])
def test_every_preview_of_a_grid_and_every_first_row(side: int, length: int) -> None:
    rng = np.random.default_rng(0)
    grid = complexes(rng, side, side, 2)
    factors = complexes(rng, length), complexes(rng, length)
    expected = reference.fold_grid(grid, 12, length, *factors)
    for first in range(length):
        for count in {0, 1, 3, length - first}:
            if first + count > length:
                continue
            out = hold(np.full((count, length, 2), 7, np.complex64))
            fold_grid(grid, 12, first, *factors, out.array)
            np.testing.assert_allclose(out.array, expected[first : first + count], rtol=1e-5, atol=1e-5)
            out.check()


def test_a_folded_grid_is_the_spectrum_of_the_image_that_its_samples_make() -> None:
    """At the pixels, cells a period apart cannot be told from each other."""
    rng = np.random.default_rng(0)
    grid, one = complexes(rng, 13, 13, 1), np.ones(8, np.complex64)
    cells, pixels = np.arange(13) - 6, np.arange(8)
    waves = np.exp(2j * math.pi * np.multiply.outer(pixels, cells) / 8)
    expected = waves @ grid[..., 0] @ waves.T
    got = 64 * np.fft.ifft2(fold(grid, 8, (one, one), [3])[..., 0])
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_factors_may_be_strided_and_read_only() -> None:
    rng = np.random.default_rng(0)
    grid = complexes(rng, 13, 13, 2)
    factors = complexes(rng, 8), complexes(rng, 8)
    expected = reference.fold_grid(grid, 12, 8, *factors)
    odd = np.repeat(factors[0], 2)[::2], factors[1][::-1].copy()[::-1]
    np.testing.assert_allclose(fold(read_only(grid), 12, odd, []), expected, rtol=1e-5, atol=1e-5)


def folding(**changed: Any) -> Problem:
    good = {
        "grid": np.ones((13, 13, 2), np.complex64),
        "period": 12,
        "first": 1,
        "factor_v": np.ones(8, np.complex64),
        "factor_u": np.ones(8, np.complex64),
        "out": np.full((5, 8, 2), 7, np.complex64),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"grid": np.ones((13, 13), np.complex64)},
        {"grid": np.ones(13, np.complex64)},
        {"grid": np.ones((12, 12, 2), np.complex64)},
        {"grid": np.ones((13, 15, 2), np.complex64)},
        {"grid": np.ones((13, 13, 2), np.complex128)},
        {"grid": np.ones((13, 13, 3), np.complex64)},
        {"grid": np.ones((13, 13, 4), np.complex64)[..., ::2]},
        {"grid": np.ones((13, 13, 2), np.complex64)[::-1]},
        {"grid": np.ones((11, 11, 2), np.complex64)},
        {"grid": np.ones((25, 25, 2), np.complex64)},
        {"grid": np.ones((0, 0, 2), np.complex64)},
        {"period": 11},
        {"period": 6},
        {"period": 14},
        {"period": 0},
        {"period": -12},
        {"first": -1},
        {"first": 4},
        {"first": 2**40},
        {"first": -(2**40)},
        {"factor_v": np.ones(7, np.complex64)},
        {"factor_v": np.ones(10, np.complex64)},
        {"factor_u": np.ones(10, np.complex64)},
        {"factor_u": np.ones((8, 1), np.complex64)},
        {
            "factor_v": np.ones(14, np.complex64),
            "factor_u": np.ones(14, np.complex64),
            "out": np.full((5, 14, 2), 7, np.complex64),
        },
        {"out": np.full((8, 8, 2), 7, np.complex64)},
        {"out": np.full((5, 8), 7, np.complex64)},
        {"out": np.full((5, 7, 2), 7, np.complex64)},
        {"out": np.full((5, 8, 3), 7, np.complex64)},
        {"out": np.full((5, 8, 0), 7, np.complex64)},
        {"out": np.full((5, 8, 2), 7, np.complex128)},
        {"out": np.full((5, 8, 4), 7, np.complex64)[..., ::2]},
        {"out": np.full((5, 8, 2), 7, np.complex64)[::-1]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_grids_that_do_not_fit_are_refused(changed: Problem) -> None:
    problem = folding(**changed)
    with pytest.raises(ValueError, match="expected"):
        fold_grid(**problem)
    assert (problem["out"] == 7).all()


@SETTINGS
@given(
    st.integers(0, 9), st.integers(1, 12), st.sampled_from([0, 1, 3, 5, 8, 16, 24]), st.integers(0, 3), st.integers(0, 3),
    st.lists(st.integers(-12, 11), max_size=20), st.sampled_from(["plain", "unaligned"]),
)  # fmt: skip
def test_columns_are_laid_where_they_belong(
    count: int, width: int, pairs: int, first: int, more: int, x: list[int], laid: str
) -> None:
    x_ = np.array([i % width - width * (i < 0) for i in x], np.intp)
    rng = np.random.default_rng(count)
    rows = hold(complexes(rng, count, width, pairs), laid)
    out = hold(np.full((len(x), first + count + more, pairs), 7, np.complex64), laid)
    lay_columns(rows.array, x_, first, out.array)
    expected = np.full(out.array.shape, 7, np.complex64)
    expected[:, first : first + count] = rows.array[:, x_].transpose(1, 0, 2)
    np.testing.assert_array_equal(out.array, expected)
    out.check()
    rows.check_unchanged()


def laying(**changed: Any) -> Problem:
    good = {
        "rows": np.ones((4, 6, 2), np.complex64),
        "x": np.array([0, 5, -6]),
        "first": 2,
        "out": np.full((3, 9, 2), 7, np.complex64),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": np.ones((4, 6), np.complex64)},
        {"rows": np.ones((8, 6, 2), np.complex64)},
        {"rows": np.ones((4, 5, 2), np.complex64)},
        {"rows": np.ones((4, 0, 2), np.complex64)},
        {"rows": np.ones((0, 0, 2), np.complex64)},
        {"rows": np.ones((4, 6, 3), np.complex64)},
        {"rows": np.ones((4, 6, 2), np.complex128)},
        {"rows": np.ones((4, 6, 4), np.complex64)[..., ::2]},
        {"x": np.array([0, 6, 1])},
        {"x": np.array([0, -7, 1])},
        {"x": np.array([0, 2**62, -(2**62)])},
        {"x": np.array([0, 2**63, 1], np.uint64)},
        {"x": np.array([0, 1])},
        {"first": 6},
        {"first": -1},
        {"first": 2**40},
        {"out": np.full((3, 5, 2), 7, np.complex64)},
        {"out": np.full((4, 9, 2), 7, np.complex64)},
        {"out": np.full((3, 9, 1), 7, np.complex64)},
        {"out": np.full((3, 9, 2), 7, np.complex128)},
        {"out": np.full((3, 9, 4), 7, np.complex64)[..., ::2]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_columns_that_do_not_fit_are_refused(changed: Problem) -> None:
    problem = laying(**changed)
    with pytest.raises(ValueError, match=r"expected|asked for"):
        lay_columns(**problem)
    assert (problem["out"] == 7).all()


@st.composite
def takings(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 3, 4, 5, 8, 11, 16, 19, 24, 33, 40)) -> Problem:
    """Arguments of `take_slices` as the reference takes them."""
    rows, width, height = draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes)), draw(st.integers(1, 9))
    slices = draw(st.one_of(st.just(rows), st.integers(0, rows)))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    full = before + width + after
    x = np.arange(before, before + width)
    kind = draw(st.sampled_from(["neighbours", "negative", "around", "any", "backwards", "same"]))
    if kind == "negative":
        x = x - full
    elif kind == "around":
        x = x - before - width
    elif kind == "any":
        x = rng.integers(-full, full, width)
    elif kind == "backwards":
        x = x[::-1]
    elif kind == "same":
        x = np.full(width, x[0])
    deep = draw(st.integers(1, 12))
    return {
        "values": floats(rng, deep, full, rows),
        "y": rng.integers(-deep, deep, height),
        "x": x,
        "factor_y": floats(rng, height),
        "factor_x": floats(rng, width),
        "slices": slices,
        "radius": draw(st.one_of(st.just(math.inf), st.integers(0, 60).map(lambda quarter: quarter / 4))),
    }


def take(problem: Problem, laid: str = "plain", **changed: Any) -> NDArray[Any]:
    """The slices, in guarded memory."""
    rest = {key: value for key, value in problem.items() if key != "slices"}
    out = hold(np.full((problem["slices"], len(problem["y"]), len(problem["x"])), np.nan, np.float32), laid)
    take_slices(**rest | changed, out=out.array)
    out.check()
    return out.array


@settings(max_examples=200, deadline=None)
@given(takings(), st.sampled_from(FORWARD), st.sampled_from(["plain", "unaligned"]))
def test_slices_equal_the_reference(problem: Problem, laid: str, out_laid: str) -> None:
    values = hold(problem["values"], laid)
    np.testing.assert_allclose(
        take(problem, out_laid, values=values.array), reference.take_slices(**problem), rtol=1e-6, atol=1e-6
    )
    values.check_unchanged()


def slab(slices: int, width: int, height: int = 5, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    return {
        "values": floats(rng, 7, width + 3, slices),
        "y": rng.integers(0, 7, height),
        "x": np.arange(2, 2 + width),
        "factor_y": floats(rng, height),
        "factor_x": floats(rng, width),
        "slices": slices,
        "radius": 0.4 * width,
    }


@pytest.mark.parametrize("slices", [1, 3, 4, 7, 8, 12, 15, 16, 17, 20, 32, 33])
@pytest.mark.parametrize("width", [1, 3, 4, 7, 8, 12, 15, 16, 17, 20, 32, 33])
def test_any_number_of_rows_and_columns_makes_up_squares(width: int, slices: int) -> None:
    problem = slab(slices, width)
    expected = reference.take_slices(**problem)
    for laid in ("plain", "unaligned"):
        np.testing.assert_allclose(take(problem, laid), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_vectors_of_every_length_equal_the_reference(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = rebuilt(slices_vector.take_slices, turn_square=slices_vector.square_turner(lanes))
    monkeypatch.setattr(slices_vector, "take_slices", kernel)
    monkeypatch.setattr(slices_vector, "LONGEST", lanes)
    for slices in (4, 5, 8, 13, 16, 32, 35):
        for width in (4, 6, 8, 16, 19, 32, 40):
            problem = slab(slices, width)
            expected = reference.take_slices(**problem)
            for laid in ("plain", "unaligned"):
                np.testing.assert_allclose(take(problem, laid), expected, rtol=1e-6, atol=1e-6)
                both = problem | {"values": problem["values"] + np.complex64(1j)}
                np.testing.assert_allclose(take(both, laid), expected, rtol=1e-6, atol=1e-6)
    assert kernel.signatures


@SETTINGS
@given(takings(), st.sampled_from(FORWARD))
def test_of_complex_numbers_the_real_parts_are_taken(problem: Problem, laid: str) -> None:
    expected = take(problem)
    odd = np.full(problem["values"].shape, np.nan, np.float32)
    both = problem | {"values": problem["values"] + 1j * odd}
    both["values"].real = problem["values"]
    both["values"] = hold(both["values"], laid).array
    np.testing.assert_array_equal(take(both), expected)


@SETTINGS
@given(takings())
def test_the_plain_kernel_gives_what_the_vectors_give(problem: Problem) -> None:
    values = problem["values"]
    plain = np.full((problem["slices"], len(problem["y"]), len(problem["x"])), np.nan, np.float32)
    y, x = problem["y"] % values.shape[0], problem["x"] % values.shape[1]
    steps = tuple(stride // 4 for stride in values.strides)
    limit = np.float32(min(problem["radius"], 1e9))
    slices_numba.take_slices(
        values.reshape(-1), steps, y, x, problem["factor_y"], problem["factor_x"], plain, 0, limit,
        (0, problem["slices"]), (0, len(x)),
    )  # fmt: skip
    np.testing.assert_array_equal(take(problem), plain)


@pytest.mark.parametrize("radius", [math.inf, 6.3])
@pytest.mark.parametrize("cuts", [[0, 21], [0, 16, 21], [0, 1, 17, 20, 21]])
def test_slices_may_be_filled_some_columns_at_a_time(cuts: list[int], radius: float) -> None:
    problem = slab(17, 21, 21)
    problem["radius"] = radius
    expected, out = take(problem), np.full((17, 21, 21), np.nan, np.float32)
    for first, end in itertools.pairwise(cuts):
        part = slice(first, end)
        take_slices(
            problem["values"], problem["y"], problem["x"][part], problem["factor_y"], problem["factor_x"][part], out, radius,
            first,
        )  # fmt: skip
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("first", [-1, 1, 99])
def test_columns_that_slices_do_not_have_are_refused(first: int) -> None:
    problem = slab(8, 9, 9)
    out = np.full((8, 9, 9), 7, np.float32)
    with pytest.raises(ValueError, match="fit together"):
        take_slices(
            problem["values"], problem["y"], problem["x"], problem["factor_y"], problem["factor_x"], out, first=first
        )
    assert (out == 7).all()


@pytest.mark.parametrize("sums", [1, 2, 4])
def test_neighbouring_pairs_are_summed(sums: int) -> None:
    rng = np.random.default_rng(0)
    grid = (rng.normal(size=(19, 19, 8)) + 1j * rng.normal(size=(19, 19, 8))).astype(np.complex64)
    factor_v, factor_u = (np.exp(1j * rng.normal(size=8)).astype(np.complex64) for _ in range(2))
    out = np.full((8, 8, 8 // sums), np.nan, np.complex64)
    fold_grid(grid, 16, 0, factor_v, factor_u, out)
    np.testing.assert_allclose(out, reference.fold_grid(grid, 16, 8, factor_v, factor_u, sums), atol=1e-5)


def test_pixels_and_factors_may_be_strided_and_read_only() -> None:
    problem = slab(8, 9)
    expected = reference.take_slices(**problem)
    changed: Problem = {key: np.repeat(problem[key], 2)[::2] for key in ("y", "x", "factor_y", "factor_x")}
    np.testing.assert_allclose(take(problem, **changed), expected, rtol=1e-6)
    changed = {key: read_only(problem[key]) for key in ("values", "y", "x", "factor_y", "factor_x")}
    np.testing.assert_allclose(take(problem, **changed), expected, rtol=1e-6)
    repeated = np.broadcast_to(problem["values"][:, :1], problem["values"].shape)
    expected = reference.take_slices(**problem | {"values": repeated})
    np.testing.assert_allclose(take(problem, values=repeated), expected, rtol=1e-6)


def test_indices_may_be_of_any_kind_of_integer() -> None:
    problem = slab(8, 9)
    expected = reference.take_slices(**problem)
    for kind in (np.int32, np.uint8, np.uint64):
        changed = {key: problem[key].astype(kind) for key in ("y", "x")}
        np.testing.assert_allclose(take(problem, **changed), expected, rtol=1e-6)


@pytest.mark.parametrize(("slices", "width"), [(3, 3), (16, 17), (17, 16)])
def test_values_may_lie_any_number_of_bytes_apart(slices: int, width: int) -> None:
    problem = slab(slices, width) | {"radius": math.inf}
    values = hold(problem["values"], "odd_strides").array
    np.testing.assert_allclose(take(problem, values=values), reference.take_slices(**problem), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize(
    "slices",
    [
        3,
        pytest.param(
            16,
        ),
    ],
)
def test_pixels_outside_the_radius_are_zero_whatever_they_hold(slices: int, odd: float) -> None:
    problem = slab(slices, 16)
    problem["values"][:] = odd
    problem["radius"] = 0.1
    np.testing.assert_array_equal(take(problem), 0)


@pytest.mark.parametrize("slices", [3, 16])
def test_a_negative_radius_is_refused(slices: int) -> None:
    problem = slab(slices, 16)
    problem["radius"] = -5.0
    with pytest.raises(ValueError, match="expected"):
        take(problem)


@pytest.mark.parametrize("slices", [3, 16, 17])
def test_a_radius_that_is_not_a_number_is_refused_or_holds_nothing(slices: int) -> None:
    problem = slab(slices, 16)
    problem["radius"] = math.nan
    try:
        np.testing.assert_array_equal(take(problem), 0)
    except ValueError:
        return


@pytest.mark.parametrize(
    "slices",
    [
        3,
        pytest.param(
            16,
        ),
    ],
)
def test_out_that_is_read_only_is_not_written(slices: int) -> None:
    problem = slab(slices, 16)
    del problem["slices"]
    out = read_only(np.full((slices, 5, 16), 7, np.float32))
    with pytest.raises(Exception, match=r"."):
        take_slices(**problem, out=out)
    assert (out == 7).all()


def test_other_outs_that_are_read_only_are_not_written() -> None:
    for face, problem in ((fold_grid, folding()), (lay_columns, laying()), (bin_voxels, binning())):
        problem["out"] = read_only(problem["out"])
        with pytest.raises(Exception, match=r"."):
            face(**problem)
        assert (problem["out"] == 7).all()


def taking(**changed: Any) -> Problem:
    good = {
        "values": np.ones((5, 9, 4), np.float32),
        "y": np.array([0, 4, -5]),
        "x": np.arange(2, 8),
        "factor_y": np.ones(3, np.float32),
        "factor_x": np.ones(6, np.float32),
        "out": np.full((4, 3, 6), 7, np.float32),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"values": np.ones((5, 9), np.float32)},
        {"values": np.ones((5, 9, 4, 1), np.float32)},
        {"values": np.ones((5, 9, 4))},
        {"values": np.ones((5, 9, 4), ">f4")},
        {"values": np.ones((5, 9, 4), np.complex128)},
        {"values": np.ones((5, 9, 3), np.float32)},
        {"values": np.ones((5, 9, 0), np.float32)},
        {"values": np.ones((4, 9, 4), np.float32)},
        {"values": np.ones((5, 7, 4), np.float32)},
        {"values": np.ones((0, 9, 4), np.float32)},
        {"values": np.ones((5, 0, 4), np.float32)},
        {"values": np.ones((5, 9, 4), np.float32)[::-1]},
        {"values": np.ones((5, 9, 4), np.float32)[..., ::-1]},
        {"y": np.array([0, 5, 1])},
        {"y": np.array([0, -6, 1])},
        {"y": np.array([0, 2**62, 1])},
        {"y": np.array([0, 1])},
        {"x": np.arange(4, 10)},
        {"x": np.arange(-10, -4)},
        {"x": np.arange(5)},
        {"x": np.arange(6, dtype=np.uint64) + 2**63},
        {"factor_y": np.ones(2, np.float32)},
        {"factor_y": np.ones((3, 1), np.float32)},
        {"factor_x": np.ones(5, np.float32)},
        {"factor_x": np.ones((), np.float32)},
        {"out": np.full((5, 3, 6), 7, np.float32)},
        {"out": np.full((4, 3), 7, np.float32)},
        {"out": np.full((4, 6, 3), 7, np.float32)},
        {"out": np.full((4, 3, 6), 7.0)},
        {"out": np.full((4, 3, 6), 7, np.complex64)},
        {"out": np.full((4, 3, 12), 7, np.float32)[..., ::2]},
        {"out": np.full((4, 3, 6), 7, np.float32, order="F")},
        {"out": np.full((4, 3, 6), 7, np.float32)[::-1]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_slices_that_do_not_fit_are_refused(changed: Problem) -> None:
    problem = taking(**changed)
    with pytest.raises(ValueError, match=r"expected|do not fit|asked for"):
        take_slices(**problem)
    assert (problem["out"] == 7).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"out": np.full((0, 3, 6), 7, np.float32)},
        {"values": np.ones((5, 9, 0), np.float32), "out": np.full((0, 3, 6), 7, np.float32)},
        {"y": np.empty(0, np.intp), "factor_y": np.empty(0, np.float32), "out": np.full((4, 0, 6), 7, np.float32)},
        {"x": np.empty(0, np.intp), "factor_x": np.empty(0, np.float32), "out": np.full((4, 3, 0), 7, np.float32)},
    ],
)
def test_no_slices_are_no_error(changed: Problem) -> None:
    take_slices(**taking(**changed))


@SETTINGS
@given(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 40)),
    st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), st.floats(-3, 3),
    st.sampled_from(["plain", "unaligned"]),
)  # fmt: skip
def test_binned_voxels_equal_the_reference(
    shape: tuple[int, int, int], b: int, n: int, cut: int, more: int, factor: float, laid: str
) -> None:
    rng = np.random.default_rng(b)
    height, width, slices = shape
    volume = hold(floats(rng, cut + b * height + more, cut + b * width, n * slices + more % 2), laid)
    out = hold(floats(rng, *shape), laid)
    expected = reference.bin_voxels(volume.array, b, n, cut, factor, out.array)
    bin_voxels(volume.array, b, n, cut, factor, out.array)
    np.testing.assert_allclose(out.array, expected, rtol=1e-5, atol=1e-4)
    out.check()
    volume.check_unchanged()


def binning(**changed: Any) -> Problem:
    good = {
        "volume": np.ones((9, 11, 4), np.float32),
        "binning": 2,
        "rows": 1,
        "cut": 1,
        "factor": 1.0,
        "out": np.full((4, 5, 4), 7, np.float32),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"volume": np.ones((8, 11, 4), np.float32)},
        {"volume": np.ones((9, 10, 4), np.float32)},
        {"volume": np.ones((0, 11, 4), np.float32)},
        {"volume": np.ones((9, 11, 3), np.float32)},
        {"volume": np.ones((9, 11), np.float32)},
        {"volume": np.ones((9, 11, 4))},
        {"volume": np.ones((9, 11, 4), ">f4")},
        {"volume": np.ones((9, 11, 8), np.float32)[..., ::2]},
        {"volume": np.ones((9, 11, 4), np.float32)[::-1]},
        {"binning": 0},
        {"binning": -2},
        {"binning": 3},
        {"binning": 2**62},
        {"rows": 0},
        {"rows": -1},
        {"rows": 2},
        {"rows": 2**62},
        {"cut": -1},
        {"cut": 2},
        {"cut": 2**62},
        {"cut": -(2**62)},
        {"out": np.full((5, 5, 4), 7, np.float32)},
        {"out": np.full((4, 6, 4), 7, np.float32)},
        {"out": np.full((4, 5, 5), 7, np.float32)},
        {"out": np.full((4, 5), 7, np.float32)},
        {"out": np.full((4, 5, 4), 7.0)},
        {"out": np.full((4, 5, 8), 7, np.float32)[..., ::2]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_voxels_that_do_not_fit_are_refused(changed: Problem) -> None:
    problem = binning(**changed)
    with pytest.raises(ValueError, match="expected"):
        bin_voxels(**problem)
    assert (problem["out"] == 7).all()


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_cells_are_folded_by_vectors_of_every_length(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = rebuilt(folding_vector.fold_grid, fold_cells=folding_vector.cell_folder(lanes))
    monkeypatch.setattr(folding_vector, "fold_grid", kernel)
    rng = np.random.default_rng(2)
    for pairs in (1, 2, 3, 4, 7, 8, 15, 16, 35):
        held, factors = hold(complexes(rng, 19, 19, pairs), "unaligned"), (complexes(rng, 8), complexes(rng, 8))
        expected = reference.fold_grid(held.array, 16, 8, *factors)
        np.testing.assert_allclose(fold(held.array, 16, factors, [3]), expected, rtol=1e-5, atol=1e-5)
    assert kernel.signatures
