"""To and from spectra, on the CPU."""

from __future__ import annotations

import numpy as np
from numba import prange

from streamrecon_kernels.parallel import kernel

TILE = 64
"""Columns of all rows that are transposed at once: they fit the first cache."""


@kernel()
def pack_rows(rows, by_angle, by_row, shape, weight, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.packing.pack_rows`; `rows` as one line, `out` (angle, padded, row) real."""
    angles, count, columns = shape
    padded, floats = out.shape[1], out.shape[2]
    before = (padded - columns) // 2
    for a in prange(angles):
        spectrum = out[a]
        for start in range(0, columns, TILE):
            width = min(TILE, columns - start)
            weights = weight[start : start + width]
            for r in range(floats):
                # Unsigned indices: numba then does not look whether they count from the end, and LLVM can vectorise.
                if r < count:
                    first = a * by_angle + r * by_row + start
                    row = rows[first : first + width]
                    for c in range(width):
                        spectrum[np.uint64(before + start + c), np.uint64(r)] = weights[c] * row[c]
                else:
                    for c in range(width):
                        spectrum[np.uint64(before + start + c), np.uint64(r)] = 0
        edge = spectrum[before].copy()
        for c in range(before):
            spectrum[c] = edge
        edge = spectrum[before + columns - 1].copy()
        for c in range(before + columns, padded):
            spectrum[c] = edge


@kernel()
def filter_spectra(spectra, response, out):  # type: ignore[no-untyped-def]
    """See `streamrecon_kernels.packing.filter_spectra`; (angle, n, row) real, a pair being two neighbours."""
    angles, n, _ = spectra.shape
    half, length = n // 2, out.shape[1]
    for a in prange(angles):
        source, target, factor = spectra[a], out[a], response[a]
        for k in range(half):
            target[k] = factor[k] * source[k]
        middle = factor[half] if length == n else factor[half] / 2
        nyquist = middle * source[half]
        # From the end, so that nothing is overwritten before it is read where out is spectra.
        for k in range(1, half):
            target[length - k] = factor[k] * source[n - k]
        target[half], target[length - half] = nyquist, nyquist
        for k in range(half + 1, length - half):
            target[k] = 0
