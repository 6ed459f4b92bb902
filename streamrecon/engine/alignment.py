"""The center during the scan: when to start with the best estimate, and when to start over with a better one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import ReconConfig
from streamrecon.engine.journal import Record
from streamrecon.errors import GeometryError
from streamrecon.recon.center import CenterEstimate, CenterFinder
from streamrecon.recon.offset import FULL, beside_middle
from streamrecon.recon.weights import covered_arc

FEWEST = 16
"""Projections to wait for in any case: a few that are spread evenly cover the half circle, and tell little."""

MOST = 1024
"""Projections to wait for at most where their number is unknown."""

LATE = 0.75
"""Share of the scan from which on a better estimate waits for the end."""

CUT_OFF = 0.3
"""Of the largest mean line integral: what is left of it at the detector's edge if the object is cut off there."""

BETTER = 0.05
"""Pixels: an estimate that differs less is not worth starting over for before the end."""

LineIntegrals = Callable[[Sequence[Record]], NDArray[np.float32]]


class Alignment:
    """Finds the center from projections as they come, or holds the one that was given.

    Parameters
    ----------
    options
        How long to wait.
    rows, columns
        Of a projection.
    expected
        Projections announced, where known.
    given
        Column of the rotation axis, where the user or the scan says so.
    line_integrals
        Reads projections, (angle, row, column).
    """

    def __init__(
        self,
        options: ReconConfig,
        rows: int,
        columns: int,
        expected: int | None,
        given: float | None,
        line_integrals: LineIntegrals,
    ) -> None:
        self._options, self._size, self._read = options, (rows, columns), line_integrals
        half = max(FEWEST, expected // 2) if expected else MOST
        self._most = half if options.center_frames is None else options.center_frames
        self._expected, self.given = expected, given
        self.estimate: CenterEstimate | None = None
        """What is used, None while it is waited for."""
        if given is not None:
            self.estimate = CenterEstimate(given, 0.0, "user", 0, f"center {given:.2f} as given")
        self.restudy()

    def offset_axis(self, projections: Sequence[Record], arc: float | None, refuse: bool) -> bool:
        """Whether opposed views of the object complete each other rather than repeat (`recon.offset`).

        Parameters
        ----------
        projections
            Some of those that have come.
        arc
            Radians of a full turn that the scan's angles cover; None while they are not known.
        refuse
            Whether to refuse a scan that would need it and does not cover a full turn, or to make of it what can be made.

        Raises
        ------
        GeometryError
            If refused.
        """
        assert self.estimate is not None
        if self._options.offset_axis != "auto":
            return self._options.offset_axis == "yes"
        center, columns = self.estimate.center, self._size[1]
        if arc is None or arc <= 1.5 * math.pi or not beside_middle(center, columns):
            return False
        if not self._cut_off(projections, center):
            return False
        if refuse and arc < FULL:
            raise GeometryError(
                f"the axis is at column {center:.1f} of {columns} and the object reaches beyond the detector on that side, but "
                f"the angles cover {math.degrees(arc):.0f} degrees of the full turn whose views would be joined; expected at "
                f'least {math.degrees(FULL):.0f}. recon.offset_axis = "no" reconstructs what there is'
            )
        return arc >= FULL

    def _cut_off(self, projections: Sequence[Record], center: float) -> bool:
        """Whether the object reaches beyond the detector on the side of the axis, by 16 projections."""
        in_order = sorted(projections, key=lambda record: record.index)
        profile = self._read(in_order[:: max(1, len(in_order) // 16)][:16]).mean(axis=(0, 1))
        near, far = (profile[:3], profile[-3:]) if center < self._size[1] / 2 else (profile[-3:], profile[:3])
        cut = near.mean() - far.mean()
        return bool(cut > CUT_OFF * (profile.max() - far.mean()))

    def restudy(self) -> None:
        """What was learnt is void, as the line integrals have changed: look at all projections again."""
        self._finder = CenterFinder(*self._size)
        self._stale = True
        self._studied = 0
        self._looked: tuple[int, float] = (0, math.inf)
        self._ended = 0

    def better(self, projections: Sequence[Record], ended: bool) -> CenterEstimate | None:
        """A center to start with, or to start over with; None while there is nothing to do.

        Parameters
        ----------
        projections
            All that have come.
        ended
            Whether no more will come.
        """
        if self.given is not None or not projections:
            return None
        if ended:
            return self._last(projections)
        self._study(projections)
        count = len(projections)
        pair = self._finder.opposed_pair()
        mismatch = abs(pair[2]) if pair else math.inf
        # Looked at whenever the projections have doubled or the pair has become clearly better, but not shortly before the
        # end, which has the last word.
        news = count >= 2 * self._looked[0] or mismatch < 0.5 * self._looked[1]
        if self.estimate is not None and (not news or (self._expected and count > LATE * self._expected)):
            return None
        covered = covered_arc(np.array([r.theta for r in projections])) / math.pi
        full = count >= self._most
        if self.estimate is None and not full and (covered < self._options.center_wait or count < FEWEST):
            return None
        found = self._finder.best(self._pair(projections, pair))
        if self.estimate is None and found.method == "middle" and not full:
            return None
        self._looked = count, mismatch
        old = self.estimate
        # What was learnt from other line integrals does not stand against anything that is learnt now.
        surer = old is None or found.sigma < old.sigma or (self._stale and found.method != "middle")
        return self._take(found) if surer and (old is None or abs(found.center - old.center) > BETTER) else None

    def _last(self, projections: Sequence[Record]) -> CenterEstimate | None:
        """The center from all projections: whatever was used before, and in whatever order they came."""
        if self._ended == len(projections):
            return None
        in_order = sorted(projections, key=lambda record: record.index)
        if in_order != list(projections):
            self.restudy()
        self._study(in_order)
        self._ended = len(projections)
        found = self._finder.best(self._pair(projections, self._finder.opposed_pair()))
        old = self.estimate
        if old is not None and (found.center == old.center or found.method == "middle"):
            return None
        return self._take(found)

    def _take(self, found: CenterEstimate) -> CenterEstimate:
        self.estimate, self._stale = found, False
        return found

    def _study(self, projections: Sequence[Record]) -> None:
        while self._studied < len(projections):
            batch = projections[self._studied : self._studied + 16]
            for record, projection in zip(batch, self._read(batch), strict=True):
                self._finder.add(record.index, record.theta, projection)
            self._studied += len(batch)

    def _pair(
        self, projections: Sequence[Record], pair: tuple[int, int, float] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], float] | None:
        if pair is None:
            return None
        by_index = {record.index: record for record in projections if record.index in pair[:2]}
        first, second = self._read([by_index[pair[0]], by_index[pair[1]]])
        return first, second, pair[2]
