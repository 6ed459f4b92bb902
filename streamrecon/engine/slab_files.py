"""Slices of a version from the files of its slabs: by their bytes, so that only the writer thread uses HDF5."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.wire.messages import Axis, Range

PIECE = 64 << 20
"""Bytes of a file that are in memory at once."""

AXES: dict[Axis, int] = {"z": 0, "y": 1, "x": 2}


class SlabFiles:
    """One version on the disk; any thread.

    Parameters
    ----------
    files
        Path of each slab, where its pixels begin in bytes, and its shape (slice, y, x); in the order of their rows.
    """

    def __init__(self, files: Sequence[tuple[Path, int, tuple[int, int, int]]]) -> None:
        self._files = list(files)
        first = self._files[0][2]
        self.shape = sum(shape[0] for _, _, shape in self._files), first[1], first[2]
        """(slice, y, x)."""

    def slice(self, axis: Axis, index: int) -> NDArray[np.float32]:
        """A slice at right angles to an axis, at this voxel of it.

        Raises
        ------
        OSError
            If the version is gone, or the disk fails.
        """
        if AXES[axis]:
            return np.concatenate([_cut(path, offset, shape, AXES[axis], index) for path, offset, shape in self._files])
        for path, offset, shape in self._files:
            if index < shape[0]:
                image: NDArray[np.float32] = _cut(path, offset, shape, 0, index)[0]
                return image
            index -= shape[0]
        raise IndexError(index)

    def rows(self, slices: Range, rows: Range) -> NDArray[np.float32]:
        """Some rows of some slices, (slice, y, x); no more than them is read.

        Parameters
        ----------
        slices, rows
            Along z and y, first and one past the last.

        Raises
        ------
        OSError
            If the version is gone, or the disk fails.
        """
        _, height, width = self.shape
        found = np.empty((slices[1] - slices[0], rows[1] - rows[0], width), np.float32)
        first = 0
        for path, offset, shape in self._files:
            here = range(max(slices[0], first), min(slices[1], first + shape[0]))
            if here:
                with path.open("rb") as file:
                    for index in here:
                        image = found[index - slices[0]]
                        file.seek(offset + image.itemsize * ((index - first) * height + rows[0]) * width)
                        if file.readinto(memoryview(image)) < image.nbytes:
                            raise OSError(errno.EIO, "the slab is shorter than it was", str(path))
            first += shape[0]
        return found


def _cut(path: Path, offset: int, shape: tuple[int, int, int], axis: int, index: int) -> NDArray[np.float32]:
    """A slab's part of a slice; (slice, pixel) or, across the slices, (1, y, x)."""
    count = shape[0] * shape[1] * shape[2]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        if len(data) < offset + 4 * count:
            raise OSError(errno.EIO, "the slab is shorter than it was", str(path))
        volume = np.frombuffer(data, np.float32, count, offset).reshape(shape)
        try:
            if axis == 0:
                return volume[index : index + 1].copy()
            cut = np.empty((shape[0], shape[3 - axis]), np.float32)
            step = max(1, PIECE // max(1, volume[0].nbytes))
            for first in range(0, shape[0], step):
                some = slice(first, first + step)
                cut[some] = volume[some, index] if axis == 1 else volume[some, :, index]
                data.madvise(mmap.MADV_DONTNEED)  # a large volume is not to fill the memory for a slice of it
            return cut
        finally:
            del volume  # else the map cannot be closed
