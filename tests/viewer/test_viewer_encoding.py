"""Pictures as bytes: what a page reads is what there was, to half a step; and each is encoded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from viewer_client import unpack

from streamrecon.viewer.encoding import Encodings, binned, encode
from streamrecon.viewer.source import Shown
from streamrecon.wire.messages import Picture


def shown(pixels: Any, kind: Any = "slice", version: int = 1) -> Shown:
    pixels = np.asarray(pixels, np.float32)
    return Shown(
        ("s", 0, version), Picture(kind=kind, axis="z", index=3, shape=pixels.shape, full=pixels.shape), pixels
    )


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(-(2.0**99), 2.0**99, width=32) | st.just(float("nan")) | st.just(float("inf")),
    )
)
def test_values_come_back_within_half_a_step(pixels: NDArray[np.float32]) -> None:
    got = unpack(encode(shown(pixels)))
    there = np.isfinite(pixels)
    assert (np.isnan(got.values) == ~there).all()
    if there.any():
        lo, hi = float(pixels[there].min()), float(pixels[there].max())
        assert (got.header["lo"], got.header["hi"]) == (lo, hi)
        half = (hi - lo) / 65534 / 2 * (1 + 1e-9) + 1e-12 * max(abs(lo), abs(hi))
        assert (np.abs(got.values - pixels)[there] <= half).all()


def test_a_hot_voxel_leaves_the_others_their_steps() -> None:
    pixels = np.random.default_rng(1).normal(1.0, 0.1, (300, 300)).astype(np.float32)
    pixels[5, 7], pixels[6, 8] = 1e6, -1e5
    got = unpack(encode(shown(pixels)))
    assert got.header["below"]
    assert got.header["above"]
    assert got.header["hi"] < 20
    assert got.header["lo"] > -20
    assert got.values[5, 7] == pytest.approx(got.header["hi"])
    assert got.values[6, 8] == pytest.approx(got.header["lo"])
    pixels[5, 7] = pixels[6, 8] = got.values[5, 7] = got.values[6, 8] = 1.0
    assert np.abs(got.values - pixels).max() < 0.001
    # One end only.
    pixels[5, 7] = 1e6
    header = unpack(encode(shown(pixels))).header
    assert (header["below"], header["above"]) == (False, True)
    assert header["lo"] == pixels.min()
    # More of them, or not so far away, are something to be seen.
    for count, value in ((12, 1e6), (1, 100.0)):
        pixels[5, 7 : 7 + count] = value
        assert unpack(encode(shown(pixels))).header["hi"] == value
        pixels[5, 7 : 7 + count] = 1.0
    # One value in a picture of another is what there is to see.
    single = np.zeros((300, 300), np.float32)
    single[3, 4] = 1e6
    assert unpack(encode(shown(single))).values.max() == 1e6


def test_what_the_header_says() -> None:
    header = unpack(encode(shown(np.arange(6).reshape(2, 3)))).header
    assert header == {
        "kind": "slice", "axis": "z", "index": 3, "uid": "s", "reconstruction": 0, "version": 1, "shape": [2, 3], "full": [2, 3],
        "dtype": "<u2", "lo": 0.0, "hi": 5.0, "below": False, "above": False,
    }  # fmt: skip
    assert unpack(encode(shown(np.zeros((2, 3))), serial=7)).header["serial"] == 7


@pytest.mark.parametrize("length", range(20))
def test_the_pixels_begin_at_a_multiple_of_8(length: int) -> None:
    picture = Picture(kind="slice", axis="z", shape=(1, 1), full=(1, 1))
    assert unpack(encode(Shown(("u" * length, 0, 1), picture, np.ones((1, 1), np.float32)))).values == [[1.0]]


def test_a_constant_picture_and_one_without_values() -> None:
    assert (unpack(encode(shown(np.full((3, 4), 2.5)))).values == 2.5).all()
    got = unpack(encode(shown(np.full((3, 4), np.nan))))
    assert np.isnan(got.values).all()
    assert (got.header["lo"], got.header["hi"]) == (0.0, 0.0)


def test_values_as_they_are() -> None:
    pixels = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    pixels[2, 3] = np.nan
    got = unpack(encode(shown(pixels), floats=True))
    assert got.header["dtype"] == "<f4"
    np.testing.assert_array_equal(got.raw, pixels)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_binned_by_whole_numbers_to_no_more_than_the_size(height: int, width: int, size: int) -> None:
    pixels = np.arange(height * width, dtype=np.float32).reshape(height, width)
    got = binned(pixels, size)
    assert max(got.shape) <= size
    factor = -(-max(height, width) // size)
    tall, wide = min(factor, height), min(factor, width)
    assert got.shape == (height // tall, width // wide)
    expected = [[pixels[y * tall : (y + 1) * tall, x * wide : (x + 1) * wide].mean() for x in range(got.shape[1])]
                for y in range(got.shape[0])]  # fmt: skip
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_how_kinds_are_binned() -> None:
    """A sinogram along each side as it needs; of a strip of centers, each; a preview along all three."""
    assert unpack(encode(shown(np.zeros((300, 50)), "sinogram"), 100)).raw.shape == (100, 50)
    assert unpack(encode(shown(np.zeros((300, 50)), "projection"), 100)).raw.shape == (100, 16)
    assert unpack(encode(shown(np.zeros((7, 20, 40)), "centers"), 10)).raw.shape == (7, 5, 10)
    assert unpack(encode(shown(np.zeros((8, 20, 40)), "preview"), 10)).raw.shape == (2, 5, 10)


def test_a_mean_with_no_value_in_it_is_none() -> None:
    pixels = np.ones((4, 4))
    pixels[0, 1] = np.nan
    pixels[0, 2], pixels[1, 3] = np.inf, -np.inf
    got = unpack(encode(shown(pixels), 2)).values
    assert np.isnan(got[0]).all()
    assert (got[1] == 1).all()


def test_one_encoding_of_a_version_and_size_for_all() -> None:
    encodings = Encodings()
    first = encodings.get(shown(np.zeros((4, 4))), 4)
    assert encodings.get(shown(np.zeros((4, 4))), 4) is first
    assert encodings.made == 1
    encodings.get(shown(np.zeros((4, 4)), version=2), 4)
    encodings.get(shown(np.zeros((4, 4))), 2)
    encodings.get(shown(np.zeros((4, 4))), 3)  # the same
    encodings.get(shown(np.zeros((4, 4))), 100)
    encodings.get(shown(np.zeros((4, 4)), "projection"), 4)
    assert encodings.made == 4
    encodings.clear()
    assert encodings.get(shown(np.ones((4, 4))), 4) != first


def test_what_was_not_asked_for_longest_is_forgotten() -> None:
    size = len(encode(shown(np.zeros((8, 8)))))
    encodings = Encodings(3 * size + 8)
    for version in (1, 2, 3, 1, 4):  # 2 goes
        encodings.get(shown(np.zeros((8, 8)), version=version), 8)
    assert encodings.made == 4
    encodings.get(shown(np.zeros((8, 8)), version=1), 8)
    assert encodings.made == 4
    encodings.get(shown(np.zeros((8, 8)), version=2), 8)
    assert encodings.made == 5
