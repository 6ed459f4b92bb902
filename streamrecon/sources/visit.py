"""Looking into HDF5 files that others may be writing: what a file says of its writer, and short visits that hold nothing."""

from __future__ import annotations

import contextlib
import enum
import importlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from streamrecon.errors import SourceError, SourceFileError, StreamreconError
from streamrecon.sources.roots import Roots

SETTLE = 1.0
"""Seconds without a change after which a file with an older superblock is read: before HDF5 1.10 a writer left no mark."""
_CACHE = 64 << 20
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WRITING, _SWMR = 1, 4
_ALONE = threading.RLock()
"""Two handles of a process for one file share what HDF5 knows of it, so a younger one would see what the older one saw."""


class NotYetError(Exception):
    """What is looked for is not there, or not to be read, but may be when looked for again."""


class Writer(enum.Enum):
    """What a file says of who writes it."""

    GONE = "the writer has closed it"
    SWMR = "it is written so that others may read"
    EXCLUSIVE = "the writer has not turned SWMR on; it is read when it is closed"
    CUT = "it is shorter than it says; perhaps it is still being copied"


@dataclass(frozen=True, slots=True)
class Marks:
    """How a file looks from outside."""

    identity: tuple[int, int]
    """Device and inode."""
    size: int
    modified: int
    """ns"""
    version: int
    """Of its superblock."""
    writer: Writer


def marks(handle: int, name: str) -> Marks:
    """How an open file looks.

    The marks of the writer are the file consistency flags of the superblock (HDF5 file format specification, II.A): byte 11
    of versions 2 and 3, byte 20 of versions 0 and 1. HDF5 since 1.10 sets bit 0 while the file is open for writing, in all
    versions though the specification has it for 3 alone, and bit 2 for SWMR.

    Parameters
    ----------
    handle
        Of the file.
    name
        Of the file, for errors.

    Raises
    ------
    NotYetError
        If it is not HDF5 yet.
    SourceError
        If it is not a file.
    """
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{name} is not a file; expected an HDF5 file")
    start = 0
    head = os.pread(handle, 64, 0)
    while head[:8] != _SIGNATURE:
        start = start * 2 or 512  # behind a user block
        if start > 1 << 20 or start >= status.st_size:
            raise NotYetError(f"{name} is not an HDF5 file (yet): it has {status.st_size} bytes, and no signature")
        head = os.pread(handle, 64, start)
    version = head[8] if len(head) > 8 else 0
    if len(head) < (48 if version >= 2 else 56):
        raise NotYetError(f"{name} has only the beginning of an HDF5 file")
    flags = head[11] if version >= 2 else head[20]
    width = head[9] if version >= 2 else head[13]
    end = (12 if version >= 2 else 28 if version == 1 else 24) + 2 * width
    size = int.from_bytes(head[end : end + width], "little")
    if flags & _WRITING:
        writer = Writer.SWMR if flags & _SWMR and version >= 3 else Writer.EXCLUSIVE
    else:
        writer = Writer.CUT if status.st_size < size else Writer.GONE
    return Marks((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns, version, writer)


@dataclass(frozen=True, slots=True)
class Visit:
    """An open file, for a moment."""

    file: h5py.File
    marks: Marks
    quiet: float
    """Seconds since its writer closed it, as far as was seen; 0 while it may be written."""


class Visitor:
    """Opens files for moments, never with a lock, and only when what is read cannot be half written.

    Parameters
    ----------
    clock
        Seconds, monotonic.
    roots
        Where files may lie; None: anywhere. It is checked of each file as it is opened: what a path leads to may have changed
        since it was located.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, roots: Roots | None = None) -> None:
        self._clock, self._roots = clock, roots
        self._seen: dict[Path, tuple[object, float]] = {}
        self.changes = 0
        """Grows whenever a file is seen to have changed."""

    def look(self, path: Path) -> Marks:
        """How a file looks now, without opening it with HDF5.

        Raises
        ------
        NotYetError, SourceError
            As `marks` does, and if it has not appeared, or does not lie where files may lie.
        """
        seen: object = None
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(handle)
                seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
                if self._roots is not None:
                    self._roots.beneath(_opened(handle, path), f"what {path} leads to")
                seen = found = marks(handle, str(path))
            finally:
                os.close(handle)
        except FileNotFoundError:
            raise NotYetError(f"{path} has not appeared") from None
        except SourceError:
            raise
        except OSError as error:
            raise NotYetError(f"{path} cannot be opened: {error.strerror}") from error
        finally:
            if path not in self._seen or self._seen[path][0] != seen:
                self._seen[path] = seen, self._clock()
                self.changes += 1
        return found

    def quiet(self, path: Path) -> float:
        """Seconds since a file was last seen to have changed."""
        return self._clock() - self._seen[path][1] if path in self._seen else 0.0

    @contextmanager
    def visit(self, path: Path, *, closed: bool = False) -> Iterator[Visit]:
        """Open a file for a moment. What was read counts only if this ends without an error.

        Parameters
        ----------
        path
            Of the file.
        closed
            Whether to read it only if its writer has closed it.

        Raises
        ------
        NotYetError
            If it cannot be read now, or was changed meanwhile such that what was read may be wrong.
        SourceFileError
            If it is closed, but damaged.
        """
        found = self.look(path)
        if found.writer is Writer.CUT or found.writer is Writer.EXCLUSIVE or (closed and found.writer is Writer.SWMR):
            reason = "the writer has not closed it" if found.writer is Writer.SWMR else found.writer.value
            raise NotYetError(f"{path}: {reason}")
        quiet = self.quiet(path) if found.writer is Writer.GONE else 0.0
        if found.version < 3 and quiet < SETTLE:
            raise NotYetError(
                f"{path}: a file of this older kind is read when nothing has changed in it for {SETTLE:g} s"
            )
        importlib.import_module("hdf5plugin")  # registers the filters that compressed files need
        swmr = found.writer is Writer.SWMR
        with _ALONE:
            try:
                file = h5py.File(path, "r", locking=False, swmr=swmr, rdcc_nbytes=_CACHE, rdcc_nslots=10_007)
            except (OSError, RuntimeError) as error:
                raise NotYetError(f"{path} cannot be opened: {error}") from error
            with file:
                handle = file.id.get_vfd_handle()
                if not _same(found, marks(handle, str(path))):
                    raise NotYetError(f"{path} was changed as it was opened")
                failed: Exception | None = None
                try:
                    yield Visit(file, found, quiet)
                except (StreamreconError, NotYetError) as error:
                    failed = error
                except (OSError, RuntimeError, ValueError, KeyError) as error:
                    failed = NotYetError(f"{path} cannot be read now: {error}")
                    if not swmr:
                        failed = SourceFileError(f"{path} cannot be read: {error}; the file is damaged or incomplete")
                    failed.__cause__ = error
                if not _same(found, marks(handle, str(path))):
                    raise NotYetError(f"{path} was changed while it was read") from failed
                if failed is not None:
                    raise failed


def _opened(handle: int, path: Path) -> Path:
    """Which file is open, whatever its path leads to by now."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/self/fd/{handle}").readlink()
    real = path.resolve()  # where the system does not say
    if not os.path.samestat(os.fstat(handle), real.lstat()):
        raise NotYetError(f"{path} was changed as it was opened")
    return real


def _same(before: Marks, after: Marks) -> bool:
    """Whether what is read between the two is what was written: with SWMR a file may grow meanwhile."""
    if before.writer is Writer.SWMR:
        return after.writer is Writer.SWMR and after.identity == before.identity
    return after == before
