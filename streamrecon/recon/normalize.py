"""From counts to line integrals: `-log((I - D) / (F - D))`, in two terms so that a flat may come late.

`-log(I - D) + log(F - D)`: the flat's term is the same row at every angle. A volume accumulated with a provisional flat is
put right by adding the backprojection of the difference of the two flats' terms; that is exact because I - D and F - D
are floored separately. A clip on their ratio would not be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streamrecon_kernels import line_integrals

from streamrecon.errors import GeometryError

FloatImage = NDArray[np.float32]
"""(row, column), or (angle, row, column)."""


@dataclass(frozen=True, slots=True, eq=False)
class FlatGroup:
    """Flats measured together, between two projections."""

    position: float
    """Projections measured before these flats."""
    image: FloatImage
    """(row, column) counts, the mean or median of the group, dark not subtracted."""


@dataclass(frozen=True, slots=True, eq=False)
class Normalization:
    """How counts become line integrals; immutable, so that what was applied can be compared with what is known now.

    Dead pixels are those that `bad` marks or, without it, where any group's F - D is at or below the floor or not finite.
    They take the line integral that is linearly interpolated along the row between the nearest live columns (beyond the last
    live one: its value; in a row with none: 0). A pixel that is not finite in one projection is interpolated alike, in that
    projection.
    """

    dark: FloatImage
    """(row, column) counts; zeros where no dark was measured."""
    flats: tuple[FlatGroup, ...]
    """In the order of their positions; empty while none is known."""
    provisional: float
    """Counts of an open pixel that stand in for F - D while there is no flat."""
    floor: float
    """Smallest I - D and F - D, counts."""
    interpolate: bool = True
    """Whether the flat's term is interpolated over the scan, or the mean of the groups' terms."""
    air: tuple[int, int] | None = None
    """Columns at the left and right border whose mean line integral over all rows is subtracted from each frame's."""
    bad: NDArray[np.bool_] | None = None
    """(row, column), True where a pixel is bad whatever the flats say, and no other is; None: the flats tell."""

    def terms(self) -> list[FloatImage]:
        """log(F - D) of each group, (row, column), finite."""
        signals = (group.image - self.dark for group in self.flats)
        return [np.log(_floored(np.where(np.isfinite(s), s, np.float32(0)), self.floor)) for s in signals]

    def dead(self) -> NDArray[np.bool_]:
        """(row, column), True where the dark is not finite or `bad` is set, or without it no flat says how bright the beam is."""
        dead = ~np.isfinite(self.dark)
        if self.bad is not None:
            return np.asarray(dead | self.bad)
        for group in self.flats:
            signal = group.image - self.dark
            dead |= ~((signal > self.floor) & np.isfinite(signal))
        return dead


class Normalizer:
    """A `Normalization` made ready: logarithms taken, neighbours of dead pixels found.

    Parameters
    ----------
    normalization
        What to apply.
    """

    def __init__(self, normalization: Normalization) -> None:
        self.normalization = normalization
        self._terms = normalization.terms()
        self._positions = np.array([group.position for group in normalization.flats])
        self.dead = normalization.dead()
        self.repaired = False
        """Whether pixels of single projections were interpolated: a later flat then is no constant row."""
        self._repair = _Interpolation(self.dead) if self.dead.any() else None
        left, right = normalization.air or (0, 0)
        column = np.arange(self.dead.shape[1])
        border = (column < left) | (column >= column.size - right)
        rows, columns = np.nonzero(border & ~self.dead)
        self.air = rows, columns
        """Rows and columns of the pixels that are taken for air: all of the border but the dead ones."""

    def flat_term(self, positions: NDArray[np.float64]) -> FloatImage:
        """log(F - D) at the given positions in the scan, interpolated linearly between groups, constant beyond the ends.

        Parameters
        ----------
        positions
            (angle,), projections measured before each.

        Returns
        -------
        term
            (angle, row, column), or (1, row, column) where it is the same at every angle.
        """
        if not self._terms:
            term = np.full(self.normalization.dark.shape, np.log(self.normalization.provisional), np.float32)
            return term[None]
        if self.steady:
            return np.asarray(np.mean(self._terms, axis=0, dtype=np.float32))[None]
        right = np.clip(np.searchsorted(self._positions, positions), 1, len(self._terms) - 1)
        start, end = self._positions[right - 1], self._positions[right]
        share = np.clip((positions - start) / np.maximum(end - start, 1e-9), 0, 1).astype(np.float32)[:, None, None]
        stack = np.stack(self._terms)
        return np.asarray((1 - share) * stack[right - 1] + share * stack[right])

    def line_integrals(self, raw: NDArray[np.generic], positions: NDArray[np.float64]) -> FloatImage:
        """Line integrals of attenuation, dimensionless.

        Parameters
        ----------
        raw
            (angle, row, column) counts, any real dtype.
        positions
            (angle,), projections measured before each.

        Returns
        -------
        projections
            (angle, row, column).

        Raises
        ------
        GeometryError
            If the frames do not have the shape of the dark.
        """
        if raw.shape[1:] != self.normalization.dark.shape:
            raise GeometryError(f"frames are {raw.shape[1:]}; dark and flats are {self.normalization.dark.shape}")
        out: FloatImage = np.empty(raw.shape, np.float32)
        line_integrals(raw, self.normalization.dark, self.flat_term(positions), self.normalization.floor, out)
        bad = None if raw.dtype.kind in "ui" else ~np.isfinite(raw)
        if bad is not None and bad.any():
            self.repaired = True
            for angle in np.flatnonzero(bad.any(axis=(1, 2))):
                _Interpolation(bad[angle] | self.dead)(out[angle : angle + 1])
        return self._finish(out)

    def _finish(self, projections: FloatImage) -> FloatImage:
        """What is linear in the line integrals: air becomes 0, in place, and dead pixels are interpolated."""
        if self.air[0].size:
            mean = projections[:, *self.air].mean(axis=1, dtype=np.float64)
            projections -= mean.astype(np.float32)[:, None, None]
        if self._repair is not None:
            self._repair(projections)
        return projections

    @property
    def steady(self) -> bool:
        """Whether the flat's term is the same at every angle."""
        return len(self._terms) <= 1 or not self.normalization.interpolate

    def flat_difference(self, other: Normalizer, positions: NDArray[np.float64]) -> FloatImage:
        """What to add to line integrals that `other` made, so that they are what this one would have made.

        Parameters
        ----------
        other
            With the same dark, floor, dead pixels and air, and no pixel repaired in a single projection; see
            `differs_only_in_flats`.
        positions
            (angle,), projections measured before each.

        Returns
        -------
        difference
            (angle, row, column).
        """
        difference = self.flat_term(positions) - other.flat_term(positions)
        shape = len(positions), *difference.shape[1:]
        return self._finish(np.array(np.broadcast_to(difference, shape), np.float32, order="C"))

    def differs_only_in_flats(self, other: Normalizer) -> bool:
        """Whether `flat_difference` is exact: another dark, floor, dead pixel or air is not linear."""
        mine, theirs = self.normalization, other.normalization
        return (
            not other.repaired
            and (mine.floor, mine.air) == (theirs.floor, theirs.air)
            and np.array_equal(mine.dark, theirs.dark, equal_nan=True)
            and np.array_equal(self.dead, other.dead)
        )


class _Interpolation:
    """Replaces marked pixels by the line between their nearest unmarked neighbours in the row."""

    def __init__(self, marked: NDArray[np.bool_]) -> None:
        rows, columns = np.nonzero(marked)
        width = marked.shape[1]
        column = np.arange(width)
        left = np.maximum.accumulate(np.where(marked, -1, column), axis=1)[rows, columns]
        right = np.minimum.accumulate(np.where(marked, width, column)[:, ::-1], axis=1)[:, ::-1][rows, columns]
        none = (left < 0) & (right >= width)
        left = np.where(left < 0, right, left)
        right = np.where(right >= width, left, right)
        share = np.where(right > left, (columns - left) / np.maximum(right - left, 1), 0)
        self._target = (rows, columns)
        self._left = (rows, np.where(none, 0, left))
        self._right = (rows, np.where(none, 0, right))
        self._left_weight = (1 - share).astype(np.float32)
        self._right_weight = share.astype(np.float32)
        self._none = none

    def __call__(self, projections: FloatImage) -> None:
        left, right = (np.where(self._none, 0, projections[:, *side]) for side in (self._left, self._right))
        projections[:, *self._target] = self._left_weight * left + self._right_weight * right


def _floored(signal: FloatImage, floor: float, out: FloatImage | None = None) -> FloatImage:
    # fmax, not maximum: NaN becomes the floor and is then interpolated as a bad pixel.
    result: FloatImage = np.fmax(signal, np.float32(floor), out=out)
    return result


def combine(frames: NDArray[Any], how: str) -> FloatImage:
    """Mean or median over frames.

    Parameters
    ----------
    frames
        (frame, row, column) counts.
    how
        "mean" or "median".

    Returns
    -------
    image
        (row, column).
    """
    combined = np.median(frames, axis=0) if how == "median" else np.mean(frames, axis=0, dtype=np.float64)
    return np.asarray(combined, np.float32)


def brightness(signal: FloatImage) -> float:
    """Counts of the brightest pixels: the 99th percentile of the finite ones; 1 where there is none above 0."""
    finite = signal[np.isfinite(signal)]
    value = float(np.percentile(finite, 99)) if finite.size else 1.0
    return value if value > 0 else 1.0
