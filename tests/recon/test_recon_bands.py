"""The two bands together are the filter of a row that is padded: in what they sum to, and in what they cost."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrecon.config import ReconConfig
from streamrecon.recon.accumulate import Shape
from streamrecon.recon.bands import CUT, GUARD, LOW, SHRINKING, Band, bands, shrinking
from streamrecon.recon.filters import response
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import Geometry

COLUMNS = 400


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
    length = 2 * both[0].length
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
    for columns in (400, 1024, 2048, 2560):
        shape, both = of(columns)
        assert len(both) == 2
        assert sum(band.length for band in both) < 0.87 * shape.padded
        assert both[1].length == LOW


def test_short_rows_are_padded_and_have_one_band() -> None:
    shape, both = of(100)
    assert [band.length for band in both] == [shape.padded]


@pytest.mark.parametrize("center", [COLUMNS / 2, 120.0, 30.5])
@pytest.mark.parametrize("circle", [False, True])
@pytest.mark.parametrize("side", [None, 300, 800])
def test_a_row_is_kept_apart_from_its_repetition(center: float, circle: bool, side: int | None) -> None:
    shape, both = of(center=center, circle=circle, side=side)
    high = both[0]
    assert high.length % 2 == 0
    # What is needed on either side of column 0 to the last, and a guard between it and its repetition.
    assert high.first - shape.beyond >= GUARD / 2 * high.length - 1
    assert high.length - high.first - COLUMNS - shape.beyond >= GUARD / 2 * high.length - 1
    assert high.spacing * FourierAccumulator.period(shape, ReconConfig(circle=circle, side=side)) <= 1


def test_shrinking_keeps_low_frequencies() -> None:
    shape, (high, low) = of()
    period = 2 * high.length
    row = rows()["truncated"]
    spectrum = np.fft.fft(extended(row, period, low.first))
    k = np.arange(CUT)
    samples = shrinking(shape, low).astype(np.float64) @ row
    shrunk = np.fft.fft(samples)[:CUT] / SHRINKING.transform(k / LOW)
    # Where the low band still matters: its weight at the cut is 1e-4.
    error = abs(shrunk - spectrum[:CUT])[: CUT * 3 // 4].max() / abs(spectrum[:CUT]).max()
    assert error < 2e-4
