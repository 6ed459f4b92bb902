"""The Fourier accumulator: the oversampled 2-D spectrum of each slice, to which spokes are gridded."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import KaiserBessel, grid_spokes, take_slices, threads

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import Accumulator, Shape, add_repeated, check_batch
from streamrecon.recon.filters import pad, response

BINNINGS = (1, 2, 4, 8, 16)
STEP = 2 * max(BINNINGS)
"""The grid's period is a multiple of this many cells, so that every preview is a central crop of even size."""


class FourierAccumulator:
    """The spectrum as the state: O(n) an angle and slice, and a snapshot costs an inverse FFT.

    Parameters
    ----------
    shape
        Of the reconstruction.
    options
        Filter, width of the gridding kernel and oversampling.

    Notes
    -----
    `f(x, y) = sum_a w_a sum_k H_k P_a,k exp(2 pi i nu_k (x cos + y sin))` is a sum over non-uniform frequencies. Each
    sample of the whole padded spectrum is spread onto the grid with a Kaiser-Bessel kernel; the inverse FFT of the grid is
    the image times the kernel's transform, which is divided out (O'Sullivan, IEEE Trans. Med. Imaging 4, 1985). Rows
    2 j and 2 j + 1 are the real and the imaginary part of one complex image.
    """

    def __init__(self, shape: Shape, options: ReconConfig) -> None:
        self.shape, self._options = shape, options
        self.filter_seconds = 0.0
        self._kernel = KaiserBessel(options.width, options.oversampling)
        half = response(options.filter, shape.padded, options.cutoff, options.filter_order)
        half[-1] /= 2  # the Nyquist sample goes half to the positive and half to the negative end of the spoke
        self._response = np.concatenate([half[:0:-1], half]) / shape.padded
        self._period = self._periods(shape, options)
        side = self._sides(shape, options)
        self._grid = np.zeros((shape.blocks, side, side, shape.block_rows // 2), np.complex64)
        self._work: NDArray[np.complex64] | None = None  # for whole snapshots, kept because touching new memory is slow

    @staticmethod
    def _periods(shape: Shape, options: ReconConfig) -> int:
        return STEP * int(fft.next_fast_len(math.ceil(shape.side * options.oversampling / STEP)))

    @classmethod
    def _sides(cls, shape: Shape, options: ReconConfig) -> int:
        return cls._periods(shape, options) + 2 * (options.width // 2 + 1) + 1

    @classmethod
    def bytes_needed(cls, shape: Shape, options: ReconConfig) -> int:
        """Bytes of the state before it is allocated."""
        return shape.blocks * cls._sides(shape, options) ** 2 * shape.block_rows * 4

    @property
    def nbytes(self) -> int:
        return self._grid.nbytes

    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        check_batch(self.shape, projections, theta, weight)
        shape = self.shape
        half = shape.padded // 2
        cos, sin = np.cos(theta), np.sin(theta)
        first = (shape.padded - shape.columns) // 2
        # Pixel centers of an even side lie half a pixel beside the FFT's integers.
        shift = first + shape.center + (0.0 if shape.side % 2 else 0.5) * (cos + sin)
        frequency = np.arange(-half, half + 1) / shape.padded
        factor = weight[:, None] * self._response * np.exp(2j * math.pi * shift[:, None] * frequency)
        factor = factor.astype(np.complex64)[:, :, None]
        samples = np.empty((len(theta), 2 * half + 1, shape.block_rows // 2), np.complex64)
        cells = self._period / shape.padded
        for block in range(shape.blocks):
            began = time.perf_counter()
            rows = shape.block(projections, block)
            packed = np.empty((len(theta), shape.block_rows // 2, shape.columns), np.complex64)
            packed.real, packed.imag = rows[:, 0::2], rows[:, 1::2]
            padded, _ = pad(packed, shape.padded)  # type: ignore[arg-type]
            spectrum = fft.fft(padded, axis=-1, overwrite_x=True, workers=threads()).transpose(0, 2, 1)
            np.multiply(spectrum[:, half:], factor[:, :half], out=samples[:, :half])
            np.multiply(spectrum[:, : half + 1], factor[:, half:], out=samples[:, half:])
            self.filter_seconds += time.perf_counter() - began
            grid_spokes(self._grid[block], samples, cos * cells, sin * cells, self._kernel)

    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        add_repeated(self, row, theta, weight)

    def snapshot_block(self, index: int, gain: float = 1.0, binning: int = 1) -> NDArray[np.float32]:
        shape = self.shape
        if binning not in BINNINGS:
            raise GeometryError(f"binning is {binning}; the Fourier method has previews of {BINNINGS}")
        period, side = self._period // binning, max(1, shape.side // binning)
        # Where pixel 0 of the FFT lies: the grid already holds the full volume's, a bin's center may be elsewhere.
        here = 0.0 if shape.side % 2 else 0.5
        shift = (0.0 if side % 2 else 0.5 * binning) - here if binning > 1 else 0.0
        spectrum = self._central(self._grid[index], period)
        if binning > 1:
            nu = fft.fftfreq(period, self._period / period)
            mean = np.sinc(nu * binning) / np.sinc(nu) * np.exp(2j * math.pi * nu * shift)
            mean = mean.astype(np.complex64)
            spectrum *= mean[:, None, None]
            spectrum *= mean[None, :, None]
        image = fft.ifft2(spectrum, axes=(0, 1), norm="forward", overwrite_x=True, workers=threads())
        pixel = np.arange(side) - side // 2
        correction = np.asarray(1 / self._kernel.transform((pixel * binning + shift) / self._period), np.float32)
        out = np.empty((min(shape.block_rows, shape.rows - index * shape.block_rows), side, side), np.float32)
        # Real and imaginary parts lie side by side in memory, as rows 2 j and 2 j + 1.
        rows = image.view(np.float32)
        take_slices(
            rows, pixel, pixel, correction, correction * np.float32(gain * shape.scale), out, shape.radius / binning
        )
        return out

    def _central(self, grid: NDArray[np.complex64], period: int) -> NDArray[np.complex64]:
        """The central period x period cells of a grid as an FFT orders them; margins of the whole grid are folded in."""
        middle = (grid.shape[0] - 1) // 2
        if period < self._period:
            cells = fft.ifftshift(np.arange(-(period // 2), period // 2)) + middle
            return grid[np.ix_(cells, cells)]
        half = period // 2
        if self._work is None:
            self._work = np.empty((period, period, grid.shape[2]), np.complex64)
        out = self._work
        out[:] = 0
        # Pieces of an axis: (cells of the grid, cells of the FFT); the outer two lie beyond the period and wrap.
        margin = middle - half
        pieces = (
            (slice(0, margin), slice(half - margin, half)),
            (slice(margin, middle), slice(half, period)),
            (slice(middle, middle + half), slice(0, half)),
            (slice(middle + half, None), slice(half, half + margin + 1)),
        )
        for from_v, to_v in pieces:
            for from_u, to_u in pieces:
                out[to_v, to_u] += grid[from_v, from_u]
        return out

    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, FourierAccumulator) or (other.shape, other._options) != (self.shape, self._options):
            raise GeometryError("only an accumulator of the same method, shape and options can be merged into this one")
        self._grid += other._grid

    def reset(self) -> None:
        self._grid[:] = 0
