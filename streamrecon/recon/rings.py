"""Rings: a column whose response the flats do not correct is a stripe in every projection, and a ring in the slice.

The stripe is the same row at every angle, so a volume is put right at any time by adding the backprojection of the change of
the stripe: what is known late is as exact as what is known from the start. The stripe is the mean of the line integrals over
the angles minus its running median along the columns (the mean is Boin and Haibel's, Opt. Express 14, 12071, 2006, who
smooth it by a running mean). What the object itself has around the axis, narrower than half the median's width, is taken for
a stripe as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

FloatImage = NDArray[np.float32]


class Stripes:
    """The stripes of one scan, learnt from the projections as they come.

    They are no part of a `Normalization`: what is learnt from are line integrals without them, and so is the center, which else
    would depend on when the stripes were determined.

    Parameters
    ----------
    rows, columns
        Of a projection.
    width
        Of the running median, columns; an even one counts as the next odd one.
    """

    def __init__(self, rows: int, columns: int, width: int) -> None:
        self._width = width | 1
        self._sum = np.zeros((rows, columns))
        self._count = self._count_used = 0
        self.row: FloatImage = np.zeros((rows, columns), np.float32)
        """(row, column), to be subtracted from the line integrals of every angle."""

    @property
    def stale(self) -> bool:
        """Whether the projections have doubled since the stripe was determined."""
        return self._count >= max(1, 2 * self._count_used)

    def learn(self, projections: FloatImage, count: int | None = None) -> None:
        """Take in line integrals, or a correction to those of angles that were taken in.

        Parameters
        ----------
        projections
            (angle, row, column), from which no stripe has been subtracted.
        count
            Angles that are new; None is all of them.
        """
        self._sum += projections.sum(axis=0, dtype=np.float64)
        self._count += len(projections) if count is None else count

    def refresh(self) -> FloatImage:
        """Determine the stripe from all that was learnt; its change.

        Returns
        -------
        change
            (row, column), the old stripe minus the new one: what to add to line integrals from which the old one was
            subtracted.
        """
        mean = self._sum / max(1, self._count)
        row = np.asarray(mean - median_filter(mean, size=(1, self._width), mode="nearest"), np.float32)
        change = self.row - row
        self.row, self._count_used = row, self._count
        return change

    def forget(self) -> None:
        """Forget the projections, and the stripe that they told."""
        self._sum[:] = 0
        self.row[:] = 0
        self._count = self._count_used = 0
