"""Projections added in any order and any batches give the volume of one batch; the state is linear."""

from __future__ import annotations

import math
import threading

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from recon_oracle import METHODS, accumulator, fill, relative

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon import direct, fourier
from streamrecon.recon.accumulate import Accumulator, snapshot

ANGLES = 23
SETTINGS = settings(max_examples=25, deadline=None)
Scan = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]

methods = pytest.mark.parametrize("method", sorted(METHODS))


def noise(rows: int, columns: int, seed: int = 0) -> Scan:
    """Projections, angles and weights without any structure; 0 and pi / 2 are among the angles."""
    rng = np.random.default_rng(seed)
    theta = np.concatenate([[0.0, math.pi / 2], rng.uniform(-4, 7, ANGLES - 2)])
    return rng.normal(size=(ANGLES, rows, columns)).astype(np.float32), theta, rng.uniform(0.01, 0.3, ANGLES)


def added(acc: Accumulator, scan: Scan, order: NDArray[np.intp] | slice, sizes: list[int]) -> NDArray[np.float32]:
    projections, theta, weight = (np.ascontiguousarray(part[order]) for part in scan)
    start = 0
    for size in [*sizes, len(theta)]:
        batch = slice(start, start + size)
        acc.add(projections[batch], theta[batch], weight[batch])
        start += size
    return snapshot(acc)


sizes = st.lists(st.integers(0, 9), max_size=12)
geometries = st.sampled_from([(1, 20), (2, 33), (3, 16), (5, 31), (9, 24), (33, 17)])


@methods
@SETTINGS
@given(geometry=geometries, sizes=sizes, order=st.permutations(range(ANGLES)), off=st.sampled_from([0.0, 3.3, -5.7]))
def test_any_order_and_batches_give_the_volume_of_one_batch(
    method: str, geometry: tuple[int, int], sizes: list[int], order: list[int], off: float
) -> None:
    center = (geometry[1] - 1) / 2 + off
    scan = noise(*geometry)
    whole = added(accumulator(method, *geometry, center), scan, slice(None), [])
    assert np.abs(whole).max() > 0
    pieces = added(accumulator(method, *geometry, center), scan, np.array(order), sizes)
    assert relative(pieces, whole) < 1e-5


@methods
@SETTINGS
@given(geometry=geometries, sizes=sizes, upsampling=st.sampled_from([1, 2, 3]))
def test_batch_sizes_do_not_change_a_bit(
    method: str, geometry: tuple[int, int], sizes: list[int], upsampling: int
) -> None:
    options, scan = ReconConfig(upsampling=upsampling), noise(*geometry)
    whole = added(accumulator(method, *geometry, options=options), scan, slice(None), [])
    pieces = added(accumulator(method, *geometry, options=options), scan, slice(None), sizes)
    np.testing.assert_array_equal(pieces, whole)


@methods
def test_threads_do_not_change_a_bit(method: str) -> None:
    before = numba.get_num_threads()
    volumes = []
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            volumes.append(added(accumulator(method, 5, 60), noise(5, 60), slice(None), [16]))
    finally:
        numba.set_num_threads(before)
    for volume in volumes[1:]:
        np.testing.assert_array_equal(volume, volumes[0])


@methods
@pytest.mark.parametrize("geometry", [(1, 31), (4, 48), (35, 20)])
def test_a_negative_weight_takes_projections_back(method: str, geometry: tuple[int, int]) -> None:
    projections, theta, weight = noise(*geometry)
    acc = fill(accumulator(method, *geometry), projections, theta, weight)
    full = snapshot(acc)
    fill(acc, projections[:7], theta[:7], -weight[:7])
    rest = snapshot(fill(accumulator(method, *geometry), projections[7:], theta[7:], weight[7:]))
    assert relative(snapshot(acc), rest) < 1e-5
    fill(acc, projections[7:], theta[7:], -weight[7:])
    assert np.abs(snapshot(acc)).max() < 1e-5 * np.abs(full).max()


@methods
def test_the_volume_is_linear_in_projections_and_in_weights(method: str) -> None:
    projections, theta, weight = noise(3, 30)
    other = noise(3, 30, seed=9)[0]
    one = snapshot(fill(accumulator(method, 3, 30), projections, theta, weight))
    two = snapshot(fill(accumulator(method, 3, 30), other, theta, weight))
    both = snapshot(fill(accumulator(method, 3, 30), 2 * projections - other, theta, weight))
    assert relative(both, 2 * one - two) < 1e-5
    assert relative(snapshot(fill(accumulator(method, 3, 30), projections, theta, -3 * weight)), -3 * one) < 1e-5


@methods
@pytest.mark.parametrize("geometry", [(1, 31), (4, 48), (35, 20)])
def test_merging_two_halves_gives_the_whole(method: str, geometry: tuple[int, int]) -> None:
    projections, theta, weight = noise(*geometry)
    whole = snapshot(fill(accumulator(method, *geometry), projections, theta, weight))
    halves = [
        fill(accumulator(method, *geometry), projections[part], theta[part], weight[part])
        for part in (slice(0, None, 2), slice(1, None, 2))
    ]
    untouched = snapshot(halves[1])
    halves[0].merge(halves[1])
    assert relative(snapshot(halves[0]), whole) < 1e-5
    np.testing.assert_array_equal(snapshot(halves[1]), untouched)
    halves[0].add(projections[:1], theta[:1], weight[:1])
    np.testing.assert_array_equal(snapshot(halves[1]), untouched)


@methods
def test_only_a_like_accumulator_is_merged(method: str) -> None:
    acc = accumulator(method, 4, 32)
    other = "fourier" if method == "direct" else "direct"
    for stranger in (
        accumulator(other, 4, 32),
        accumulator(method, 5, 32),
        accumulator(method, 4, 33),
        accumulator(method, 4, 32, center=15.0),
        accumulator(method, 4, 32, pixel_size=1e-6),
        accumulator(method, 4, 32, options=ReconConfig(side=20)),
    ):
        with pytest.raises(GeometryError, match="merged"):
            acc.merge(stranger)
    if method == "fourier":
        with pytest.raises(GeometryError, match="merged"):
            acc.merge(accumulator(method, 4, 32, options=ReconConfig(width=4)))


@methods
def test_reset_forgets_everything(method: str) -> None:
    projections, theta, weight = noise(5, 40)
    acc = fill(accumulator(method, 5, 40), noise(5, 40, seed=4)[0], theta, weight)
    acc.reset()
    np.testing.assert_array_equal(snapshot(acc), np.zeros((5, 40, 40), np.float32))
    fresh = snapshot(fill(accumulator(method, 5, 40), projections, theta, weight))
    np.testing.assert_array_equal(snapshot(fill(acc, projections, theta, weight)), fresh)


@methods
@pytest.mark.parametrize("columns", [32, 41])
def test_a_snapshot_changes_nothing(method: str, columns: int) -> None:
    projections, theta, weight = noise(7, columns)
    acc = fill(accumulator(method, 7, columns), projections[:9], theta[:9], weight[:9])
    first = snapshot(acc)
    for binning in (1, 2, 4):
        snapshot(acc, gain=3.0, binning=binning)[:] = np.nan  # a snapshot is the caller's
    np.testing.assert_array_equal(snapshot(acc), first)
    fill(acc, projections[9:], theta[9:], weight[9:], batch=3)
    straight = snapshot(fill(accumulator(method, 7, columns), projections, theta, weight))
    np.testing.assert_array_equal(snapshot(acc), straight)


@methods
@pytest.mark.parametrize("binning", [1, 2])
def test_gain_is_a_factor(method: str, binning: int) -> None:
    acc = fill(accumulator(method, 3, 32), *noise(3, 32))
    np.testing.assert_allclose(snapshot(acc, 2.5, binning), 2.5 * snapshot(acc, 1.0, binning), rtol=1e-5, atol=1e-6)


@methods
def test_what_is_added_is_not_changed(method: str) -> None:
    scan = noise(4, 30)
    copies = [part.copy() for part in scan]
    for part in scan:
        part.flags.writeable = False
    accumulator(method, 4, 30).add(*scan)
    for part, copy in zip(scan, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


@methods
def test_an_empty_batch_adds_nothing(method: str) -> None:
    acc = fill(accumulator(method, 4, 30), *noise(4, 30))
    before = snapshot(acc)
    acc.add(np.zeros((0, 4, 30), np.float32), np.zeros(0), np.zeros(0))
    np.testing.assert_array_equal(snapshot(acc), before)


@methods
def test_bytes_are_known_before(method: str) -> None:
    acc = accumulator(method, 35, 50)
    assert acc.nbytes == METHODS[method].state_bytes(acc.shape, ReconConfig())


def bad_batches() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    good, theta, weight = np.ones((5, 3, 20), np.float32), np.linspace(0, 1, 5), np.ones(5)
    nan = np.array([0, 1, np.nan, 1, 1])
    return {
        "theta is NaN": (good, nan, weight),
        "theta is infinite": (good, np.array([0, 1, -np.inf, 1, 1]), weight),
        "weight is NaN": (good, theta, nan),
        "projections are float64": (good.astype(np.float64), theta, weight),
        "projections are uint16": (good.astype(np.uint16), theta, weight),
        "projections are swapped": (good.astype(">f4"), theta, weight),
        "one angle less": (good, theta[1:], weight[1:]),
        "one weight less": (good, theta, weight[1:]),
        "one row less": (good[:, 1:], theta, weight),
        "one column more": (np.ones((5, 3, 21), np.float32), theta, weight),
        "rows and columns exchanged": (good.transpose(0, 2, 1), theta, weight),
        "no rows": (good[:, 0], theta, weight),
        "theta of two axes": (good, theta[:, None], weight[:, None]),
        "theta is a number": (good[0], np.array(0.5), np.array(1.0)),
        "theta is complex": (good, theta + 0j, weight),
        "theta is text": (good, theta.astype(str), weight),
    }


@methods
@pytest.mark.parametrize("what", sorted(bad_batches()))
def test_a_batch_that_does_not_fit_is_refused(method: str, what: str) -> None:
    acc = accumulator(method, 3, 20)
    acc.add(np.ones((2, 3, 20), np.float32), np.zeros(2), np.ones(2))
    before = snapshot(acc)
    with pytest.raises(GeometryError):
        acc.add(*bad_batches()[what])
    np.testing.assert_array_equal(snapshot(acc), before)


@methods
@pytest.mark.parametrize("kind", ["f4", ">f8", "i8"])
def test_angles_and_weights_are_taken_in_double_precision(method: str, kind: str) -> None:
    """Whatever real numbers they are given as."""
    projections, row = noise(3, 20)[0][:4], np.ones((3, 20), np.float32)
    theta, weight = np.arange(4).astype(kind), np.arange(1, 5).astype(kind)
    acc, expected = accumulator(method, 3, 20), accumulator(method, 3, 20)
    acc.add(projections, theta, weight)
    acc.add_constant(row, theta, weight)
    expected.add(projections, np.arange(4.0), np.arange(1.0, 5.0))
    expected.add_constant(row, np.arange(4.0), np.arange(1.0, 5.0))
    np.testing.assert_array_equal(snapshot(acc), snapshot(expected))


@methods
@pytest.mark.parametrize("binning", [0, -2, 3, 32])
@pytest.mark.parametrize("rows", [1, 40])
def test_bins_that_there_are_not_are_refused(method: str, binning: int, rows: int) -> None:
    acc = accumulator(method, rows, 20)
    for call in (
        lambda: snapshot(acc, binning=binning),
        lambda: acc.snapshot_block(0, np.empty((1, 20, 20), np.float32), binning=binning),
    ):
        with pytest.raises(GeometryError, match=rf"binning is {binning}; expected one of 1, 2, 4, 8, 16$"):
            call()


@pytest.mark.parametrize(("method", "columns"), [("direct", 40), ("fourier", 40), ("fourier", 700)])
def test_nothing_is_lost_that_another_thread_adds_beside_a_snapshot(
    monkeypatch: pytest.MonkeyPatch, method: str, columns: int
) -> None:
    """With two bands a snapshot writes to the state."""
    projections, theta, weight = noise(2, columns)
    expected, acc = (fill(accumulator(method, 2, columns), projections, theta, weight) for _ in range(2))
    first = snapshot(expected)
    fill(expected, projections, theta, weight)
    inside, seen = threading.Event(), list[bool]()
    adding = threading.Thread(target=lambda: inside.wait(10) and fill(acc, projections, theta, weight))

    module = fourier if method == "fourier" else direct
    name = "lay_columns" if method == "fourier" else "take_slices"
    real = getattr(module, name)

    def wait(*arguments: object) -> None:
        inside.set()
        if not seen:
            adding.join(0.5)
            seen.append(adding.is_alive())
        real(*arguments)

    monkeypatch.setattr(module, name, wait)
    adding.start()
    np.testing.assert_array_equal(snapshot(acc), first)
    adding.join(10)
    assert seen[0], "it waits until the snapshot is made"
    np.testing.assert_array_equal(snapshot(acc), snapshot(expected))
