"""Gridding on the CPU, plainly: where the samples go, and a fallback for cells whose rows do not lie side by side."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

from streamrecon_kernels.parallel import kernel
from streamrecon_kernels.vector import FLAGS, load, multiply_add, splat, store

PER_CELL = 1024
"""Fractions of a cell at which the kernel is tabulated; between them it is interpolated, to 1e-6 of its maximum."""

EDGE = 1e-9
"""Cells from an end of the kernel within which it is 0; see `KaiserBessel.reach`."""

LANES = 8
"""Weights of a sample are written by so many at once; their number is a multiple."""


@intrinsic
def between(typing, out, rows, row_bytes, share):  # type: ignore[no-untyped-def]
    """out[:LANES] = rows[0] + share (rows[1] - rows[0]), of LANES floats each; addresses."""

    def codegen(context, b, _signature, arguments):  # type: ignore[no-untyped-def]
        out, rows, row_bytes, share = arguments
        here, there = load(b, rows, 0, LANES), load(b, b.add(rows, row_bytes), 0, LANES)
        store(b, multiply_add(b, splat(b, share, LANES), b.fsub(there, here, flags=FLAGS), here), out, 0, LANES)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp, types.float32), codegen


@kernel()
def taps(steps, count, middle, width, table, first, end, weights):  # type: ignore[no-untyped-def]
    """Write cells and weights along one axis of the grid, of groups of neighbouring samples: see `spoke_cells.Spokes`.

    `steps` is (angle,); first and end (angle, group), weights (angle, group, sample, cell). `table` is the kernel's, with a
    column of zeros before it and others behind it: (fraction, cell).
    """
    angles, groups, together, window = weights.shape
    half, scale = width / 2, PER_CELL
    values = table.reshape(-1)
    for a in prange(angles):
        step = steps[a]
        begins, ends, lines = first[a], end[a], weights[a].reshape(-1)
        for g in range(groups):
            k = g * together - (count - 1) // 2
            # The last group may lack its second sample.
            last = min(together, count - g * together) - 1
            here, there = math.ceil(k * step - half), math.ceil((k + last) * step - half)
            low = min(here, there)
            begins[g], ends[g] = low + middle, max(here, there) + width + middle
            for t in range(together):
                at = (g * together + t) * window
                if t > last:
                    lines[at : at + window] = 0
                    continue
                cell = there if t else here
                fraction = (cell - ((k + t) * step - half)) * scale
                index = int(fraction)
                share = np.float32(fraction - index)
                # What lies a cell farther to the right begins with the zero before it.
                row = index * window + 1 - (cell - low)
                for part in range(0, window, LANES):
                    target, source = lines.ctypes.data + (at + part) * 4, values.ctypes.data + (row + part) * 4
                    between(np.uintp(target), np.uintp(source), window * 4, share)  # type: ignore[call-arg]
                if fraction < EDGE * scale:
                    lines[at + cell - low] = 0
                if fraction > (1 - EDGE) * scale:
                    lines[at + cell - low + width - 1] = 0


@njit(nogil=True, error_model="numpy", cache=True)
def tile_ranges(cos, sin, count, side, width, tile, ranges):  # type: ignore[no-untyped-def]
    """Write which samples may touch each tile of the grid: (angle, tile row, tile column, 2), first and one past the last."""
    across = (side + tile - 1) // tile
    half, middle = (count - 1) // 2, (side - 1) // 2
    for a in range(cos.size):
        for i in range(across):
            for j in range(across):
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
                touched = low <= high
                ranges[a, i, j, 0], ranges[a, i, j, 1] = (low + half, high + half + 1) if touched else (0, 0)


@njit(nogil=True, error_model="numpy", cache=True)
def count_samples(ranges, samples):  # type: ignore[no-untyped-def]
    """Add up the samples of each tile, in the order of their rows."""
    angles, rows, columns, _ = ranges.shape
    for a in range(angles):
        for i in range(rows):
            for j in range(columns):
                samples[i * columns + j] += ranges[a, i, j, 1] - ranges[a, i, j, 0]


@njit(nogil=True, error_model="numpy", cache=True)
def pick_tiles(ranges, chosen, side, tile, tiles, picked):  # type: ignore[no-untyped-def]
    """Write edges, (tile, 4), and samples, (tile, angle, 2), of the tiles that are chosen by their place in the order of rows."""
    columns = ranges.shape[2]
    for index in range(chosen.size):
        i, j = chosen[index] // columns, chosen[index] % columns
        tiles[index, 0], tiles[index, 1] = i * tile, min((i + 1) * tile, side)
        tiles[index, 2], tiles[index, 3] = j * tile, min((j + 1) * tile, side)
        for a in range(ranges.shape[0]):
            picked[index, a, 0], picked[index, a, 1] = ranges[a, i, j, 0], ranges[a, i, j, 1]


@njit(nogil=True, error_model="numpy", cache=True)
def factors(shift, weight, response, spacing, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.spoke_factors`."""
    half = response.size - 1
    for a in range(shift.size):
        angle = 2 * math.pi * spacing * shift[a]
        turn, phase = complex(math.cos(angle), math.sin(angle)), complex(weight[a], 0.0)
        for k in range(half + 1):
            value = response[k] * phase
            out[a, half + k] = value
            out[a, half - k] = value.conjugate()
            phase *= turn


@kernel(fastmath=set(FLAGS))
def grid_spokes(  # type: ignore[no-untyped-def]
    grid, spectra, factor, first_u, first_v, end_u, end_v, weight_u, weight_v, tiles, ranges, parts
):
    """grid (v, u, pair) += samples of spectra (angle, n, pair), tile by tile; the tiles of a part belong to one thread."""
    pairs, n = grid.shape[2], spectra.shape[1]
    angles, _, together, _ = weight_u.shape
    for part in prange(parts.size - 1):
        for tile in range(parts[part], parts[part + 1]):
            top, bottom, left, right = tiles[tile]
            for a in range(angles):
                for k in range(ranges[tile, a, 0], ranges[tile, a, 1]):
                    g, t = k // together, k % together
                    v, u = first_v[a, g], first_u[a, g]
                    source = k - n // 2 if k >= n // 2 else k + n - n // 2
                    for row in range(max(v, top), min(end_v[a, g], bottom)):
                        for column in range(max(u, left), min(end_u[a, g], right)):
                            weight = weight_v[a, g, t, row - v] * weight_u[a, g, t, column - u]
                            for pair in range(pairs):
                                grid[row, column, pair] += weight * (factor[a, k] * spectra[a, source, pair])
