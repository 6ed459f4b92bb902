"""The digest of a scan: the same whatever the order of its frames."""

from __future__ import annotations

import struct

import xxhash

PIECE = 1 << 20
"""Bytes that are copied and hashed in one go. Less would not be faster, and hashing waits for the GIL after each."""


def frame_hash(payload: bytes | bytearray | memoryview) -> int:
    """XXH3 (64 bit) of a frame's bytes."""
    return xxhash.xxh3_64_intdigest(payload)


def copy_and_hash(payload: bytes | bytearray | memoryview, room: memoryview) -> int:
    """Copy a frame's bytes and give the XXH3 (64 bit) of the copy; each piece is hashed while a cache still holds it.

    Parameters
    ----------
    payload
        The bytes.
    room
        As many bytes, writable.
    """
    source, hashing = memoryview(payload).cast("B"), xxhash.xxh3_64()
    for first in range(0, len(source), PIECE):
        piece = slice(first, first + PIECE)
        room[piece] = source[piece]
        hashing.update(room[piece])
    return hashing.intdigest()


class Digest:
    """Sum modulo 2^64 of a hash of (kind, index, the frame's hash) over all frames."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, kind: int, index: int, xxh3: int) -> None:
        """Take in one frame."""
        self.value = (self.value + _item(kind, index, xxh3)) % (1 << 64)

    def remove(self, kind: int, index: int, xxh3: int) -> None:
        """Give up a frame that was taken in."""
        self.value = (self.value - _item(kind, index, xxh3)) % (1 << 64)


def _item(kind: int, index: int, xxh3: int) -> int:
    return xxhash.xxh3_64_intdigest(struct.pack("<QQQ", kind, index, xxh3))
