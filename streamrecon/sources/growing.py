"""The frames of a dataset that someone may still be writing: what can be read for certain, and why no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from streamrecon.errors import SourceBusyError, SourceError
from streamrecon.sources.recording import units
from streamrecon.sources.roots import DEPTH, Roots
from streamrecon.sources.storage import Limits, Storage, storage_of
from streamrecon.sources.visit import NotYetError, Visit, Visitor, Writer

LINGER = 5.0
"""Seconds that a file must stay closed before it counts as complete: some writers close it and open it once more."""
INTERVAL = 0.1
"""Seconds between looks into a file."""
_SCAN_BYTES = 64 << 20
_AHEAD = 64
"""Rows after a missing one that are looked at to see whether the writer has gone on."""


class _Arrival(NamedTuple):
    """The dataset, open, during a visit."""

    dataset: h5py.Dataset
    storage: Storage
    visit: Visit
    others: frozenset[Path]
    """Other files that it takes data from."""
    where: str


class GrowingStack:
    """The frames, or numbers, of one dataset of a file that someone may still be writing. For one thread.

    The file is open only during a call, never with a lock, and never blocks its writer. A file without SWMR is read when
    its writer has closed it. A row counts as written

    * in a complete file: if it is within the extent;
    * where no row shares a chunk with another one: if its chunks have a place in the file, which HDF5 gives them as they are
      written;
    * else: if it is not the fill value, in any chunk, and was the same in an earlier look.

    Parameters
    ----------
    path
        Of the file, which `roots` has located.
    dataset
        Path in it. External links on the way are followed, to files beneath the roots.
    roots
        Where the data may lie.
    values
        Whether the dataset is numbers, one a row, such as angles, instead of frames.
    limits
        Of what is allocated.
    clock
        Seconds, monotonic.
    patience
        Seconds without a change after which the writer counts as overdue, and after which a row is given up that was passed
        over by its writer.
    linger
        Seconds that a file must stay closed to count as complete.
    settle
        Seconds after which numbers that are the fill value count as written, if the dataset grows as it is written: for
        numbers such as keys that are mostly that; None: when another one follows.
    """

    def __init__(
        self,
        path: Path,
        dataset: str,
        roots: Roots,
        *,
        values: bool = False,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience: float = 60.0,
        linger: float = LINGER,
        settle: float | None = None,
    ) -> None:
        self.path, self.name = path, dataset
        self.why: str | None = f"{path} has not been looked at"
        """Why no more can be read now, in one line."""
        self.notes: list[str] = []
        """What was assumed, for people."""
        self.complete = False
        """Whether the writer has closed the file for good, as far as can be known: it stayed closed for `linger`."""
        self.replaced = 0
        """How often the file was replaced after frames had been read, or their shape was known: they are not of one scan."""
        self.holes: list[tuple[int, int]] = []
        """Ranges of frames, within what can be read, that the file has no data for: they read as the fill value."""
        self.units: str | None = None
        """The dataset's attribute."""
        self.linger, self._settle = linger, settle
        self._roots, self._values, self._limits = roots, values, limits or Limits()
        self._clock, self._patience = clock, patience
        self._visitor = Visitor(clock)
        self._next = self._better = clock()
        self._changes = 0
        self._storage: Storage | None = None
        self._samples: dict[int, int] = {}
        """Digests of the first and the last row that were read, to know the file by."""
        self._forget()
        self._readable = 0

    @property
    def shape(self) -> tuple[int, int] | None:
        """(row, column) of a frame, once known; None before, and for numbers."""
        return None if self._storage is None or self._values else (self._storage.shape[-2], self._storage.shape[-1])

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Of a frame in native byte order, once known."""
        return None if self._storage is None else self._storage.dtype.newbyteorder("=")

    @property
    def frames_per_row(self) -> int:
        """Frames of an event, which lie in one row of a dataset with four axes; else 1."""
        return self._storage.shape[0] if self._storage is not None and len(self._storage.shape) == 3 else 1

    def finish(self) -> None:
        """Take another's word that the writer is done: a file that is closed now counts as complete at once."""
        self.linger = 0.0

    def overdue(self, now: float | None = None) -> bool:
        """Whether the file has not changed and nothing more could be read for `patience` seconds."""
        return (self._clock() if now is None else now) - self._better >= self._patience

    def poll(self) -> int:
        """Frames from the first on that can be read now. Cheap, however often it is called.

        Returns
        -------
        0 while the file can not be read, also if some could before: then look again.

        Raises
        ------
        SourceError
            If the dataset, or where it lies, is refused: that will not become better.
        SourceFileError
            If the file is closed and damaged.
        """
        now = self._clock()
        if now < self._next:
            return self._readable
        self._next = now + INTERVAL
        before = self._rows
        try:
            with self._arrive() as arrival:
                self._verify(arrival)
                self._count(arrival, now)
            self._readable = self._rows * self.frames_per_row
        except NotYetError as error:
            self.complete, self._readable, self.why = False, 0, str(error)
        if self._visitor.changes != self._changes or self._rows > before:
            self._changes, self._better = self._visitor.changes, now
        return self._readable

    def read(self, first: int, end: int, rows: slice = slice(None)) -> NDArray[Any]:
        """Frames that `poll` said can be read.

        Parameters
        ----------
        first, end
            Their range, of all frames in the order of acquisition.
        rows
            Detector rows wanted, all of them by default.

        Returns
        -------
        (frame, row, column), or (value,), C-contiguous, in native byte order.

        Raises
        ------
        SourceError
            If `poll` did not say so, or reading is refused.
        SourceBusyError
            If its writer, or another one, has changed the file since: `poll` again.
        SourceFileError
            If the file is damaged.
        """
        if not 0 <= first < end <= self._readable:
            raise SourceError(
                f"{self._where}: frames {first} to {end} were asked for; {self._readable} can be read now"
            )
        try:
            with self._arrive() as arrival:
                if self._verify(arrival):
                    raise NotYetError(f"{arrival.where} was replaced")
                storage, dataset, per = arrival.storage, arrival.dataset, self.frames_per_row
                if storage.rows(dataset) * per < end:
                    raise NotYetError(f"{arrival.where} was cut")
                if storage.single:
                    found = dataset[rows][None]
                elif len(storage.shape) < 3:
                    found = dataset[first:end] if self._values else dataset[first:end, rows]
                else:
                    events = range(first // per, (end - 1) // per + 1)
                    parts = [dataset[e, max(first - e * per, 0) : min(end - e * per, per), rows] for e in events]
                    found = np.concatenate(parts)
                if per == 1 and rows == slice(None):
                    sample = _digest(found[0]), _digest(found[-1])
                else:
                    sample = self._digest(arrival, first // per), self._digest(arrival, (end - 1) // per)
        except NotYetError as error:
            self._readable, self._next = 0, self._clock()
            raise SourceBusyError(f"{error}; it is looked for again") from error
        for row, digest in zip((first // per, (end - 1) // per), sample, strict=True):
            if not self._samples or row >= max(self._samples):
                self._samples = {k: v for k, v in self._samples.items() if k == min(self._samples)} | {row: digest}
        values = np.asarray(found).reshape(-1) if self._values else np.asarray(found)
        return np.ascontiguousarray(values, dtype=self.dtype)

    @property
    def _where(self) -> str:
        return f"{self.path}: {self.name}"

    def _forget(self) -> None:
        """What was found out about rows is of another file."""
        self._rows = 0
        self._samples = {}
        self._verified: object = None
        self._earlier: dict[int, int] = {}
        """Digests of rows that were not certain in the last look."""
        self._earlier_values: NDArray[Any] | None = None
        self._extent, self._settled = (0, self._clock()), 0
        """Of numbers, since when, and the one before."""
        self._stuck: tuple[int, float] | None = None
        """A row that was passed over, and since when."""
        self.holes = []
        self.complete = False

    @contextmanager
    def _arrive(self) -> Iterator[_Arrival]:
        """Open the dataset, over external links, as long as the writer allows."""
        path, name = self.path, self.name
        for _ in range(DEPTH):
            with self._visitor.visit(path) as visit:
                try:
                    landing = self._roots.follow(visit.file, name)
                    arrival = self._open(visit, landing.path, path) if landing.file is None else None
                except KeyError as error:
                    missing = error.args[0] if error.args else name
                    raise NotYetError(f"{path}: the dataset {name} is not there yet ({missing} is missing)") from None
                if arrival is not None:
                    yield arrival
                    return
            assert landing.file is not None
            path, name = self._roots.beneath(landing.file, f"a link of {path}"), landing.path
        raise SourceError(f"{self._where} leads over more than {DEPTH} files")

    def _open(self, visit: Visit, name: str, path: Path) -> _Arrival:
        dataset, where = visit.file[name], f"{path}: {name}"
        others: frozenset[Path] = frozenset()
        if isinstance(dataset, h5py.Dataset) and dataset.external:
            self._roots.check(visit.file, dataset, name, self._closed)
            if visit.marks.writer is not Writer.GONE:
                raise NotYetError(f"{where} has its frames outside of HDF5: it is read when the file is closed")
        elif isinstance(dataset, h5py.Dataset) and dataset.is_virtual:
            others = self._roots.check(visit.file, dataset, name, self._closed)
            for other in sorted(others):
                marks = self._visitor.look(other)
                if marks.writer is not Writer.GONE:
                    raise NotYetError(f"{where} takes frames from {other}: it is read when that is closed")
        storage = storage_of(dataset, where, self._limits, self._values)
        return _Arrival(dataset, storage, visit, others, where)

    @contextmanager
    def _closed(self, path: Path) -> Iterator[h5py.File]:
        with self._visitor.visit(path, closed=True) as visit:
            yield visit.file

    def _verify(self, arrival: _Arrival) -> bool:
        """Whether the file may be another one than that which was looked at; then begin anew."""
        storage, known, marks = arrival.storage, self._storage, arrival.visit.marks
        seen = (marks.identity, marks.writer, marks if marks.writer is Writer.GONE else None)
        differs = known is not None and (storage.shape, storage.dtype) != (known.shape, known.dtype)
        if not differs and self._samples:
            differs = storage.rows(arrival.dataset) <= max(self._samples)
            if not differs and seen != self._verified:
                differs = any(self._digest(arrival, row) != digest for row, digest in self._samples.items())
        # Where nothing was read, it may as well be another one whenever its marks change.
        anew = differs or (not self._samples and self._verified is not None and self._verified != seen)
        if anew:
            self._forget()
        self.replaced += differs
        self._storage, self._verified = storage, seen
        self.units = units(arrival.dataset)
        return anew

    def _count(self, arrival: _Arrival, now: float) -> None:
        """Find out how many rows have been written."""
        dataset, storage = arrival.dataset, arrival.storage
        extent = storage.rows(dataset)
        if extent < self._rows:
            self._forget()
        quiet = min([arrival.visit.quiet, *(self._visitor.quiet(other) for other in arrival.others)])
        closed = arrival.visit.marks.writer is Writer.GONE
        if closed and quiet >= self.linger:
            self._complete(arrival, extent)
            return
        self.complete = False
        if self._values and not storage.own:
            self._count_values(dataset, storage, extent, now)
        elif storage.own:
            while self._rows < extent and storage.allocated(dataset, self._rows):
                self._rows += 1
        else:
            self._count_shared(dataset, storage, extent)
        state = "closed" if closed else "being written"
        self.why = f"{arrival.where} has {self._rows * self.frames_per_row} frames; the file is {state}"
        if self._rows < extent:
            self._wait_for_row(arrival, extent, now)

    def _complete(self, arrival: _Arrival, extent: int) -> None:
        storage, per = arrival.storage, self.frames_per_row
        if not self.complete:
            missing = [row for row in range(self._rows, extent) if not storage.allocated(arrival.dataset, row)]
            for row in missing:
                self._hole(row, per)
            if self._rows + len(missing) < extent and not storage.own:
                self.notes.append(
                    f"{arrival.where}: rows {self._rows} to {extent} were taken as they are when it was closed"
                )
        self._rows, self.complete, self.why = extent, True, None

    def _count_shared(self, dataset: h5py.Dataset, storage: Storage, extent: int) -> None:
        """Rows that share chunks, or have a place from the start: those that hold something, twice the same."""
        end = min(extent, self._rows + max(1, _SCAN_BYTES // storage.row_bytes))
        found = {}
        if self._rows < end:
            block = storage.read(dataset, self._rows, end)
            for row, content in enumerate(block, self._rows):
                if not storage.filled(content) and storage.allocated(dataset, row):
                    found[row] = _digest(content)
        while self._rows in found and found[self._rows] == self._earlier.get(self._rows):
            self._rows += 1
        self._earlier = found

    def _count_values(self, dataset: h5py.Dataset, storage: Storage, extent: int, now: float) -> None:
        """Numbers are written in order, and one may well be the fill value: what comes before another is written."""
        end = min(extent, self._rows + (1 << 20))
        values = storage.read(dataset, self._rows, end).reshape(-1) if self._rows < end else np.empty(0, storage.dtype)
        written = np.flatnonzero(~storage.empty(values))
        length = int(written[-1]) + 1 if written.size else 0
        if self._settle is not None and dataset.maxshape[0] is None:
            if now - self._extent[1] >= self._settle:
                self._settled, self._extent = self._extent[0], (extent, now)
            length = max(length, min(self._settled - self._rows, len(values)))
        values = values[:length].copy()
        earlier, self._earlier_values = self._earlier_values, values
        if earlier is None:
            return
        length = min(len(earlier), len(values))
        if earlier[:length].tobytes() == values[:length].tobytes():
            self._rows, self._earlier_values = self._rows + length, values[length:]

    def _wait_for_row(self, arrival: _Arrival, extent: int, now: float) -> None:
        """Give up a row that its writer has passed over, when that is long ago."""
        dataset, storage, row = arrival.dataset, arrival.storage, self._rows
        if storage.own:
            passed = any(storage.allocated(dataset, k) for k in range(row + 1, min(extent, row + _AHEAD)))
        else:
            passed = any(later > row for later in self._earlier)
        self.why = f"{arrival.where}: frame {row * self.frames_per_row} is announced, but not written yet"
        if not passed:
            self._stuck = None
        elif self._stuck is None or self._stuck[0] != row:
            self._stuck = row, now
        elif now - self._stuck[1] >= self._patience:
            if storage.own or not storage.allocated(dataset, row):
                self._hole(row, self.frames_per_row)
            self.notes.append(f"{arrival.where}: row {row} was passed over by its writer; it is taken as it is")
            self._rows += 1

    def _hole(self, row: int, per: int) -> None:
        first, end = row * per, (row + 1) * per
        if self.holes and self.holes[-1][1] == first:
            first = self.holes.pop()[0]
        self.holes.append((first, end))

    def _digest(self, arrival: _Arrival, row: int) -> int:
        return _digest(arrival.storage.read(arrival.dataset, row, row + 1))


def _digest(row: NDArray[Any]) -> int:
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(row).data)
