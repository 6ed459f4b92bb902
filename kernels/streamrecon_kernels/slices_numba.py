"""Slices from a block with rows innermost, on the CPU: tiles of pixels stay in the first cache while rows are picked apart."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

TILE = 64


@njit(parallel=True, nogil=True, error_model="numpy", cache=True)
def take_slices(values, y, x, factor_y, factor_x, out, radius):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.slices.take_slices`."""
    slices, height, width = out.shape
    for i in prange(height):
        dy = np.float32(i) - np.float32((height - 1) / 2)
        for start in range(0, width, TILE):
            stop = min(start + TILE, width)
            for r in range(slices):
                for j in range(start, stop):
                    dx = np.float32(j) - np.float32((width - 1) / 2)
                    inside = dx * dx + dy * dy <= radius * radius
                    out[r, i, j] = values[y[i], x[j], r] * factor_y[i] * factor_x[j] if inside else np.float32(0)
