"""Rows to spectra on the CPU in vector IR: squares of rows times columns are transposed in registers."""

from __future__ import annotations

import numpy as np
from numba import prange

from streamrecon_kernels.parallel import kernel
from streamrecon_kernels.slices_vector import turn_square
from streamrecon_kernels.vector import float_at


@kernel()
def pack_rows(rows, by_angle, by_row, shape, out, lanes):  # type: ignore[no-untyped-def]
    """Do as `packing_numba.pack_rows` for a number of rows that `lanes` divides, and no weights; `rows` is an address."""
    angles, count, columns = shape
    padded, floats = out.shape[1], out.shape[2]
    before = (padded - columns) // 2
    whole = columns // lanes * lanes
    ones = np.ones(lanes, np.float32)
    for a in prange(angles):
        spectrum = out[a]
        for c in range(0, whole, lanes):
            for r in range(0, count, lanes):
                turn_square(
                    lanes, 1, np.uintp(rows + (a * by_angle + r * by_row + c) * 4), by_row * 4,
                    np.uintp(ones.ctypes.data),
                    np.uintp(out.ctypes.data + ((a * padded + before + c) * floats + r) * 4), floats * 4, False,
                )  # fmt: skip
        for c in range(whole, columns):
            for r in range(count):
                spectrum[before + c, r] = float_at(np.uintp(rows + (a * by_angle + r * by_row + c) * 4))  # type: ignore[call-arg]
        for r in range(count, floats):
            spectrum[before : before + columns, r] = 0
        edge = spectrum[before].copy()
        for c in range(before):
            spectrum[c] = edge
        edge = spectrum[before + columns - 1].copy()
        for c in range(before + columns, padded):
            spectrum[c] = edge
