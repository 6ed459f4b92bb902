"""Sets of frame indices as the few ranges that they mostly are."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator

import numpy as np

from streamrecon.errors import RemoteProtocolError
from streamrecon.wire.messages import Range


class Ranges:
    """A set of indices; never changed.

    Parameters
    ----------
    ranges
        Ascending, and apart from each other.
    """

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.ranges = tuple(ranges)
        self._firsts = [first for first, _ in self.ranges]

    @staticmethod
    def of(indices: Iterable[int]) -> Ranges:
        """Of indices in any order."""
        found: list[list[int]] = []
        for index in sorted(indices):
            if found and index <= found[-1][1]:
                found[-1][1] = max(found[-1][1], index + 1)
            else:
                found.append([index, index + 1])
        return Ranges((first, end) for first, end in found)

    @staticmethod
    def union(*sets: Iterable[Range]) -> Ranges:
        """Of ranges in any order, however they overlap."""
        found: list[Range] = []
        for first, end in sorted(each for ranges in sets for each in ranges):
            if found and first <= found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], end)
            else:
                found.append((first, end))
        return Ranges(found)

    def gaps(self, end: int) -> tuple[Range, ...]:
        """The indices below `end` that are not in it."""
        edges = [0, *(edge for each in self.ranges for edge in each), end]
        return tuple((a, min(b, end)) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < min(b, end))

    def __contains__(self, index: int) -> bool:
        place = bisect_right(self._firsts, index) - 1
        return place >= 0 and index < self.ranges[place][1]

    def __len__(self) -> int:
        return sum(end - first for first, end in self.ranges)

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(range(first, end) for first, end in self.ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"Ranges({self.ranges!r})"

    def to_bytes(self) -> bytes:
        """(range, 2) little-endian uint64."""
        return np.array(self.ranges, "<u8").tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> Ranges:
        """What `to_bytes` gave.

        Raises
        ------
        RemoteProtocolError
            If these are no ascending ranges.
        """
        edges = np.frombuffer(data, "<u8")
        if edges.size % 2 or (edges[1:] <= edges[:-1]).any():
            raise RemoteProtocolError("got ranges of frames that do not ascend")
        return Ranges((int(first), int(end)) for first, end in edges.reshape(-1, 2))
