"""The documents of runs that are in work, on the disk: who attaches again after a crash goes on with them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import xxhash

from streamrecon.errors import OutputError
from streamrecon.scan import UID_PATTERN

log = logging.getLogger(__name__)

SUFFIX = ".documents"
_HEAD = 12
_ARRAY = 1


class Keeping:
    """A folder with a file for each run; used by one thread.

    A file is a row of entries: length (4 bytes) and xxh3 (8 bytes) of a msgpack of name and document, and that. What is written
    survives the process, not the machine: documents are small beside frames, and are never waited for.

    Parameters
    ----------
    folder
        Made if it is not there.

    Raises
    ------
    OutputError
        If it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}
        self.error: str | None = None
        """Why documents are not kept any more."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot use the folder {folder}: {error.strerror}") from error

    def add(self, uid: str, name: str, doc: Mapping[str, Any]) -> None:
        """Keep a document. A disk that is full is told, and the run goes on."""
        try:
            if uid not in self._files:
                self._files[uid] = self._path(uid).open("ab", buffering=0)
            data = msgpack.packb([name, doc], default=_default, unicode_errors="surrogatepass")
            head = len(data).to_bytes(4, "little") + xxhash.xxh3_64_digest(data)
            self._files[uid].write(head + data)
        except (OSError, ValueError, OverflowError, TypeError) as error:
            if self.error is None:
                self.error = f"documents of run {uid} cannot be kept: {error}; a restart would not know of them"
                log.warning("%s", self.error)

    def forget(self, uid: str) -> None:
        """A run is done with."""
        if (file := self._files.pop(uid, None)) is not None:
            file.close()
        self._path(uid).unlink(missing_ok=True)

    def left(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Documents of all runs that are there, the oldest run first; what was not written to its end is cut off."""
        paths = sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        for path in paths:
            if UID_PATTERN.fullmatch(path.name.removesuffix(SUFFIX)):
                yield from self._read(path)

    def _read(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        with path.open("r+b") as file:
            size, sound = os.fstat(file.fileno()).st_size, 0
            while len(head := file.read(_HEAD)) == _HEAD:
                length = int.from_bytes(head[:4], "little")
                data = file.read(length) if sound + _HEAD + length <= size else b""
                if xxhash.xxh3_64_digest(data) != head[4:]:
                    break
                sound = file.tell()
                name, doc = msgpack.unpackb(
                    data, ext_hook=_extension, strict_map_key=False, unicode_errors="surrogatepass"
                )
                yield name, doc
            file.truncate(sound)

    def close(self) -> None:
        """Close all files; they stay."""
        for file in self._files.values():
            file.close()
        self._files = {}

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
