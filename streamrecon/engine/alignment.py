"""When projections are enough to tell the center, and when a better one is worth starting over for: of all slabs together."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import ReconConfig
from streamrecon.engine.orders import Align, Studied, Tag
from streamrecon.errors import GeometryError
from streamrecon.recon.center import PAIR_ROWS, CenterEstimate, CenterFinder
from streamrecon.recon.offset import FULL, TURN, beside_middle
from streamrecon.recon.weights import covered_arc
from streamrecon.wire.ranges import Ranges

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

Look = Callable[[tuple[int, ...], int], NDArray[np.float32] | None]
"""Projections by index as the means of so many bands of rows, (projection, band, column); None until all slabs have told."""


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
    theta
        (projection,) radians, where announced.
    given
        Column of the rotation axis, where the user or the scan says so.
    slabs
        Ranks that have one.
    look
        Asks them for projections.
    guess
        Column of the rotation axis in the scan before: a start, until this one tells.
    """

    def __init__(
        self,
        options: ReconConfig,
        rows: int,
        columns: int,
        expected: int | None,
        theta: NDArray[np.float64] | None,
        given: float | None,
        slabs: Collection[int],
        look: Look,
        guess: float | None = None,
    ) -> None:
        self._options, self._size, self._look = options, (rows, columns), look
        half = max(FEWEST, expected // 2) if expected else MOST
        self._most = half if options.center_frames is None else options.center_frames
        self._expected, self._announced, self.given = expected, theta, given
        self._slabs = set(slabs)
        self.used: Align | None = None
        """What all accumulate with; None while it is waited for."""
        self._candidate: CenterEstimate | None = None
        """Better than what is used, but for whether the axis is offset then."""
        self._looks = given is None
        """Whether slabs tell what it takes to find it."""
        self._estimate: CenterEstimate | None = None
        if given is not None:
            self.give(given)
        self._guess = guess if given is None and guess is not None and self._may_guess(guess) else None
        self.tag: Tag = ()
        """Of the line integrals that count."""
        self._restudy()

    def _restudy(self) -> None:
        """What was learnt is void, as the line integrals have changed."""
        self._finder = CenterFinder(*self._size)
        self._parts: dict[int, frozenset[int]] = {}
        """Slabs that have told of a projection, by its index, until all have."""
        self._sums: dict[int, NDArray[np.float32]] = {}
        self.theta: dict[int, float] = {}
        """Radians, of the projections that every slab has."""
        self._ending = False
        """Whether only those are left that count at the end, in their order."""
        self._stale = True
        self._looked: tuple[int, float] = (0, math.inf)
        self._candidate = None
        self._pair: tuple[int, int, float] | None = None
        self._some: tuple[int, ...] = ()
        """What was asked to be seen: not anew for each projection that comes before the answer."""

    def take(self, rank: int, news: Studied) -> None:
        """Take in what a slab tells."""
        if news.tag < self.tag:
            return
        if news.tag > self.tag:
            self.tag = news.tag
            self._restudy()
        for place, (index, theta) in enumerate(zip(news.indices, news.theta, strict=True)):
            told = self._parts.pop(index, frozenset())
            if index in self.theta:
                continue
            told |= {rank}
            if news.sums is not None:
                before = self._sums.get(index)
                self._sums[index] = news.sums[place] if before is None else before + news.sums[place]
            if told != self._slabs:
                self._parts[index] = told
            else:
                self.theta[index] = float(theta)
                if news.sums is not None:
                    self._finder.add_sums(index, float(theta), self._sums[index])

    def give(self, center: float) -> None:
        """Someone says where the axis is: it is no longer looked for."""
        self.given, self._candidate = center, None
        self._estimate = CenterEstimate(center, 0.0, "user", 0, f"center {center:.2f} as given")

    def find(self) -> bool:
        """Nobody says any more where the axis is; whether it can be looked for."""
        if not self._looks:
            return False
        self.given = self._estimate = None
        self._looked = (0, math.inf)
        return True

    def better(self) -> Align | None:
        """An axis to start with, or to start over with, before the scan's end; None while there is nothing to do.

        Raises
        ------
        GeometryError
            If the scan would need a full turn and is none.
        """
        if not self.theta:
            return None
        estimate = self._estimate if self.given is not None else self._candidate or self._better()
        if estimate is None and self._guess is not None and self.used is None:
            return self._use(Align(_guessed(self._guess, self._size[1]), False))
        if estimate is None or (self.used is not None and estimate == self.used.estimate):
            return None
        self._candidate = estimate
        offset = self._offset_axis(estimate, self._announced, refuse=self._announced is not None)
        if offset is None:
            return None
        return self._use(Align(estimate, offset))

    def last(self, projections: Ranges) -> Align | None:
        """The axis by all projections, whatever was used before, and in whatever order they came.

        Parameters
        ----------
        projections
            Indices of those that count; every slab has them.

        Returns
        -------
        align
            None until all slabs have told what it takes.
        """
        if any(index not in self.theta for index in projections):
            return None
        in_order = list(projections)
        if not self._ending:
            self._ending, self._pair, self._some = True, None, ()
            if list(self.theta) != in_order:
                self.theta = {index: self.theta[index] for index in in_order}
                self._finder = CenterFinder(*self._size)
                for index in in_order if self.given is None else ():
                    self._finder.add_sums(index, self.theta[index], self._sums[index])
        if self.given is None:
            best = self._best()
            if best is None:
                return None
            old = None if self.used is None else self.used.estimate
            self._estimate = old if old is not None and best.method == "middle" else best
        assert self._estimate is not None
        theta = np.array([self.theta[index] for index in in_order]) if self._announced is None else self._announced
        refuse = self._announced is not None and self._guessing
        offset = self._offset_axis(self._estimate, theta, refuse)
        return None if offset is None else self._use(Align(self._estimate, offset))

    @property
    def _guessing(self) -> bool:
        """Whether nothing of this scan has told the axis yet."""
        return self.used is None or self.used.estimate.method in ("previous", "user")

    def _may_guess(self, center: float) -> bool:
        """Whether to start with the axis of the scan before.

        Not where it would decide how wide the slices are: what the first projections show of the object's edge is not enough for
        that.
        """
        if self._options.offset_axis != "auto":
            return self._options.offset_axis == "no"
        full = self._announced is not None and self._joinable(self._announced)
        return not (full and beside_middle(center, self._size[1]))

    def _use(self, align: Align) -> Align:
        self.used, self._stale, self._candidate = align, False, None
        return align

    def _better(self) -> CenterEstimate | None:
        count = len(self.theta)
        pair = self._finder.opposed_pair()
        mismatch = abs(pair[2]) if pair else math.inf
        # A guess shortens the wait for the axis, and is replaced by what that would have ended with.
        old = None if self.used is None or self._guessing else self.used.estimate
        # Looked at whenever the projections have doubled or the pair has become clearly better, but not shortly before the
        # end, which has the last word.
        news = count >= 2 * self._looked[0] or mismatch < 0.5 * self._looked[1]
        late = self.used is not None and self._expected is not None and count > LATE * self._expected
        if late or (self._looked[0] and not news):
            return None
        covered = covered_arc(np.array(list(self.theta.values()))) / math.pi
        full = count >= self._most
        if old is None and not full and (covered < self._options.center_wait or count < FEWEST):
            return None
        found = self._best()
        if found is None or (self.used is None and found.method == "middle" and not full):
            return None
        self._looked = count, mismatch
        if old is None and self.used is not None and found.method == "middle":
            return None  # the scan before has told more than that
        # What was learnt from other line integrals does not stand against anything that is learnt now.
        surer = old is None or found.sigma < old.sigma or (self._stale and found.method != "middle")
        return (
            found if surer and (self.used is None or abs(found.center - self.used.estimate.center) > BETTER) else None
        )

    def _best(self) -> CenterEstimate | None:
        """The most certain estimate; None until the opposed pair can be seen."""
        self._pair = self._pair or self._finder.opposed_pair()
        if self._pair is None:
            return self._finder.best()
        images, mismatch = self._look(self._pair[:2], PAIR_ROWS), self._pair[2]
        if images is None:
            return None
        self._pair = None
        return self._finder.best((images[0], images[1], mismatch))

    def _offset_axis(self, estimate: CenterEstimate, theta: NDArray[np.float64] | None, refuse: bool) -> bool | None:
        """Whether opposed views of the object complete each other rather than repeat (`recon.offset`); None until it can be seen.

        Parameters
        ----------
        estimate
            Of the axis.
        theta
            (projection,) radians, where known by now.
        refuse
            Whether to refuse a scan that would need it and does not cover a full turn, or to make of it what can be made.

        Raises
        ------
        GeometryError
            If refused.
        """
        if self._options.offset_axis != "auto":
            return self._options.offset_axis == "yes"
        center, columns = estimate.center, self._size[1]
        if theta is None or not self._joinable(theta) or not beside_middle(center, columns):
            return False
        arc = covered_arc(theta, TURN)
        in_order = sorted(self.theta)
        self._some = self._some or tuple(in_order[:: max(1, len(in_order) // 16)][:16])
        images = self._look(self._some, 1)
        if images is None:
            return None
        self._some = ()
        if not self._cut_off(images.mean(axis=(0, 1)), center):
            return False
        if refuse and arc < FULL:
            raise GeometryError(
                f"the axis is at column {center:.1f} of {columns} and the object reaches beyond the detector on that side, but "
                f"the angles cover {math.degrees(arc):.0f} degrees of the full turn whose views would be joined; expected at "
                f'least {math.degrees(FULL):.0f}. recon.offset_axis = "no" reconstructs what there is'
            )
        return arc >= FULL

    @staticmethod
    def _joinable(theta: NDArray[np.float64]) -> bool:
        """Whether so many angles (projection,) show the object from both sides."""
        return covered_arc(theta, TURN) > 1.5 * math.pi

    def _cut_off(self, profile: NDArray[np.float32], center: float) -> bool:
        """Whether the object reaches beyond the detector on the side of the axis, by its mean line integrals (column,)."""
        near, far = (profile[:3], profile[-3:]) if center < self._size[1] / 2 else (profile[-3:], profile[:3])
        cut = near.mean() - far.mean()
        return bool(cut > CUT_OFF * (profile.max() - far.mean()))


def _guessed(center: float, columns: int) -> CenterEstimate:
    note = f"center {center:.2f}, as in the scan before, until this one tells"
    return CenterEstimate(center, columns / 4, "previous", 0, note)
