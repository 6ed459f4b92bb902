"""What rank 0 decides for all ranks of a scan: reports in, orders out. One rank alone leads itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon import errors
from streamrecon.config import ReconConfig
from streamrecon.engine.alignment import Alignment
from streamrecon.engine.orders import (
    SETTLED,
    Align,
    Ask,
    Failed,
    Finish,
    Finished,
    Order,
    Reduced,
    Report,
    Stop,
    Studied,
)
from streamrecon.recon.center import Bands
from streamrecon.scan import FrameKind, ScanInfo
from streamrecon.wire.messages import Range
from streamrecon.wire.ranges import Ranges

QUESTIONS = 4
"""That are answered at the same time; older ones have been superseded."""


class Lead:
    """The decisions of one scan.

    Parameters
    ----------
    info
        Of the scan.
    whole
        Detector rows of all slabs.
    slabs
        Ranks that have one.
    options
        Of the reconstruction.
    guess
        Column of the rotation axis in the scan before, where it may be the same.
    """

    def __init__(
        self, info: ScanInfo, whole: Range, slabs: Collection[int], options: ReconConfig, guess: float | None = None
    ) -> None:
        rows, columns = whole[1] - whole[0], info.geometry.columns
        given = info.geometry.center if options.center is None else options.center
        expected = info.counts.get(FrameKind.PROJECTION)
        self._slabs, self._expected = set(slabs), expected
        self._bands = Bands(rows, columns)
        self.alignment = Alignment(
            options, rows, columns, info.likely_projections, info.theta, given, slabs, self._look, guess
        )
        self._answers: dict[Ask, dict[int, NDArray[np.float32]]] = {}
        """Of the newest questions, by rank."""
        self._finished: dict[int, Finished] = {}
        self._stopped: Finished | None = None
        """The slab for which all others were told to stop, if there was one."""
        self._end: Finish | None = None
        self._orders: list[Order] = []

    @property
    def received(self) -> int:
        """Projections that every slab has."""
        return len(self.alignment.theta)

    @property
    def ended(self) -> bool:
        """Whether the last version is being made."""
        return self._end is not None

    def hear(self, rank: int, report: Report) -> None:
        """Take in what a rank says.

        Raises
        ------
        StreamreconError
            What a rank has failed with.
        """
        if isinstance(report, Studied):
            self.alignment.take(rank, report)
        elif isinstance(report, Reduced):
            answers = self._answers.get(Ask(report.tag, report.indices, report.bands))
            if answers is not None:
                answers[rank] = report.images
        elif isinstance(report, Finished):
            self._finished[rank] = report
        elif isinstance(report, Failed):
            kind = getattr(errors, report.kind, errors.RankError)
            raise kind(f"rank {rank} failed: {report.reason}")

    def turn(self) -> list[Order]:
        """Orders to all ranks that follow from what was heard.

        Raises
        ------
        GeometryError
            If the scan would need a full turn and is none.
        """
        broken = next((each for each in self._finished.values() if not each.ended), None)
        if broken is not None and self._stopped is None:
            self._stopped = replace(broken, reason=broken.reason or "the scan was stopped")
            self._orders.append(Stop(str(self._stopped.reason)))
        if self._end is None:
            order: Order | None
            if set(self._finished) == self._slabs:
                order = self._end = self._finish()
            else:
                # Once a slab has all that comes, what all projections say is waited for.
                order = None if self.alignment.tag == SETTLED else self.alignment.better()
            if order is not None:
                self._orders.append(order)
        orders, self._orders = self._orders, []
        return orders

    def _finish(self) -> Finish | None:
        """What the last version is made of: the projections that every slab has."""
        ends = list(self._finished.values())
        agreed, same = Ranges(ends[0].projections), all(end.projections == ends[0].projections for end in ends)
        if not same:
            agreed = Ranges.of(set(agreed).intersection(*(Ranges(end.projections) for end in ends)))
        align: Align | None = None
        if agreed:
            align = self.alignment.last(agreed)
            if align is None:
                return None
        return Finish(self._broken_off(ends, agreed) or self._whole(ends, agreed), align)

    def _broken_off(self, ends: Sequence[Finished], agreed: Ranges) -> Finished | None:
        """How the scan ended, where it broke off in some slab."""
        if self._stopped is None:
            return None
        # Who was told to stop says why. A sender gives up all lanes where only one had an error, so that one's word counts.
        others = (end for end in ends if not end.ended and end.reason != self._stopped.reason)
        found = [self._stopped, *others]
        end = next((end for end in found if not end.given_up), found[0])
        return replace(end, projections=agreed.ranges)

    def _whole(self, ends: Sequence[Finished], agreed: Ranges) -> Finished:
        """How the scan ended, where all slabs have had its end and nothing more can come.

        Some may have lost a frame since, which the sender did not have any more: it is missing in all.
        """
        edges = [0, *(end for each in ends for _, end in (*each.projections, *each.missing))]
        expected = max(edges) if self._expected is None else self._expected
        gaps: dict[tuple[int, str], int] = {}
        for kind, reason, count in (gap for end in ends for gap in end.gaps):
            gaps[kind, reason] = max(count, gaps.get((kind, reason), 0))
        return Finished(
            agreed.ranges,
            True,
            missing=agreed.gaps(expected),
            gaps=tuple((kind, reason, count) for (kind, reason), count in sorted(gaps.items())),
        )

    def _look(self, indices: tuple[int, ...], bands: int) -> NDArray[np.float32] | None:
        """The means of bands of rows, once all slabs have told their part."""
        ask = Ask(self.alignment.tag, indices, bands)
        if ask not in self._answers:
            self._answers[ask] = {}
            self._orders.append(ask)
            while len(self._answers) > QUESTIONS:
                del self._answers[next(iter(self._answers))]
        if set(self._answers[ask]) != self._slabs:
            return None
        sums = sum(self._answers[ask].values(), np.zeros((), np.float32))
        return np.asarray(sums / self._bands.sizes(bands)[:, None], np.float32)
