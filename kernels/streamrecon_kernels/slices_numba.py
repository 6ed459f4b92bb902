"""The steps of a snapshot around its transforms, on the CPU: tiles of pixels stay in the first cache while they are turned."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from streamrecon_kernels.parallel import kernel

TILE = 16


@kernel()
def copy_cells(grid, period, first, reach, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.slices.fold_grid`, where all factors are 1 and no pairs are summed."""
    side, pairs = grid.shape[0], grid.shape[2]
    count, length = out.shape[0], out.shape[1]
    half, middle = length // 2, (side - 1) // 2
    for i in prange(count):
        target = out[i]
        v = first + i
        v = v - length if v >= half else v
        source = grid[v + middle]
        # Cells that are inside of the period are copied, those a period away added.
        wide = min(half, int(math.sqrt(max(reach * reach - v * v, 0.0))) + 1)
        target[:wide] = source[middle : middle + wide]
        target[wide : length - wide] = 0
        target[length - wide :] = source[middle - wide : middle]
        for turn_v in range(-1, 2):
            row = v + turn_v * period + middle
            if row < 0 or row >= side:
                continue
            for turn_u in range(-1, 2):
                if turn_u == 0 and turn_v == 0:
                    continue
                for u in range(max(-half, -middle - turn_u * period), min(half, middle + 1 - turn_u * period)):
                    cell, sum_ = grid[row, u + turn_u * period + middle], target[u + length if u < 0 else u]
                    for p in range(pairs):
                        sum_[p] += cell[p]


@kernel()
def lay_columns(rows, x, first, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.slices.lay_columns`."""
    count, pairs = rows.shape[0], rows.shape[2]
    for i in prange(x.size):
        column, at = out[i], x[i]
        for v in range(count):
            target, source = column[first + v], rows[v, at]
            for p in range(pairs):
                target[p] = source[p]


@kernel()
def take_slices(  # type: ignore[no-untyped-def]
    values, steps, y, x, factor_y, factor_x, out, place, radius, rows, columns
):
    """See `streamrecon_kernels.slices.take_slices`; `values` as one line, ranges (first, end) of rows and columns."""
    _, height, width = out.shape
    by_y, by_x, by_row = steps
    for i in prange(height):
        dy = np.float32(i) - np.float32((height - 1) / 2)
        for start in range(columns[0], columns[1], TILE):
            for r in range(rows[0], rows[1]):
                for j in range(start, min(start + TILE, columns[1])):
                    dx = np.float32(place + j) - np.float32((width - 1) / 2)
                    inside = dx * dx + dy * dy <= radius * radius
                    value = values[y[i] * by_y + x[j] * by_x + r * by_row] * (factor_y[i] * factor_x[j])
                    out[r, i, place + j] = value if inside else np.float32(0)


@kernel()
def bin_voxels(volume, binning, rows, cut, factor, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.slices.bin_voxels`."""
    height, width, slices = out.shape
    depth = slices * rows
    for i in prange(height):
        sums = np.empty(depth, np.float32)
        for j in range(width):
            sums[:] = 0
            for y in range(cut + i * binning, cut + (i + 1) * binning):
                for x in range(cut + j * binning, cut + (j + 1) * binning):
                    for r in range(depth):
                        sums[r] += volume[y, x, r]
            target = out[i, j]
            if rows == 2:
                # Vectors are made of a number of rows that is known here only.
                for k in range(slices):
                    target[k] += factor * (sums[2 * k] + sums[2 * k + 1])
            else:
                for k in range(slices):
                    total = np.float32(0)
                    for r in range(k * rows, (k + 1) * rows):
                        total += sums[r]
                    target[k] += factor * total
