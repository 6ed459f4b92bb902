"""The entries of a journal's file: where each is, whether it is sound, and what all of them come to.

They are of one size, each a head of 64 bytes and a frame's pixels. A head names the file and its place in it, so nothing that
an earlier file left on the disk can be taken for an entry.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamrecon.failpoints import fail
from streamrecon.scan import FrameKind
from streamrecon.wire.inventory import Inventory

HEAD = struct.Struct("<4sB3xQQdQQQ8x")
"""Mark, kind, place, index, theta (of flats and darks their position), hash of the pixels, identity of the file, hash of the
head up to here."""
MARK = b"SRfr"
WITHDRAWN = 16
"""Kind of an entry that takes the projection of its index back."""
ENDED = 17
"""Kind of an entry after the last frame: its index is the number of frames, its hash their digest."""
SENDER = 18
"""Kind of an entry that says which sender has the scan from then on: its index is the epoch."""
NONE = (1 << 64) - 1
"""Index of an entry that takes nothing back."""

FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Entry:
    """One whose head is sound."""

    place: int
    kind: int
    index: int
    theta: float
    """Radians; of flats and darks the projections measured before them; 0 for what is no frame."""
    xxh3: int
    """Hash of the pixels; of a withdrawal the number of its GAP, of the end the digest of the frames."""


class Entries:
    """Where the entries of a file are, and how they are read; stateless.

    Parameters
    ----------
    file
        Descriptor.
    start
        Bytes before the first entry.
    identity
        Of the file.
    nbytes
        Of a frame.
    """

    def __init__(self, file: int, start: int, identity: int, nbytes: int) -> None:
        self._file, self._start, self._id, self.nbytes = file, start, identity, nbytes
        self.stride = HEAD.size + -(-nbytes // HEAD.size) * HEAD.size
        """Bytes from an entry to the next."""

    def offset(self, place: int) -> int:
        """Of an entry in the file, bytes."""
        return self._start + place * self.stride

    def places(self) -> int:
        """Entries in the file, with a last one that was only begun."""
        return max(0, -(-(os.fstat(self._file).st_size - self._start) // self.stride))

    def head(self, place: int, kind: int, index: int, theta: float, xxh3: int) -> bytes:
        """The head of an entry."""
        head = HEAD.pack(MARK, kind, place, index, theta, xxh3, self._id, 0)
        return HEAD.pack(MARK, kind, place, index, theta, xxh3, self._id, _hash(head))

    def look(self, place: int) -> Entry | None:
        """The entry at a place, if its head is sound.

        Raises
        ------
        OSError
            If the disk fails.
        """
        head = bytearray(HEAD.size)
        if not read_into(self._file, memoryview(head), self.offset(place)):
            return None
        mark, kind, number, index, theta, xxh3, identity, check = HEAD.unpack(head)
        if (mark, number, identity) != (MARK, place, self._id):
            return None
        if check != _hash(HEAD.pack(mark, kind, number, index, theta, xxh3, identity, 0)):
            return None
        return Entry(place, kind, index, theta, xxh3)

    def read(self, entry: Entry, pixels: NDArray[np.uint8]) -> bool:
        """Read the pixels of a frame, (byte,); whether they are sound.

        Raises
        ------
        OSError
            If the disk fails.
        """
        there = read_into(self._file, pixels.data, self.offset(entry.place) + HEAD.size)
        return there and xxhash.xxh3_64_intdigest(pixels.data) == entry.xxh3


class History:
    """What entries come to, one after the other."""

    def __init__(self, epoch: int) -> None:
        self.inventory = Inventory(epoch=epoch)
        self.ended = False
        """Whether the sender had sent everything, and all of it is here: else it is to be asked again."""
        self.frames: dict[tuple[int, int], list[Entry]] = {}
        """Those that came, and were not withdrawn since, by kind and index: the first, and others that came under its name.

        In the order of the first.
        """
        self._lost = False

    def lose(self) -> None:
        """Go on by an entry whose head cannot be read.

        It may have taken a projection back. So from here on no GAP is known to have been followed, and all are said again.
        """
        self._lost = True

    def damaged(self, entry: Entry) -> None:
        """Go on by a frame whose pixels cannot be read."""
        if self.inventory.hash_of(entry.kind, entry.index) not in (None, entry.xxh3):
            self._remove(entry.kind, entry.index)

    def take(self, entry: Entry) -> None:
        """Go on by one entry."""
        inventory, identity = self.inventory, (entry.kind, entry.index)
        if entry.kind == ENDED:
            self.ended = (entry.index, entry.xxh3) == (len(inventory), inventory.digest.value)
        elif entry.kind == SENDER:
            inventory.sender(entry.index)
        elif entry.kind == WITHDRAWN:
            inventory.followed = inventory.followed if self._lost else entry.xxh3
            self._remove(FrameKind.PROJECTION, entry.index)
        elif inventory.hash_of(*identity) == entry.xxh3:
            self.frames[identity].append(entry)
        else:
            # One is let in under a name that is taken only after a withdrawal, which then is lost.
            self._remove(*identity)
            self.frames[identity] = [entry]
            inventory.add(entry.kind, entry.index, entry.xxh3)

    def _remove(self, kind: int, index: int) -> None:
        if self.frames.pop((kind, index), None):
            self.inventory.remove(kind, index)


def put(file: int, data: memoryview, offset: int) -> None:
    """Write all of it."""
    while data:
        fail("journal.write")
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def read_into(file: int, view: memoryview, offset: int) -> bool:
    """Whether the file goes on to the end of the view, which is then filled."""
    while view:
        got = os.preadv(file, [view], offset)
        if not got:
            return False
        view, offset = view[got:], offset + got
    return True


def _hash(head: bytes) -> int:
    return xxhash.xxh3_64_intdigest(head)
