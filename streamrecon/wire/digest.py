"""The digest of a scan: the same whatever the order of its frames."""

from __future__ import annotations

import struct

import xxhash


def frame_hash(payload: bytes | bytearray | memoryview) -> int:
    """XXH3 (64 bit) of a frame's bytes."""
    return xxhash.xxh3_64_intdigest(payload)


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
