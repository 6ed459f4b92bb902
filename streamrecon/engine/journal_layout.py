"""Which journals a scan has, and how those of one number of ranks become those of another.

OUT/journal/0001, 0002, ... are *layouts*: in each a journal of every rank, each of other rows. The first counts from the scan's
beginning, a later one once its marker is there; then the older ones are deleted. So a crash leaves either the old or the new one.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamrecon.engine.journal_beginning import Found, look, read_beginning, write_beginning
from streamrecon.engine.journal_entries import ENDED, FULL, HEAD, NONE, WITHDRAWN, Entries, Entry, History, put
from streamrecon.engine.sync import make, sync
from streamrecon.engine.world import Watch
from streamrecon.errors import DiskFullError, JournalError, OutputError
from streamrecon.failpoints import fail
from streamrecon.scan import ScanInfo
from streamrecon.wire.digest import Digest
from streamrecon.wire.messages import Range

MARKER = "complete"


@dataclass(frozen=True, slots=True)
class Layout:
    """The journals of one scan that belong together."""

    folder: Path
    """OUT/journal/NNNN."""
    number: int
    """NNNN."""
    files: tuple[Found, ...]
    """By their rows, which do not overlap; at least one. Rows without a file have nothing."""

    @property
    def info(self) -> ScanInfo:
        """What the scan announced."""
        return self.files[0].info

    @property
    def whole(self) -> Range:
        """Detector rows that all ranks together reconstruct."""
        return self.files[0].whole

    @property
    def can_replay(self) -> bool:
        """Whether the sender could have sent it all again."""
        return all(found.can_replay for found in self.files)

    @property
    def reconstruction(self) -> int:
        """See `Found`; that of rank 0 is the scan's."""
        return self.files[0].reconstruction

    def fits(self, slabs: Sequence[Range]) -> bool:
        """Whether ranks with these rows can go on, each with its own file or with none."""
        return {found.rows for found in self.files} <= set(slabs)


@dataclass(frozen=True, slots=True)
class Assembled:
    """What became of the frames of a layout in one new journal."""

    frames: int
    """Written."""
    left_out: int
    """Not written, as some file lacked them, or had them damaged or otherwise than another."""


def place(folder: Path, number: int, rows: Range) -> Path:
    """Where the journal of some detector rows is.

    Parameters
    ----------
    folder
        OUT/journal.
    number
        Of the layout.
    rows
        First, and one past the last.
    """
    return folder / _name(number) / f"rows-{rows[0]:05d}-{rows[1]:05d}.frames"


def find(folder: Path) -> Layout | None:
    """The newest layout that counts, if one has journals.

    Parameters
    ----------
    folder
        OUT/journal.

    Raises
    ------
    OutputError
        If a journal cannot be read, or those of the layout do not belong together.
    """
    try:
        number, newest = max(
            ((n, p) for n, p in _layouts(folder).items() if n == 1 or (p / MARKER).exists()), default=(0, folder)
        )
        paths = list(newest.glob("*.frames")) if number else []
    except OSError as error:
        raise OutputError(f"cannot read the folder of journals {folder}: {error.strerror}") from error
    files = sorted((look(path) for path in paths), key=lambda found: found.rows)
    for one, other in itertools.pairwise(files):
        difference = _difference(one, other)
        if difference:
            raise OutputError(
                f"{one.path} and {other.path} do not belong together: {difference}. Move the one away that is not of "
                "this scan, or say --overwrite"
            )
    return Layout(newest, number, tuple(files)) if files else None


def begin_next(layout: Layout) -> int:
    """Number for the layout after this one; what an earlier attempt at it left is deleted. Once, before any rank assembles.

    Raises
    ------
    OutputError
        If that cannot be deleted.
    """
    _delete_others(layout.folder.parent, layout.number)
    return layout.number + 1


def assemble(layout: Layout, rows: Range, target: Path, watch: Watch = lambda: None) -> Assembled:
    """Write a journal of other rows, with the frames that all files of a layout have of them.

    A frame is in it if all files that overlap the rows have it at their end: sound, not withdrawn, and of the same angle. The
    frames are in the order of the first of these files. If a row is in no file, there are none. GAPs count as followed as far
    as all files have followed them, and the scan as ended if it is in all files, and no frame was left out.

    Parameters
    ----------
    layout
        Is only read.
    rows
        Of the new journal.
    target
        Its path, which it has once it is whole and on the disk.
    watch
        Called between two entries.

    Raises
    ------
    DiskFullError
        If there is no space.
    JournalError
        If a disk fails.
    OutputError
        If a file of the layout was changed since it was found.
    """
    temporary = target.with_suffix(".new")
    try:
        with _explained(layout, rows, target):
            make(target.parent)
            with ExitStack() as stack:
                old = [stack.enter_context(_opened(f, watch)) for f in layout.files if _overlap(f.rows, rows)]
                file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
                stack.callback(os.close, file)
                assembled = _fill(file, layout, rows, old, watch)
                os.fsync(file)
            fail("layout.written")
            temporary.rename(target)
            sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return assembled


def settle(folder: Path, number: int) -> None:
    """Let a layout count, whose journals are all there, and delete all others.

    Parameters
    ----------
    folder
        OUT/journal.
    number
        Of the layout.

    Raises
    ------
    OutputError
        If the disk is full or fails: either the layout counts or what counted before does; what could not be deleted does
        no harm.
    """
    newest = folder / _name(number)
    try:
        fail("layout.marker")
        (newest / MARKER).touch()
        sync(newest / MARKER)
        sync(newest)
        sync(folder)
    except OSError as error:
        raise OutputError(f"cannot settle the journals in {newest}: {error.strerror}") from error
    _delete_others(folder, number)


def clear(folder: Path) -> None:
    """Delete all layouts, and the folder unless something else is in it.

    Parameters
    ----------
    folder
        OUT/journal.

    Raises
    ------
    OutputError
        If a journal cannot be deleted.
    """
    _delete_others(folder, 0)
    try:
        folder.rmdir()
    except OSError:  # not there, or someone else's files are in it
        return


class _Old:
    """A file of the old layout: what its entries come to by their heads; its pixels are checked as they are read.

    So each pixel is read once, which for a scan takes minutes.
    """

    def __init__(self, file: int, found: Found, watch: Watch) -> None:
        header = read_beginning(file, found.path)
        self.rows: Range = header["rows"]
        size = found.info.geometry.columns * found.info.dtype.itemsize
        nbytes = (self.rows[1] - self.rows[0]) * size
        self.pixels = np.empty(nbytes, np.uint8)
        """(byte,) of the frame read last."""
        self.by_row = self.pixels.reshape(-1, size)
        self.entries = Entries(file, header["start"], header["id"], nbytes)
        self.history = History(header["epoch"])
        for at in range(self.entries.places()):
            watch()
            entry = self.entries.look(at)
            if entry is None:
                self.history.lose()
            else:
                self.history.take(entry)

    def read(self, identity: tuple[int, int]) -> Entry | None:
        """Read a frame; None if it is not there or damaged each time that it came."""
        return next((e for e in self.history.frames.get(identity, ()) if self.entries.read(e, self.pixels)), None)

    def sound(self) -> Iterator[Entry]:
        """Read its frames one by one, in the order in which a journal has them."""
        done = set[tuple[int, int]]()
        for entry in sorted((e for frame in self.history.frames.values() for e in frame), key=lambda e: e.place):
            identity = entry.kind, entry.index
            if identity not in done and self.entries.read(entry, self.pixels):
                done.add(identity)
                yield entry


def _fill(file: int, layout: Layout, rows: Range, old: Sequence[_Old], watch: Watch) -> Assembled:
    """Write the beginning and all entries."""
    epoch = max((each.history.inventory.epoch for each in old), default=0)
    identity = int.from_bytes(os.urandom(8), "little")
    start = write_beginning(
        file, layout.info, rows, layout.can_replay, epoch, identity, layout.whole, layout.reconstruction
    )
    union = set[tuple[int, int]]().union(*(each.history.frames for each in old))
    if not old or sum(min(each.rows[1], rows[1]) - max(each.rows[0], rows[0]) for each in old) < rows[1] - rows[0]:
        return Assembled(0, len(union))

    size = layout.info.geometry.columns * layout.info.dtype.itemsize
    entries = Entries(file, start, identity, (rows[1] - rows[0]) * size)
    block = np.zeros(entries.stride, np.uint8)
    pixels = block[HEAD.size : HEAD.size + entries.nbytes]
    by_row, count, digest = pixels.reshape(-1, size), 0, Digest()
    for entry in _common(old, rows, by_row):
        xxh3 = xxhash.xxh3_64_intdigest(pixels.data)
        block[: HEAD.size] = np.frombuffer(entries.head(count, entry.kind, entry.index, entry.theta, xxh3), np.uint8)
        put(file, block.data, entries.offset(count))
        digest.add(entry.kind, entry.index, xxh3)
        watch()
        count += 1
        fail("layout.frame")
    assembled = Assembled(count, len(union) - count)

    followed = min(each.history.inventory.followed if each.history.inventory.epoch == epoch else 0 for each in old)
    if followed:
        put(file, memoryview(entries.head(count, WITHDRAWN, NONE, 0.0, followed)), entries.offset(count))
        count += 1
    if not assembled.left_out and all(each.history.ended for each in old):
        put(file, memoryview(entries.head(count, ENDED, assembled.frames, 0.0, digest.value)), entries.offset(count))
    return assembled


def _common(old: Sequence[_Old], rows: Range, by_row: NDArray[np.uint8]) -> Iterator[Entry]:
    """The frames that all files have, one by one, each put together in `by_row`, (row, byte)."""
    first, *others = old
    for entry in first.sound():
        _copy(first, rows, by_row)
        for each in others:
            other = each.read((entry.kind, entry.index))
            if other is None or other.theta != entry.theta:
                break
            _copy(each, rows, by_row)
        else:
            yield entry


def _copy(each: _Old, rows: Range, by_row: NDArray[np.uint8]) -> None:
    """The rows that a file has of those of the new journal."""
    a, b = max(each.rows[0], rows[0]), min(each.rows[1], rows[1])
    by_row[a - rows[0] : b - rows[0]] = each.by_row[a - each.rows[0] : b - each.rows[0]]


@contextmanager
def _opened(found: Found, watch: Watch) -> Iterator[_Old]:
    file = os.open(found.path, os.O_RDONLY)
    try:
        yield _Old(file, found, watch)
    finally:
        os.close(file)


@contextmanager
def _explained(layout: Layout, rows: Range, target: Path) -> Iterator[None]:
    """Errors of the disk in words."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        what = f"the journal of rows {rows[0]} to {rows[1]} cannot be assembled in {target.parent}: {error.strerror or error}"
        kept = f"The journals in {layout.folder} are as they were"
        if error.errno in FULL:
            slabs = ", ".join(f"{a} to {b}" for a, b in (found.rows for found in layout.files))
            raise DiskFullError(
                f"{what}. {kept}: make space for the raw scan once more and say --resume, or say it with as many ranks as "
                f"before, which need none (rows {slabs})"
            ) from error
        raise JournalError(f"{what}. {kept}: --resume tries again") from error


def _overlap(one: Range, other: Range) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _difference(one: Found, other: Found) -> str:
    """Why two files, sorted by their rows, cannot be of one layout; empty if they can."""
    a, b = one.info, other.info
    if a.uid != b.uid:
        return f"they are of the scans {a.uid} and {b.uid}"
    if (a.geometry, a.dtype) != (b.geometry, b.dtype):
        return f"their frames are {a.geometry}, {a.dtype} and {b.geometry}, {b.dtype}"
    if one.whole != other.whole:
        return f"they are of scans of the rows {one.whole} and {other.whole}"
    if _overlap(one.rows, other.rows):
        return f"both have rows of {one.rows} and {other.rows}"
    return ""


def _name(number: int) -> str:
    return f"{number:04d}"


def _layouts(folder: Path) -> dict[int, Path]:
    """Folders of layouts by number, ascending; what else is there is left alone."""
    try:
        places = [place for place in folder.iterdir() if re.fullmatch("[0-9]{4,}", place.name)]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {int(p.name): p for p in sorted(places, key=lambda p: int(p.name)) if p.is_dir() and not p.is_symlink()}


def _delete_others(folder: Path, number: int) -> None:
    """All layouts but one. Older ones first, so that none is left that would count again."""
    try:
        for other, place in _layouts(folder).items():
            if other != number:
                # Not the whole folder at once: a network's disk may keep files in it that are still open somewhere.
                # At the end the other ranks delete their own at the same time.
                with suppress(FileNotFoundError):
                    for path in place.glob("*.frames"):
                        fail("layout.delete")
                        path.unlink(missing_ok=True)
                shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot delete the old journals in {folder}: {error.strerror}") from error
