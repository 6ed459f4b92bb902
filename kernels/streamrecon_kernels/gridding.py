"""Gridding of spokes, the spectra of filtered rows, into the oversampled 2-D spectrum of a block of slices."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import gridding_numba, gridding_vector
from streamrecon_kernels.parallel import LOCK, threads

TILE = 64
"""Side of a tile of the grid, cells: what a batch of angles adds to it stays in the second-level cache."""

PER_CELL = 1024
"""Fractions of a cell at which the kernel is tabulated; between them it is interpolated, to 1e-6 of its maximum."""


@dataclass(frozen=True, slots=True)
class KaiserBessel:
    """The Kaiser-Bessel gridding kernel.

    `phi(t) = I0(beta sqrt(1 - (2 t / width)^2)) / I0(beta)` for |t| < width / 2 cells, else 0, with the beta of Beatty et
    al. (IEEE Trans. Med. Imaging 24, 2005), eq. 5: `pi sqrt((width / oversampling)^2 (oversampling - 1/2)^2 - 0.8)`.
    """

    width: int
    """Cells."""
    oversampling: float
    """Grid cells per pixel of the image, > 1."""

    @property
    def beta(self) -> float:
        """Shape, dimensionless."""
        return math.pi * math.sqrt((self.width / self.oversampling) ** 2 * (self.oversampling - 0.5) ** 2 - 0.8)

    def table(self) -> NDArray[np.float32]:
        """phi at the cells of a window, (PER_CELL + 2, width): row f, column j is f / PER_CELL + j - width / 2."""
        return _table(self)

    def transform(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fourier transform of phi at frequencies in cycles per cell; the same source, eq. 4."""
        argument = (math.pi * self.width * frequency) ** 2 - self.beta**2
        root = np.sqrt(np.abs(argument))
        safe = np.where(root == 0, 1, root)
        value = np.where(argument < 0, np.sinh(safe) / safe, np.sin(safe) / safe)
        return np.asarray(self.width / np.i0(self.beta) * np.where(root == 0, 1, value))


@functools.lru_cache(maxsize=8)
def _table(kernel: KaiserBessel) -> NDArray[np.float32]:
    t = np.arange(PER_CELL + 2)[:, None] / PER_CELL + np.arange(kernel.width) - kernel.width / 2
    inside = np.clip(1 - (2 * t / kernel.width) ** 2, 0, None)
    return np.asarray(np.i0(kernel.beta * np.sqrt(inside)) / np.i0(kernel.beta), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Spokes:
    """Where the samples of some angles go: computed once, used for every block of slices."""

    side: int
    """Of the grid, cells."""
    cos: NDArray[np.float64]
    """(angle,), cells per sample along u."""
    sin: NDArray[np.float64]
    """(angle,), cells per sample along v."""
    first_u: NDArray[np.int32]
    """(angle, k), first cell of a sample's window along u."""
    first_v: NDArray[np.int32]
    """(angle, k), along v."""
    weight_u: NDArray[np.float32]
    """(angle, k, width), weights of the window's columns."""
    weight_v: NDArray[np.float32]
    """(angle, k, width), weights of its rows."""
    tiles: NDArray[np.int64]
    """(tile, 4), cells that a thread owns: first and one past the last along v, then along u."""
    ranges: NDArray[np.int32]
    """(tile, angle, 2), samples that may touch a tile, first and one past the last."""
    parts: NDArray[np.int64]
    """(thread + 1,), first tile of each thread, so that all have alike much to do."""


def spokes(cos: NDArray[np.float64], sin: NDArray[np.float64], samples: int, side: int, kernel: KaiserBessel) -> Spokes:
    """Find the cells and weights of spokes.

    Sample k of a spoke lies `k - (samples - 1) / 2` steps from the zero frequency; a step is (cos[a], sin[a]) cells along
    u and v.

    Parameters
    ----------
    cos, sin
        (angle,), cells per sample.
    samples
        Of a spoke, an odd number.
    side
        Of the grid, cells, odd; the zero frequency is in its middle, and it must hold the kernel at the spokes' ends.
    kernel
        Its width and shape.

    Raises
    ------
    ValueError
        If a spoke would leave the grid, or a number is not finite or of the wrong parity.
    """
    for name, axis in (("cos", cos), ("sin", sin)):
        if axis.dtype != np.float64 or axis.ndim != 1 or not np.isfinite(axis).all():
            raise ValueError(f"{name} is {axis.dtype} {axis.shape}: {axis}; expected finite float64 (angle,)")
    if cos.shape != sin.shape or samples % 2 == 0 or side % 2 == 0:
        raise ValueError(
            f"cos, sin are {cos.shape}, {sin.shape}, {samples} samples, {side} cells; expected as many of each, and odd "
            "numbers of samples and cells"
        )
    middle = (side - 1) // 2
    step = max(np.abs(cos).max(initial=0), np.abs(sin).max(initial=0))
    reach = (samples - 1) / 2 * step + kernel.width / 2
    if reach > middle:
        raise ValueError(
            f"the spokes reach {reach:.1f} cells from the middle of a grid with {middle} on each side; expected at most these"
        )
    cos, sin = np.ascontiguousarray(cos), np.ascontiguousarray(sin)
    with LOCK:
        first_u, weight_u = gridding_numba.taps(cos, samples, middle, kernel.width, kernel.table())
        first_v, weight_v = gridding_numba.taps(sin, samples, middle, kernel.width, kernel.table())
    tiles, ranges, parts = _deal(gridding_numba.tile_ranges(cos, sin, samples, side, kernel.width, TILE), side)
    return Spokes(side, cos, sin, first_u, first_v, weight_u, weight_v, tiles, ranges, parts)


def _deal(ranges: NDArray[np.int32], side: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Deal the tiles that have samples to the threads, the fullest first and to and fro."""
    samples = (ranges[..., 1] - ranges[..., 0]).sum(axis=-1)
    rows, columns = np.nonzero(samples)
    order = np.argsort(-samples[rows, columns], kind="stable")
    hands = threads()
    turn = np.arange(len(order)) % (2 * hands)
    hand = np.minimum(turn, 2 * hands - 1 - turn)
    order, hand = order[np.argsort(hand, kind="stable")], np.sort(hand)
    rows, columns = rows[order], columns[order]
    starts = np.stack([rows * TILE, columns * TILE], axis=1)
    ends = np.minimum(starts + TILE, side)
    tiles = np.stack([starts[:, 0], ends[:, 0], starts[:, 1], ends[:, 1]], axis=1)
    return tiles.astype(np.int64), ranges[rows, columns], np.searchsorted(hand, np.arange(hands + 1))


def grid_spokes(
    grid: NDArray[np.complex64], spectra: NDArray[np.complex64], factor: NDArray[np.complex64], where: Spokes
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
        (angle, n, row pair), as an FFT along n leaves them; fastest where row pairs lie side by side.
    factor
        (angle, n + 1), response of the filter, weight of the angle and phase of the axis.
    where
        Cells and weights of these angles.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if grid.ndim != 3 or spectra.ndim != 3 or grid.shape[2] != spectra.shape[2] or grid.shape[:2] != (where.side,) * 2:
        raise ValueError(
            f"grid is {grid.shape} and spectra {spectra.shape}; expected ({where.side}, {where.side}, pair) and (angle, n, "
            "pair)"
        )
    if grid.dtype != np.complex64 or not grid.flags.c_contiguous or not grid.flags.writeable:
        raise ValueError(f"grid is {grid.dtype}, strides {grid.strides}; expected C-contiguous complex64")
    if spectra.dtype != np.complex64:
        raise ValueError(f"spectra is {spectra.dtype}; expected complex64")
    angles, count = where.first_u.shape
    if factor.dtype != np.complex64 or factor.shape != (angles, count) or spectra.shape[:2] != (angles, count - 1):
        raise ValueError(
            f"factor is {factor.dtype} {factor.shape} and spectra {spectra.shape}; expected complex64 ({angles}, {count}) and "
            f"({angles}, {count - 1}, pair), as the spokes have"
        )
    if not (angles and grid.size):
        return
    factor = np.ascontiguousarray(factor)
    taps = (where.first_u, where.first_v, where.weight_u, where.weight_v)
    with LOCK:
        if spectra.strides[2] == 8:
            gridding_vector.grid_spokes(
                grid.ctypes.data, grid.strides[0], grid.strides[1],
                spectra.ctypes.data, spectra.strides[0], spectra.strides[1], spectra.shape[1],
                factor, *taps, where.tiles, where.ranges, where.parts,
            )  # fmt: skip
        else:
            gridding_numba.grid_spokes(grid, spectra, factor, *taps, 4 * threads())
