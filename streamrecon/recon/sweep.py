"""One row reconstructed with several centers at once, for people to choose by eye.

Moving the axis by d columns is moving the row by -d. So the candidates are rows of one reconstruction whose axis is in the
middle: one backprojection makes a slice for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.config import ReconConfig
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.device import CPU
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.offset import TURN, overlap_weight
from streamrecon.recon.weights import arc_weights, covered_arc
from streamrecon.scan import Geometry

COLUMNS = 512
"""Of a row that is reconstructed; wider ones are binned."""

BATCH = 16


def sweep_centers(
    sinogram: NDArray[np.float32],
    theta: NDArray[np.float64],
    centers: NDArray[np.float64],
    options: ReconConfig,
    between: Callable[[], None] = lambda: None,
    offset_axis: bool = False,
    pixel_size: float | None = None,
) -> NDArray[np.float32]:
    """Reconstruct a row with each of several centers.

    Parameters
    ----------
    sinogram
        (projection, column) line integrals.
    theta
        (projection,) radians.
    centers
        (center,) columns.
    options
        The filter.
    between
        Called between two batches of projections.
    offset_axis
        Whether opposed views of the full turn are joined (`recon.offset`).
    pixel_size
        m, of a column.

    Returns
    -------
    slices
        (center, y, x) in 1/m where the pixel size is known, else per column; each around its axis.
    """
    turn = TURN if offset_axis else math.pi
    binning = math.ceil(sinogram.shape[1] / COLUMNS)
    columns = sinogram.shape[1] // binning
    rows = sinogram[:, : columns * binning].reshape(len(sinogram), columns, binning).mean(axis=2, dtype=np.float32)
    centers = (centers + 0.5) / binning - 0.5
    # Opposed views that are joined see as far as the farther edge, on either side.
    reach = float(np.max(np.maximum(centers, columns - 1 - centers))) if offset_axis else 0.0
    width = max(columns, 2 * math.ceil(reach) + 1)
    middle = (width - 1) / 2
    weight = arc_weights(theta, turn)
    # Bins are wider than columns, and the unit of length is not theirs.
    size = (pixel_size or 1.0) * binning
    shape = Shape.of(Geometry(len(centers), width, size), replace(options, side=None, circle=False), middle)
    accumulator = FourierAccumulator(shape, options, CPU)
    for first in range(0, len(rows), BATCH):
        some = slice(first, first + BATCH)
        moved = np.stack([_moved(rows[some], center, middle, width, offset_axis) for center in centers], axis=1)
        accumulator.add(moved, theta[some], weight[some])
        between()
    gain = covered_arc(theta, turn) / float(weight.sum()) if weight.any() else 1.0
    return snapshot(accumulator, gain, 1)


def _moved(
    rows: NDArray[np.float32], center: float, middle: float, width: int, offset_axis: bool
) -> NDArray[np.float32]:
    """Rows (projection, column) whose column `center` comes to `middle`, `width` columns wide, continued by their edges."""
    columns = rows.shape[1]
    if offset_axis:
        rows = rows * overlap_weight(columns, center)
    whole = math.floor(middle - center)
    part = middle - center - whole
    # By phases, and not by interpolation, which would blur each candidate by another amount. With its mirror image behind it, a
    # row has no step where it begins again.
    mirrored = np.concatenate([rows, rows[:, ::-1]], axis=1)
    phase = np.exp(-2j * np.pi * scipy.fft.rfftfreq(2 * columns) * part).astype(np.complex64)
    shifted = scipy.fft.irfft(scipy.fft.rfft(mirrored, axis=1) * phase, 2 * columns, axis=1)
    places = np.clip(np.arange(width) - whole, 0, columns - 1)
    return np.ascontiguousarray(shifted[:, places], np.float32)
