"""The two bands together are the filter of a row that is padded: in what they sum to, and in what they cost."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from streamrecon_kernels import KaiserBessel

from streamrecon.config import ReconConfig
from streamrecon.recon import bands as bands_
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.bands import CUT, GUARD, LOW, SHRINKING, Band, bands, shrinking
from streamrecon.recon.binned import Binned
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.filters import response
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import Geometry
from streamrecon.sources.phantom import phantom, project

COLUMNS = 760


def of(columns: int = COLUMNS, center: float | None = None, **options: object) -> tuple[Shape, tuple[Band, ...]]:
    config = dataclasses.replace(ReconConfig(), **options)
    shape = Shape.of(Geometry(1, columns), config, (columns - 1) / 2 if center is None else center)
    return shape, bands(shape, config, FourierAccumulator.period(shape, config))


def extended(row: NDArray[np.float64], length: int, first: int) -> NDArray[np.float64]:
    return np.pad(row, (first, length - len(row) - first), mode="edge")


def summed(band: Band, samples: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Fourier sum over a band's frequencies at columns t, the two ends included."""
    k = np.arange(-(band.length // 2), band.length // 2 + 1)
    spectrum = np.fft.fft(samples)[k % band.length] * band.response[abs(k)]
    return (spectrum * np.exp(2j * math.pi * np.multiply.outer(t + band.first, k * band.spacing))).sum(axis=1).real


def filtered(
    row: NDArray[np.float64], shape: Shape, both: tuple[Band, ...], t: NDArray[np.float64]
) -> NDArray[np.float64]:
    high, low = both
    samples = shrinking(shape, low).astype(np.float64) @ row
    return summed(high, extended(row, high.length, high.first), t) + summed(low, samples, t)


def rows() -> dict[str, NDArray[np.float64]]:
    t = (np.arange(COLUMNS) - (COLUMNS - 1) / 2) / (COLUMNS / 2)
    rng = np.random.default_rng(3)
    return {
        "disc": np.sqrt(np.clip(0.8 - t * t, 0, None)),
        "thin shell at the edges": np.sqrt(np.clip(0.99 - t * t, 0, None)) - np.sqrt(np.clip(0.97 - t * t, 0, None)),
        "noise": rng.normal(size=COLUMNS),
        "truncated": np.sqrt(2 - t * t) + 0.01 * rng.normal(size=COLUMNS),
        "a pixel at an edge": np.eye(1, COLUMNS, 1)[0],
        "edges that differ": t,
    }


@pytest.mark.parametrize("name", [*rows()])
@pytest.mark.parametrize("filter_", ["ramp", "hann", "none"])
def test_bands_sum_to_the_filter_of_a_row_of_twice_the_length(name: str, filter_: str) -> None:
    row = rows()[name]
    shape, both = of(filter=filter_)
    length = shape.padded
    first = (length - COLUMNS) // 2
    exact = np.fft.irfft(np.fft.rfft(extended(row, length, first)) * response(filter_, length), length)
    # As far as the corners of a square image are seen.
    t = np.arange(-math.floor(shape.beyond), COLUMNS + math.floor(shape.beyond))
    error = np.linalg.norm(filtered(row, shape, both, t) - exact[first + t]) / np.linalg.norm(exact[first + t])
    print(f"{name}, {filter_}: {error:.1e}")
    # What a row that is extended by a step is filtered to depends on where the step is. Without the ramp low frequencies weigh
    # more, and what shrinking adds to those of noise.
    assert error < {"edges that differ": 3e-2, "truncated": 2e-3}.get(name, 1e-3 if filter_ == "none" else 2e-4)


def test_without_the_low_band_the_tails_are_missing() -> None:
    row = rows()["disc"]
    shape, both = of()
    nothing = (both[0], dataclasses.replace(both[1], response=np.zeros_like(both[1].response)))
    t = np.arange(COLUMNS)
    whole, cut = filtered(row, shape, both, t), filtered(row, shape, nothing, t)
    assert np.linalg.norm(whole - cut) > 0.05 * np.linalg.norm(whole)


def test_spokes_have_fewer_samples_than_padded_rows_have() -> None:
    for columns in (760, 1024, 2048, 2560):
        shape, both = of(columns)
        assert len(both) == 2
        assert sum(band.length for band in both) < 0.8 * shape.padded
        assert both[1].length == LOW


@pytest.mark.parametrize("columns", [1100, 1800, 2048, 2560])
def test_rows_are_as_long_for_a_circle_as_for_a_square(columns: int) -> None:
    """The shorter their period, the larger the error of interpolating them."""
    _, (high, *_) = of(columns, circle=True)
    assert high.length >= math.sqrt(2) * columns / (1 - GUARD)


def test_two_bands_are_taken_from_some_660_columns_on() -> None:
    """With fewer the error of interpolation is felt."""
    assert [len(of(columns)[1]) for columns in (384, 512, 640, 658, 659, 680, 760)] == [1, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("columns", [900, 1500, 2560])
@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("side", [None, 600, 4000])
@pytest.mark.parametrize("oversampling", [1.25, 2.0, 4.0])
def test_there_are_never_more_samples_than_padded_rows_have(
    columns: int, circle: bool, side: int | None, oversampling: float
) -> None:
    shape, each = of(columns, circle=circle, side=side, oversampling=oversampling)
    assert sum(band.length for band in each) <= shape.padded


def test_short_rows_are_padded_and_have_one_band() -> None:
    shape, both = of(500)
    assert [band.length for band in both] == [shape.padded]


@pytest.mark.parametrize("center", [COLUMNS / 2, 320.0, 250.5])
@pytest.mark.parametrize("side", [None, 700])
def test_a_row_is_kept_apart_from_its_repetition(center: float, side: int | None) -> None:
    shape, both = of(center=center, side=side)
    high = both[0]
    assert len(both) == 2
    assert high.length % 2 == 0
    # What is needed on either side of column 0 to the last, and a guard between it and its repetition.
    assert high.first - shape.beyond >= GUARD / 2 * high.length - 1
    assert high.length - high.first - COLUMNS - shape.beyond >= GUARD / 2 * high.length - 1
    assert high.spacing * FourierAccumulator.period(shape, ReconConfig(side=side)) <= 1


def test_shrinking_keeps_low_frequencies() -> None:
    shape, (_, low) = of()
    period = low.period
    row = rows()["truncated"]
    spectrum = np.fft.fft(extended(row, period, low.first))
    k = np.arange(CUT)
    samples = shrinking(shape, low).astype(np.float64) @ row
    shrunk = np.fft.fft(samples)[:CUT] / SHRINKING.transform(k / LOW)
    # Where the low band still matters: its weight at the cut is 1e-4.
    error = abs(shrunk - spectrum[:CUT])[: CUT * 3 // 4].max() / abs(spectrum[:CUT]).max()
    assert error < 2e-4


def added(projections: NDArray[np.float32], sizes: list[int], columns: int, **options: object) -> FourierAccumulator:
    """An accumulator that was given projections over half a turn in batches of these sizes."""
    config = dataclasses.replace(ReconConfig(), **options)
    shape = Shape.of(Geometry(projections.shape[1], columns), config, (columns - 1) / 2)
    accumulator = FourierAccumulator(shape, config)
    theta = np.arange(len(projections)) * math.pi / len(projections)
    weight = np.full(len(theta), math.pi / len(theta))
    for first, end in itertools.pairwise(np.cumsum([0, *sizes])):
        accumulator.add(projections[first:end], theta[first:end], weight[first:end])
    return accumulator


def test_bits_depend_neither_on_batches_nor_on_threads_nor_on_snapshots() -> None:
    rng = np.random.default_rng(0)
    projections = rng.normal(size=(12, 35, COLUMNS)).astype(np.float32)
    whole = snapshot(added(projections, [12], COLUMNS))
    before = numba.get_num_threads()
    try:
        for threads in range(1, before + 1):
            numba.set_num_threads(threads)
            pieces = added(projections, [1, 5, 2, 4], COLUMNS)
            for _ in range(2):
                snapshot(pieces, binning=4)
                np.testing.assert_array_equal(snapshot(pieces), whole)
    finally:
        numba.set_num_threads(before)


def noise(angles: int = 9, rows: int = 3) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Projections, angles and weights."""
    rng = np.random.default_rng(4)
    projections = rng.normal(1, 1, (angles, rows, COLUMNS)).astype(np.float32)
    return projections, rng.uniform(0, 3, angles), rng.uniform(0.1, 0.3, angles)


def empty(center: float = COLUMNS / 2.1, offset_axis: bool = False) -> FourierAccumulator:
    accumulator = FourierAccumulator(Shape.of(Geometry(3, COLUMNS), ReconConfig(), center, offset_axis), ReconConfig())
    assert len(accumulator._grids) == 2
    return accumulator


def assert_near(volume: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(volume, expected, atol=1e-5 * float(np.abs(expected).max()))


def test_a_constant_row_is_the_same_projection_at_every_angle() -> None:
    projections, theta, weight = noise()
    one, each = empty(), empty()
    for accumulator in (one, each):
        accumulator.add(projections[::-1].copy(), theta, weight)  # whose spectra are left in memory
    one.add_constant(projections[0], theta, weight)
    each.add(np.repeat(projections[:1], len(theta), axis=0), theta, weight)
    assert_near(snapshot(one), snapshot(each))


@pytest.mark.parametrize("center", [250.0, 480.3])
def test_columns_are_weighted_in_both_bands(center: float) -> None:
    projections, theta, weight = noise()
    weighted, plain = empty(center, offset_axis=True), empty(center, offset_axis=True)
    plain._spreader.column_weight[:] = 1
    weighted.add(projections, theta, weight)
    plain.add(projections * weighted.shape.column_weight, theta, weight)
    assert_near(snapshot(weighted), snapshot(plain))
    plain.reset()
    plain.add(projections, theta, weight)
    first, second = snapshot(weighted), snapshot(plain)
    assert np.linalg.norm(first - second) > 0.1 * np.linalg.norm(second)


def test_both_bands_are_merged_and_reset() -> None:
    projections, theta, weight = noise()
    whole, *halves = (empty() for _ in range(3))
    whole.add(projections, theta, weight)
    for half, some in zip(halves, (slice(0, 4), slice(4, 9)), strict=True):
        half.add(projections[some], theta[some], weight[some])
    halves[0].merge(halves[1])
    assert_near(snapshot(halves[0]), snapshot(whole))
    whole.reset()
    assert not snapshot(whole).any()


def head(columns: int, angles: int) -> NDArray[np.float32]:
    ellipsoids = phantom("shepp-logan")
    u = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    theta = np.arange(angles) * math.pi / angles
    return np.stack([project(ellipsoids, t, u, np.array([0.0])) for t in theta]).astype(np.float32)


@pytest.mark.parametrize("circle", [False, True])
def test_two_bands_reconstruct_what_padded_rows_do(circle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = 800
    projections = head(columns, 300)
    two = added(projections, [300], columns, circle=circle, side=None if not circle else columns)
    monkeypatch.setattr(bands_, "SHORTEST", 10**9)
    one = added(projections, [300], columns, circle=circle, side=None if not circle else columns)
    assert len(one._grids) == 1
    assert len(two._grids) == (1 if circle else 2)
    first, second = snapshot(two), snapshot(one)
    error = np.linalg.norm(first - second) / np.linalg.norm(second)
    print(f"circle {circle}: {error:.1e}")
    assert error < 2e-3
    np.testing.assert_allclose(first.mean(), second.mean(), rtol=1e-4)


def test_an_object_cut_off_by_the_detector_is_as_bright_as_by_the_direct_method() -> None:
    columns = 760
    u = np.arange(columns) - (columns - 1) / 2
    row = 2 * np.sqrt((0.8 * columns) ** 2 - u**2)
    projections = np.broadcast_to(row.astype(np.float32), (200, 1, columns)).copy()
    theta = np.arange(200) * math.pi / 200
    config = ReconConfig()
    shape = Shape.of(Geometry(1, columns), config, (columns - 1) / 2)
    direct = DirectAccumulator(shape, config)
    direct.add(projections, theta, np.full(200, math.pi / 200))
    y, x = np.mgrid[:columns, :columns] - (columns - 1) / 2
    inside = np.hypot(x, y) < 0.45 * columns
    fourier = snapshot(added(projections, [200], columns))[0][inside].mean()
    assert len(of(columns)[1]) == 2
    np.testing.assert_allclose(fourier, snapshot(direct)[0][inside].mean(), rtol=2e-3)


@pytest.mark.parametrize(
    ("columns", "binning", "limit"),
    [
        # From these on they are within the limit.
        (64, 2, 0.06),
        (128, 4, 0.06),
        (160, 8, 0.06),
        (384, 16, 0.06),
        *((256, *case) for case in ((2, 0.01), (4, 0.04), (8, 0.05))),
        # In two bands.
        *((768, *case) for case in ((2, 0.01), (4, 0.04), (8, 0.05), (16, 0.06))),
    ],
)
def test_previews_are_near_the_binned_volume(columns: int, binning: int, limit: float) -> None:
    accumulator, full = whole(columns)
    assert len(accumulator._grids) == (1 if columns < 660 else 2)
    side = columns // binning
    bins = full.reshape(len(full) // binning, binning, side, binning, side, binning).mean(axis=(1, 3, 5))
    error = np.linalg.norm(snapshot(accumulator, binning=binning) - bins) / np.linalg.norm(bins)
    print(f"{columns} columns, binned {binning}: {100 * error:.2f} %")
    assert error < limit


def test_previews_binned_four_times_are_made_of_the_nearest_frequencies() -> None:
    """Of 1.75 times their own: fewer cells to look at."""
    period = FourierAccumulator.period(of(256)[0], ReconConfig())
    image = Binned.of(of(256)[0], KaiserBessel(5, 1.25), period, 4)
    for factor in (image.factor_v, image.factor_u):
        nu = np.abs(np.fft.fftfreq(len(factor), period / len(factor)))
        np.testing.assert_array_equal(factor != 0, nu <= 1.75 / 4 / 2)
        assert 0 < np.count_nonzero(factor) < len(factor)


@functools.lru_cache(maxsize=1)
def whole(columns: int) -> tuple[FourierAccumulator, NDArray[np.float32]]:
    """The head in as many rows as the largest bin has, and its full volume."""
    angles = round(columns * 1.57)
    accumulator = added(np.repeat(head(columns, angles), 16, axis=1), [angles], columns)
    return accumulator, snapshot(accumulator)
