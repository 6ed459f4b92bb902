"""Images that cannot be had, told together where they follow each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from streamrecon.bluesky.stream import Place, Shot
from streamrecon.scan import FrameKind
from streamrecon.wire.messages import Range


class Lost(NamedTuple):
    """An image that cannot be had."""

    shot: Shot
    why: str
    of_row: bool
    """Whether that is about its row in the file."""


def lost_together(lost: Iterable[Lost]) -> Iterator[tuple[FrameKind, Range, str]]:
    """Ranges of images that follow each other and cannot be had for one reason: kind, range, and the reason with the rows.

    Parameters
    ----------
    lost
        In any order.
    """
    together: list[Lost] = []
    for each in sorted(lost, key=lambda each: (each.shot.kind, each.shot.index)):
        if together and not _follows(together[-1], each):
            yield _told(together)
            together = []
        together.append(each)
    if together:
        yield _told(together)


def _follows(last: Lost, each: Lost) -> bool:
    a, b = last.shot, each.shot
    if (a.kind, a.index + 1, last[1:]) != (b.kind, b.index, each[1:]):
        return False
    if each.of_row and isinstance(a.pixels, Place) and isinstance(b.pixels, Place):
        return (a.pixels.resource, a.pixels.row + 1) == (b.pixels.resource, b.pixels.row)
    return True


def _told(together: list[Lost]) -> tuple[FrameKind, Range, str]:
    (first, why, of_row), last = together[0], together[-1].shot
    if of_row and isinstance(first.pixels, Place) and isinstance(last.pixels, Place):
        rows = first.pixels.row, last.pixels.row
        why = f"row {rows[0]}: {why}" if rows[0] == rows[1] else f"rows {rows[0]} to {rows[1]}: {why}"
    return first.kind, (first.index, last.index + 1), why
