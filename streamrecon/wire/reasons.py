"""Why frames were given up, as the few ranges that they mostly are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class Reasons:
    """Of the indices of one kind of frame, why each was given up: what was said last counts, however often it is said."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, str]] = []
        """First, one past the last, reason: ascending, and none overlaps another."""

    @property
    def end(self) -> int:
        """One past the last index that was given up."""
        return self._spans[-1][1] if self._spans else 0

    def say(self, first: int, end: int, reason: str) -> None:
        """Indices from `first` to `end` - 1 are given up."""
        if first >= end:
            return
        low = bisect_left(self._spans, first, key=lambda span: span[1])
        high = bisect_right(self._spans, end, key=lambda span: span[0])
        a, b, rest = first, end, []
        for span in self._spans[low:high]:
            if span[2] == reason:
                a, b = min(a, span[0]), max(b, span[1])
            else:
                rest += [(span[0], min(span[1], first), span[2]), (max(span[0], end), span[1], span[2])]
        self._spans[low:high] = sorted([(a, b, reason), *(span for span in rest if span[0] < span[1])])

    def counts(self, here: Sequence[int]) -> dict[str, int]:
        """How many were given up for each reason.

        Parameters
        ----------
        here
            Indices that came nevertheless, ascending; they do not count.
        """
        found: dict[str, int] = {}
        for first, end, reason in self._spans:
            count = end - first - (bisect_left(here, end) - bisect_left(here, first))
            if count:
                found[reason] = found.get(reason, 0) + count
        return found
