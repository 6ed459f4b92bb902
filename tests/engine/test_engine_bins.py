"""Bins that slabs share: whatever the slabs, the means are those of the whole array."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.engine.bins import binned, bins_of, joined
from streamrecon.engine.orders import Aside, pack, unpack


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 5),
    st.booleans(),
)
def test_slabs_come_to_the_means_of_the_whole(heights: list[int], y: int, x: int, width: int, flat: bool) -> None:
    rows = sum(heights)
    whole = np.random.default_rng(rows).random((rows, x) if flat else (rows, y, x), np.float32)
    firsts = np.cumsum([0, *heights])
    parts = [bins_of(whole[a:b], int(a), width) for a, b in itertools.pairwise(firsts)]
    expected = []
    for first in range(0, rows, width):
        image = whole[first : first + width].mean(axis=0)
        for axis in range(image.ndim):
            count = max(1, image.shape[axis] // width)
            size = min(width, image.shape[axis])
            groups = np.split(image.take(range(count * size), axis), count, axis)
            image = np.stack([group.mean(axis) for group in groups], axis)
        expected.append(image)
    np.testing.assert_allclose(joined([bins for bins, _ in parts]), np.stack(expected), rtol=1e-5)
    moments = [each for _, each in parts]
    assert sum(each.count for each in moments) == whole.size
    assert min(each.minimum for each in moments) == whole.min()
    assert max(each.maximum for each in moments) == whole.max()
    assert sum(each.total for each in moments) == pytest.approx(whole.sum(dtype=np.float64), rel=1e-5)
    assert sum(each.squares for each in moments) == pytest.approx((whole.astype(np.float64) ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "most", "expected"), [((7, 9), 0, (7, 9)), ((7, 9), 9, (7, 9)), ((7, 9), 4, (2, 3)), ((1, 9), 3, (1, 3))]
)
def test_no_larger_than_asked_for(shape: tuple[int, int], most: int, expected: tuple[int, int]) -> None:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert binned(image, most).shape == expected
    if most in (0, 9):
        np.testing.assert_array_equal(binned(image, most), image)


def test_ranks_can_say_them() -> None:
    bins, moments = bins_of(np.ones((3, 4, 4), np.float32), 2, 2)
    aside = Aside(bins, moments, (5, bins), ((7, np.ones((2, 3), np.float32)),))
    told: Aside = unpack(pack(aside))  # type: ignore[arg-type]
    assert told.preview is not None
    np.testing.assert_array_equal(told.preview.sums, bins.sums)
    assert told.moments == moments
    assert told.sinograms[0][0] == 7
