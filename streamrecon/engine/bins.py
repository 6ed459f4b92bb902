"""Means over bins of rows that several slabs share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon.recon.means import Moments, bin_means


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """What a slab has of an array whose first axis all slabs share."""

    first: int
    """Number of the first bin."""
    sums: NDArray[np.float32]
    """(bin, ...) over the slab's rows of each bin, means over the bins of the other axes."""
    rows: NDArray[np.int64]
    """(bin,) rows that each is the sum of."""


def bins_of(array: NDArray[np.float32], first: int, width: int) -> tuple[Bins, Moments]:
    """The bins of a slab, and the moments of its values.

    Parameters
    ----------
    array
        (row, ...) of the slab.
    first
        Number of its first row among all slabs'.
    width
        Of a bin, along each axis. What does not fill one at the end of the other axes is left out, but at least one remains.
    """
    edges = [first, *range((first // width + 1) * width, first + len(array), width), first + len(array)]
    sums = []
    minimum, maximum, total, squares = math.inf, -math.inf, 0.0, 0.0
    for begin, end in itertools.pairwise(edges):
        some = array[begin - first : end - first]
        minimum, maximum = min(minimum, float(some.min())), max(maximum, float(some.max()))
        image = some.sum(axis=0)
        total += float(image.sum(dtype=np.float64))
        flat = some.reshape(-1)
        squares += float(np.einsum("i,i->", flat, flat))  # a dot product would take threads of its own
        sums.append(bin_means(image, [min(width, size) for size in image.shape]))
    rows = np.array([end - begin for begin, end in itertools.pairwise(edges)], np.int64)
    return Bins(first // width, np.stack(sums), rows), Moments(array.size, minimum, maximum, total, squares)


def joined(parts: Sequence[Bins]) -> NDArray[np.float32]:
    """The means over all bins, from those of all slabs."""
    if len(parts) == 1 and (parts[0].rows == 1).all():
        return parts[0].sums
    last = max(part.first + len(part.sums) for part in parts)
    sums = np.zeros((last, *parts[0].sums.shape[1:]), np.float32)
    rows = np.zeros(last, np.int64)
    for part in parts:
        place = slice(part.first, part.first + len(part.sums))
        sums[place] += part.sums
        rows[place] += part.rows
    return np.asarray(sums / rows.astype(np.float32).reshape(-1, *[1] * (sums.ndim - 1)), np.float32)


def binned(image: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Means over bins of whole pixels, so that the longest side is no longer than `most`; 0 leaves it as it is."""
    width = math.ceil(max(image.shape) / most) if most else 1
    return bin_means(image, [min(width, size) for size in image.shape])


def halved(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over bins of two along each axis; what does not fill one at the end is left out, but at least one remains."""
    return bin_means(array, [min(2, size) for size in array.shape])
