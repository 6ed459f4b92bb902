"""Slow, obvious NumPy versions of the kernels: the oracles that the fast ones are tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels.kaiser_bessel import KaiserBessel


def line_integrals(
    raw: NDArray[np.generic], dark: NDArray[np.floating], term: NDArray[np.floating], floor: float
) -> NDArray[np.float64]:
    """Return what `streamrecon_kernels.line_integrals` writes, in float64; the same arguments."""
    return np.asarray(term - np.log(np.fmax(raw.astype(np.float64) - dark, floor)))


def pack_rows(
    rows: NDArray[np.floating], weight: NDArray[np.floating], padded: int, pairs: int
) -> NDArray[np.complex128]:
    """Return what `streamrecon_kernels.pack_rows` writes, in complex128: (angle, padded, pair)."""
    angles, count, columns = rows.shape
    full = np.zeros((angles, 2 * pairs, columns))
    full[:, :count] = rows * weight.astype(np.float64)
    first = (padded - columns) // 2
    full = np.pad(full, ((0, 0), (0, 0), (first, padded - columns - first)), mode="edge")
    return np.asarray((full[:, 0::2] + 1j * full[:, 1::2]).transpose(0, 2, 1))


def shrink_rows(rows: NDArray[np.complexfloating], matrix: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Return what `streamrecon_kernels.shrink_rows` writes, in complex128: (angle, sample, pair)."""
    return np.asarray(np.einsum("sc,acp->asp", matrix.astype(np.float64), rows.astype(np.complex128)))


def filter_spectra(
    spectra: NDArray[np.complexfloating], response: NDArray[np.floating], length: int
) -> NDArray[np.complex128]:
    """Return what `streamrecon_kernels.filter_spectra` writes, in complex128: (angle, length, pair)."""
    angles, n, pairs = spectra.shape
    out = np.zeros((angles, length, pairs), np.complex128)
    for k in range(-(n // 2), n // 2 + 1):
        half = 0.5 if abs(k) == n // 2 else 1.0
        out[:, k % length] += half * response[:, abs(k), None] * spectra[:, k % n]
    return out


def backproject(
    volume: NDArray[np.floating],
    filtered: NDArray[np.floating],
    cos: NDArray[np.floating],
    sin: NDArray[np.floating],
    offset: NDArray[np.floating],
    radius: float = np.inf,
) -> NDArray[np.float64]:
    """Return what `streamrecon_kernels.backproject` leaves in the volume, in float64; the same arguments."""
    total = volume.astype(np.float64)
    height, width = total.shape[:2]
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    inside = x**2 + y**2 <= radius**2
    for row, c, s, o in zip(
        filtered.astype(np.float64), cos.astype(float), sin.astype(float), offset.astype(float), strict=True
    ):
        u = np.where(inside, x * c + y * s + o, 0)
        column = np.floor(u).astype(int)
        right = (u - column)[..., None]
        total += inside[..., None] * ((1 - right) * row[column] + right * row[column + 1])
    return total


def grid_spokes(
    grid: NDArray[np.complexfloating],
    spectra: NDArray[np.complexfloating],
    factor: NDArray[np.complexfloating],
    cos: NDArray[np.floating],
    sin: NDArray[np.floating],
    kernel: KaiserBessel,
) -> NDArray[np.complex128]:
    """Return what `streamrecon_kernels.grid_spokes` leaves in the grid, in complex128.

    `cos` and `sin` are those of its `Spokes`, cells per sample.
    """
    total = grid.astype(np.complex128)
    middle = (grid.shape[0] - 1) / 2
    cells = np.arange(grid.shape[0])
    n = spectra.shape[1]
    for spectrum, times, c, s in zip(spectra, factor, cos, sin, strict=True):
        for k in range(-(n // 2), n // 2 + 1):
            weights = []
            for axis in (s, c):
                t = cells - middle - k * axis
                inside = np.clip(1 - (2 * t / kernel.width) ** 2, 0, None)
                weights.append(
                    np.where(abs(t) < kernel.reach, np.i0(kernel.beta * np.sqrt(inside)) / np.i0(kernel.beta), 0)
                )
            sample = times[k + n // 2] * spectrum[k % n]
            total += np.multiply.outer(np.multiply.outer(weights[0], weights[1]), sample)
    return total


def fold_grid(
    grid: NDArray[np.complexfloating],
    period: int,
    length: int,
    factor_v: NDArray[np.complexfloating],
    factor_u: NDArray[np.complexfloating],
    sums: int = 1,
) -> NDArray[np.complex128]:
    """Return what `streamrecon_kernels.fold_grid` writes for all rows of the grid, in complex128: (v, u, pair).

    `sums` is how many neighbouring pairs are summed.
    """
    middle = (grid.shape[0] - 1) // 2
    out = np.zeros((length, length, grid.shape[2]), np.complex128)
    for v in range(grid.shape[0]):
        for u in range(grid.shape[1]):
            # A period's cells are -period / 2 to period / 2 - 1; a preview takes the central ones and leaves the others.
            fv, fu = ((cell - middle + period // 2) % period - period // 2 for cell in (v, u))
            if all(-(length // 2) <= f < length // 2 for f in (fv, fu)):
                out[fv % length, fu % length] += factor_v[fv % length] * factor_u[fu % length] * grid[v, u]
    return np.asarray(out.reshape(length, length, out.shape[2] // sums, sums).sum(axis=-1))


def take_slices(
    values: NDArray[np.floating],
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    factor_y: NDArray[np.floating],
    factor_x: NDArray[np.floating],
    slices: int,
    radius: float = np.inf,
) -> NDArray[np.float64]:
    """Return what `streamrecon_kernels.take_slices` writes, in float64; `slices` of them."""
    picked = values[np.ix_(y, x)].astype(np.float64) * np.multiply.outer(factor_y, factor_x)[..., None]
    height, width = len(y), len(x)
    dy, dx = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    picked[dy**2 + dx**2 > radius**2] = 0
    return np.asarray(np.moveaxis(picked, 2, 0)[:slices])


def bin_voxels(
    volume: NDArray[np.floating], binning: int, rows: int, cut: int, factor: float, out: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return what `streamrecon_kernels.bin_voxels` leaves in `out`, in float64."""
    total = out.astype(np.float64)
    for i, j, k in np.ndindex(out.shape):
        y, x, row = cut + i * binning, cut + j * binning, k * rows
        total[i, j, k] += factor * volume[y : y + binning, x : x + binning, row : row + rows].astype(np.float64).sum()
    return total
