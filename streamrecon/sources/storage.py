"""How a dataset stores its rows, whether they fit the limits, and which of them have been written."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import SourceError

_TILES = 1 << 16
"""Most chunks that a row may be cut into."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that a file may not exceed, as memory for them is allocated when it is read."""

    frame_bytes: int = 1 << 30
    """Of a row: a frame, or all frames of an event."""
    chunk_bytes: int = 1 << 30
    rows: int = 1 << 22


@dataclass(frozen=True, slots=True)
class Storage:
    """How the rows of a dataset lie in its file. A row is one index of the first axis, or all of a single frame."""

    shape: tuple[int, ...]
    """Of a row."""
    dtype: np.dtype[Any]
    """As stored."""
    single: bool
    """Whether the dataset is one frame, without an axis for frames."""
    chunks: tuple[int, ...] | None
    """(rows, ...) of a chunk."""
    sparse: bool
    """Whether a chunk has a place in the file only once it has been written."""
    fill: Any
    """What is read where nothing has been written."""

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def own(self) -> bool:
        """Whether a row that has its place has been written whole: no row shares a chunk with another one."""
        return self.sparse and self.chunks is not None and self.chunks[0] == 1

    def rows(self, dataset: h5py.Dataset) -> int:
        """Rows of the dataset by its extent, written or not."""
        return 1 if self.single else int(dataset.shape[0])

    def allocated(self, dataset: h5py.Dataset, row: int) -> bool:
        """Whether all chunks that hold a row have their place in the file; True where that tells nothing."""
        if not self.sparse or self.chunks is None:
            return True
        tiles = [range(0, size, step) for size, step in zip(self.shape, self.chunks[1:], strict=True)]
        first = () if self.single else (row // self.chunks[0] * self.chunks[0],)
        return all(
            dataset.id.get_chunk_info_by_coord((*first, *tile)).byte_offset is not None
            for tile in itertools.product(*tiles)
        )

    def read(self, dataset: h5py.Dataset, first: int, end: int) -> NDArray[Any]:
        """(row, ...) rows as stored."""
        return np.asarray(dataset[()][None] if self.single else dataset[first:end])

    def filled(self, row: NDArray[Any]) -> bool:
        """Whether a row, or a part of it that is written by itself, looks as if nothing had been written."""
        empty = self.empty(row)
        if not empty.ndim:
            return bool(empty)
        # A row over several chunks may have some of them only.
        steps = self.chunks[1:] if self.chunks is not None else self.shape
        for axis, step in enumerate(steps):
            empty = np.logical_and.reduceat(empty, np.arange(0, empty.shape[axis], step), axis=axis)
        return bool(np.any(empty))

    def empty(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where values are the fill value."""
        same = np.isnan(values) if self.fill != self.fill else values == self.fill
        return np.asarray(same)


def storage_of(dataset: h5py.Dataset, where: str, limits: Limits, values: bool) -> Storage:
    """How a dataset is stored. Nothing of its data is read.

    Parameters
    ----------
    dataset
        Whose links have been checked.
    where
        Its file and path, for errors.
    limits
        That it must keep.
    values
        Whether it should be numbers, one a row, instead of frames.

    Raises
    ------
    SourceError
        If it is no dataset of frames, or of numbers, or exceeds the limits.
    """
    if not isinstance(dataset, h5py.Dataset):
        raise SourceError(f"{where} is a group; expected a dataset")
    dtype = dataset.dtype
    if dtype.kind not in "uif" or dtype.itemsize not in ((4, 8) if dtype.kind == "f" else (1, 2, 4, 8)):
        raise SourceError(f"{where} has dtype {dtype}; expected integers of 8 to 64 bits, float32 or float64")
    shape = dataset.shape
    if (
        shape is None
        or len(shape) not in ((1, 2) if values else (2, 3, 4))
        or (values and len(shape) == 2 != shape[1] + 1)
    ):
        expected = "numbers as (row,)" if values else "frames as (frame, row, column) or (event, frame, row, column)"
        raise SourceError(f"{where} has shape {shape}; expected {expected}")
    single = not values and len(shape) == 2
    row = shape if single else shape[1:]
    if 0 in row:
        raise SourceError(f"{where} has shape {shape}: its frames have no pixels")
    needed = math.prod(row) * dtype.itemsize
    if needed > limits.frame_bytes:
        raise SourceError(
            f"{where} has shape {shape}, {needed} bytes a row; expected at most {limits.frame_bytes}: raise "
            "engine.max_frame_bytes if that is what the detector writes"
        )
    if not single and shape[0] > limits.rows:
        raise SourceError(f"{where} has shape {shape}; expected at most {limits.rows} rows")
    chunks, sparse = dataset.chunks, False
    if chunks is not None:
        needed = math.prod(chunks) * dtype.itemsize
        if needed > limits.chunk_bytes:
            raise SourceError(f"{where} has chunks of {chunks}, {needed} bytes; expected at most {limits.chunk_bytes}")
        tiles = math.prod(-(-size // step) for size, step in zip(row, chunks if single else chunks[1:], strict=True))
        if tiles > _TILES:
            raise SourceError(f"{where} has its frames in {tiles} chunks each; expected at most {_TILES}")
        sparse = dataset.id.get_create_plist().get_alloc_time() == h5py.h5d.ALLOC_TIME_INCR
    if single and chunks is not None:
        chunks = (1, *chunks)
    return Storage(tuple(map(int, row)), dtype, single, chunks, sparse, dataset.fillvalue)
