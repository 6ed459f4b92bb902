"""The Fourier accumulator: the oversampled 2-D spectrum of each slice, to which spokes are gridded."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import LANES, KaiserBessel, Shrinking, fold_grid, lay_columns, shrink_rows, take_slices

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import BINNINGS, Accumulator, Shape, alone, check_batch, check_binning
from streamrecon.recon.bands import band_lengths, bands
from streamrecon.recon.binned import Binned
from streamrecon.recon.device import CPU, Array, Device, zeros
from streamrecon.recon.spreading import Spreader
from streamrecon.recon.workspace import Desks, Workspace, desks
from streamrecon.scan import Axis

STEP = 2 * max(BINNINGS)
"""The grid's period is a multiple of this many cells, so that every preview is a central crop of even size."""

CACHED = 5 << 19
"""Bytes of rows that the caches still hold, as far as they have to, when they have been transformed and are laid as columns."""


class FourierAccumulator:
    """The spectrum as the state: O(n) an angle and slice, and a snapshot costs an inverse FFT.

    Parameters
    ----------
    shape
        Of the reconstruction.
    options
        Filter, width of the gridding kernel and oversampling.
    device
        Where it lives.

    Notes
    -----
    `f(x, y) = sum_a w_a sum_k H_k P_a,k exp(2 pi i nu_k (x cos + y sin))` is a sum over non-uniform frequencies. Each
    sample of the spectrum is spread onto the grid with a Kaiser-Bessel kernel; the inverse FFT of the grid is
    the image times the kernel's transform, which is divided out (O'Sullivan, IEEE Trans. Med. Imaging 4, 1985). Rows
    2 j and 2 j + 1 are the real and the imaginary part of one complex image.
    """

    def __init__(self, shape: Shape, options: ReconConfig, device: Device = CPU) -> None:
        self.shape, self._options, self._device = shape, options, device
        self.filter_seconds, self.lock = 0.0, threading.Lock()
        self._kernel = KaiserBessel(options.width, options.oversampling)
        self._period = self.period(shape, options)
        # Each band has a grid of its own, the low one's a few cells around the zero frequency: a cell's sum then depends on the
        # order of the angles and not on how they come in batches.
        self._grids = [
            zeros(device, (shape.blocks, side, side, shape.block_rows // 2), np.complex64)
            for side in self._sides(shape, options)
        ]
        both = bands(shape, options, self._period)
        self._spreader = Spreader(shape, both, self._grids, self._period, self._kernel, device)
        self._rows, self._columns = Desks(device), Workspace(device)
        self._binned: dict[int, Binned] = {}

    @staticmethod
    def period(shape: Shape, options: ReconConfig) -> int:
        """Cells of the grid that are one period, without its margins: what a snapshot transforms."""
        return STEP * int(fft.next_fast_len(math.ceil(shape.side * options.oversampling / STEP)))

    @classmethod
    def _sides(cls, shape: Shape, options: ReconConfig) -> list[int]:
        """Cells of the side of each band's grid, odd: room for the kernel at the ends of the spokes."""
        period = cls.period(shape, options)
        _, *low = band_lengths(shape, period)
        reaches = [period // 2] + [math.ceil(length / 2 * period / shape.padded) for length in low]
        return [2 * (reach + options.width // 2 + 1) + 1 for reach in reaches]

    @classmethod
    def state_bytes(cls, shape: Shape, options: ReconConfig) -> int:
        """Bytes of the state."""
        return shape.blocks * sum(side**2 for side in cls._sides(shape, options)) * shape.block_rows * 4

    @classmethod
    def batch_bytes(cls, shape: Shape, options: ReconConfig, angles: int, angles_at_once: int | None) -> int:
        """Bytes that `add` uses for a batch: spectra of as many blocks as are worked on, cells and weights, and factors."""
        blocks = desks(shape.blocks, angles_at_once)
        lengths = band_lengths(shape, cls.period(shape, options))
        window = -(-(options.width + 1) // LANES) * LANES
        matrix = 4 * shape.columns * sum(lengths[1:])
        return angles * sum(lengths) * (blocks * shape.block_rows * 4 + 2 * (4 + 4 * window) + 8) + matrix

    @classmethod
    def snapshot_bytes(cls, shape: Shape, options: ReconConfig, rows_at_once: int | None) -> int:
        """Bytes that a snapshot uses besides the volume: one block, transformed, and the parts that are being transformed."""
        period = cls.period(shape, options)
        step = min(rows_at_once or period, period)
        parts = desks(-(-period // step), rows_at_once)
        return (shape.side + parts * step) * period * shape.block_rows * 4

    @classmethod
    def cut_bytes(cls, shape: Shape, options: ReconConfig) -> int:
        """Bytes that single slices use besides themselves and what a snapshot uses: the cells of a row pair."""
        return cls._sides(shape, options)[0] ** 2 * 8

    @property
    def nbytes(self) -> int:
        return sum(int(grid.nbytes) for grid in self._grids)

    @alone
    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        theta, weight = check_batch(self.shape, projections, theta, weight)
        self.filter_seconds += self._spreader.spread(self._device.upload(projections), theta, weight)

    @alone
    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        theta, weight = check_batch(self.shape, np.broadcast_to(row, (theta.size, *row.shape)), theta, weight)
        self.filter_seconds += self._spreader.spread(self._device.upload(row[None]), theta, weight)

    @alone
    def snapshot_block(self, index: int, out: NDArray[np.float32], gain: float = 1.0, binning: int = 1) -> None:
        check_binning(binning)
        if not len(out):  # the last block may have fewer rows than a bin
            return
        image = self._image(binning)
        with self._whole(index) as grid:
            columns = self._columns_of_pixels(grid, image)
        rows = slice(0, self.shape.block_rows // image.rows)
        self._take(columns, image, rows, out, gain, self.shape.radius / binning)

    def _image(self, binning: int) -> Binned:
        image = self._binned.get(binning) or Binned.of(self.shape, self._kernel, self._period, binning)
        self._binned[binning] = image
        return image

    def _take(
        self, columns: Array, image: Binned, rows: slice, out: NDArray[np.float32], gain: float, radius: float
    ) -> None:
        """Transform columns (x, v, row pair) along v, and write those of their rows that are asked for, as (row, y, x)."""
        put, target = self._device.put, self._device.target(out)
        y, column = put(image.pixel), put(np.arange(len(image.pixel)))
        factor_y, factor_x = put(image.correction), put(image.correction * np.float32(gain * self.shape.scale))
        side = len(image.pixel)
        step = self._device.rows_at_once or side

        def take(first: int) -> None:
            some = slice(first, min(first + step, side))
            values = _inverse(columns[some]).transpose(1, 0, 2)
            # Real and imaginary parts lie side by side in memory, as rows 2 j and 2 j + 1; the sum of both is the real part.
            values = (values.view(np.float32) if image.rows == 1 else values)[..., rows]
            here = column[: some.stop - first]
            take_slices(values, y, here, factor_y, factor_x[some], target, radius, first)

        self._device.each(take, range(0, side, step))
        self._device.fetch(target, out)

    def _columns_of_pixels(self, grid: Array, image: Binned) -> Array:
        """A grid (v, u, row pair) transformed along u, times the factors, and only at the columns of pixels: (x, v, row pair).

        By parts that fit the cache, as what follows: what is read and written on the way is little more than the grid once.
        """
        period, put, x = image.period, self._device.put, self._device.put(image.pixel)
        pairs = 2 * grid.shape[2] // (2 if image.rows == 1 else image.rows)
        most = self._device.rows_at_once
        step = min(most, max(8, CACHED // (8 * period * pairs)), period) if most else period
        columns = self._columns((len(x), period, pairs), np.complex64)
        factors, reach = (put(image.factor_v), put(image.factor_u)), self._period / 2 + self._kernel.width

        def transform(first: int) -> None:
            with self._rows((min(step, period - first), period, pairs), np.complex64) as chunk:
                fold_grid(grid, self._period, first, *factors, chunk, reach)
                lay_columns(_inverse(chunk), x, first, columns)

        self._device.each(transform, range(0, period, step))
        return columns

    @alone
    def cut(self, axis: Axis, places: Sequence[int], out: NDArray[np.float32], gain: float = 1.0) -> None:
        if axis == "z":
            for place, pixels in zip(places, out, strict=True):
                self._cut_row(place, pixels, gain)
        else:
            shape, image, side, target = self.shape, self._image(1), self._grids[0].shape[1], self._device.target(out)
            phase = np.outer(2 * math.pi / self._period * image.pixel[list(places)], np.arange(side) - side // 2)
            matrix = np.concatenate([np.cos(phase), np.sin(phase)]).astype(np.float32)
            factors = np.outer(image.correction[list(places)], image.correction) * np.float32(gain * shape.scale)
            factors[~np.stack([shape.inside(place) for place in places])] = 0
            how, there = Shrinking.of(matrix, self._grids[0]), self._device.put(factors)
            self._device.each(partial(self._cut_block, axis, how, there, target), range(shape.blocks))
            self._device.fetch(target, out)

    def _cut_row(self, row: int, out: NDArray[np.float32], gain: float) -> None:
        """One slice (y, x): a snapshot of its row pair."""
        block, row = divmod(row, self.shape.block_rows)
        with self._whole(block) as grid:
            pair = grid[:, :, row // 2 : row // 2 + 1].copy()
        image = self._image(1)
        columns, rows = self._columns_of_pixels(pair, image), slice(row % 2, row % 2 + 1)
        self._take(columns, image, rows, out[None], gain, self.shape.radius)

    def _cut_block(self, axis: Axis, how: Shrinking, factors: Array, out: Array, block: int) -> None:
        """A block's rows of slices across y or x: the transform at single pixels is a sum over the grid, times phases."""
        period, rows, count = self._period, self.shape.block(block), len(factors)
        with self._whole(block) as grid:
            side, _, pairs = grid.shape
            sums = self._device.empty((side, 2 * count, pairs), np.complex64)
            shrink_rows(grid if axis == "x" else grid.transpose(1, 0, 2), how, sums)
        # Cells that are a period apart are the same frequency.
        line = zeros(self._device, (2 * period, count, pairs), np.complex64)
        line[period - side // 2 :][:side] = sums[:, :count] + np.complex64(1j) * sums[:, count:]
        values = fft.ifft(line[:period] + line[period:], axis=0, norm="forward")
        values = values[self._device.put(self._image(1).pixel)].view(np.float32)[:, :, : rows.stop - rows.start]
        np.multiply(values.transpose(1, 2, 0), factors[:, None], out=out[:, rows])

    @contextlib.contextmanager
    def _whole(self, index: int) -> Iterator[Array]:
        """The grid of a block, with the low band's for as long."""
        grid, middle = self._grids[0][index], self._grids[0].shape[1] // 2
        halves = [each.shape[1] // 2 for each in self._grids[1:]]
        places = [grid[middle - half : middle + half + 1, middle - half : middle + half + 1] for half in halves]
        before = [place.copy() for place in places]
        try:
            for place, low in zip(places, self._grids[1:], strict=True):
                place += low[index]
            yield grid
        finally:
            for place, values in zip(places, before, strict=True):
                place[:] = values

    @alone
    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, FourierAccumulator) or (other.shape, other._options) != (self.shape, self._options):
            raise GeometryError("only an accumulator of the same method, shape and options can be merged into this one")
        for grid, more in zip(self._grids, other._grids, strict=True):
            grid += more

    @alone
    def reset(self) -> None:
        for grid in self._grids:
            grid[:] = 0


def _inverse(chunk: Array) -> Array:
    return fft.ifft(chunk, axis=1, norm="forward", overwrite_x=True)
