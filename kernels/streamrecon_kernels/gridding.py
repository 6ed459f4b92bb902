"""Gridding of spokes, the spectra of filtered rows, into the oversampled 2-D spectrum of a block of slices."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import gridding_cuda, gridding_numba, gridding_vector
from streamrecon_kernels.gridding_numba import PER_CELL
from streamrecon_kernels.memory import beside, on_device, require_writable
from streamrecon_kernels.parallel import threads

TILE = 64
"""Side of a tile of the grid, cells: what a batch of angles adds to it stays in the second-level cache."""


@dataclass(frozen=True, slots=True)
class KaiserBessel:
    """The Kaiser-Bessel gridding kernel.

    `phi(t) = I0(beta sqrt(1 - (2 t / width)^2)) / I0(beta)` for |t| < width / 2 cells (less a billionth, see `reach`), else
    0, with the beta of Beatty et
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

    @property
    def reach(self) -> float:
        """Cells within which phi is not 0. A cell exactly at its end would else count on one side and, for rounding, not on
        the other: rows that share a grid would leak into each other."""
        return self.width / 2 - gridding_numba.EDGE

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
    """Where the samples of some angles go: computed once, used for every block of slices. On the device of the grids."""

    side: int
    """Of the grids, cells."""
    cos: NDArray[np.float64]
    """(angle,), cells per sample along u."""
    sin: NDArray[np.float64]
    """(angle,), cells per sample along v."""
    first_u: NDArray[np.int32]
    """(angle, group), first cell along u of the window that the samples of a group share: a group is one sample, or on a
    CPU two neighbours, whose cells are then loaded and stored once."""
    first_v: NDArray[np.int32]
    """(angle, group), along v."""
    end_u: NDArray[np.int32] | None
    """(angle, group), one past the last cell; None where a group is one sample."""
    end_v: NDArray[np.int32] | None
    """(angle, group), along v."""
    weight_u: NDArray[np.float32]
    """(angle, group, sample, cell), weights of the window's columns, 0 where a sample does not reach."""
    weight_v: NDArray[np.float32]
    """(angle, group, sample, cell), weights of its rows."""
    arrays: Any = None
    """The memory of the six above, where it can be used again."""


def spokes(
    cos: NDArray[np.float64],
    sin: NDArray[np.float64],
    samples: int,
    side: int,
    kernel: KaiserBessel,
    like: Any = None,
    into: Spokes | None = None,
) -> Spokes:
    """Find the cells and weights of spokes.

    Sample k of a spoke lies `k - (samples - 1) / 2` steps from the zero frequency; a step is (cos[a], sin[a]) cells along
    u and v.

    Parameters
    ----------
    cos, sin
        (angle,), cells per sample; in host memory.
    samples
        Of a spoke, an odd number, at least 3.
    side
        Of the grid, cells, odd; the zero frequency is in its middle, and it must hold the kernel at the spokes' ends.
    kernel
        Its width and shape.
    like
        An array of the device that the grids are on; None is the CPU.
    into
        Spokes that are no longer needed, whose memory is used again: touching new pages takes as long as filling them.

    Raises
    ------
    ValueError
        If a spoke would leave the grid, or a number is not finite or of the wrong parity.
    """
    for name, axis in (("cos", cos), ("sin", sin)):
        if axis.dtype != np.float64 or axis.ndim != 1 or not np.isfinite(axis).all():
            raise ValueError(f"{name} is {axis.dtype} {axis.shape}: {axis}; expected finite float64 (angle,)")
    if cos.shape != sin.shape or samples % 2 == 0 or samples < 3 or side % 2 == 0:
        raise ValueError(
            f"cos, sin are {cos.shape}, {sin.shape}, {samples} samples, {side} cells; expected as many of each, and odd "
            "numbers of samples, 3 or more, and cells"
        )
    middle = (side - 1) // 2
    step = max(np.abs(cos).max(initial=0), np.abs(sin).max(initial=0))
    reach = (samples - 1) / 2 * step + kernel.width / 2
    if reach > middle:
        raise ValueError(
            f"the spokes reach {reach:.1f} cells from the middle of a grid with {middle} on each side; expected at most these"
        )
    cos, sin = np.ascontiguousarray(cos), np.ascontiguousarray(sin)
    arrays: Any = None
    if on_device(like):
        table = beside(like, kernel.table())
        cos, sin = beside(like, cos), beside(like, sin)
        sides = []
        for axis in (cos, sin):
            first = beside(like, np.empty((len(axis), samples), np.int32))
            weight = beside(like, np.empty((len(axis), samples, kernel.width), np.float32))
            gridding_cuda.spoke_taps(axis, table, kernel.width, middle, first, weight)
            sides.append((first, None, weight.reshape(len(axis), samples, 1, kernel.width)))
    else:
        together = 2 if step <= 1 else 1
        shape = 2, len(cos), -(-samples // together)
        weights_shape = (*shape, together, kernel.width + together - 1)
        arrays = None if into is None else into.arrays
        if arrays is None or arrays[2].shape != weights_shape:
            arrays = np.empty(shape, np.int32), np.empty(shape, np.int32), np.empty(weights_shape, np.float32)
        gridding_numba.taps(np.stack([cos, sin]), samples, middle, kernel.width, kernel.table(), *arrays)
        sides = list(zip(*arrays, strict=True))
    (first_u, end_u, weight_u), (first_v, end_v, weight_v) = sides
    return Spokes(side, cos, sin, first_u, first_v, end_u, end_v, weight_u, weight_v, arrays)


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
        (angle, n, row pair), as an FFT along n leaves them, or (1, n, row pair) for the same at every angle; fastest where
        row pairs lie side by side.
    factor
        (angle, n + 1), response of the filter, weight of the angle and phase of the axis.
    where
        Cells and weights of these angles.

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
    angles, groups, together, window = where.weight_u.shape
    count = spectra.shape[1] + 1
    fits = spectra.shape[0] in (1, angles) and -(-count // together) == groups and count % 2 == 1
    if factor.dtype != np.complex64 or factor.shape != (angles, count) or not fits:
        raise ValueError(
            f"factor is {factor.dtype} {factor.shape} and spectra {spectra.shape}; expected complex64 (angle, n + 1) and (angle, "
            f"n, pair), n even, of as many angles and samples as the spokes have: {angles}, {groups} groups of {together}"
        )
    if not (angles and grid.size):
        return
    factor, spectra = np.ascontiguousarray(factor), np.broadcast_to(spectra, (angles, *spectra.shape[1:]))
    taps = (where.first_u, where.first_v, where.end_u, where.end_v, where.weight_u, where.weight_v)
    # One cell more than the window of each sample: a range may begin with the second sample of a group.
    width = window + together - 1
    tiles, ranges, parts = _deal(
        gridding_numba.tile_ranges(where.cos, where.sin, count, where.side, width, TILE), where.side
    )
    if spectra.strides[2] == 8:
        gridding_vector.grid_spokes(
            grid.ctypes.data, grid.strides[0], grid.strides[1],
            spectra.ctypes.data, spectra.strides[0], spectra.strides[1], spectra.shape[1],
            factor, *taps, tiles, ranges, parts,
        )  # fmt: skip
    else:
        gridding_numba.grid_spokes(grid, spectra, factor, *taps, 4 * threads())
