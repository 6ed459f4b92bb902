"""Slices of a version from its slabs' files: the same however much of them is read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamrecon.engine import slab_files
from streamrecon.engine.slab_files import AXES, SlabFiles

SHAPE = 5, 4, 40


@pytest.fixture
def volume() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path, volume: NDArray[np.float32]) -> SlabFiles:
    """Two slabs, with something before the pixels."""
    parts = []
    for first, end in (0, 2), (2, 5):
        path = tmp_path / f"slab{first}"
        path.write_bytes(bytes(24) + volume[first:end].tobytes())
        parts.append((path, 24, (end - first, *SHAPE[1:])))
    return SlabFiles(parts)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was read."""
    found: list[Any] = []
    rows = SlabFiles.rows
    monkeypatch.setattr(SlabFiles, "rows", lambda self, *what: found.append(what) or rows(self, *what))
    return found


@pytest.mark.parametrize("small", [0, slab_files.SMALL])
def test_each_slice_is_that_of_the_volume(
    files: SlabFiles, volume: NDArray[np.float32], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_files, "SMALL", small)
    monkeypatch.setattr(slab_files, "PIECE", 2 * 4 * SHAPE[1] * SHAPE[2])
    for axis, number in AXES.items():
        for index in range(SHAPE[number]):
            np.testing.assert_array_equal(files.slice(axis, index), volume.take(index, number))


def test_a_preview_is_read_once(files: SlabFiles, asked: list[Any]) -> None:
    for axis, number in AXES.items():
        for index in range(SHAPE[number]):
            files.slice(axis, index)
    assert len(asked) == 1


def test_what_is_held_is_not_read(
    files: SlabFiles, asked: list[Any], volume: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_files, "SMALL", 0)
    files.hold(volume)
    files.across([3], [20])
    for axis, number in AXES.items():
        for index in range(SHAPE[number]):
            np.testing.assert_array_equal(files.slice(axis, index), volume.take(index, number))
    assert not asked


def test_who_scrolls_across_x_reads_once_for_many(
    files: SlabFiles, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_files, "SMALL", 0)
    for index in [*range(8, 16), *range(16, 24)]:
        files.slice("x", index)
    assert len(asked) == 2
    files.slice("y", 1)
    assert asked[-1] == ((0, 5), (1, 2)), "no more than that slice"


def test_those_that_others_look_at_are_read_with_it(
    files: SlabFiles, volume: NDArray[np.float32], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_files, "SMALL", 0)
    files.across([3], [30])
    assert len(asked) == 1
    files.across([5, 33], [20])
    for index in 3, 5, 30, 33:
        np.testing.assert_array_equal(files.slice("x", index), volume[:, :, index])
    assert len(asked) == 1


def test_what_is_known_of_all_slabs_is_not_read(
    files: SlabFiles, volume: NDArray[np.float32], asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slabs may know other places: what only one knows is read."""
    monkeypatch.setattr(slab_files, "SMALL", 0)
    files._bands = [
        [(4, volume[:2, :, 4:8].copy()), (20, volume[:2, :, 20:22].copy())],
        [(5, volume[2:, :, 5:9].copy()), (30, volume[2:, :, 30:32].copy())],
    ]
    for index in 5, 6, 7:
        np.testing.assert_array_equal(files.slice("x", index), volume[:, :, index])
    assert asked == []
    for index in 4, 8, 20, 31:
        before = list(files._bands)
        np.testing.assert_array_equal(files.slice("x", index), volume[:, :, index])
        files._bands = before
    assert len(asked) == 4


@given(
    st.lists(st.integers(0, 99), max_size=40),
    st.tuples(st.integers(1, 50), st.just(100), st.just(100)),
    st.integers(0, 1 << 21),
)
def test_bands_hold_those_that_have_room(places: list[int], shape: tuple[int, int, int], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slab_files, "BANDS_BYTES", room)
        bands = slab_files.bands_about(places, shape)
    most = max(2, room // (4 * shape[0] * shape[1]))
    held = [x for first, end in bands for x in range(first, end)]
    assert held == sorted(set(held))
    assert set(held) <= set(range(shape[2]))
    assert len(held) <= most
    assert set(list(dict.fromkeys(places))[:most]) <= set(held)
