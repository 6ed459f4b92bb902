"""Gridding of spokes, the spectra of filtered rows, into the oversampled 2-D spectrum of a block of slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import gridding_cuda, gridding_numba, gridding_vector
from streamrecon_kernels.memory import on_device, require_writable
from streamrecon_kernels.parallel import threads
from streamrecon_kernels.spoke_cells import Share, Spokes


def grid_spokes(
    grid: NDArray[np.complex64],
    spectra: NDArray[np.complex64],
    factor: NDArray[np.complex64],
    where: Spokes,
    share: Share | None = None,
) -> None:
    """Add spokes to the spectrum of a block of slices, in place.

    Sample k of a spoke is `factor[a, k] spectra[a, (k - n / 2) mod n]`: the frequencies of an FFT of even length n in
    ascending order, with the Nyquist frequency at both ends. Every cell is owned by one thread and takes the samples in
    their order: the bits depend neither on the number of threads nor on how the angles are split over calls.

    Parameters
    ----------
    grid
        (v, u, row pair), C-contiguous, with the zero frequency at cell (side - 1) / 2.
    spectra
        (angle, n, row pair), as an FFT along n leaves them, or (1, n, row pair) for the same at every angle; fastest where
        row pairs lie side by side.
    factor
        (angle, n + 1), response of the filter, weight of the angle and phase of the axis.
    where
        Cells and weights of these angles.
    share
        One that was dealt, to add what falls into its tiles; None is all of them. On a GPU there are none.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if on_device(grid):
        weight_u, weight_v = where.weight_u[:, :, 0], where.weight_v[:, :, 0]
        gridding_cuda.grid_spokes(
            grid, spectra, factor, where.cos, where.sin, where.first_u, where.first_v, weight_u, weight_v
        )
        return
    if grid.ndim != 3 or spectra.ndim != 3 or grid.shape[2] != spectra.shape[2] or grid.shape[:2] != (where.side,) * 2:
        raise ValueError(
            f"grid is {grid.shape} and spectra {spectra.shape}; expected ({where.side}, {where.side}, pair) and (angle, n, "
            "pair)"
        )
    if grid.dtype != np.complex64 or not grid.flags.c_contiguous:
        raise ValueError(f"grid is {grid.dtype}, strides {grid.strides}; expected C-contiguous complex64")
    require_writable("grid", grid)
    if spectra.dtype != np.complex64:
        raise ValueError(f"spectra is {spectra.dtype}; expected complex64")
    angles, groups, together, _ = where.weight_u.shape
    count = spectra.shape[1] + 1
    fits = spectra.shape[0] in (1, angles) and -(-count // together) == groups and count % 2 == 1
    if factor.dtype != np.complex64 or factor.shape != (angles, count) or not fits:
        raise ValueError(
            f"factor is {factor.dtype} {factor.shape} and spectra {spectra.shape}; expected complex64 (angle, n + 1) and (angle, "
            f"n, pair), n even, of as many angles and samples as the spokes have: {angles}, {groups} groups of {together}"
        )
    if not (angles and grid.size):
        return
    if share and share.spokes is not where:
        raise ValueError("the share was dealt for other spokes than these")
    factor = np.ascontiguousarray(factor)
    taps = (where.first_u, where.first_v, where.end_u, where.end_v, where.weight_u, where.weight_v)
    if share:
        tiles, ranges, parts = share.tiles, share.ranges, np.array([0, len(share.tiles)])
    else:
        shares = where.deal(threads())
        tiles, ranges = (
            np.concatenate([each.tiles for each in shares]),
            np.concatenate([each.ranges for each in shares]),
        )
        parts = np.cumsum([0, *(len(each.tiles) for each in shares)])
    if spectra.strides[2] == 8:
        gridding_vector.grid_spokes(
            grid.ctypes.data, grid.strides[0], grid.strides[1],
            spectra.ctypes.data, spectra.strides[0] if len(spectra) > 1 else 0, spectra.strides[1], spectra.shape[1],
            factor, *taps, tiles, ranges, parts,
        )  # fmt: skip
    else:
        spectra = np.broadcast_to(spectra, (angles, *spectra.shape[1:]))
        gridding_numba.grid_spokes(grid, spectra, factor, *taps, tiles, ranges, parts)
