"""The Fourier accumulator: the oversampled 2-D spectrum of each slice, to which spokes are gridded."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import (
    LANES,
    Gate,
    KaiserBessel,
    Share,
    Shrinking,
    Spokes,
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

HANDS = 3
"""Least pieces that gridding a block is done in: more take longer to hand out, fewer to wait for the slowest core."""

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
        # Each band has a grid of its own, the low one's a few cells around the zero frequency: a cell's sum then depends on the
        # order of the angles and not on how they come in batches.
        self._grids = [
            zeros(device, (shape.blocks, side, side, shape.block_rows // 2), np.complex64)
            for side in self._sides(shape, options)
        ]
        self._bands = bands(shape, options, self._period)
        self._spokes: list[Spokes | None] = [None] * len(self._bands)
        self._shrinking = [Shrinking.of(shrinking(shape, band), self._grids[0]) for band in self._bands[1:]]
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
    def batch_bytes(cls, shape: Shape, options: ReconConfig, angles: int) -> int:
        """Bytes that `add` uses for a batch: spectra of as many blocks as are worked on, cells and weights, and factors."""
        blocks = min(shape.blocks, threads())
        lengths = band_lengths(shape, cls.period(shape, options))
        window = -(-(options.width + 1) // LANES) * LANES
        matrix = 4 * shape.columns * sum(lengths[1:])
        return angles * sum(lengths) * (blocks * shape.block_rows * 4 + 2 * (4 + 4 * window) + 8) + matrix

    @classmethod
    def snapshot_bytes(cls, shape: Shape, options: ReconConfig, rows_at_once: int | None) -> int:
        """Bytes that a snapshot uses besides the volume: one block, transformed, and the parts that are being transformed."""
        period = cls.period(shape, options)
        step = min(rows_at_once or period, period)
        desks = min(threads(), -(-period // step)) if rows_at_once else 1
        return (shape.side + desks * step) * period * shape.block_rows * 4

    @property
    def nbytes(self) -> int:
        return sum(int(grid.nbytes) for grid in self._grids)

    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        check_batch(self.shape, projections, theta, weight)
        self._add(self._device.upload(projections), theta, weight)

    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        check_batch(self.shape, np.broadcast_to(row, (len(theta), *row.shape)), theta, weight)
        self._add(self._device.upload(row[None]), theta, weight)

    def _add(self, projections: Array, theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        """Add projections, one for each angle or one for all.

        Pieces are taken in this order by whoever is free, and wait for those before that they need: cells, weights and factors
        of some angles; for some blocks spectra of some angles, then the tiles of a hand.
        """
        if not len(theta):
            return
        shape, device, bands, desks = self.shape, self._device, self._bands, min(self.shape.blocks, self._cores)
        spokes = [self._spoke(*each, theta) for each in zip(bands, self._grids, self._spokes, strict=True)]
        self._spokes = [*spokes]
        factors = [
            memory((len(theta), band.length + 1), np.complex64)
            for memory, band in zip(self._factors, bands, strict=True)
        ]
        spectra = [
            [*memory((desks, len(projections), band.length, shape.block_rows // 2), np.complex64)]
            for memory, band in zip(self._spectra, bands, strict=True)
        ]
        # Pixel centers of an even side lie half a pixel beside the FFT's integers.
        shift = shape.center + (0.0 if shape.side % 2 else 0.5) * (np.cos(theta) + np.sin(theta))
        row = slice(bands[0].first, bands[0].first + shape.columns)
        angles, parts = self._parts(len(theta), 1), self._parts(len(projections), desks)
        hands = max(HANDS, -(-2 * self._cores // desks)) if device.angles_at_once else 1
        prepared = Gate(len(angles))
        transformed = [Gate(len(parts)) for _ in range(shape.blocks)]
        gridded = [Gate(hands + len(bands) - 1) for _ in range(shape.blocks)]
        dealing, dealt, filtering = threading.Lock(), list[Share | None](), list[float]()

        def prepare(some: slice) -> None:
            with prepared:
                for band, where, factor in zip(bands, spokes, factors, strict=True):
                    where.fill(some)
                    values = spoke_factors(shift[some] + band.first, weight[some], band.response, band.spacing)
                    factor[some] = device.put(values)

        def transform(block: int, some: slice) -> None:
            with transformed[block]:
                if block >= desks:  # whose desk it is given
                    gridded[block - desks].wait()
                began = time.perf_counter()
                high, *low = [each[block % desks][some] for each in spectra]
                pack_rows(projections[some, shape.block(block)], self._column_weight, high)
                for how, shrunk in zip(self._shrinking, low, strict=True):
                    shrink_rows(high[:, row], how, shrunk)
                for each, values in zip(spectra, (high, *low), strict=True):
                    done = fft.fft(values, axis=1, overwrite_x=True)
                    if device.angles_at_once is None:
                        each[block % desks] = done
                    elif not np.may_share_memory(done, values):
                        values[:] = done
                filtering.append(time.perf_counter() - began)

        def grid(block: int, band: int, hand: int) -> None:
            with gridded[block]:
                prepared.wait()
                with dealing:
                    if not dealt:
                        dealt.extend(spokes[0].deal(hands) if device.angles_at_once else [None])
                transformed[block].wait()
                share = None if band else dealt[hand]
                grid_spokes(self._grids[band][block], spectra[band][block % desks], factors[band], spokes[band], share)

        pieces: list[Callable[[], None]] = [partial(prepare, some) for some in angles]
        for first in range(0, shape.blocks, desks):
            blocks = range(first, min(first + desks, shape.blocks))
            pieces += [partial(transform, block, some) for block in blocks for some in parts]
            work = [(0, hand) for hand in range(hands)] + [(band, 0) for band in range(1, len(bands))]
            pieces += [partial(grid, block, *each) for block in blocks for each in work]
        device.each(_call, pieces)
        self.filter_seconds += sum(filtering) / self._cores

    def _parts(self, angles: int, blocks: int) -> list[slice]:
        """Angles that are worked on at once: so few that every core has some, of some blocks."""
        most = self._device.angles_at_once
        step = max(1, min(most, angles * blocks // (2 * self._cores))) if most else angles
        return [slice(first, min(first + step, angles)) for first in range(0, angles, step)]

    def _spoke(self, band: Band, grids: Array, before: Spokes | None, theta: NDArray[np.float64]) -> Spokes:
        cells = self._period * band.spacing
        steps = np.cos(theta) * cells, np.sin(theta) * cells
        return Spokes(*steps, band.length + 1, grids.shape[1], self._kernel, grids, before)

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
        period, put = image.period, self._device.put
        pairs = self.shape.block_rows // (2 if image.rows == 1 else image.rows)
        most = self._device.rows_at_once
        step = min(most, max(8, CACHED // (8 * period * pairs)), period) if most else period
        columns = self._columns((len(x), period, pairs), np.complex64)
        factors, reach = (put(image.factor_v), put(image.factor_u)), self._period / 2 + self._kernel.width

        def transform(first: int) -> None:
            with self._rows((min(step, period - first), period, pairs), np.complex64) as chunk:
                fold_grid(grid, self._period, first, *factors, chunk, reach)
                lay_columns(_inverse(chunk), x, first, columns)

        with self._whole(index) as grid:
            self._device.each(transform, range(0, period, step))
        return columns

    @contextlib.contextmanager
    def _whole(self, index: int) -> Iterator[Array]:
        """The grid of a block, with the low band's for as long."""
        grid, middle = self._grids[0][index], self._grids[0].shape[1] // 2
        halves = [each.shape[1] // 2 for each in self._grids[1:]]
        places = [grid[middle - half : middle + half + 1, middle - half : middle + half + 1] for half in halves]
        before = [place.copy() for place in places]
        for place, low in zip(places, self._grids[1:], strict=True):
            place += low[index]
        try:
            yield grid
        finally:
            for place, values in zip(places, before, strict=True):
                place[:] = values

    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, FourierAccumulator) or (other.shape, other._options) != (self.shape, self._options):
            raise GeometryError("only an accumulator of the same method, shape and options can be merged into this one")
        for grid, more in zip(self._grids, other._grids, strict=True):
            grid += more

    def reset(self) -> None:
        for grid in self._grids:
            grid[:] = 0


def _call(task: Callable[[], None]) -> None:
    task()


def _inverse(chunk: Array) -> Array:
    return fft.ifft(chunk, axis=1, norm="forward", overwrite_x=True)
