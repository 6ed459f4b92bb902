"""Slices of a version from its slabs' files: the same however much of them is read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
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


def test_who_scrolls_across_x_reads_once_for_many(
    files: SlabFiles, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_files, "SMALL", 0)
    for index in range(8, 24):
        files.slice("x", index)
    assert len(asked) == 2
    files.slice("y", 1)
    assert asked[-1] == ((0, 5), (1, 2)), "no more than that slice"
