"""What a scan lacks in the end, in words."""

from __future__ import annotations

from collections.abc import Sequence

from streamrecon.scan import FrameKind
from streamrecon.wire.messages import Range

Gaps = Sequence[tuple[int, str, int]]
"""Kind of frames that never came as the sender gave them up, its reason, how many."""

NAMED = 32
"""Ranges of projections that are named."""


def counted(missing: Sequence[Range], gaps: Gaps) -> str:
    """How many frames never came; empty where all did.

    Parameters
    ----------
    missing
        Projections.
    gaps
        Frames of all kinds that were given up; those among the projections are among `missing`.
    """
    numbers = {FrameKind.PROJECTION: sum(end - first for first, end in missing)}
    for kind in (FrameKind.FLAT, FrameKind.DARK):
        numbers[kind] = sum(count for each, _, count in gaps if each == kind)
    return "; ".join(f"{_so_many(kind, count)} never came" for kind, count in numbers.items() if count)


def explained(missing: Sequence[Range], gaps: Gaps) -> str:
    """Which projections never came, how many flats and darks, and why, as far as that is known; empty where all did.

    Parameters
    ----------
    missing, gaps
        As of `counted`.
    """
    parts: list[str] = []
    if missing:
        parts.append("projections " + ", ".join(f"{a} to {b - 1}" for a, b in missing[:NAMED]) + " never came")
        parts += [f"{count} {reason}" for kind, reason, count in gaps if kind == FrameKind.PROJECTION]
    parts += [
        f"{_so_many(kind, count)} never came: {reason}" for kind, reason, count in gaps if kind != FrameKind.PROJECTION
    ]
    return "; ".join(parts)


def _so_many(kind: int, count: int) -> str:
    return f"{count} {FrameKind(kind).name.lower()}{'' if count == 1 else 's'}"
