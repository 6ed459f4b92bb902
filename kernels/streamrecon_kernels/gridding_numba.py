"""Gridding on the CPU, plainly: where the samples go, and a fallback for cells whose rows do not lie side by side."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from streamrecon_kernels.parallel import kernel

PER_CELL = 1024
"""Fractions of a cell at which the kernel is tabulated; between them it is interpolated, to 1e-6 of its maximum."""

EDGE = 1e-9
"""Cells from an end of the kernel within which it is 0; see `KaiserBessel.reach`."""

FAST = {"nnan", "ninf", "nsz", "contract", "arcp"}


@kernel()
def taps(steps, count, middle, width, table, first, end, weights):  # type: ignore[no-untyped-def]
    """Write cells and weights along both axes of the grid, of groups of neighbouring samples: see `gridding.Spokes`.

    `steps` is (axis, angle); first and end (axis, angle, group), weights (axis, angle, group, sample, cell).
    """
    axes, angles, groups, together, window = weights.shape
    half, scale = width / 2, table.shape[0] - 2
    values = table.reshape(-1)
    for i in prange(axes * angles):
        axis, a = i // angles, i % angles
        step = steps[axis, a]
        begins, ends, lines = first[axis, a], end[axis, a], weights[axis, a].reshape(-1)
        for g in range(groups):
            k = g * together - (count - 1) // 2
            # The last group may lack its second sample.
            last = min(together, count - g * together) - 1
            low = math.ceil(min(k * step, (k + last) * step) - half)
            high = math.ceil(max(k * step, (k + last) * step) - half)
            begins[g], ends[g] = low + middle, high + width + middle
            for t in range(together):
                # Unsigned indices: numba then does not look whether they count from the end.
                at = np.uint64((g * together + t) * window)
                for j in range(window):
                    lines[at + np.uint64(j)] = 0
                if t > last:
                    continue
                position = (k + t) * step - half
                cell = math.ceil(position)
                fraction = (cell - position) * scale
                index = int(fraction)
                share = np.float32(fraction - index)
                start = at + np.uint64(cell - low)
                here = np.uint64(index * width)
                there = here + np.uint64(width)
                for j in range(width):
                    value = values[here + np.uint64(j)]
                    lines[start + np.uint64(j)] = value + share * (values[there + np.uint64(j)] - value)
                if fraction < EDGE * scale:
                    lines[start] = 0
                if fraction > (1 - EDGE) * scale:
                    lines[start + np.uint64(width - 1)] = 0


@njit(nogil=True, error_model="numpy", cache=True)
def tile_ranges(cos, sin, count, side, width, tile):  # type: ignore[no-untyped-def]
    """Samples that may touch each tile of the grid: (tile row, tile column, angle, 2), first and one past the last."""
    across = (side + tile - 1) // tile
    half, middle = (count - 1) // 2, (side - 1) // 2
    ranges = np.zeros((across, across, cos.size, 2), np.int32)
    for i in range(across):
        for j in range(across):
            for a in range(cos.size):
                low, high = -half, half
                for start, step in ((i * tile, sin[a]), (j * tile, cos[a])):
                    # In cells from the middle, one more on either side for rounding.
                    near, far = start - middle - width / 2 - 1, start + tile - middle + width / 2 + 1
                    if abs(step) < 1e-9:
                        if near > 0 or far < 0:
                            high = low - 1
                    else:
                        first, last = min(near / step, far / step), max(near / step, far / step)
                        low = max(low, math.floor(max(first, -1e9)))
                        high = min(high, math.ceil(min(last, 1e9)))
                if low <= high:
                    ranges[i, j, a, 0], ranges[i, j, a, 1] = low + half, high + half + 1
    return ranges


@kernel(fastmath=FAST)
def grid_spokes(  # type: ignore[no-untyped-def]
    grid, spectra, factor, first_u, first_v, end_u, end_v, weight_u, weight_v, stripes
):
    """grid (v, u, pair) += samples of spectra (angle, n, pair); a stripe of grid rows belongs to one thread."""
    side, pairs, n = grid.shape[0], grid.shape[2], spectra.shape[1]
    angles, _, together, _ = weight_u.shape
    for stripe in prange(stripes):
        low, high = stripe * side // stripes, (stripe + 1) * side // stripes
        for a in range(angles):
            for k in range(n + 1):
                g, t = k // together, k % together
                v, u = first_v[a, g], first_u[a, g]
                source = k - n // 2 if k >= n // 2 else k + n - n // 2
                for row in range(max(v, low), min(end_v[a, g], high)):
                    for column in range(u, end_u[a, g]):
                        weight = weight_v[a, g, t, row - v] * weight_u[a, g, t, column - u]
                        for pair in range(pairs):
                            grid[row, column, pair] += weight * (factor[a, k] * spectra[a, source, pair])
