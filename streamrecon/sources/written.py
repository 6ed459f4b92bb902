"""Which rows of a dataset have been written, as someone looks at it again and again."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterable

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from streamrecon.sources.storage import Storage

_SCAN_BYTES = 64 << 20
_AHEAD = 64
"""Rows after one that is missing that are looked at to see whether the writer has gone on."""
_PART, _LONGEST = 0.25, 5.0
"""What was the fill value is looked at again after that part of the time for which it has been so; so many seconds at most."""
NEVER, PASSED = "was never written", "was passed over by its writer"


class Written:
    """What is known of the rows of one dataset. A row counts as written

    * in a complete file: if it is within the extent, and has its place in the file;
    * where no row shares a chunk with another one: if its chunks have a place in the file, which HDF5 gives them as they are
      written;
    * else: if it is not the fill value, in any chunk, and was the same in an earlier look.

    Parameters
    ----------
    values
        Whether rows are numbers.
    patience
        Seconds after which a row that was passed over by its writer is not waited for, for `rows` to go on; infinite: never. All
        that were passed over by then are given up together.
    settle
        See `GrowingStack`.
    now
        Seconds.
    """

    def __init__(self, values: bool, patience: float, settle: float | None, now: float) -> None:
        self._values, self._patience, self._settle = values, patience, settle
        self.rows = 0
        """From the first on, with those that are given up."""
        self.lost = set[int]()
        """Of them, those that the file has no data for."""
        self.beyond = set[int]()
        """Written rows that were asked for, after one that is missing."""
        self.asked = set[int]()
        """Rows to look for, wherever they are."""
        self.complete = False
        self.notes: list[str] = []
        self._earlier: dict[int, int] = {}
        """Digests of rows that were not certain when they were last looked at."""
        self._filled = dict[int, tuple[float, float]]()
        """Rows that were asked for, and were the fill value: since when, and when they are looked at again."""
        self._turn = -1
        """The last row that was looked at because it was asked for."""
        self._block, self._block_since, self._block_next = (0, 0), now, now
        """The first rows that are missing, since when they are the same, and when they are looked at again."""
        self._earlier_values: NDArray[np.generic] | None = None
        self._extent, self._settled = (0, now), 0
        """Of numbers, since when, and the one before."""
        self.furthest = 0
        """The last row that is known to be there."""
        self._passed = deque[tuple[float, int]]()
        """When it was seen how far the writer had gone, while a row before that was missing."""

    def look(self, dataset: h5py.Dataset, storage: Storage, now: float, where: str) -> str:
        """Look at a dataset that may be written; what is waited for."""
        extent = storage.rows(dataset)
        self.complete = False
        if self._values and not storage.own:
            self._count_values(dataset, storage, extent, now)
        elif storage.own:
            self._count_own(dataset, storage, extent)
        else:
            self._count_shared(dataset, storage, extent, now)
        self.asked.clear()
        self.beyond = {row for row in self.beyond if row >= self.rows}
        if self.rows >= extent:
            self._passed.clear()
            return ""
        self._give_up_passed(dataset, storage, extent, now, where)
        return f"{where}: row {self.rows} is announced, but not written yet" if self.rows < extent else ""

    def finish(self, dataset: h5py.Dataset, storage: Storage, where: str) -> None:
        """Its writer has closed the file: no more is to be expected."""
        extent = storage.rows(dataset)
        missing = {row for row in range(self.rows, extent) if not storage.allocated(dataset, row)}
        if not self.complete and self.rows + len(missing) < extent and not storage.own:
            self.notes.append(f"{where}: rows {self.rows} to {extent} were taken as they are when it was closed")
        # What was given up may have been written since.
        again = self.lost & self.asked if self.complete else set(self.lost)
        self.lost -= {row for row in again if storage.allocated(dataset, row)}
        self.lost |= missing
        self.rows, self.complete = extent, True
        self.asked.clear()
        self.beyond.clear()

    def _count_own(self, dataset: h5py.Dataset, storage: Storage, extent: int) -> None:
        while self.rows < extent and storage.allocated(dataset, self.rows):
            self.rows += 1
        self.beyond |= {row for row in self.asked if self.rows <= row < extent and storage.allocated(dataset, row)}
        self.lost -= {row for row in self.asked & self.lost if storage.allocated(dataset, row)}
        if self.rows < extent:
            first = max(self.rows, self.furthest) + 1
            ahead = (row for row in range(first, min(extent, first + _AHEAD)) if storage.allocated(dataset, row))
            self.furthest = max([self.furthest, *self.beyond, *ahead])

    def _count_shared(self, dataset: h5py.Dataset, storage: Storage, extent: int, now: float) -> None:
        """Rows that share chunks, or have a place from the start: those that hold something, twice the same."""
        most = max(1, _SCAN_BYTES // storage.row_bytes)
        end = min(extent, self.rows + most)
        found: dict[int, int] = {}
        looked = set[int]()
        if (self.rows, end) != self._block:
            self._block, self._block_since, self._block_next = (self.rows, end), now, now
        if self.rows < end and now >= self._block_next:
            self._found(found, storage, dataset, storage.read(dataset, self.rows, end), self.rows)
            looked.update(range(self.rows, end))
            if not found.keys() <= self.beyond:
                self._block_since = now
            self._block_next = _again(self._block_since, now)
        for row in self._in_turn(end, extent, now)[:most]:
            self._found(found, storage, dataset, storage.read(dataset, row, row + 1), row)
            looked.add(row)
            self._turn = row
            since = self._filled.pop(row, (now, now))[0]
            if row not in found:
                self._filled[row] = since, _again(since, now)
        sure = {row for row, digest in found.items() if digest == self._earlier.get(row)}
        self.lost -= sure
        self.beyond |= sure
        while self.rows in self.beyond:
            self.rows += 1
        left = {row: digest for row, digest in self._earlier.items() if row >= self.rows and row not in looked}
        self._earlier = left | found
        self.furthest = max([self.furthest, *found])

    def _in_turn(self, end: int, extent: int, now: float) -> list[int]:
        """Rows that are asked for and not among the first ones, from the one after the last that was looked at."""
        wanted = sorted(
            row
            for row in self.asked
            if (row in self.lost or (end <= row < extent and row not in self.beyond))
            and now >= self._filled.get(row, (now, now))[1]
        )
        after = bisect.bisect(wanted, self._turn)
        return wanted[after:] + wanted[:after]

    def _found(
        self,
        found: dict[int, int],
        storage: Storage,
        dataset: h5py.Dataset,
        block: Iterable[NDArray[np.generic]],
        at: int,
    ) -> None:
        for row, content in enumerate(block, at):
            if not storage.filled(content) and storage.allocated(dataset, row):
                found[row] = digest(content)

    def _count_values(self, dataset: h5py.Dataset, storage: Storage, extent: int, now: float) -> None:
        """Numbers are written in order, and one may well be the fill value: what comes before another is written."""
        end = min(extent, self.rows + (1 << 20))
        values = storage.read(dataset, self.rows, end).reshape(-1) if self.rows < end else np.empty(0, storage.dtype)
        written = np.flatnonzero(~storage.empty(values))
        length = int(written[-1]) + 1 if written.size else 0
        if self._settle is not None and dataset.maxshape[0] is None:
            if now - self._extent[1] >= self._settle:
                self._settled, self._extent = self._extent[0], (extent, now)
            length = max(length, min(self._settled - self.rows, len(values)))
        values = values[:length].copy()
        earlier, self._earlier_values = self._earlier_values, values
        if earlier is None:
            return
        length = min(len(earlier), len(values))
        if earlier[:length].tobytes() == values[:length].tobytes():
            self.rows, self._earlier_values = self.rows + length, values[length:]

    def _give_up_passed(self, dataset: h5py.Dataset, storage: Storage, extent: int, now: float, where: str) -> None:
        """Go on after rows that the writer has passed over, when that is long ago."""
        if (
            math.isfinite(self._patience)
            and self.furthest > self.rows
            and (not self._passed or self._passed[-1][1] < self.furthest)
        ):
            self._passed.append((now, self.furthest))
        passed = self.rows
        while self._passed and now - self._passed[0][0] >= self._patience:
            passed = max(passed, self._passed.popleft()[1])
        while self.rows < min(passed, extent):
            there = storage.allocated(dataset, self.rows) if storage.own else self.rows in self.beyond
            if not there:
                if not storage.allocated(dataset, self.rows):
                    self.lost.add(self.rows)
                self.notes.append(f"{where}: row {self.rows} was passed over by its writer; it is taken as it is")
            self.rows += 1


def _again(since: float, now: float) -> float:
    """When to look again at what has been the fill value for so long."""
    return now + min(_LONGEST, _PART * (now - since))


def digest(row: NDArray[np.generic]) -> int:
    """By which a row is known again."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(row).data)
