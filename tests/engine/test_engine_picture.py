"""The picture of a volume: its grey range, and the memory that it takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from streamrecon.engine.picture import GAP, SMALLEST, TEXT, contrast, draw


def inside(height: int, width: int) -> np.ndarray:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return x**2 + y**2 <= 1


def middle(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, height, width = volume.shape
    return volume[rows // 2], volume[:, height // 2], volume[:, :, width // 2]


@pytest.mark.parametrize("shape", [(40, 40), (33, 60), (1400, 1401), (2000, 300)])
def test_the_grey_range_is_that_of_the_pixels_inside_the_circle(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    within = inside(*shape)
    image[shape[0] // 2, :: shape[1] // 8] = np.nan
    image[shape[0] // 2 + 1, 3] = np.inf
    expected = np.percentile(image[within & np.isfinite(image)], [0.5, 99.5])
    image[~within] = 1000
    # In standard deviations of the values, of which a large slice has only some looked at.
    assert contrast(image) == pytest.approx(expected, abs=1e-6 if max(shape) < 100 else 0.03)


def test_a_slice_without_values_has_a_grey_range() -> None:
    assert contrast(np.full((9, 9), np.nan, np.float32)) == (0.0, 1.0)
    assert contrast(np.full((9, 9), 2, np.float32)) == (2.0, 3.0)


def test_a_picture_takes_less_memory_than_a_large_slice() -> None:
    volume = np.random.default_rng(0).random((2, 2200, 2200), np.float32)
    tracemalloc.start()
    try:
        picture = draw(middle(volume), "a title")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < volume[0].nbytes / 2
    assert min(picture.size) > 900


def test_slices_are_grey_in_all_their_parts() -> None:
    """They are made grey by parts, one after the other."""
    ramp = np.broadcast_to(np.linspace(0, 1, 150, dtype=np.float32)[:, None], (3, 150, 150))
    top, left = GAP + TEXT + 20, GAP
    column = np.asarray(draw(middle(ramp), "")).astype(int)[top : top + SMALLEST, left + SMALLEST // 2]
    assert column[0] < 15
    assert column[-1] > 230
    assert (np.diff(column) >= 0).all()
