"""Blocks of rows, views, sides, the circle, and previews: the same volume seen through another window."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from recon_oracle import METHODS, accumulator, disc, fill, grid, half_turn, reconstruct, relative

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import BLOCK_ROWS, Accumulator, Shape, bin_slices, snapshot
from streamrecon.scan import Axis, Geometry

METHOD = pytest.mark.parametrize("method", sorted(METHODS))
ANGLES = 40
AXES: tuple[Axis, ...] = "z", "y", "x"
BLOBS = np.array([[2.0, -3.5, 5.0, 1.0], [-9.0, 4.0, 4.0, 2.0], [7.5, 8.0, 4.5, -0.7]])
"""x, y, width in pixels and value of Gaussians."""


def blob_projections(theta: NDArray[np.float64], columns: int, center: float, zoom: int = 1) -> NDArray[np.float64]:
    """(angle, 1, column) exact line integrals."""
    u = np.arange(columns) - center
    total = np.zeros((len(theta), columns))
    for x, y, width, value in BLOBS * [zoom, zoom, zoom, 1]:
        away = u - (x * np.cos(theta) + y * np.sin(theta))[:, None]
        total += value * width * math.sqrt(2 * math.pi) * np.exp(-(away**2) / (2 * width**2))
    return total[:, None]


def blobs(x: NDArray[np.float64], y: NDArray[np.float64], zoom: int = 1) -> NDArray[np.float64]:
    total = np.zeros(x.shape)
    for x0, y0, width, value in BLOBS * [zoom, zoom, zoom, 1]:
        total += value * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * width**2))
    return total


# Single slices.


@METHOD
@pytest.mark.parametrize(
    ("rows", "columns", "center", "options"),
    [
        (1, 1, 0.0, ReconConfig()),
        (1, 8, 3.5, ReconConfig(circle=False)),
        (3, 17, 7.2, ReconConfig(circle=True, upsampling=1, width=4)),
        (35, 12, 6.0, ReconConfig(side=9, filter="hann", oversampling=1.5)),
        (70, 13, -2.5, ReconConfig(side=20, circle=False)),
        (40, 700, 350.1, ReconConfig()),
    ],
)
def test_single_slices_are_those_of_the_volume(
    method: str, rows: int, columns: int, center: float, options: ReconConfig
) -> None:
    rng = np.random.default_rng(1)
    shape = Shape.of(Geometry(rows, columns, 2e-6), options, center)
    one = METHODS[method](shape, options)
    one.add(rng.normal(size=(5, rows, columns)).astype(np.float32), np.arange(5) * 0.6, np.full(5, math.pi / 5))
    volume = snapshot(one, 1.7)
    for axis, length in zip(AXES, volume.shape, strict=True):
        places = sorted({0, 1 % length, length // 2, length - 1})
        expected = np.moveaxis(volume.take(places, AXES.index(axis)), AXES.index(axis), 0)
        got = np.full_like(expected, np.nan, order="C")
        one.cut(axis, places, got, 1.7)
        np.testing.assert_array_equal(got == 0, expected == 0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6 * float(np.abs(volume).max()))
    np.testing.assert_array_equal(snapshot(one, 1.7), volume, "the state is as it was")


# Rows.


@pytest.mark.parametrize("rows", range(1, 140))
def test_blocks_hold_all_rows_and_little_more(rows: int) -> None:
    shape = Shape.of(Geometry(rows, 8), ReconConfig(), 3.5)
    assert shape.block_rows % 2 == 0
    assert 2 <= shape.block_rows <= BLOCK_ROWS
    assert shape.blocks == math.ceil(rows / shape.block_rows) == math.ceil(rows / BLOCK_ROWS)
    assert shape.blocks * shape.block_rows - rows < 8 * shape.blocks


@METHOD
@pytest.mark.parametrize("columns", [18, 21])
def test_slices_do_not_depend_on_the_rows_beside_them(method: str, columns: int) -> None:
    """The angles include 0 and 90 degrees, where samples lie exactly between cells of the Fourier grid."""
    rng = np.random.default_rng(0)
    theta = half_turn(10)
    projections = rng.normal(size=(10, 70, columns)).astype(np.float32)
    alone = np.concatenate([reconstruct(method, projections[:, row : row + 1], theta) for row in range(70)])
    for rows in range(1, 71):
        volume = reconstruct(method, projections[:, :rows], theta)
        assert volume.shape == (rows, columns, columns)
        worst = max(relative(volume[row], alone[row]) for row in range(rows))
        assert worst < 1e-5, f"{rows} rows"


@METHOD
@pytest.mark.parametrize("angles", [1, 10])
@pytest.mark.parametrize("columns", [24, 64, 128])
@pytest.mark.parametrize("width", [4, 5])
def test_an_empty_row_stays_empty_beside_a_full_one(method: str, width: int, columns: int, angles: int) -> None:
    projections = np.random.default_rng(0).normal(size=(angles, 6, columns)).astype(np.float32)
    projections[:, 1::2] = 0
    volume = reconstruct(method, projections, half_turn(angles), options=ReconConfig(width=width))
    assert np.abs(volume[1::2]).max() < 1e-5 * np.abs(volume).max()


# Views.


@METHOD
def test_views_give_what_their_copies_give(method: str) -> None:
    rng = np.random.default_rng(0)
    big = rng.normal(size=(20, 7, 50)).astype(np.float32)
    views = [
        big[::2, 1:6, :25],
        big[:10, ::-1, ::2][:, :5],
        big.transpose(0, 2, 1)[:10, :5, :].copy().transpose(0, 1, 2)[..., :5],
        np.asfortranarray(big)[10:, 2:, 25:],
        np.broadcast_to(big[:1, :5, :25], (10, 5, 25)),
        np.swapaxes(rng.normal(size=(5, 10, 25)).astype(np.float32), 0, 1),
    ]
    for view in views:
        theta = rng.uniform(0, 4, 2 * len(view))[::2]
        weight = rng.uniform(0.1, 1, 2 * len(view))[::-2]
        acc, other = (accumulator(method, *view.shape[1:]) for _ in range(2))
        acc.add(view, theta, weight)
        other.add(*(np.ascontiguousarray(part) for part in (view, theta, weight)))
        np.testing.assert_array_equal(snapshot(acc), snapshot(other))


# Sides and centers.


@METHOD
@pytest.mark.parametrize("columns", [64, 65])
@pytest.mark.parametrize("side", [1, 2, 9, 40, 41, 63, 64, 65, 96, 131])
@pytest.mark.parametrize("off", [0.0, 6.3])
def test_every_side_shows_the_same_object(method: str, columns: int, side: int, off: float) -> None:
    theta, center = half_turn(ANGLES * 3), (columns - 1) / 2 + off
    volume = reconstruct(
        method, blob_projections(theta, columns, center), theta, center, options=ReconConfig(side=side)
    )
    assert volume.shape == (1, side, side)
    x, y = grid(side)
    inside = np.hypot(x, y) < 24
    assert np.abs(volume[0] - blobs(x, y))[inside].max() < 0.02


@METHOD
@pytest.mark.parametrize(("side", "larger"), [(33, 47), (32, 48), (40, 64), (41, 131), (64, 150)])
def test_a_smaller_slice_is_the_middle_of_a_larger_one(method: str, side: int, larger: int) -> None:
    theta = half_turn(ANGLES)
    projections = blob_projections(theta, 64, 30.3)
    small, large = (
        reconstruct(method, projections, theta, 30.3, options=ReconConfig(side=n))[0] for n in (side, larger)
    )
    cut = (larger - side) // 2
    assert relative(small, large[cut : cut + side, cut : cut + side]) < (1e-4 if method == "direct" else 1e-3)


@METHOD
@pytest.mark.parametrize("center", [-64.0, -5.0, 0.0, 10.25, 63.0, 70.0, 128.0])
def test_an_axis_beside_the_detector_is_finite(method: str, center: float) -> None:
    theta = half_turn(ANGLES)
    for circle in (False, True):
        acc = accumulator(method, 1, 64, center, options=ReconConfig(circle=circle))
        volume = snapshot(fill(acc, blob_projections(theta, 64, center), theta))
        assert volume.shape == (1, 64, 64)
        assert np.isfinite(volume).all()


@METHOD
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("side", [None, 1, 7])
def test_tiny_detectors_are_finite(method: str, columns: int, side: int | None) -> None:
    volume = reconstruct(method, np.ones((4, 3, columns)), half_turn(4), options=ReconConfig(side=side))
    assert volume.shape == (3, side or columns, side or columns)
    assert np.isfinite(volume).all()


@pytest.mark.parametrize("center", [math.nan, math.inf, -math.inf])
def test_a_center_that_is_not_finite_is_refused(center: float) -> None:
    with pytest.raises(GeometryError, match="center"):
        Shape.of(Geometry(2, 8), ReconConfig(), center)


# The circle.


@pytest.mark.parametrize(
    ("method", "upsampling", "tolerance"),
    # Interpolation beyond linear sees the whole padded row, whose length differs.
    [("direct", 1, 1e-5), ("direct", 2, 1e-3), ("fourier", 2, 1e-3)],
)
@pytest.mark.parametrize(
    ("columns", "side", "off"), [(64, None, 0.0), (63, None, 0.0), (64, None, 9.4), (64, 41, -3.0), (65, 90, 0.2)]
)
def test_the_circle_only_hides(
    columns: int, side: int | None, off: float, method: str, upsampling: int, tolerance: float
) -> None:
    theta, center = half_turn(ANGLES), (columns - 1) / 2 + off
    projections = disc(columns, theta, center, 12.0, 3.0, -2.0)
    whole, masked = (
        reconstruct(
            method, projections, theta, center, options=ReconConfig(side=side, circle=circle, upsampling=upsampling)
        )[0]
        for circle in (False, True)
    )
    x, y = grid(len(whole))
    radius = min(center, columns - 1 - center, (len(whole) - 1) / 2)
    inside = x**2 + y**2 <= radius**2
    assert not masked[~inside].any()
    assert (masked[inside] != 0).mean() > 0.99
    assert relative(masked[inside], whole[inside]) < tolerance
    assert np.abs(whole[~inside]).max() > 0


@pytest.mark.parametrize("binning", [1, 2, 4])
@pytest.mark.parametrize("side", [64, 65])
def test_both_methods_hide_the_same(binning: int, side: int) -> None:
    theta = half_turn(ANGLES)
    hidden = []
    for method in sorted(METHODS):
        acc = accumulator(method, 1, 64, 30.0, options=ReconConfig(side=side, circle=True))
        fill(acc, np.ones((ANGLES, 1, 64)), theta)
        hidden.append(snapshot(acc, binning=binning)[0] == 0)
    if binning == 1:
        np.testing.assert_array_equal(hidden[0], hidden[1])
    else:  # a bin on the rim may be shown for what is seen of it, or hidden
        x, y = grid(len(hidden[0]))
        rim = np.abs(np.hypot(x, y) * binning - 30) < binning
        np.testing.assert_array_equal(hidden[0][~rim], hidden[1][~rim])


# Previews.


def bins(volume: NDArray[np.floating], binning: int) -> NDArray[np.floating]:
    """Means of b x b x b voxels; rows from the first, pixels around the axis, whose rest must be even."""
    rows, side = volume.shape[0] // binning, volume.shape[1] // binning
    cut = (volume.shape[1] - side * binning) // 2
    assert (volume.shape[1] - side * binning) % 2 == 0
    volume = volume[: rows * binning, cut : cut + side * binning, cut : cut + side * binning]
    return volume.reshape(rows, binning, side, binning, side, binning).mean((1, 3, 5), dtype=np.float64)


@METHOD
@pytest.mark.parametrize("binning", [2, 4, 8])
@pytest.mark.parametrize("side", [64, 48, 96, 66, 68, 70, 65, 67, 69, 71, 73])
def test_a_preview_is_the_mean_of_bins(method: str, side: int, binning: int) -> None:
    zoom = 2 if binning == 8 else 1  # smooth is what a bin is too small to see
    side = side + 64 * (zoom - 1)
    theta, columns, center = half_turn(ANGLES * 2 * zoom), 64 * zoom, 33.2 * zoom
    projections = blob_projections(theta, columns, center, zoom) * np.linspace(1, 2, 19)[:, None]
    acc = fill(accumulator(method, 19, columns, center, options=ReconConfig(side=side)), projections, theta)
    preview = snapshot(acc, binning=binning)
    rows, n = 19 // binning, side // binning
    assert preview.shape == (rows, n, n)
    assert preview.dtype == np.float32
    if (side - n * binning) % 2 == 0:
        error = relative(preview, bins(snapshot(acc), binning))
        print(f"{method}, side {side}, binning {binning}: {100 * error:.4f} % from the means of bins")
        assert error < (1e-5 if method == "direct" else 0.08)

    def truth(dx: float, dy: float) -> NDArray[np.float64]:
        """Means of the density over the b x b points one pixel apart around the centers of bins."""
        x, y = (axis * binning for axis in grid(n))
        inner = np.arange(binning) - (binning - 1) / 2
        image = sum(blobs(x + dx + i, y + dy + j, zoom) for i, j in product(inner, inner)) / binning**2
        factor = np.linspace(1, 2, 19)[: rows * binning].reshape(rows, binning).mean(axis=1)
        return image * factor[:, None, None]

    x, y = grid(n)
    inside = np.hypot(x, y) * binning < 28 * zoom  # fewer angles are seen well farther out
    error = relative(preview[:, inside], truth(0, 0)[:, inside])
    print(f"{method}, side {side}, binning {binning}: {100 * error:.4f} % from the density")
    assert error < 0.08
    # Half a pixel aside is clearly worse: the phase is right.
    for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5), (0.5, 0.5), (-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)):
        assert relative(preview[:, inside], truth(dx, dy)[:, inside]) > max(2 * error, 0.02)


def of_discs(columns: int, off: float, seed: int) -> Accumulator:
    """Of a slice of four discs."""
    rng, theta, center = np.random.default_rng(seed), half_turn(max(30, min(columns, 200))), (columns - 1) / 2 + off
    reach = min(center, columns - 1 - center)
    width, away, turn, value = rng.uniform([0.05, 0, 0, 0.2], [0.35, 0.6, 2 * math.pi, 1], (4, 4)).T
    middle = reach * away * np.cos(theta[:, None] - turn)
    u = np.arange(columns)[:, None] - center - middle[:, None]
    chords = 2 * value * np.sqrt(np.clip((reach * width) ** 2 - u**2, 0, None))
    return fill(accumulator("fourier", 1, columns, center), chords.sum(axis=2)[:, None], theta)


def from_bins(acc: Accumulator, binning: int) -> float:
    """How far a preview is from the means of bins, of the two nearest ways to cut them, relative."""
    full, side = snapshot(acc)[0], acc.shape.side // binning
    rest = acc.shape.side - side * binning
    ways = []
    for cut in (rest // 2, (rest + 1) // 2):
        some = full[cut : cut + side * binning, cut : cut + side * binning]
        ways.append(some.reshape(side, binning, side, binning).mean((1, 3)))
    return relative(snapshot(acc, binning=binning), np.mean(ways, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("binning", "rests", "enough"),
    [(2, (0,), 4), (2, (1,), 128), (4, range(4), 16), (8, (0, 1, 4, 7), 8), (16, (0, 1, 8, 15), 8)],
)
def test_previews_of_enough_pixels_are_within_6_percent(binning: int, rests: Iterable[int], enough: int) -> None:
    for sizes in ((4, 5, 7), (8, 11, 15), (16, 23, 31), (32, 47, 63), (64, 81), (128, 150, 181)):
        sides = [n * binning + rest for n in sizes for rest in rests]
        if max(sides) > 1100:
            break
        errors = [
            from_bins(of_discs(columns, off * columns, columns + seed), binning)
            for columns in sides
            for seed, off in enumerate((0, 0.01, -0.2, 0))
        ]
        print(f"binned {binning}, {sizes[0]} to {sizes[-1]} pixels a side: at most {100 * max(errors):.1f} %")
        assert sizes[0] < enough or max(errors) < 0.06


@METHOD
@pytest.mark.parametrize("side", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("binning", [2, 4, 8])
def test_a_slice_smaller_than_a_bin_has_a_preview(method: str, side: int, binning: int) -> None:
    acc = accumulator(method, 2, 16, options=ReconConfig(side=side))
    fill(acc, np.ones((4, 2, 16)), half_turn(4))
    preview = snapshot(acc, binning=binning)
    assert preview.shape == (1, max(1, side // binning), max(1, side // binning))
    assert np.isfinite(preview).all()


@METHOD
@pytest.mark.parametrize("binning", [2, 4, 8, 16])
def test_the_largest_previews_keep_the_scale(method: str, binning: int) -> None:
    theta, columns = half_turn(200), 256
    u = np.arange(columns) - 127.5
    chord = 2 * np.sqrt(np.clip(90**2 - u**2, 0, None))
    projections = np.broadcast_to(chord, (200, 16, columns))
    acc = fill(accumulator(method, 16, columns, pixel_size=1.3e-6), projections * 1.3e-6 * 4000, theta)
    preview = snapshot(acc, binning=binning)
    x, y = (axis * binning for axis in grid(columns // binning))
    assert preview.shape[0] == 16 // binning
    inside = np.hypot(x, y) < 90 - 2.5 * binning  # where the edge does not ring
    assert preview[:, inside].mean() == pytest.approx(4000, rel=0.005)


def test_slices_are_binned_from_the_first() -> None:
    volume = np.arange(7.0, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    assert bin_slices(volume, 1) is volume
    np.testing.assert_array_equal(bin_slices(volume, 2)[:, 0, 0], [0.5, 2.5, 4.5])
    np.testing.assert_array_equal(bin_slices(volume, 4)[:, 0, 0], [1.5])
    np.testing.assert_array_equal(bin_slices(volume, 16)[:, 0, 0], [3.0])
    assert bin_slices(volume, 2).dtype == np.float32
