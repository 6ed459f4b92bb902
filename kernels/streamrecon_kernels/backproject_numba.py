"""Direct backprojection on the CPU: rows innermost, so one index and weight serves every row of the block."""

from __future__ import annotations

import numpy as np
from numba import prange

from streamrecon_kernels.parallel import kernel

# Without reassoc: the angles of a pixel keep their order, so a split batch gives the same bits.
FAST = {"nnan", "ninf", "nsz", "contract", "arcp"}
TILE = 32


@kernel(fastmath=FAST)
def backproject(volume, filtered, cos, sin, offset, radius):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.backproject.backproject`."""
    height, width, rows = volume.shape
    middle_x, middle_y = np.float32((width - 1) / 2), np.float32((height - 1) / 2)
    for y in prange(height):
        dy = np.float32(y) - middle_y
        chord = np.sqrt(max(radius * radius - dy * dy, np.float32(0)))
        first = max(0, int(np.ceil(middle_x - chord)))
        end = min(width, int(np.floor(middle_x + chord)) + 1) if abs(dy) <= radius else 0
        for start in range(first, end, TILE):
            stop = min(start + TILE, end)
            for a in range(filtered.shape[0]):
                base = dy * sin[a] + offset[a]
                for x in range(start, stop):
                    u = (np.float32(x) - middle_x) * cos[a] + base
                    column = int(u)
                    right = u - np.float32(column)
                    left = np.float32(1) - right
                    pixel, here, there = volume[y, x], filtered[a, column], filtered[a, column + 1]
                    for r in range(rows):
                        pixel[r] += left * here[r] + right * there[r]
