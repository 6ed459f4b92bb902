"""The documents of runs that are in work, on the disk: who attaches again after a crash goes on with them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import xxhash

from streamrecon.lock import FolderLock
from streamrecon.scan import UID_PATTERN

log = logging.getLogger(__name__)

SUFFIX = ".documents"
FAILED = ".failed"
"""Instead of the other, of what is not to be tried again."""
ASIDE = ".aside"
"""Instead of the other, of runs that fell silent: they wait for nothing, but may go on."""
ORDER = "order"
"""Name of the file with the runs in the order in which they began to wait, a line each."""
_HEAD = 12
_ARRAY = 1


@dataclass(slots=True)
class _Kept:
    """The documents of a run."""

    file: BinaryIO
    size: int
    """Bytes up to the end of the last whole entry."""
    missing: int = 0
    """Documents that could not be written."""
    headless: bool = False
    """Whether the start is one of them: nothing can be made of the others."""


class Keeping:
    """A folder with a file for each run; used by one thread.

    A file is a row of entries: length (4 bytes) and xxh3 (8 bytes) of a msgpack of name and document, and that. What is written
    survives the process, not the machine: documents are small beside frames, and are never waited for. A folder belongs to one
    at a time.

    Parameters
    ----------
    folder
        Made if it is not there.

    Raises
    ------
    OutputError
        If it cannot be made, or another process uses it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[str, _Kept] = {}
        self.error: str | None = None
        """Why documents are not kept now."""
        self._lock = FolderLock(folder, "attachment", "--keep")
        runs = self.runs()
        with contextlib.suppress(OSError):
            (folder / ORDER).write_text("".join(f"{uid}\n" for uid in runs))

    def add(self, uid: str, name: str, doc: Mapping[str, Any]) -> None:
        """Keep a document. A disk that is full is told, and the run goes on; so does keeping, once there is room again."""
        try:
            kept = self._runs.get(uid) or self._open(uid)
        except OSError as error:
            self._tell(uid, error)
            return
        if kept.headless:
            return
        try:
            data = msgpack.packb([name, doc], default=_default, unicode_errors="surrogatepass")
            entry = memoryview(len(data).to_bytes(4, "little") + xxhash.xxh3_64_digest(data) + data)
            left = entry
            while left:  # a disk that gets full takes a part
                left = left[kept.file.write(left) :]
        except (OSError, ValueError, OverflowError, TypeError) as error:
            with contextlib.suppress(OSError):
                os.ftruncate(kept.file.fileno(), kept.size)
            kept.missing += 1
            kept.headless = name == "start"
            self._tell(uid, error)
            return
        kept.size += len(entry)
        if self.error is not None:
            self.error = None
            log.warning("documents are kept again; of run %s, a restart would not know of %d", uid, kept.missing)

    def _open(self, uid: str) -> _Kept:
        file = self._path(uid).open("ab", buffering=0)
        kept = self._runs[uid] = _Kept(file, os.fstat(file.fileno()).st_size)
        if kept.size == 0:
            self._queue(uid)
        return kept

    def _queue(self, uid: str) -> None:
        with contextlib.suppress(OSError), (self.folder / ORDER).open("a") as file:  # a full disk is told of by others
            file.write(f"{uid}\n")

    def _tell(self, uid: str, error: Exception) -> None:
        if self.error is None:
            self.error = f"documents of run {uid} cannot be kept: {error}; a restart would not know of them"
            log.warning("%s", self.error)

    def forget(self, uid: str) -> None:
        """A run is done with."""
        self._close(uid)
        with contextlib.suppress(OSError):
            self._path(uid).unlink(missing_ok=True)
            self._path(uid).with_suffix(ASIDE).unlink(missing_ok=True)

    def put_aside(self, uid: str) -> None:
        """A run waits no more, but may go on."""
        self._close(uid)
        with contextlib.suppress(OSError):
            self._path(uid).replace(self._path(uid).with_suffix(ASIDE))

    def take_up(self, uid: str) -> None:
        """A run that was put aside waits again, as the last."""
        with contextlib.suppress(OSError):
            self._path(uid).with_suffix(ASIDE).replace(self._path(uid))
        self._queue(uid)

    def set_aside(self, uid: str) -> Path | None:
        """A run is not to be tried again, but its documents stay, for people; where, if there are any."""
        self._close(uid)
        path = self._path(uid)
        try:
            return path.replace(path.with_suffix(FAILED))
        except OSError:
            return None

    def runs(self) -> list[str]:
        """Those of which documents are kept, in the order in which they began to wait."""
        places: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            places = {uid: n for n, uid in enumerate((self.folder / ORDER).read_text().split())}
        return sorted(self._with(SUFFIX), key=lambda uid: places.get(uid, -1))

    def asides(self) -> list[str]:
        """Those that were put aside."""
        return self._with(ASIDE)

    def _with(self, suffix: str) -> list[str]:
        paths = sorted(self.folder.glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime_ns)
        return [path.stem for path in paths if UID_PATTERN.fullmatch(path.stem)]

    def left(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Documents of all runs that are there, run after run, in the order in which they began; what was not written to its end
        is cut off."""
        paths = [self._path(uid).with_suffix(ASIDE) for uid in self.asides()]
        for path in sorted([*paths, *map(self._path, self.runs())], key=self._began):
            uid = path.stem
            try:
                yield from self._read(path)
            except OSError as error:
                log.warning("what was kept of run %s cannot be read: %s", uid, error)

    def _began(self, path: Path) -> float:
        with contextlib.suppress(OSError, TypeError, ValueError):
            for name, doc in self._read(path):
                return float(doc["time"]) if name == "start" and "time" in doc else 0.0
        return 0.0

    def _read(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        with path.open("r+b") as file:
            size, sound = os.fstat(file.fileno()).st_size, 0
            while len(head := file.read(_HEAD)) == _HEAD:
                length = int.from_bytes(head[:4], "little")
                data = file.read(length) if sound + _HEAD + length <= size else b""
                if xxhash.xxh3_64_digest(data) != head[4:]:
                    break
                sound = file.tell()
                try:
                    name, doc = msgpack.unpackb(
                        data, ext_hook=_extension, strict_map_key=False, unicode_errors="surrogatepass"
                    )
                except Exception as error:  # a restart must not fail on it again and again
                    log.warning("a document in %s cannot be read: %s: %s", path, type(error).__name__, error)
                    continue
                yield name, doc
            if sound < size:
                file.truncate(sound)

    def close(self) -> None:
        """Close all files; they stay."""
        for uid in list(self._runs):
            self._close(uid)
        self._lock.release()

    def _close(self, uid: str) -> None:
        if (kept := self._runs.pop(uid, None)) is not None:
            kept.file.close()

    def _path(self, uid: str) -> Path:
        return self.folder / f"{uid}{SUFFIX}"


def _default(item: Any) -> Any:
    if isinstance(item, np.ndarray) and item.dtype.kind in "biufcSUmM":
        whole = np.ascontiguousarray(item)
        return msgpack.ExtType(_ARRAY, msgpack.packb((whole.dtype.str, whole.shape, whole.tobytes())))
    if isinstance(item, np.generic):
        return item.item()
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, set | frozenset):
        return list(item)
    return str(item)


def _extension(code: int, data: bytes) -> Any:
    if code != _ARRAY:
        return None
    dtype, shape, raw = msgpack.unpackb(data, use_list=False)
    return np.frombuffer(raw, dtype).reshape(shape)
