"""The Fourier accumulator: the oversampled 2-D spectrum of each slice, to which spokes are gridded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import (
    KaiserBessel,
    Share,
    Shrinking,
    Spokes,
    deal,
    fold_grid,
    grid_spokes,
    lay_columns,
    pack_rows,
    shrink_rows,
    spoke_factors,
    take_slices,
    threads,
)

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import Accumulator, Shape, check_batch
from streamrecon.recon.bands import Band, band_lengths, bands, shrinking
from streamrecon.recon.binned import FOLDED, Binned
from streamrecon.recon.device import CPU, Array, Device, zeros
from streamrecon.recon.workspace import Desks, Workspace

STEP = 2 * max(FOLDED)
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
    sample of the whole padded spectrum is spread onto the grid with a Kaiser-Bessel kernel; the inverse FFT of the grid is
    the image times the kernel's transform, which is divided out (O'Sullivan, IEEE Trans. Med. Imaging 4, 1985). Rows
    2 j and 2 j + 1 are the real and the imaginary part of one complex image.
    """

    def __init__(self, shape: Shape, options: ReconConfig, device: Device = CPU) -> None:
        self.shape, self._options, self._device = shape, options, device
        self.filter_seconds = 0.0
        self._kernel = KaiserBessel(options.width, options.oversampling)
        self._column_weight = device.put(shape.column_weight)
        self._period = self.period(shape, options)
        side = self._side(shape, options)
        self._grid = zeros(device, (shape.blocks, side, side, shape.block_rows // 2), np.complex64)
        self._bands = bands(shape, options, self._period)
        self._spokes: list[Spokes | None] = [None] * len(self._bands)
        self._shrinking = [Shrinking.of(shrinking(shape, band), self._grid) for band in self._bands[1:]]
        self._spectra = [Workspace(device) for _ in self._bands]
        self._factors = [Workspace(device) for _ in self._bands]
        self._rows, self._columns = Desks(device), Workspace(device)
        self._cores = threads()
        self._binned: dict[int, Binned] = {}

    @staticmethod
    def period(shape: Shape, options: ReconConfig) -> int:
        """Cells of the grid that are one period, without its margins: what a snapshot transforms."""
        return STEP * int(fft.next_fast_len(math.ceil(shape.side * options.oversampling / STEP)))

    @classmethod
    def _side(cls, shape: Shape, options: ReconConfig) -> int:
        return cls.period(shape, options) + 2 * (options.width // 2 + 1) + 1

    @classmethod
    def state_bytes(cls, shape: Shape, options: ReconConfig) -> int:
        """Bytes of the state."""
        return shape.blocks * cls._side(shape, options) ** 2 * shape.block_rows * 4

    @classmethod
    def batch_bytes(cls, shape: Shape, options: ReconConfig, angles: int) -> int:
        """Bytes that `add` uses for a batch: spectra of as many blocks as are worked on, cells and weights, and factors."""
        blocks = min(shape.blocks, threads())
        samples = sum(band_lengths(shape, cls.period(shape, options)))
        return angles * samples * (blocks * shape.block_rows * 4 + 2 * (4 + 4 * (options.width + 3)) + 8)

    @classmethod
    def snapshot_bytes(cls, shape: Shape, options: ReconConfig, rows_at_once: int | None) -> int:
        """Bytes that a snapshot uses besides the volume: one block, transformed, and the parts that are being transformed."""
        period = cls.period(shape, options)
        step = min(rows_at_once or period, period)
        desks = min(threads(), -(-period // step)) if rows_at_once else 1
        return (shape.side + desks * step) * period * shape.block_rows * 4

    @property
    def nbytes(self) -> int:
        return int(self._grid.nbytes)

    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        check_batch(self.shape, projections, theta, weight)
        self._add(self._device.upload(projections), theta, weight)

    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        check_batch(self.shape, np.broadcast_to(row, (len(theta), *row.shape)), theta, weight)
        self._add(self._device.upload(row[None]), theta, weight)

    def _add(self, projections: Array, theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        """Add projections, one for each angle or one for all."""
        if not len(theta):
            return
        shape, device, bands = self.shape, self._device, self._bands
        spokes = [self._spoke(*each, theta) for each in zip(bands, self._spokes, strict=True)]
        self._spokes = [*spokes]
        factors = [
            memory((len(theta), band.length + 1), np.complex64)
            for memory, band in zip(self._factors, bands, strict=True)
        ]
        # Pixel centers of an even side lie half a pixel beside the FFT's integers.
        shift = shape.center + (0.0 if shape.side % 2 else 0.5) * (np.cos(theta) + np.sin(theta))
        row = slice(bands[0].first, bands[0].first + shape.columns)

        def prepare(some: slice) -> None:
            for band, where, factor in zip(bands, spokes, factors, strict=True):
                where.fill(some)
                values = spoke_factors(shift[some] + band.first, weight[some], band.response, band.spacing)
                factor[some] = device.put(values)

        def transform(rows: slice, some: slice, spectra: list[Array]) -> None:
            high, *low = [each[some] for each in spectra]
            pack_rows(projections[some, rows], self._column_weight, high)
            for how, each in zip(self._shrinking, low, strict=True):
                shrink_rows(high[:, row], how, each)
            for index, each in enumerate((high, *low)):
                transformed = fft.fft(each, axis=1, overwrite_x=True)
                if self._device.angles_at_once is None:
                    spectra[index] = transformed
                elif not np.may_share_memory(transformed, each):
                    each[:] = transformed

        def grid(block: int, shares: Sequence[Share | None], spectra: list[Array]) -> None:
            for values, factor, where, share in zip(spectra, factors, spokes, shares, strict=True):
                grid_spokes(self._grid[block], values, factor, where, share)

        hands: Sequence[Sequence[Share | None]] = []
        preparing = [partial(prepare, some) for some in self._parts(len(theta), 2)]
        for first in range(0, shape.blocks, self._cores):
            blocks = range(first, min(first + self._cores, shape.blocks))
            desks = [
                memory((len(blocks), len(projections), band.length, shape.block_rows // 2), np.complex64)
                for memory, band in zip(self._spectra, bands, strict=True)
            ]
            spectra = {block: [desk[block - first] for desk in desks] for block in blocks}
            began = time.perf_counter()
            parts = self._parts(len(projections), 1)
            transforms = [
                partial(transform, shape.block(block), some, spectra[block]) for block in blocks for some in parts
            ]
            device.each(_call, preparing + transforms)
            self.filter_seconds += time.perf_counter() - began
            hands = hands or (deal(spokes, device.hands) if device.hands else [[None] * len(spokes)])
            device.each(_call, [partial(grid, block, shares, spectra[block]) for block in blocks for shares in hands])
            preparing = []

    def _parts(self, angles: int, times: int) -> list[slice]:
        step = times * (self._device.angles_at_once or angles)
        return [slice(first, min(first + step, angles)) for first in range(0, angles, step)]

    def _spoke(self, band: Band, before: Spokes | None, theta: NDArray[np.float64]) -> Spokes:
        cells, side = self._period * band.spacing, self._grid.shape[1]
        steps = np.cos(theta) * cells, np.sin(theta) * cells
        return Spokes(*steps, band.length + 1, side, self._kernel, self._grid, before)

    def snapshot_block(self, index: int, out: NDArray[np.float32], gain: float = 1.0, binning: int = 1) -> None:
        shape = self.shape
        if binning not in FOLDED:
            raise GeometryError(f"binning is {binning}; the Fourier method has previews of {(*FOLDED,)}")
        if not len(out):  # the last block may have fewer rows than a bin
            return
        image = self._binned.get(binning) or Binned.of(shape, self._kernel, self._period, binning)
        self._binned[binning] = image
        put, target = self._device.put, self._device.target(out)
        y, column = put(image.pixel), put(np.arange(len(image.pixel)))
        factor_y, factor_x = put(image.correction), put(image.correction * np.float32(gain * shape.scale))
        columns = self._columns_of_pixels(index, image, y)
        side = len(image.pixel)
        step = self._device.rows_at_once or side

        def take(first: int) -> None:
            some = slice(first, min(first + step, side))
            values = _inverse(columns[some]).transpose(1, 0, 2)
            # Real and imaginary parts lie side by side in memory, as rows 2 j and 2 j + 1; the sum of both is the real part.
            values = values.view(np.float32) if image.rows == 1 else values
            here = column[: some.stop - first]
            take_slices(values, y, here, factor_y, factor_x[some], target, shape.radius / binning, first)

        self._device.each(take, range(0, side, step))
        self._device.fetch(target, out)

    def _columns_of_pixels(self, index: int, image: Binned, x: Array) -> Array:
        """A block transformed along u, times the factors, and only at the columns x: (x, v, row pair).

        By parts that fit the cache, as what follows: what is read and written on the way is little more than the grid once.
        """
        grid, period, put = self._grid[index], image.period, self._device.put
        pairs = grid.shape[2] if image.rows == 1 else grid.shape[2] * 2 // image.rows
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

    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, FourierAccumulator) or (other.shape, other._options) != (self.shape, self._options):
            raise GeometryError("only an accumulator of the same method, shape and options can be merged into this one")
        self._grid += other._grid

    def reset(self) -> None:
        self._grid[:] = 0


def _call(task: Callable[[], None]) -> None:
    task()


def _inverse(chunk: Array) -> Array:
    return fft.ifft(chunk, axis=1, norm="forward", overwrite_x=True)
