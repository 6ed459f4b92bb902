"""The frames of a dataset that someone may still be writing: what can be read for certain, and why no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import SourceBusyError, SourceError, SourceFileError
from streamrecon.sources.recording import units
from streamrecon.sources.roots import DEPTH, Roots
from streamrecon.sources.storage import Limits, Storage, storage_of
from streamrecon.sources.visit import NotYetError, Visit, Visitor, Writer
from streamrecon.sources.written import NEVER, PASSED, Written, digest
from streamrecon.wire.ranges import Ranges

LINGER = 5.0
"""Seconds that a file must stay closed before it counts as complete: some writers close it and open it once more."""
INTERVAL = 0.1
"""Seconds between looks into a file."""
FILL = "still holds the fill value"
_HEAD = 64
"""Pixels that are looked at first, to tell whether a frame is the fill value."""


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
    its writer has closed it. Which rows count as written, see `Written`; where their places in the file do not tell, a frame
    that is the fill value all over counts as not written also in a complete file.

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
        Seconds without a change after which the writer counts as overdue, and after which `poll` goes on after rows that were
        passed over by their writer.
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
        self.replaced = 0
        """How often the file was replaced after something had been read: what was and what will be are not of one scan."""
        self.units: str | None = None
        """The dataset's attribute."""
        self.linger, self._settle = linger, settle
        self._roots, self._values, self._limits = roots, values, limits or Limits()
        self._clock, self._patience = clock, patience
        self._visitor = Visitor(clock, roots)
        self._next = self._better = clock()
        self._changes = 0
        self._storage: Storage | None = None
        self._readable, self._seen = 0, False
        self._refusal: SourceError | SourceFileError | None = None
        self._state = ""
        """What it was at the last look, while it may be written."""
        self._notes: list[str] = []
        self._written = Written(values, patience, settle, clock())
        self._forget()

    def _forget(self) -> None:
        """What was found out about rows is of another file."""
        self._notes += self._written.notes
        self._written = Written(self._values, self._patience, self._settle, self._clock())
        self._blank = set[int]()
        """Frames that were the fill value when they were read."""
        self._samples: dict[int, int] = {}
        """Digests of the first and the last row that were read, to know the file by."""
        self._verified: object = None

    @property
    def complete(self) -> bool:
        """Whether the writer has closed the file for good, as far as can be known: it stayed closed for `linger`."""
        return self._seen and self._written.complete

    @property
    def notes(self) -> list[str]:
        """What was assumed, for people."""
        return [*self._notes, *self._written.notes]

    @property
    def holes(self) -> list[tuple[int, int]]:
        """Ranges of frames, within what `poll` says, that the file has no data for: they read as the fill value."""
        per = self.frames_per_row
        frames = {row * per + part for row in self._written.lost for part in range(per)}
        return list(Ranges.of(frames | self._blank).ranges)

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

    @property
    def changes(self) -> int:
        """Grows as the file is seen to have changed."""
        return self._changes

    @property
    def tells(self) -> bool:
        """Whether places in the file tell which rows have been written."""
        return self._storage is not None and self._storage.own

    def unwritten(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where numbers are what is read where nothing was written."""
        return np.zeros(len(values), bool) if self._storage is None else self._storage.empty(values)

    def has(self, frame: int) -> bool:
        """Whether a frame can be read now, also where others before it cannot; else `why` says why not. As cheap as `poll`.

        One after others that are missing is looked for only when it is asked for: a later call finds it.

        Raises
        ------
        SourceError, SourceFileError
            As `poll` does.
        """
        row, written = frame // self.frames_per_row, self._written
        if row >= written.rows or row in written.lost:
            written.asked.add(row)
        self.poll()
        if self._there(frame):
            return True
        if self._seen:
            written = self._written
            lost = NEVER if row in written.lost else FILL if frame in self._blank else ""
            lost = lost or (PASSED if row < written.furthest and not written.complete else "")
            end = f"{self.path} ends after {written.rows * self.frames_per_row} frames"
            self.why = f"{self.path}: it {lost}" if lost else self._state or end
        return False

    def until(self, frame: int) -> int:
        """One past the last of the frames that can be read together with one, as it was at the last look."""
        while self._there(frame):
            frame += 1
        return frame

    def _there(self, frame: int) -> bool:
        row, written = frame // self.frames_per_row, self._written
        there = row in written.beyond or (row < written.rows and row not in written.lost)
        return self._seen and there and frame not in self._blank

    def look(self) -> None:
        """As `poll`, at once."""
        self._next = self._clock()
        self.poll()

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
            if self._refusal is not None:
                raise type(self._refusal)(*self._refusal.args)
            return self._readable
        self._next, self._refusal = now + INTERVAL, None
        before = self._written.rows
        try:
            with self._arrive() as arrival:
                self._verify(arrival)
                self._count(arrival, now)
            self._readable, self._seen = self._written.rows * self.frames_per_row, True
        except NotYetError as error:
            self._readable, self._seen, self.why = 0, False, str(error)
        except (SourceError, SourceFileError) as error:
            self._refusal = error
            raise
        if self._visitor.changes != self._changes or self._written.rows > before:
            self._changes, self._better = self._visitor.changes, now
        return self._readable

    def read(
        self, first: int, end: int, rows: slice = slice(None), fills: Container[int] = frozenset()
    ) -> NDArray[Any]:
        """Frames that `poll`, or `has`, said can be read.

        Parameters
        ----------
        first, end
            Their range, of all frames in the order of acquisition.
        rows
            Detector rows wanted, all of them by default.
        fills
            Frames that are one as well if they are nothing but the fill value, once the file is complete: darks, as a detector
            that subtracts its own has them.

        Returns
        -------
        (frame, row, column), or (value,), C-contiguous, in native byte order.

        Raises
        ------
        SourceError
            If they did not say so, or reading is refused.
        SourceBusyError
            If its writer, or another one, has changed the file since, or some are found to be nothing but the fill value: ask
            again.
        SourceFileError
            If the file is damaged.
        """
        if not (0 <= first < end and (end <= self._readable or all(map(self._there, range(first, end))))):
            raise SourceError(
                f"{self.path}: {self.name}: frames {first} to {end} were asked for; {self._readable} can be read now"
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
                blank = set(self._filled(arrival, first, found)) - self._blank
                if self.complete:
                    blank = {frame for frame in blank if frame not in fills}
                if per == 1 and rows == slice(None):
                    sample = digest(found[0]), digest(found[-1])
                else:
                    sample = self._digest(arrival, first // per), self._digest(arrival, (end - 1) // per)
        except NotYetError as error:
            self._readable, self._seen, self._next = 0, False, self._clock()
            raise SourceBusyError(f"{error}; it is looked for again") from error
        if blank:
            self._blank |= blank
            raise SourceBusyError(f"{self.path}: {self.name}: frame {min(blank)} {FILL}")
        for row, each in zip((first // per, (end - 1) // per), sample, strict=True):
            if not self._samples or row >= max(self._samples):
                self._samples = {k: v for k, v in self._samples.items() if k == min(self._samples)} | {row: each}
        values = np.asarray(found).reshape(-1) if self._values else np.asarray(found)
        return np.ascontiguousarray(values, dtype=self.dtype)

    def _filled(self, arrival: _Arrival, first: int, found: NDArray[Any]) -> Iterator[int]:
        """Frames among those that were read that are the fill value all over, where nothing else tells."""
        storage, dataset, per = arrival.storage, arrival.dataset, self.frames_per_row
        if storage.own or self._values:
            return
        for frame, image in enumerate(found, first):
            if storage.empty(image.ravel()[:_HEAD]).all() and storage.empty(image).all():
                place = () if storage.single else divmod(frame, per) if len(storage.shape) == 3 else (frame,)
                if image.shape == storage.shape[-2:] or storage.empty(np.asarray(dataset[place])).all():
                    yield frame

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
        raise SourceError(f"{self.path}: {self.name} leads over more than {DEPTH} files")

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
        changed = known is not None and (storage.shape, storage.dtype) != (known.shape, known.dtype)
        differs = bool(changed and self._samples)
        if not differs and self._samples:
            differs = storage.rows(arrival.dataset) <= max(self._samples)
            if not differs and seen != self._verified:
                differs = any(self._digest(arrival, row) != digest for row, digest in self._samples.items())
        # Where nothing was read, it may as well be another one whenever its marks change.
        anew = differs or changed or (not self._samples and self._verified is not None and self._verified != seen)
        if anew:
            self._forget()
        if self._verified != seen:
            self._blank.clear()  # who changes the file may write them
        self.replaced += differs
        self._storage, self._verified = storage, seen
        self.units = units(arrival.dataset)
        return anew

    def _count(self, arrival: _Arrival, now: float) -> None:
        """Find out how many rows have been written."""
        dataset, storage = arrival.dataset, arrival.storage
        if storage.rows(dataset) < self._written.rows:
            self._forget()
        quiet = min([arrival.visit.quiet, *(self._visitor.quiet(other) for other in arrival.others)])
        closed = arrival.visit.marks.writer is Writer.GONE
        if closed and quiet >= self.linger:
            self._written.finish(dataset, storage, arrival.where)
            self.why, self._state = None, ""
            return
        waits = self._written.look(dataset, storage, now, arrival.where)
        count, state = self._written.rows * self.frames_per_row, "closed" if closed else "being written"
        self._state = f"{arrival.where} has {count} frames; the file is {state}"
        self.why = waits or self._state

    def _digest(self, arrival: _Arrival, row: int) -> int:
        return digest(arrival.storage.read(arrival.dataset, row, row + 1))
