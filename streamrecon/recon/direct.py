"""The direct accumulator: the volume itself, to which each batch of filtered projections is backprojected."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import backproject, bin_voxels, filter_spectra, pack_rows, take_slices, threads

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.accumulate import Accumulator, Shape, alone, check_batch, check_binning
from streamrecon.recon.device import CPU, Array, Device, zeros
from streamrecon.recon.filters import response
from streamrecon.recon.workspace import Desks, Workspace, desks
from streamrecon.scan import Axis

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
    device
        Where it lives.
    """

    def __init__(self, shape: Shape, options: ReconConfig, device: Device = CPU) -> None:
        self.shape, self._options, self._device = shape, options, device
        self.filter_seconds, self.lock = 0.0, threading.Lock()
        self._upsampling = options.upsampling
        self._column_weight = device.put(shape.column_weight)
        self._response = response(options.filter, shape.padded, options.cutoff, options.filter_order)
        self._volume = zeros(device, (shape.blocks, shape.side, shape.side, shape.block_rows), np.float32)
        self._spectra, self._upsampled = Desks(device), Desks(device)
        self._bins = Workspace(device)
        """Of the block that is binned."""
        self._cores, self._filtering = threads(), list[float]()

    @staticmethod
    def state_bytes(shape: Shape, options: ReconConfig) -> int:
        """Bytes of the state."""
        return shape.blocks * shape.side**2 * shape.block_rows * 4

    @staticmethod
    def batch_bytes(shape: Shape, options: ReconConfig, angles: int, angles_at_once: int | None) -> int:
        """Bytes that `add` uses for a batch: spectra of as many blocks as are worked on, and the rows that become of them."""
        lengths = 1 + (options.upsampling if options.upsampling > 1 else 0)
        return desks(shape.blocks, angles_at_once) * lengths * angles * shape.padded * shape.block_rows * 4

    @staticmethod
    def snapshot_bytes(shape: Shape, options: ReconConfig, rows_at_once: int | None) -> int:
        """Bytes that a snapshot without binning uses besides the volume."""
        return 0

    @staticmethod
    def cut_bytes(shape: Shape, options: ReconConfig) -> int:
        """Bytes that single slices use besides themselves."""
        return 0

    @property
    def nbytes(self) -> int:
        return int(self._volume.nbytes)

    @alone
    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        theta, weight = check_batch(self.shape, projections, theta, weight)
        shape, there = self.shape, self._device.upload(projections)
        factor = self._device.put(np.asarray(weight[:, None] * self._response / shape.padded, np.float32))

        def add_block(block: int) -> None:
            with self._filtered(there[:, shape.block(block)], factor) as rows:
                self._backproject(block, rows, theta)

        self._device.each(add_block, range(shape.blocks))
        self._count_filtering()

    @alone
    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        theta, weight = check_batch(self.shape, np.broadcast_to(row, (theta.size, *row.shape)), theta, weight)
        shape, there = self.shape, self._device.upload(row[None])
        factor = self._device.put(np.asarray(self._response[None] / shape.padded, np.float32))

        def add_block(block: int) -> None:
            with self._filtered(there[:, shape.block(block)], factor) as rows:
                for first in range(0, len(theta), CONSTANT):
                    some = slice(first, first + CONSTANT)
                    weights = self._device.put(np.asarray(weight[some], np.float32)[:, None, None])
                    self._backproject(block, rows * weights, theta[some])

        self._device.each(add_block, range(shape.blocks))
        self._count_filtering()

    def _count_filtering(self) -> None:
        self.filter_seconds += sum(self._filtering)
        self._filtering.clear()

    @contextlib.contextmanager
    def _filtered(self, projections: Array, factor: Array) -> Iterator[Array]:
        """Rows of one block, filtered, upsampled and with their tails: (angle, column, row)."""
        began = time.perf_counter()
        shape, angles, pairs = self.shape, len(projections), self.shape.block_rows // 2
        length = shape.padded * self._upsampling
        with (
            self._spectra((angles, shape.padded, pairs), np.complex64) as spectra,
            self._upsampled((angles, length if self._upsampling > 1 else 0, pairs), np.complex64) as longer,
        ):
            pack_rows(projections, self._column_weight, spectra)
            transformed = fft.fft(spectra, axis=1, overwrite_x=True)
            upsampled = longer if self._upsampling > 1 else transformed
            filter_spectra(transformed, factor, upsampled)
            filtered = fft.ifft(upsampled, axis=1, norm="forward", overwrite_x=True)
            self._filtering.append((time.perf_counter() - began) / (1 if threads() > 1 else self._cores))
            # Real and imaginary parts lie side by side in memory, as rows 2 j and 2 j + 1.
            yield filtered.view(np.float32)

    def _backproject(self, block: int, rows: Array, theta: NDArray[np.float64]) -> None:
        shape, up = self.shape, self._upsampling
        axis = shape.center + (shape.padded - shape.columns) // 2
        cos, sin = (np.asarray(f(theta) * up, np.float32) for f in (np.cos, np.sin))
        # Only the columns that some pixel is seen in, and two more for the interpolation, so that numbers stay small.
        first = max(0, math.floor((axis - shape.reach) * up) - 1)
        end = min(shape.padded * up, math.ceil((axis + shape.reach) * up) + 2)
        offset = np.full(len(theta), axis * up - first, np.float32)
        backproject(self._volume[block], rows[:, first:end], cos, sin, offset, shape.radius)

    @alone
    def snapshot_block(self, index: int, out: NDArray[np.float32], gain: float = 1.0, binning: int = 1) -> None:
        check_binning(binning)
        shape = self.shape
        if not len(out):  # the last block may have fewer rows than a bin
            return
        values = self._volume[index] if binning == 1 else self._bin(index, binning)
        pixels, ones = np.arange(values.shape[0]), np.ones(values.shape[0], np.float32)
        put, target = self._device.put, self._device.target(out)
        factors = put(ones), put(ones * np.float32(gain * shape.scale))
        take_slices(values, put(pixels), put(pixels), *factors, target, shape.radius / binning)
        self._device.fetch(target, out)

    def _bin(self, index: int, binning: int) -> Array:
        """Means of the voxels of a block, (y, x, slice)."""
        shape, rows = self.shape, self.shape.row_binning(binning)
        binning = min(binning, shape.side)
        side = shape.side // binning
        left_over = shape.side - side * binning
        # Bins are centered on the axis, as the pixels are: an odd rest is the mean of the two nearest ways to cut.
        cuts = {left_over // 2, (left_over + 1) // 2}
        means = self._bins((side, side, shape.block_rows // rows), np.float32)
        means.fill(0)
        for cut in cuts:
            bin_voxels(self._volume[index], binning, rows, cut, 1 / (len(cuts) * binning**2 * rows), means)
        return means

    @alone
    def cut(self, axis: Axis, places: Sequence[int], out: NDArray[np.float32], gain: float = 1.0) -> None:
        target = self._device.target(out)
        for place, pixels in zip(places, target, strict=True):
            self._cut(axis, place, pixels, gain)
        self._device.fetch(target, out)

    def _cut(self, axis: Axis, place: int, target: Array, gain: float) -> None:
        shape, put = self.shape, self._device.put
        factor, pixels = np.float32(gain * shape.scale), np.arange(shape.side)
        if axis == "z":
            block, row = divmod(place, shape.block_rows)
            factors = put(np.ones(shape.side, np.float32)), put(np.full(shape.side, factor))
            values = self._volume[block][..., row : row + 1]
            take_slices(values, put(pixels), put(pixels), *factors, target[None], shape.radius)
        else:
            factors = put(np.where(shape.inside(place), factor, np.float32(0)))
            # Copied row by row first: pixels of one column lie far apart.
            values = self._volume[:, place] if axis == "y" else self._volume[:, :, place].copy()
            # All whole blocks at once: of each by itself it would take as long to say so as to do it.
            whole = shape.rows // shape.block_rows
            rows = whole * shape.block_rows
            bands = target[:rows].reshape(whole, shape.block_rows, shape.side)
            np.multiply(values[:whole].transpose(0, 2, 1), factors, out=bands)
            if rows < shape.rows:
                np.multiply(values[whole].T[: shape.rows - rows], factors, out=target[rows:])

    @alone
    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, DirectAccumulator) or (other.shape, other._options) != (self.shape, self._options):
            raise GeometryError("only an accumulator of the same method, shape and options can be merged into this one")
        self._volume += other._volume

    @alone
    def reset(self) -> None:
        self._volume[:] = 0
