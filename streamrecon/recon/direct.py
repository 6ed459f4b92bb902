"""The direct accumulator: the volume itself, to which each batch of filtered projections is backprojected."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import (
    aligned_zeros,
    backproject,
    bin_pixels,
    filter_spectra,
    pack_rows,
    take_slices,
    threads,
)

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import Accumulator, Shape, check_batch
from streamrecon.recon.filters import response
from streamrecon.recon.workspace import Workspace

CONSTANT = 16
"""Angles that a constant row is spread over at once."""


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
        self._column_weight = shape.column_weight
        self._response = response(options.filter, shape.padded, options.cutoff, options.filter_order)
        self._volume = aligned_zeros((shape.blocks, shape.side, shape.side, shape.block_rows), np.float32)
        self._spectra, self._upsampled = Workspace(), Workspace()

    @staticmethod
    def state_bytes(shape: Shape, options: ReconConfig) -> int:
        """Bytes of the state."""
        return shape.blocks * shape.side**2 * shape.block_rows * 4

    @staticmethod
    def batch_bytes(shape: Shape, options: ReconConfig, angles: int) -> int:
        """Bytes that `add` uses for a batch: spectra of one block, and the rows that become of them."""
        lengths = 1 + (options.upsampling if options.upsampling > 1 else 0)
        return lengths * angles * shape.padded * shape.block_rows * 4

    @staticmethod
    def snapshot_bytes(shape: Shape, options: ReconConfig) -> int:
        """Bytes that a snapshot uses besides the volume."""
        return 0

    @property
    def nbytes(self) -> int:
        return self._volume.nbytes

    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        check_batch(self.shape, projections, theta, weight)
        shape = self.shape
        factor = np.asarray(weight[:, None] * self._response / shape.padded, np.float32)
        for block in range(shape.blocks):
            rows = self._filtered(projections[:, shape.block(block)], factor)
            self._backproject(block, rows, theta)

    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        shape = self.shape
        check_batch(shape, np.broadcast_to(row, (len(theta), *row.shape)), theta, weight)
        factor = np.asarray(self._response[None] / shape.padded, np.float32)
        for block in range(shape.blocks):
            rows = self._filtered(row[None, shape.block(block)], factor)
            for first in range(0, len(theta), CONSTANT):
                some = slice(first, first + CONSTANT)
                self._backproject(block, rows * np.asarray(weight[some], np.float32)[:, None, None], theta[some])

    def _filtered(self, projections: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of one block, filtered, upsampled and with their tails: (angle, column, row)."""
        began = time.perf_counter()
        shape, angles, pairs = self.shape, len(projections), self.shape.block_rows // 2
        spectra = self._spectra((angles, shape.padded, pairs), np.complex64)
        pack_rows(projections, self._column_weight, spectra)
        transformed = fft.fft(spectra, axis=1, overwrite_x=True, workers=threads())
        upsampled = transformed
        if self._upsampling > 1:
            upsampled = self._upsampled((angles, shape.padded * self._upsampling, pairs), np.complex64)
        filter_spectra(transformed, factor, upsampled)
        filtered = fft.ifft(upsampled, axis=1, norm="forward", overwrite_x=True, workers=threads())
        self.filter_seconds += time.perf_counter() - began
        # Real and imaginary parts lie side by side in memory, as rows 2 j and 2 j + 1.
        rows: NDArray[np.float32] = filtered.view(np.float32)
        return rows

    def _backproject(self, block: int, rows: NDArray[np.float32], theta: NDArray[np.float64]) -> None:
        shape, up = self.shape, self._upsampling
        axis = shape.center + (shape.padded - shape.columns) // 2
        cos, sin = (np.asarray(f(theta) * up, np.float32) for f in (np.cos, np.sin))
        # Only the columns that some pixel is seen in, and two more for the interpolation, so that numbers stay small.
        first = max(0, math.floor((axis - shape.reach) * up) - 1)
        end = min(shape.padded * up, math.ceil((axis + shape.reach) * up) + 2)
        offset = np.full(len(theta), axis * up - first, np.float32)
        backproject(self._volume[block], rows[:, first:end], cos, sin, offset, shape.radius)

    def snapshot_block(self, index: int, out: NDArray[np.float32], gain: float = 1.0, binning: int = 1) -> None:
        shape = self.shape
        values = self._volume[index]
        if binning > 1:
            rows = len(out) * shape.row_binning(binning)
            values = self._bin(values, min(binning, shape.side))[..., :rows]
            values = values.reshape(*values.shape[:2], len(out), -1).mean(axis=-1, dtype=np.float32)
        pixels, ones = np.arange(values.shape[0]), np.ones(values.shape[0], np.float32)
        take_slices(values, pixels, pixels, ones, ones * np.float32(gain * shape.scale), out, shape.radius / binning)

    def _bin(self, volume: NDArray[np.float32], binning: int) -> NDArray[np.float32]:
        """Means of pixels, (y, x, row)."""
        side = max(1, self.shape.side // binning)
        left_over = self.shape.side - side * binning
        # Bins are centered on the axis, as the pixels are: an odd rest is the mean of the two nearest ways to cut.
        cuts = {left_over // 2, (left_over + 1) // 2}
        out = np.zeros((side, side, volume.shape[2]), np.float32)
        for cut in cuts:
            bin_pixels(volume, binning, cut, 1 / (len(cuts) * binning**2), out)
        return out

    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, DirectAccumulator) or (other.shape, other._options) != (self.shape, self._options):
            raise GeometryError("only an accumulator of the same method, shape and options can be merged into this one")
        self._volume += other._volume

    def reset(self) -> None:
        self._volume[:] = 0
