"""Where flats and darks lie among the projections. Their source tells, by its order: frames may arrive in any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from streamrecon.scan import Frame, FrameKind


class Positions:
    """Counts the projections of one pass over a source.

    Parameters
    ----------
    earlier
        Indices of projections that another sender has sent, where the source may go on from there. It does not if it begins
        with the first frame of a kind.
    """

    def __init__(self, earlier: Iterable[int] = ()) -> None:
        self._earlier, self._began = earlier, False
        self._given = set[int]()
        self._ascending, self._last = True, -1

    def place(self, frame: Frame) -> Frame:
        """The next frame, with its position."""
        position = self.of(frame.kind, int(frame.index))
        return frame if frame.position is not None or position is None else replace(frame, position=position)

    def of(self, kind: FrameKind, index: int) -> int | None:
        """Position of the next frame; None for a projection."""
        if not self._began:
            self._began = True
            for each in sorted(self._earlier) if index else ():
                self._count(each)
        if kind != FrameKind.PROJECTION:
            return self._position()
        self._count(index)
        return None

    def _count(self, index: int) -> None:
        if index not in self._given:  # under its name another one may come again
            self._ascending &= index > self._last
            self._last = index
            self._given.add(index)

    def _position(self) -> int:
        # Where some were lost the last one's index tells more than their number; in another order it tells nothing.
        return self._last + 1 if self._ascending else len(self._given)
