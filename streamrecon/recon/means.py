"""Means over bins of whole pixels, and of many values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Moments:
    """Of some values."""

    count: int
    minimum: float
    maximum: float
    total: float
    squares: float

    def joined(self, other: Moments) -> Moments:
        """Of these and others."""
        return Moments(
            self.count + other.count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.total + other.total,
            self.squares + other.squares,
        )

    def statistics(self) -> dict[str, float]:
        """`minimum`, `maximum`, `mean` and `deviation` of one value or more."""
        mean = self.total / self.count
        deviation = math.sqrt(max(0.0, self.squares / self.count - mean**2))
        return {"minimum": self.minimum, "maximum": self.maximum, "mean": mean, "deviation": deviation}


def moments_of(values: NDArray[np.float32]) -> Moments:
    """Of the values that are numbers."""
    there = values[np.isfinite(values)].astype(np.float64)
    if not there.size:
        return Moments(0, math.inf, -math.inf, 0.0, 0.0)
    return Moments(there.size, float(there.min()), float(there.max()), float(there.sum()), float((there * there).sum()))


def bin_means(pixels: NDArray[np.float32], factors: Sequence[int]) -> NDArray[np.float32]:
    """Means over so many pixels along each axis.

    What does not fill a bin at the far end of an axis is left out. A mean with something in it that is no number is none.

    Parameters
    ----------
    pixels
        Of any number of axes.
    factors
        One for each axis, at most its length; 1 leaves it as it is.
    """
    for axis, factor in enumerate(factors):
        if factor > 1:
            end, before = pixels.shape[axis] // factor * factor, (slice(None),) * axis
            # Three times as fast as NumPy's mean over so few.
            sums = pixels[(*before, slice(0, end, factor))].astype(np.float32)
            for first in range(1, factor):
                sums += pixels[(*before, slice(first, end, factor))]
            pixels = sums / np.float32(factor)
    return pixels
