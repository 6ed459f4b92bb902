"""The journal: every frame of the slab as it came, appended to a file, checksummed, on the disk for good once it is *durable*.

It is the store of retained projections: a better center, late darks, weights of lost frames and the median of many flats
are taken from it, so that nothing of the scan need stay in memory. After a crash it is what the scan goes on from.

The file begins with what the scan announced. Then follow entries.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.journal_beginning import read_beginning, write_beginning
from streamrecon.engine.journal_entries import (
    ENDED,
    FULL,
    HEAD,
    NONE,
    SENDER,
    WITHDRAWN,
    Entries,
    Entry,
    History,
    put,
    read_into,
)
from streamrecon.engine.sync import make, sync
from streamrecon.engine.world import Watch
from streamrecon.errors import DiskFullError, JournalError, OutputError
from streamrecon.failpoints import fail
from streamrecon.scan import FrameKind, ScanInfo
from streamrecon.wire.messages import Range
from streamrecon.wire.ranges import Ranges

AtWork = Callable[[str], contextlib.AbstractContextManager[Any]]
"""Says what a thread has in hand."""

SYNC_BYTES = 64 << 20
"""Bytes after which the file is synced, however short ago that was."""


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
    position: int = 0
    """Projections measured before a flat or dark, whenever it arrived; 0 for projections."""


class Journal:
    """An append-only file of frames of one shape and dtype; used by one thread, besides the one that syncs it.

    Parameters
    ----------
    path
        Of the file; one that is there is replaced, unless `resume`.
    info, rows
        Of the scan.
    sync_seconds
        Longest time until an entry is durable.
    durable
        Called, in the syncing thread, with the number of entries of this process that are durable.
    can_replay
        Whether the sender can send the scan again.
    epoch
        Of the sender.
    resume
        Go on with the file that is there.
    whole
        Rows that all ranks together reconstruct; None for `rows`.
    watch
        Called between two entries of an earlier process as they are read.
    at_work
        Entered, in the syncing thread, while the disk is waited for.

    Raises
    ------
    OutputError
        If the file cannot be made, or read.
    """

    def __init__(
        self,
        path: Path,
        info: ScanInfo,
        rows: Range,
        sync_seconds: float = 1.0,
        durable: Callable[[int], None] = lambda entries: None,
        can_replay: bool = True,
        epoch: int = 0,
        resume: bool = False,
        whole: Range | None = None,
        watch: Watch = lambda: None,
        at_work: AtWork = lambda name: contextlib.nullcontext(),
    ) -> None:
        self.path, self.info, self.rows = path, info, rows
        self.shape, self.dtype = (rows[1] - rows[0], info.geometry.columns), info.dtype
        self.projections: list[Record] = []
        self.flats: list[Record] = []
        self.darks: list[Record] = []
        self.damaged = 0
        """Entries of an earlier process that cannot be read and were cut off or are left out."""
        self._forgone = {kind: Ranges() for kind in FrameKind}
        self._recovered: list[Entry] = []
        """Frames that an earlier process wrote, in its order."""
        nbytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        try:
            make(path.parent)
            # Under another name until its beginning is on the disk, so that there is never half a journal.
            place = path if resume else path.with_suffix(".new")
            self._file = os.open(place, os.O_RDWR | (0 if resume else os.O_CREAT | os.O_TRUNC), 0o600)
            if resume:
                header = read_beginning(self._file, path)
                self.reconstruction: int = header["reconstruction"]
                """64 random bits; see `Found`."""
                self._entries = Entries(self._file, header["start"], header["id"], nbytes)
                history = self._recover(History(header["epoch"]), watch)
            else:
                identity, self._count = int.from_bytes(os.urandom(8), "little"), 0
                self.reconstruction = identity
                start = write_beginning(self._file, info, rows, can_replay, epoch, identity, whole or rows, identity)
                self._entries, history = Entries(self._file, start, identity, nbytes), History(epoch)
                os.fsync(self._file)
                place.rename(path)
                sync(path.parent)
        except OutputError:
            raise
        except OSError as error:
            if resume:
                raise JournalError(f"cannot read the journal {path}: {error.strerror or error}") from error
            raise OutputError(f"cannot make the journal {path}: {error.strerror or error}") from error
        self.inventory = history.inventory
        """Of the entries that an earlier process wrote."""
        self.ended = history.ended
        """Whether the sender had sent everything by then, and all of it is here: what is damaged is asked for again."""
        self.gap = history.inventory.epoch, history.inventory.followed
        """Epoch of the sender, and number of the last of its GAPs."""
        self._sync = _Sync(self._file, sync_seconds, durable, at_work)

    # Writing.

    def append(
        self,
        kind: FrameKind,
        index: int,
        theta: float | None,
        frame: NDArray[Any],
        arrived: float,
        xxh3: int,
        position: int | None = None,
    ) -> Record:
        """Write a frame.

        Parameters
        ----------
        kind, index, theta
            Of the frame.
        frame
            (row, column).
        arrived
            Seconds, monotonic.
        xxh3
            Hash of its pixels.
        position
            Projections measured before a flat or dark.

        Raises
        ------
        DiskFullError
            If there is no space; the journal is as it was before.
        JournalError
            If the disk fails, now or when it was last synced.
        """
        record = Record(kind, index, theta or 0.0, self._count, arrived, position or 0)
        place = record.theta if kind is FrameKind.PROJECTION else float(record.position)
        self._write(int(kind), index, place, xxh3, frame.data.cast("B"))
        self._list(kind).append(record)
        return record

    def withdraw(self, index: int | None, number: int) -> None:
        """Note that a projection does not count any more, by which GAP; the caller takes it off the list."""
        self._write(WITHDRAWN, NONE if index is None else index, 0.0, number, memoryview(b""))
        self.gap = (self.gap[0], number)

    def forgo(self, kind: FrameKind, indices: Iterable[Range]) -> None:
        """These flats or darks will not come, as far as they have not; not written down, as each sender says so anew."""
        self._forgone[kind] = Ranges.union(self._forgone[kind].ranges, indices)

    def forgone(self, kind: FrameKind) -> int:
        """Flats or darks that will not come."""
        never = self._forgone[kind]
        return 0 if not never.ranges else len(never) - sum(record.index in never for record in self._list(kind))

    def sender(self, epoch: int) -> None:
        """Note that a sender has the scan."""
        self._write(SENDER, epoch, 0.0, 0, memoryview(b""))
        self.gap = self.gap if epoch == self.gap[0] else (epoch, 0)

    def end(self, frames: int, digest: int) -> None:
        """Note that the sender has sent everything: so many frames, with this digest."""
        self._write(ENDED, frames, 0.0, digest, memoryview(b""))

    def check(self) -> None:
        """Look whether what was written has reached the disk so far.

        Raises
        ------
        JournalError
            If it has not: what is on the disk is unknown until it is read again.
        """
        if self._sync.error is not None:
            raise JournalError(f"the journal {self.path} cannot be synced: {self._sync.error}") from self._sync.error

    def _write(self, kind: int, index: int, theta: float, xxh3: int, pixels: memoryview) -> None:
        self.check()
        place = self._entries.offset(self._count)
        try:
            # The head comes last: where it is, the pixels are, as far as this process is concerned.
            put(self._file, pixels, place + HEAD.size)
            fail("journal.between")
            put(self._file, memoryview(self._entries.head(self._count, kind, index, theta, xxh3)), place)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFullError(
                    f"the disk of the journal {self.path} is full ({error.strerror}); it must hold the raw scan"
                ) from error
            raise JournalError(
                f"cannot write entry {self._count} of the journal {self.path}: {error.strerror}"
            ) from error
        self._count += 1
        fail("journal.written")
        self._sync.written(self._entries.stride)

    def _list(self, kind: int) -> list[Record]:
        return {FrameKind.PROJECTION: self.projections, FrameKind.FLAT: self.flats, FrameKind.DARK: self.darks}[
            FrameKind(kind)
        ]

    # Reading.

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
            offset = self._entries.offset(record.number) + HEAD.size + first * row_bytes
            try:
                if not read_into(self._file, frame.data.cast("B"), offset):
                    raise OutputError(f"the journal {self.path} ends within frame {record.number}; was it changed?")
            except OSError as error:
                raise OutputError(f"cannot read the journal {self.path}: {error.strerror or error}") from error
        return out

    # After a crash.

    def _recover(self, history: History, watch: Watch) -> History:
        """Check every entry; cut off what was not written to its end, leave out what was damaged since."""
        entries, places = self._entries, self._entries.places()
        pixels = np.empty(entries.nbytes, np.uint8)
        self._count = sound = 0
        for place in range(places):
            watch()
            fail("journal.recover")
            entry = entries.look(place)
            if entry is None:
                history.lose()
                continue
            if entry.kind in set(FrameKind) and not entries.read(entry, pixels):
                history.damaged(entry)
                continue
            self._count, sound = place + 1, sound + 1
            history.take(entry)
        self.damaged = places - sound
        os.ftruncate(self._file, entries.offset(self._count))
        self._recovered = [first for first, *_ in history.frames.values()]
        return history

    def recovered(self) -> Iterator[Record]:
        """Frames that an earlier process wrote, in their order; each is on its list when it comes out."""
        now, entries, self._recovered = time.monotonic(), self._recovered, []
        for entry in entries:
            kind, projection = FrameKind(entry.kind), entry.kind == FrameKind.PROJECTION
            theta, position = (entry.theta, 0) if projection else (0.0, int(entry.theta))
            record = Record(kind, entry.index, theta, entry.place, now, position)
            self._list(kind).append(record)
            yield record

    # The end.

    def settle(self, watch: Watch) -> None:
        """Wait until all of it is on the disk; nothing is written any more.

        Parameters
        ----------
        watch
            Called meanwhile; raises where it is in vain.
        """
        self._sync.finish()
        while self._sync.is_alive():
            watch()
            self._sync.join(0.05)

    def close(self, keep: bool = False) -> None:
        """Close the file, and delete it unless it is to be kept."""
        self._sync.finish()
        self._sync.join()
        os.close(self._file)
        if not keep:
            fail("journal.delete")
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # someone else's files may be in it
                self.path.parent.rmdir()


class _Sync(threading.Thread):
    """Syncs a file some time after it was written to."""

    def __init__(self, file: int, seconds: float, durable: Callable[[int], None], at_work: AtWork) -> None:
        super().__init__(name="streamrecon-sync", daemon=True)
        self._file, self._seconds, self._durable, self._at_work = file, seconds, durable, at_work
        self._condition = threading.Condition()
        self._entries, self._nbytes, self._synced, self._closed = 0, 0, 0, False
        self._first = 0.0
        """When the first entry was written that is not durable."""
        self.error: OSError | None = None
        """After an error the kernel may have forgotten what it could not write: only a new process can tell what is there."""
        self.start()

    def written(self, nbytes: int) -> None:
        """One more entry."""
        with self._condition:
            if self._entries == self._synced:
                self._first = time.monotonic()
                self._condition.notify()
            self._entries += 1
            self._nbytes += nbytes
            if self._nbytes >= SYNC_BYTES:
                self._condition.notify()

    def finish(self) -> None:
        """The thread ends once all that was written is durable."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def run(self) -> None:
        while True:
            with self._condition:
                while self._entries == self._synced and not self._closed:
                    self._condition.wait()
                while not self._closed and self._nbytes < SYNC_BYTES:
                    left = self._first + self._seconds - time.monotonic()
                    if left <= 0:
                        break
                    self._condition.wait(left)
                if self._entries == self._synced:
                    return
                entries, self._nbytes = self._entries, 0
            try:
                with self._at_work("syncing the journal"):
                    fail("journal.sync")
                    os.fdatasync(self._file)
            except OSError as error:
                self.error = error
                return
            fail("journal.synced")
            with self._condition:
                self._synced, self._first = entries, time.monotonic()
            self._durable(entries)
