"""The direct accumulator: the volume itself, to which each batch of filtered projections is backprojected."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import backproject, take_slices, threads

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import Accumulator, Shape, add_repeated, check_batch
from streamrecon.recon.filters import pad, response


class DirectAccumulator:
    """The volume as the state: O(n^2) an angle and slice, and a snapshot costs a copy.

    Parameters
    ----------
    shape
        Of the reconstruction.
    options
        Filter and upsampling.
    """

    def __init__(self, shape: Shape, options: ReconConfig) -> None:
        self.shape, self._options = shape, options
        self.filter_seconds = 0.0
        self._upsampling = options.upsampling
        self._response = response(options.filter, shape.padded, options.cutoff, options.filter_order).astype(np.float32)
        self._volume = np.zeros((shape.blocks, shape.side, shape.side, shape.block_rows), np.float32)

    @staticmethod
    def bytes_needed(shape: Shape) -> int:
        """Bytes of the state before it is allocated."""
        return shape.blocks * shape.side**2 * shape.block_rows * 4

    @property
    def nbytes(self) -> int:
        return self._volume.nbytes

    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        check_batch(self.shape, projections, theta, weight)
        shape, up = self.shape, self._upsampling
        axis = shape.center + (shape.padded - shape.columns) // 2
        # Only the columns that some pixel is seen in are kept; two more for the interpolation.
        first = max(0, math.floor((axis - shape.reach) * up) - 1)
        end = min(shape.padded * up, math.ceil((axis + shape.reach) * up) + 2)
        cos, sin = (np.asarray(f(theta) * up, np.float32) for f in (np.cos, np.sin))
        offset = np.full(len(theta), axis * up - first, np.float32)
        scaled = (weight * up)[:, None, None].astype(np.float32)
        for block in range(shape.blocks):
            began = time.perf_counter()
            rows, _ = pad(shape.block(projections, block) * scaled, shape.padded)
            spectrum = fft.rfft(rows, axis=-1, workers=threads())
            spectrum *= self._response
            if up > 1:
                # Zeros follow the last sample when the row is upsampled: half of it stays at the old Nyquist frequency.
                spectrum[..., -1] /= 2
            filtered = fft.irfft(spectrum, shape.padded * up, axis=-1, overwrite_x=True, workers=threads())[
                ..., first:end
            ]
            columns_first = np.ascontiguousarray(filtered.transpose(0, 2, 1))
            self.filter_seconds += time.perf_counter() - began
            backproject(self._volume[block], columns_first, cos, sin, offset, shape.radius)

    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        add_repeated(self, row, theta, weight)

    def snapshot_block(self, index: int, gain: float = 1.0, binning: int = 1) -> NDArray[np.float32]:
        shape = self.shape
        volume = self._volume[index]
        binning = min(binning, shape.side)
        if binning > 1:
            side = max(1, shape.side // binning)
            left_over = shape.side - side * binning
            # Bins are centered on the axis, as the pixels are: an odd rest is the mean of the two nearest ways to cut.
            cuts = {left_over // 2, (left_over + 1) // 2}
            volume = np.mean([_bin_pixels(volume, cut, side, binning) for cut in cuts], axis=0)
        out = np.empty((min(shape.block_rows, shape.rows - index * shape.block_rows), *volume.shape[:2]), np.float32)
        pixels, ones = np.arange(volume.shape[0]), np.ones(volume.shape[0], np.float32)
        take_slices(volume, pixels, pixels, ones, ones * np.float32(gain * shape.scale), out, shape.radius / binning)
        return out

    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, DirectAccumulator) or (other.shape, other._options) != (self.shape, self._options):
            raise GeometryError("only an accumulator of the same method, shape and options can be merged into this one")
        self._volume += other._volume

    def reset(self) -> None:
        self._volume[:] = 0


def _bin_pixels(volume: NDArray[np.float32], cut: int, side: int, binning: int) -> NDArray[np.float32]:
    end = cut + side * binning
    cropped = volume[cut:end, cut:end].reshape(side, binning, side, binning, -1)
    return np.asarray(cropped.mean(axis=(1, 3), dtype=np.float32))
