"""The fast line integrals against the slow ones, over every dtype and what is not a number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import floats, hold, read_only
from numpy.typing import NDArray
from streamrecon_kernels import line_integrals, normalize_numba, reference

SETTINGS = settings(max_examples=50, deadline=None)
DTYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"]
TINY = float(np.finfo(np.float32).tiny)


def close(got: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)


def counts(rng: np.random.Generator, dtype: str, *shape: int) -> NDArray[Any]:
    """All that a detector may give: from the smallest to the largest count that a float32 holds exactly."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        raw = rng.choice([0, 1, 100, 1e4, 6e4], shape) * rng.uniform(0, 2, shape)
        odd = rng.random(shape) < 0.3
        raw[odd] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, -1e30, 1e30, 1e-45, -7.5], odd.sum())
        return raw.astype(np.float32).astype(dtype)
    info = np.iinfo(kind)
    low, high = max(info.min, -(2**23)), min(info.max, 2**23)
    raw = rng.integers(low, high, shape, endpoint=True)
    return np.where(rng.random(shape) < 0.2, rng.choice([low, 0, 1, high], shape), raw).astype(dtype)


def problem_of(dtype: str, angles: int, rows: int, columns: int, seed: int, terms: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    dark = rng.choice([0, 0.5, 10, 99.75], (rows, columns)).astype(np.float32)
    if np.dtype(dtype).kind == "f":
        dark[rng.random(dark.shape) < 0.05] = np.nan
    return {
        "raw": counts(rng, dtype, angles, rows, columns),
        "dark": dark,
        "term": floats(rng, terms, rows, columns) * 10,
        "floor": float(rng.choice([TINY, 1e-3, 1, 200])),
    }


@pytest.mark.parametrize("dtype", [*DTYPES, "u8", "i8", "f2", ">u2", ">i4", ">f4"])
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31), st.booleans())
def test_equals_the_reference(dtype: str, angles: int, rows: int, columns: int, seed: int, own_terms: bool) -> None:
    with np.errstate(all="ignore"):
        problem = problem_of(dtype, angles, rows, columns, seed, angles if own_terms else 1)
        expected = reference.line_integrals(**problem)
    out, raw = hold(np.zeros(problem["raw"].shape, np.float32)), hold(problem["raw"])
    line_integrals(**problem | {"raw": raw.array}, out=out.array)
    close(out.array, expected)
    out.check()
    raw.check_unchanged()


@pytest.mark.parametrize(
    "laid", ["unaligned", "odd_bytes", "sliced", "every_second", "fortran", "reversed_rows", "odd_strides"]
)
def test_what_is_read_may_lie_in_memory_as_it_likes(laid: str) -> None:
    problem = problem_of("u2", 3, 5, 7, 1, 3)
    expected = reference.line_integrals(**problem)
    held = {key: hold(problem[key], laid) for key in ("raw", "dark", "term")}
    out = hold(np.zeros((3, 5, 7), np.float32), laid if laid in ("unaligned", "odd_bytes") else "plain")
    line_integrals(floor=problem["floor"], out=out.array, **{key: read_only(each.array) for key, each in held.items()})
    close(out.array, expected)
    out.check()
    for each in held.values():
        each.check_unchanged()


@pytest.mark.parametrize("chunk", [-1, 0, 1])
def test_images_longer_than_a_chunk(chunk: int) -> None:
    problem = problem_of("u2", 3, 1, normalize_numba.CHUNK + chunk, 2, 3)
    out = hold(np.zeros(problem["raw"].shape, np.float32))
    line_integrals(**problem, out=out.array)
    close(out.array, reference.line_integrals(**problem))
    out.check()


def test_may_be_written_over_the_counts() -> None:
    problem = problem_of("f4", 3, 5, 7, 3)
    with np.errstate(all="ignore"):
        expected = reference.line_integrals(**problem)
    line_integrals(**problem, out=problem["raw"])
    close(problem["raw"], expected)


def of(raw: Any, floor: float = 1e-3, dark: float = 0, term: float = 0) -> Any:
    """Line integrals of numbers."""
    raw = np.asarray(raw)
    out = np.full((1, 1, raw.size), 77, np.float32)
    row = np.ones((1, raw.size), np.float32)
    line_integrals(raw.reshape(1, 1, -1), dark * row, term * row[None], floor, out)
    return out[0, 0]


def test_the_logarithm_is_right_all_over_the_floats() -> None:
    bits = np.arange(np.float32(TINY).view(np.int32), np.float32(np.inf).view(np.int32), 40009, dtype=np.int32)
    signal = bits.view(np.float32)
    close(of(signal, TINY), -np.log(signal.astype(np.float64)))
    near = (np.float32(1).view(np.int32) + np.arange(-3000, 3000, dtype=np.int32)).view(np.float32)
    expected = -np.log(near.astype(np.float64))
    np.testing.assert_allclose(of(near, TINY), expected, rtol=1e-6, atol=1e-9)
    turns = (np.float32(math.sqrt(0.5)).view(np.int32) + np.arange(-3000, 3000, dtype=np.int32)).view(np.float32)
    for power in (-126.0, -1.0, 0.0, 5.0, 127.0):
        values = turns[turns * np.float32(2) ** np.float32(power) >= TINY] * np.float32(2) ** np.float32(power)
        values = values[np.isfinite(values)]
        close(of(values, TINY), -np.log(values.astype(np.float64)))


@SETTINGS
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=50),
    st.sampled_from([TINY, 1e-3, 1.0, 1e4]),
    st.floats(-100, 100, width=32),
    st.floats(-100, 100, width=32),
)
def test_more_counts_never_give_a_larger_line_integral(
    raw: list[float], floor: float, dark: float, term: float
) -> None:
    values = of(np.sort(np.array(raw, np.float32)), floor, dark, term)
    assert (values[1:] <= values[:-1]).all()


def test_neighbouring_counts_never_give_a_larger_line_integral() -> None:
    for start in (1.0, math.sqrt(0.5), math.sqrt(2), 2.0, 1e-30, 1000.0, 65535.0):
        first = np.float32(start).view(np.int32)
        raw = (first + np.arange(-20000, 20000, dtype=np.int32)).view(np.float32)
        values = of(raw, TINY)
        assert (values[1:] <= values[:-1]).all()
    values = of(np.arange(65536, dtype=np.uint16), 0.5)
    assert (values[1:] <= values[:-1]).all()


def test_what_is_not_a_number_counts_as_the_floor() -> None:
    nan, inf = math.nan, math.inf
    floor = -math.log(1e-3)
    np.testing.assert_allclose(
        of(np.float32([nan, -inf, 0, -0.0, -5, 1e-3, 1e-45, inf, 1])), [*[floor] * 7, -inf, 0], rtol=1e-6
    )
    np.testing.assert_allclose(of(np.float32([1, inf, -inf]), dark=inf), floor, rtol=1e-6)
    np.testing.assert_allclose(of(np.float32([1, 2, 3]), dark=nan), floor, rtol=1e-6)
    assert (of(np.float32([1, 2]), dark=-inf) == -inf).all()
    assert (of(np.float32([1, 2]), term=inf) == inf).all()
    assert np.isnan(of(np.float32([1, 2]), term=nan)).all()
    assert (of(np.float32([1, nan]), floor=inf) == -inf).all()


def image(**changed: Any) -> dict[str, Any]:
    good = {
        "raw": np.ones((3, 4, 5), np.uint16),
        "dark": np.zeros((4, 5), np.float32),
        "term": np.zeros((1, 4, 5), np.float32),
        "floor": 1.0,
        "out": np.full((3, 4, 5), 7, np.float32),
    }
    return good | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"raw": np.ones((3, 4), np.uint16)},
        {"raw": np.ones((3, 4, 5, 1), np.uint16)},
        {"raw": np.ones(3, np.uint16)},
        {"raw": np.array(3)},
        {"raw": np.ones((2, 4, 5), np.uint16)},
        {"raw": np.ones((3, 5, 4), np.uint16)},
        {"raw": np.ones((3, 4, 5), np.complex64)},
        {"raw": np.ones((3, 4, 5), bool)},
        {"raw": np.ones((3, 4, 5), object)},
        {"raw": np.ones((3, 4, 5), "M8[s]")},
        {"dark": np.zeros((4, 4), np.float32)},
        {"dark": np.zeros((1, 4, 5), np.float32)},
        {"dark": np.zeros((4, 5))},
        {"dark": np.zeros((4, 5), ">f4")},
        {"dark": np.zeros((), np.float32)},
        {"term": np.zeros((2, 4, 5), np.float32)},
        {"term": np.zeros((0, 4, 5), np.float32)},
        {"term": np.zeros((4, 5), np.float32)},
        {"term": np.zeros((1, 4, 5))},
        {"out": np.full((3, 4, 5), 7.0)},
        {"out": np.full((3, 4, 5), 7, np.int32)},
        {"out": np.full((2, 4, 5), 7, np.float32)},
        {"out": np.full((4, 4, 5), 7, np.float32)},
        {"out": np.full((3, 4, 10), 7, np.float32)[..., ::2]},
        {"out": np.full((3, 4, 5), 7, np.float32, order="F")},
        {"floor": 0.0},
        {"floor": -1.0},
        {"floor": 1e-39},
        {"floor": math.nan},
        {"floor": -math.inf},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    problem = image(**changed)
    with pytest.raises(ValueError, match=r"."):
        line_integrals(**problem)
    assert (problem["out"] == 7).all()


def test_out_that_is_read_only_is_not_written() -> None:
    problem = image(out=read_only(np.full((3, 4, 5), 7, np.float32)))
    with pytest.raises(Exception, match=r"."):
        line_integrals(**problem)
    assert (problem["out"] == 7).all()


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)])
def test_nothing_gives_nothing(shape: tuple[int, int, int]) -> None:
    line_integrals(
        np.ones(shape, np.uint16), np.zeros(shape[1:], np.float32), np.zeros((1, *shape[1:]), np.float32), 1.0,
        np.zeros(shape, np.float32),
    )  # fmt: skip
