"""Means over bins of whole pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
