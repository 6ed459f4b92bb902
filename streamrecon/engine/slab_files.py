"""Slices of a version from the files of its slabs: by their bytes, so that only the writer thread uses HDF5."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.loan import Loan
from streamrecon.scan import Axis
from streamrecon.wire.messages import Range

PIECE = 16 << 20
"""Bytes of a file that are in memory at once, for a slice of which some is taken of each."""

BAND, BANDS_BYTES = 16, 128 << 20
"""Slices across x that are had together, as whoever scrolls wants the next ones soon; and what all of a version take at most."""

SMALL = 32 << 20
"""Bytes of a volume that is read once, and kept for all slices: a y slice of a preview is many short reads."""

SOON = 5.0
"""Seconds for which a newer version is waited for, rather than that all of the last one is read for a slice across x."""

AXES: dict[Axis, int] = {"z": 0, "y": 1, "x": 2}

Band = tuple[int, NDArray[np.float32]]
"""Some neighbouring slices across x: where the first one is, and (slice, y, x)."""


def bands_about(places: Sequence[int], shape: tuple[int, int, int]) -> tuple[Range, ...]:
    """Slices across x that are had together: those that are looked at, each with some on both sides of it.

    Parameters
    ----------
    places
        Along x; where not all have room, the first ones.
    shape
        (slice, y, x) of the volume.

    Returns
    -------
    bands
        First and one past the last of each, in order, apart.
    """
    count, height, width = shape
    room = max(2, BANDS_BYTES // (4 * count * height))
    places = tuple(dict.fromkeys(places))[:room]
    wide = min(BAND, width, room // max(1, len(places)))
    bands: list[Range] = []
    for begin in sorted(min(max(0, place - wide // 2), width - wide) for place in places):
        first = bands.pop()[0] if bands and begin <= bands[-1][1] else begin
        bands.append((first, begin + wide))
    return tuple(bands)


class SlabFiles:
    """One version on the disk; any thread.

    The files are read and not mapped: a disk that fails is then an error, and not the end of the process.

    Parameters
    ----------
    files
        Path of each slab, where its pixels begin in bytes, and its shape (slice, y, x); in the order of their rows.
    bands
        What is known of each slab without reading it; empty: nothing.
    """

    def __init__(
        self, files: Sequence[tuple[Path, int, tuple[int, int, int]]], bands: Sequence[Sequence[Band]] = ()
    ) -> None:
        self._files = list(files)
        first = self._files[0][2]
        self.shape = sum(shape[0] for _, _, shape in self._files), first[1], first[2]
        """(slice, y, x)."""
        self._bands = bands
        """Of each slab, or of all as if they were one."""
        self._wanted: tuple[int, ...] = ()
        """Slices across x that were asked for last, or may be next."""
        self._loan: Loan | None = None
        self._volume: NDArray[np.float32] | None = None
        """All of a small one, once it is known or a slice was asked for."""

    def slice(self, axis: Axis, index: int) -> NDArray[np.float32]:
        """A slice at right angles to an axis, at this voxel of it.

        Raises
        ------
        OSError
            If the version is gone, or the disk fails.
        """
        count, height, _ = self.shape
        place = (slice(None),) * AXES[axis] + (index,)
        if self._loan is not None and (lent := self._loan.read(place)) is not None:
            return lent
        if self._volume is None:
            if axis == "x" and (known := self._known(index)):
                return np.concatenate(known)
            if not self._large:
                self._volume = self.rows((0, count), (0, height))
        if self._volume is not None:
            return self._volume[place]
        if axis == "z":
            image: NDArray[np.float32] = self.rows((index, index + 1), (0, height))[0]
            return image
        if axis == "y":
            return self.rows((0, count), (index, index + 1))[:, 0]
        self._read_across((index, *self._wanted))
        return np.concatenate(self._known(index))

    @property
    def held(self) -> bool:
        """Whether nothing need be read any more."""
        return self._volume is not None

    def hold(self, volume: NDArray[np.float32]) -> None:
        """Nothing need be read any more: this is all of it."""
        self._volume = volume

    @property
    def _large(self) -> bool:
        """Whether it is not read, and kept, as a whole."""
        return self._volume is None and math.prod(self.shape) * 4 > SMALL

    def borrow(self, loan: Loan) -> None:
        """As long as it runs, nothing need be read: it is all of the version."""
        self._loan = loan

    def costs_much(self, place: int) -> bool:
        """Whether all of the version would be read for a slice across x, and a newer one is on its way."""
        superseded = self._loan is not None and self._loan.superseded(SOON)
        return superseded and self._large and not self._known(place)

    def across(self, places: Sequence[int], more: Sequence[int] = ()) -> None:
        """Have slices across x soon: those that are not known are read together, and with them those beside them.

        Parameters
        ----------
        places
            Along x.
        more
            Others that may be asked for next.

        Raises
        ------
        OSError
            If the version is gone, or the disk fails.
        """
        self._wanted = *places, *more
        if self._loan is not None and (self._loan.runs or self._loan.superseded(SOON)):
            return
        if self._large and not all(map(self._known, places)):
            self._read_across(self._wanted)

    def _known(self, place: int) -> list[NDArray[np.float32]]:
        """The parts of a slice across x that need not be read; none where one is lacking."""
        found = [
            pixels[:, :, place - first]
            for bands in self._bands
            for first, pixels in bands
            if first <= place < first + pixels.shape[2]
        ]
        return found if sum(map(len, found)) == self.shape[0] else []

    def _read_across(self, places: Sequence[int]) -> None:
        count, height, width = self.shape
        ranges = bands_about(places, self.shape)
        bands = [(first, np.empty((count, height, end - first), np.float32)) for first, end in ranges]
        step = max(1, PIECE // (4 * height * width))
        for begin in range(0, count, step):
            some = self.rows((begin, min(begin + step, count)), (0, height))
            for first, pixels in bands:
                pixels[begin : begin + step] = some[:, :, first : first + pixels.shape[2]]
        self._bands = [bands]

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
