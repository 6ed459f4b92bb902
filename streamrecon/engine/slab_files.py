"""Slices of a version from the files of its slabs: by their bytes, so that only the writer thread uses HDF5."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.wire.messages import Axis, Range

PIECE = 16 << 20
"""Bytes of a file that are in memory at once, for a slice of which some is taken of each."""

BAND, BAND_BYTES = 16, 32 << 20
"""Slices across x that are cut together, as whoever scrolls wants the next ones soon; and what they take at most."""

SMALL = 32 << 20
"""Bytes of a volume that is read once, and kept for all slices: a y slice of a preview is many short reads."""

AXES: dict[Axis, int] = {"z": 0, "y": 1, "x": 2}


class SlabFiles:
    """One version on the disk; any thread.

    The files are read and not mapped: a disk that fails is then an error, and not the end of the process.

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
        self._band: tuple[int, NDArray[np.float32]] | None = None
        """The slices across x that were cut last (x, slice, y), and where the first one is."""
        self._volume: NDArray[np.float32] | None = None
        """All of a small one, once a slice was asked for."""

    def slice(self, axis: Axis, index: int) -> NDArray[np.float32]:
        """A slice at right angles to an axis, at this voxel of it.

        Raises
        ------
        OSError
            If the version is gone, or the disk fails.
        """
        count, height, width = self.shape
        if 4 * count * height * width <= SMALL:
            if self._volume is None:
                self._volume = self.rows((0, count), (0, height))
            return self._volume.take(index, AXES[axis])
        if axis == "z":
            image: NDArray[np.float32] = self.rows((index, index + 1), (0, height))[0]
            return image
        if axis == "y":
            return self.rows((0, count), (index, index + 1))[:, 0]
        begin, band = self._band or (0, np.empty((0, count, height), np.float32))
        if not begin <= index < begin + len(band):
            wide = min(BAND, max(1, BAND_BYTES // (4 * count * height)), width)
            begin = min(max(0, index - wide // 2), width - wide)
            band = np.empty((wide, count, height), np.float32)
            step = max(1, PIECE // (4 * height * width))
            for first in range(0, count, step):
                end = min(first + step, count)
                some = self.rows((first, end), (0, height))[:, :, begin : begin + wide]
                band[:, first:end] = some.transpose(2, 0, 1)
            self._band = begin, band
        found: NDArray[np.float32] = band[index - begin]
        return found

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
        whole = rows == (0, height)
        first = 0
        for path, offset, shape in self._files:
            here = range(max(slices[0], first), min(slices[1], first + shape[0]))
            if here:
                with path.open("rb") as file:
                    # Whole slices lie one after the other.
                    pieces = [(here[0], here[-1] + 1)] if whole else [(index, index + 1) for index in here]
                    for begin, end in pieces:
                        place = offset + 4 * ((begin - first) * height + rows[0]) * width
                        _read(file.fileno(), found[begin - slices[0] : end - slices[0]], place, path)
            first += shape[0]
        return found


def _read(file: int, pixels: NDArray[np.float32], place: int, path: Path) -> None:
    """Fill an array from this byte of a file."""
    left = memoryview(pixels).cast("B")  # type: ignore[arg-type]
    while left:
        done = os.preadv(file, [left], place)
        if not done:
            raise OSError(errno.EIO, "the slab is shorter than it was", str(path))
        left, place = left[done:], place + done
