"""The journal: every frame of the slab as it came, appended to a file.

It is the store of retained projections: a better center, late darks, weights of lost frames and the median of many flats
are taken from it, so that nothing of the scan need stay in memory. It is not yet read after a crash.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import OutputError
from streamrecon.scan import FrameKind


@dataclass(frozen=True, slots=True)
class Record:
    """One frame in the journal."""

    kind: FrameKind
    index: int
    """Among the frames of its kind, in the order of acquisition."""
    theta: float
    """Radians; 0 for flats and darks."""
    number: int
    """Position in the journal."""
    arrived: float
    """Seconds, monotonic."""


class Journal:
    """An append-only file of frames of one shape and dtype; used by one thread.

    Parameters
    ----------
    path
        Of the file; one that is there is replaced.
    shape
        (row, column) of a frame.
    dtype
        Of its pixels.

    Raises
    ------
    OutputError
        If the file cannot be made.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.projections: list[Record] = []
        self.flats: list[Record] = []
        self.darks: list[Record] = []
        self._count = 0
        self._nbytes = shape[0] * shape[1] * dtype.itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise OutputError(f"cannot make the journal {path}: {error.strerror}") from error

    def append(self, kind: FrameKind, index: int, theta: float | None, frame: NDArray[Any], arrived: float) -> Record:
        """Write a frame.

        Raises
        ------
        OutputError
            If the disk is full or fails.
        """
        record = Record(kind, index, theta or 0.0, self._count, arrived)
        data, offset = frame.data.cast("B"), self._count * self._nbytes
        try:
            while data:
                written = os.pwrite(self._file, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise OutputError(
                f"cannot write frame {self._count} to the journal {self.path}: {error.strerror}; "
                "the disk of --out must hold the raw scan"
            ) from error
        self._count += 1
        {FrameKind.PROJECTION: self.projections, FrameKind.FLAT: self.flats, FrameKind.DARK: self.darks}[kind].append(
            record
        )
        return record

    def read(self, records: Sequence[Record], rows: slice = slice(None)) -> NDArray[Any]:
        """Frames, (frame, row, column), or some rows of them.

        Raises
        ------
        OutputError
            If the file has become shorter or the disk fails.
        """
        first, end, _ = rows.indices(self.shape[0])
        out = np.empty((len(records), end - first, self.shape[1]), self.dtype)
        row_bytes = self.shape[1] * self.dtype.itemsize
        for frame, record in zip(out, records, strict=True):
            view, offset = frame.data.cast("B"), record.number * self._nbytes + first * row_bytes
            while view:
                try:
                    got = os.preadv(self._file, [view], offset)
                except OSError as error:
                    raise OutputError(f"cannot read the journal {self.path}: {error.strerror}") from error
                if not got:
                    raise OutputError(f"the journal {self.path} ends within frame {record.number}; was it changed?")
                view, offset = view[got:], offset + got
        return out

    def close(self, keep: bool = False) -> None:
        """Close the file, and delete it unless it is to be kept."""
        os.close(self._file)
        if not keep:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # someone else's files may be in it
                self.path.parent.rmdir()
