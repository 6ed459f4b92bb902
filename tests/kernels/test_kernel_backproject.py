"""The fast backprojection against the slow one, its adjoint, its bits, its vectors, and what it refuses."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import ROWS_APART, ROWS_TOGETHER, floats, hold, read_only, rebuilt
from numpy.typing import NDArray
from streamrecon_kernels import backproject, backproject_numba, backproject_vector, reference

FACE = importlib.import_module("streamrecon_kernels.backproject")
SETTINGS = settings(max_examples=50, deadline=None)
GOLDEN = math.pi * (math.sqrt(5) - 1) / 2


@st.composite
def problems(draw: st.DrawFn, most_rows: int = 70) -> dict[str, Any]:
    """Arguments of `backproject` whose pixels just fit, over odd, even and unequal sides and all kinds of angles."""
    height, width = draw(
        st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (5, 8), (16, 16), (7, 33), (2, 65), (34, 31)])
    )
    rows, angles = draw(st.integers(1, most_rows)), draw(st.integers(0, 7))
    seed = draw(st.integers(0, 2**31))
    radius = draw(st.one_of(st.just(math.inf), st.integers(0, 80).map(lambda quarter: quarter / 4)))
    step = draw(st.sampled_from([0.3, 1.0, 2.0]))
    kind = draw(st.sampled_from(["any", "eighths", "golden", "same"]))
    rng = np.random.default_rng(seed)
    theta = {
        "any": rng.uniform(-10, 10, angles),
        "eighths": rng.integers(-8, 8, angles) * math.pi / 4,
        "golden": np.arange(angles) * GOLDEN,
        "same": np.full(angles, rng.uniform(-4, 4)),
    }[kind]
    cos, sin = (np.float32(step * f(theta)) for f in (np.cos, np.sin))
    far = step * min(radius, math.hypot(height - 1, width - 1) / 2) + 0.02
    offset = np.float32(far + rng.uniform(0, 3, angles))
    filtered = floats(rng, angles, math.ceil(2 * far + 3) + 2, rows)
    volume = floats(rng, height, width, rows)
    return {"volume": volume, "filtered": filtered, "cos": cos, "sin": sin, "offset": offset, "radius": radius}


def problem_of(rows: int, seed: int = 0, height: int = 9, width: int = 37, angles: int = 5) -> dict[str, Any]:
    """A problem with this many rows."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0, 7, angles)
    return {
        "volume": floats(rng, height, width, rows),
        "filtered": floats(rng, angles, 48, rows),
        "cos": np.float32(np.cos(theta)),
        "sin": np.float32(np.sin(theta)),
        "offset": np.float32(22.3 + rng.uniform(0, 2, angles)),
        "radius": 18.25,
    }


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
@given(problems(), st.sampled_from(ROWS_TOGETHER), st.sampled_from(ROWS_TOGETHER))
def test_equals_the_reference(problem: dict[str, Any], volume_laid: str, filtered_laid: str) -> None:
    expected = reference.backproject(**problem)
    volume, filtered = hold(problem["volume"], volume_laid), hold(problem["filtered"], filtered_laid)
    backproject(**problem | {"volume": volume.array, "filtered": filtered.array})
    np.testing.assert_allclose(volume.array, expected, atol=1e-4)
    volume.check()
    filtered.check_unchanged()


@pytest.mark.parametrize("rows", range(1, 71))
def test_any_number_of_rows_is_made_up_of_groups(rows: int) -> None:
    problem = problem_of(rows, seed=rows)
    expected = reference.backproject(**problem)
    volume, filtered = hold(problem["volume"]), hold(problem["filtered"])
    backproject(**problem | {"volume": volume.array, "filtered": filtered.array})
    np.testing.assert_allclose(volume.array, expected, atol=1e-4)
    volume.check()


@pytest.mark.parametrize(
    ("volume_laid", "filtered_laid"),
    [
        *((laid, "plain") for laid in ROWS_APART),
        *(("plain", laid) for laid in ROWS_APART),
        ("every_second", "every_second"),
        ("odd_bytes", "plain"),
        ("plain", "odd_bytes"),
        ("odd_strides", "plain"),
        ("plain", "odd_strides"),
    ],
)
@pytest.mark.parametrize("rows", [1, 7])
def test_rows_may_lie_in_memory_as_they_like(rows: int, volume_laid: str, filtered_laid: str) -> None:
    problem = problem_of(rows)
    expected = reference.backproject(**problem)
    volume, filtered = hold(problem["volume"], volume_laid), hold(problem["filtered"], filtered_laid)
    backproject(**problem | {"volume": volume.array, "filtered": read_only(filtered.array)})
    np.testing.assert_allclose(volume.array, expected, atol=1e-4)
    volume.check()
    filtered.check_unchanged()


def test_directions_may_be_strided_and_read_only() -> None:
    problem = problem_of(5)
    expected = reference.backproject(**problem)
    for key in ("cos", "sin", "offset"):
        problem[key] = read_only(np.repeat(problem[key], 2)[::2])
    backproject(**problem)
    np.testing.assert_allclose(problem["volume"], expected, atol=1e-4)
    problem = problem_of(5, seed=1)
    expected = reference.backproject(**problem)
    backproject(**problem | {key: read_only(problem[key]) for key in ("filtered", "cos", "sin", "offset")})
    np.testing.assert_allclose(problem["volume"], expected, atol=1e-4)


def test_one_filtered_row_may_serve_all_angles_rows_and_columns() -> None:
    """Strides of 0."""
    problem = problem_of(6)
    for shape in ((1, 48, 6), (1, 1, 6), (5, 48, 1)):
        some = problem["filtered"][tuple(slice(n) for n in shape)]
        problem["filtered"] = np.broadcast_to(some, (5, 48, 6))
        volume = problem["volume"].copy()
        backproject(**problem | {"volume": volume})
        np.testing.assert_allclose(volume, reference.backproject(**problem), atol=1e-4)


@SETTINGS
@given(problems(most_rows=9))
def test_the_plain_kernel_gives_what_the_vectors_give(problem: dict[str, Any]) -> None:
    plain = problem["volume"].copy()
    limit = np.float32(min(problem["radius"], 1e9))
    backproject_numba.backproject(plain, problem["filtered"], problem["cos"], problem["sin"], problem["offset"], limit)
    backproject(**problem)
    np.testing.assert_allclose(problem["volume"], plain, atol=2e-5)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_vectors_of_every_length_equal_the_reference(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = rebuilt(backproject_vector.backproject, add_pixels=backproject_vector.pixel_adder(lanes))
    monkeypatch.setattr(backproject_vector, "backproject", kernel)
    for rows in (1, 2, 3, 5, 8, 12, 16, 31, 32, 63, 70):
        problem = problem_of(rows, seed=rows)
        expected = reference.backproject(**problem)
        volume, filtered = hold(problem["volume"], "unaligned"), hold(problem["filtered"], "unaligned")
        backproject(**problem | {"volume": volume.array, "filtered": filtered.array})
        np.testing.assert_allclose(volume.array, expected, atol=1e-4)
        volume.check()
    assert kernel.signatures


@SETTINGS
@given(problems(), st.data(), st.sampled_from(["plain", "every_second"]))
def test_bits_do_not_depend_on_how_the_angles_are_split(
    problem: dict[str, Any], data: st.DataObject, laid: str
) -> None:
    angles = len(problem["cos"])
    cuts = sorted(data.draw(st.lists(st.integers(0, angles), max_size=4)))
    problem["volume"] = hold(problem["volume"], laid).array
    split = hold(problem["volume"], laid).array
    for start, end in zip([0, *cuts], [*cuts, angles], strict=True):
        some = {key: problem[key][start:end] for key in ("filtered", "cos", "sin", "offset")}
        backproject(split, radius=problem["radius"], **some)
    backproject(**problem)
    np.testing.assert_array_equal(split, problem["volume"])


@SETTINGS
@given(problems(most_rows=40), st.data())
def test_bits_of_a_row_do_not_depend_on_the_rows_beside_it(problem: dict[str, Any], data: st.DataObject) -> None:
    rows = problem["volume"].shape[2]
    first = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(first + 1, rows))
    some = problem["volume"][..., first:end].copy()
    backproject(**problem | {"volume": some, "filtered": problem["filtered"][..., first:end]})
    backproject(**problem)
    np.testing.assert_array_equal(some, problem["volume"][..., first:end])


@pytest.mark.parametrize("laid", ["plain", "every_second"])
def test_bits_do_not_depend_on_the_number_of_threads(laid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    theta = rng.uniform(0, 7, 20)
    cos, sin = np.float32(np.cos(theta)), np.float32(np.sin(theta))
    filtered = floats(rng, 20, 200, 7)
    before = numba.get_num_threads()
    volumes = []
    try:
        for threads, parts in ((1, 1), (before, before), (before, 3), (1, 8), (before, 50)):
            numba.set_num_threads(threads)
            monkeypatch.setattr(FACE, "threads", lambda parts=parts: parts)
            volume = hold(np.zeros((97, 97, 7), np.float32), laid)
            backproject(volume.array, filtered, cos, sin, np.full(20, 99.7, np.float32))
            volume.check()
            volumes.append(volume.array)
    finally:
        numba.set_num_threads(before)
    assert np.abs(volumes[0]).max() > 1
    for volume in volumes[1:]:
        np.testing.assert_array_equal(volume, volumes[0])


def project(image: NDArray[np.float64], problem: dict[str, Any]) -> NDArray[np.float64]:
    """The exact adjoint of `backproject`: every pixel goes into the two columns that it is seen in."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    inside = x**2 + y**2 <= problem["radius"] ** 2
    rows = np.zeros(problem["filtered"].shape)
    for row, c, s, o in zip(rows, *(problem[key].astype(np.float64) for key in ("cos", "sin", "offset")), strict=True):
        u = (x * c + y * s + o)[inside]
        column = np.floor(u).astype(int)
        right = (u - column)[:, None]
        np.add.at(row, column, (1 - right) * image[inside])
        np.add.at(row, column + 1, right * image[inside])
    return rows


@SETTINGS
@given(problems(most_rows=5))
def test_projection_is_its_adjoint(problem: dict[str, Any]) -> None:
    image = np.random.default_rng(1).normal(size=problem["volume"].shape)
    rows = problem["filtered"].astype(np.float64)
    problem["volume"][:] = 0
    backproject(**problem)
    there = np.vdot(problem["volume"].astype(np.float64), image)
    back = np.vdot(rows, project(image, problem))
    assert there == pytest.approx(back, abs=1e-5 * (1 + np.linalg.norm(rows) * np.linalg.norm(image)))


@SETTINGS
@given(problems(most_rows=5), st.floats(-3, 3), st.floats(-3, 3))
def test_is_linear(problem: dict[str, Any], p: float, q: float) -> None:
    rng = np.random.default_rng(2)
    one, other = problem["filtered"], floats(rng, *problem["filtered"].shape)

    def of(filtered: NDArray[np.floating]) -> NDArray[np.float64]:
        volume = np.zeros_like(problem["volume"])
        backproject(**problem | {"volume": volume, "filtered": filtered.astype(np.float32)})
        return volume.astype(np.float64)

    np.testing.assert_allclose(of(p * one + q * other), p * of(one) + q * of(other), atol=1e-4)


@SETTINGS
@given(problems(most_rows=40))
def test_adding_the_negative_gives_the_volume_back(problem: dict[str, Any]) -> None:
    before = problem["volume"].copy()
    backproject(**problem)
    backproject(**problem | {"filtered": -problem["filtered"]})
    np.testing.assert_allclose(problem["volume"], before, atol=3e-5)


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
@pytest.mark.parametrize("side", [10, 11, 70])
@pytest.mark.parametrize("laid", ["plain", "every_second"])
def test_pixels_outside_the_radius_are_left_alone(side: int, radius: float, laid: str) -> None:
    volume = hold(np.full((side, side, 2), 7, np.float32), laid)
    backproject(volume.array, *_flat_rows(), radius)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = (x**2 + y**2 <= np.float32(radius) ** 2) & (radius >= 0)
    np.testing.assert_array_equal(volume.array, np.repeat(np.where(inside, 8, 7)[..., None], 2, axis=2))
    volume.check()


def _flat_rows() -> tuple[np.ndarray, ...]:
    one = np.ones(1, np.float32)
    return np.ones((1, 160, 2), np.float32), one, 0 * one, 80 * one


@pytest.mark.parametrize(
    "changed",
    [
        {"volume": np.zeros((4, 4), np.float32)},
        {"volume": np.zeros((4, 4, 3), np.float32)},
        {"volume": np.zeros((4, 4, 2, 1), np.float32)},
        {"volume": np.zeros((4, 4, 2))},
        {"volume": np.zeros((4, 4, 2), np.complex64)},
        {"volume": np.zeros((4, 4, 2), ">f4")},
        {"volume": np.zeros((4, 4, 2), np.int32)},
        {"volume": read_only(np.zeros((4, 4, 2), np.float32))},
        {"volume": np.broadcast_to(np.zeros((4, 1, 2), np.float32), (4, 4, 2))},
        {"filtered": np.ones((3, 12), np.float32)},
        {"filtered": np.ones((2, 12, 2), np.float32)},
        {"filtered": np.ones((3, 12, 2), np.float64)},
        {"filtered": np.ones((3, 12, 2), ">f4")},
        {"filtered": np.ones((3, 12, 1), np.float32)},
        {"filtered": np.ones((3, 2, 12), np.float32)},
        {"filtered": np.ones((3, 0, 2), np.float32)},
        {"filtered": np.ones((3, 1, 2), np.float32)},
        {"filtered": np.ones((0, 12, 2), np.float32)},
        {"cos": np.ones(3)},
        {"cos": np.ones(3, ">f4")},
        {"cos": np.ones((3, 1), np.float32)},
        {"cos": np.ones((), np.float32)},
        {"sin": np.zeros(2, np.float32)},
        {"offset": np.full(3, 5)},
        {"offset": np.array([5, 5, np.nan], np.float32)},
        {"offset": np.array([5, 5, np.inf], np.float32)},
        {"offset": np.array([5, 5, -3e38], np.float32)},
        {"offset": np.array([5, 2**31, 5], np.float32)},
        {"cos": np.array([1, np.nan, 1], np.float32)},
        {"cos": np.array([1, 3e38, 1], np.float32)},
        {"sin": np.array([np.inf, 0, 0], np.float32)},
        {"volume": np.zeros((1, 1, 2), np.float32), "sin": np.array([np.inf, 0, 0], np.float32)},
        {"radius": math.nan},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any]) -> None:
    problem = small(**changed)
    before = problem["volume"].copy()
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"expected"):
        backproject(**problem)
    np.testing.assert_array_equal(problem["volume"], before)


@pytest.mark.parametrize("shape", [(0, 4, 2), (4, 0, 2), (4, 4, 0), (0, 0, 0)])
def test_an_empty_volume_is_left_alone(shape: tuple[int, ...]) -> None:
    backproject(**small(volume=np.zeros(shape, np.float32), filtered=np.ones((3, 12, shape[2]), np.float32)))


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


ODD_NUMBERS = st.one_of(
    st.floats(-2, 2, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-45, 2.0**31]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 5)),
    st.integers(0, 50),
    st.lists(st.tuples(ODD_NUMBERS, ODD_NUMBERS, st.one_of(ODD_NUMBERS, st.floats(0, 50, width=32))), max_size=2),
    st.one_of(st.just(math.inf), ODD_NUMBERS, st.floats(0, 50)),
    st.sampled_from(["sliced", "every_second"]),
)
def test_whatever_is_not_refused_stays_within_its_arrays(
    shape: tuple[int, int, int], columns: int, angles: list[tuple[float, float, float]], radius: float, laid: str
) -> None:
    cos, sin, offset = np.array(angles, np.float32).reshape(-1, 3).T
    volume = hold(np.zeros(shape, np.float32), laid)
    filtered = hold(np.ones((len(angles), columns, shape[2]), np.float32), "sliced")
    try:
        with np.errstate(all="ignore"):
            backproject(volume.array, filtered.array, cos, sin, offset, radius)
    except ValueError:
        volume.check_unchanged()
        return
    volume.check()
    # Interpolated between ones and from nowhere else.
    np.testing.assert_allclose(volume.array, np.where(volume.array == 0, 0, np.ceil(volume.array - 0.5)), atol=1e-5)
    assert volume.array.max(initial=0) <= len(angles) + 1e-5


@pytest.mark.parametrize("columns", [300_001, 3_000_001])
def test_very_long_rows_are_not_read_beyond_their_end(columns: int) -> None:
    memory = np.full(columns + 9, np.nan, np.float32)
    memory[:columns] = 1
    ulp = np.spacing(np.float32(columns - 1))
    for share in (0.51, 0.52, 0.55):
        step = np.full(1, 2 * share * ulp, np.float32)
        offset = np.full(1, columns - 1 - 2 * ulp, np.float32)
        volume = np.zeros((2, 2, 1), np.float32)
        # What float32 positions may round to is refused, rather than read.
        with pytest.raises(ValueError, match="longer tails"):
            backproject(volume, memory[:columns].reshape(1, columns, 1), step, step, offset)
        backproject(volume, memory[:columns].reshape(1, columns, 1), step, step, offset - 16 * ulp)
        assert np.isfinite(volume).all()


def test_two_threads_may_call_at_once() -> None:
    """In a process of its own: numba's simplest threading layer ends it otherwise."""
    code = """
import threading
import numpy as np
from streamrecon_kernels import backproject, line_integrals
def work():
    one = np.ones(9, np.float32)
    for _ in range(20):
        backproject(np.zeros((40, 40, 8), np.float32), np.ones((9, 99, 8), np.float32), one, 0 * one, 50 * one)
        image = np.ones((3, 40, 40), np.float32)
        line_integrals(image.astype("u2"), 0 * image[0], image, 1.0, image.copy())
both = [threading.Thread(target=work) for _ in range(3)]
for thread in both:
    thread.start()
for thread in both:
    thread.join()
raise SystemExit(42)
"""
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 42, done.stderr
