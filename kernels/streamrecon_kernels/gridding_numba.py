"""Gridding on the CPU: rows innermost, so a tap is one contiguous vector of row pairs."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

FAST = {"nnan", "ninf", "nsz", "contract", "arcp"}


@njit(parallel=True, nogil=True, error_model="numpy", cache=True)
def taps(step, count, middle, width, table):  # type: ignore[no-untyped-def]
    """First cell (angle, k) int32 and weights (angle, k, width) float32 along one axis of the grid."""
    first = np.empty((step.size, count), np.int32)
    weights = np.empty((step.size, count, width), np.float32)
    per_cell = 4096.0
    for a in prange(step.size):
        for k in range(count):
            position = (k - (count - 1) // 2) * step[a]
            cell = int(np.ceil(position - width / 2))
            first[a, k] = cell + middle
            for j in range(width):
                t = abs(cell + j - position) * per_cell
                i = int(t)
                # Zero at both ends: a cell exactly there is seen from one side only, and rows would leak into each other.
                inside = t < width / 2 * per_cell
                weights[a, k, j] = table[i] + (t - i) * (table[i + 1] - table[i]) if inside else 0.0
    return first, weights


@njit(parallel=True, fastmath=FAST, nogil=True, error_model="numpy", cache=True)
def grid_spokes(grid, samples, u, v, wu, wv, stripes):  # type: ignore[no-untyped-def]
    """grid (v, u, floats) += samples (angle, k, floats); a stripe of grid rows belongs to one thread."""
    side, floats = grid.shape[0], grid.shape[2]
    width = wu.shape[2]
    for stripe in prange(stripes):
        low, high = stripe * side // stripes, (stripe + 1) * side // stripes
        for a in range(samples.shape[0]):
            for k in range(samples.shape[1]):
                start, stop = max(v[a, k], low), min(v[a, k] + width, high)
                sample = samples[a, k]
                for row in range(start, stop):
                    weight = wv[a, k, row - v[a, k]]
                    for j in range(width):
                        w = weight * wu[a, k, j]
                        cell = grid[row, u[a, k] + j]
                        for r in range(floats):
                            cell[r] += w * sample[r]
