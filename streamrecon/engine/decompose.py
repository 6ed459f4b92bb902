"""Rows to ranks: which slab of detector rows each rank owns, and where a sender finds it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from streamrecon.wire.messages import Lane, Range


def decompose(whole: Range, ranks: int, unit: int = 1) -> tuple[Range, ...]:
    """Share rows among ranks, as evenly as their unit allows.

    Parameters
    ----------
    whole
        Detector rows, first and one past the last.
    ranks
        At least 1.
    unit
        Rows that stay together, counted from the first one, so that no bin of a preview lies across two slabs. Where there are
        fewer of them than ranks, rows are shared one by one.

    Returns
    -------
    slabs
        One for each rank, in the order of their rows; the last ones are empty where there are more ranks than rows.
    """
    first, end = whole
    units = -(-(end - first) // unit)
    if units < ranks:
        unit, units = 1, end - first
    edges = [first]
    for rank in range(ranks):
        edges.append(min(end, edges[-1] + unit * (units // ranks + (rank < units % ranks))))
    return tuple(itertools.pairwise(edges))


def lanes(slabs: Sequence[Range], endpoints: Sequence[str], rank: int) -> tuple[Lane, ...]:
    """What a rank answers to HELLO: its own lane, and rank 0 those of the others, too."""
    own = Lane(rows=slabs[rank])
    if rank:
        return (own,)
    others = zip(slabs[1:], endpoints[1:], strict=True)
    return own, *(Lane(rows=rows, endpoint=endpoint) for rows, endpoint in others if rows[0] < rows[1])
