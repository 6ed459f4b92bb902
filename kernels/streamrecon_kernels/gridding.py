"""Gridding of spokes, the spectra of filtered rows, into the oversampled 2-D spectrum of a block of slices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import gridding_numba
from streamrecon_kernels.parallel import LOCK, threads


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

    def table(self, per_cell: int = 4096) -> NDArray[np.float32]:
        """phi at 0, 1 / per_cell, ... to its limit at width / 2 cells, and zeros beyond, for linear interpolation."""
        t = np.arange(math.ceil(self.width / 2 * per_cell) + 3) / per_cell
        inside = np.clip(1 - (2 * t / self.width) ** 2, 0, None)
        return np.where(t <= self.width / 2, np.i0(self.beta * np.sqrt(inside)) / np.i0(self.beta), 0).astype(
            np.float32
        )

    def transform(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fourier transform of phi at frequencies in cycles per cell; the same source, eq. 4."""
        argument = (math.pi * self.width * frequency) ** 2 - self.beta**2
        root = np.sqrt(np.abs(argument))
        safe = np.where(root == 0, 1, root)
        value = np.where(argument < 0, np.sinh(safe) / safe, np.sin(safe) / safe)
        return np.asarray(self.width / np.i0(self.beta) * np.where(root == 0, 1, value))


def grid_spokes(
    grid: NDArray[np.complex64],
    samples: NDArray[np.complex64],
    cos: NDArray[np.float64],
    sin: NDArray[np.float64],
    kernel: KaiserBessel,
) -> None:
    """Add spokes to the spectrum of a block of slices, in place.

    Sample k of a spoke lies `k - (samples - 1) / 2` steps from the zero frequency; a step is (cos[a], sin[a]) cells along
    u and v. Every cell is owned by one thread and takes the samples in their order: the bits depend neither on the
    number of threads nor on how the angles are split over calls.

    Parameters
    ----------
    grid
        (v, u, row pair), C-contiguous, with the zero frequency at cell (side - 1) / 2; its margin must hold the kernel.
    samples
        (angle, k, row pair), C-contiguous; the number of samples is odd; weights are already in it.
    cos, sin
        (angle,), cells per sample.
    kernel
        Its width and shape.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a spoke would leave the grid.
    """
    if grid.ndim != 3 or samples.ndim != 3 or grid.shape[2] != samples.shape[2] or grid.shape[0] != grid.shape[1]:
        raise ValueError(
            f"grid is {grid.shape} and samples {samples.shape}; expected (v, u, pair) and (angle, k, pair)"
        )
    for name, array in (("grid", grid), ("samples", samples)):
        if array.dtype != np.complex64 or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype}, strides {array.strides}; expected C-contiguous complex64")
    angles, count = samples.shape[:2]
    for name, axis in (("cos", cos), ("sin", sin)):
        if axis.dtype != np.float64 or not np.isfinite(axis).all():
            raise ValueError(f"{name} is {axis.dtype}: {axis}; expected finite float64")
    if cos.shape != (angles,) or sin.shape != (angles,) or count % 2 == 0 or grid.shape[0] % 2 == 0:
        raise ValueError(
            f"cos, sin are {cos.shape}, {sin.shape}, samples {samples.shape}, grid {grid.shape}; expected ({angles},) and "
            "odd numbers of samples and cells"
        )
    if not angles:
        return
    middle = (grid.shape[0] - 1) // 2
    reach = (count - 1) / 2 * max(np.abs(cos).max(), np.abs(sin).max()) + kernel.width / 2
    if reach > middle:
        raise ValueError(f"the spokes reach {reach:.1f} cells from the middle of a grid with {middle} on each side")
    table = kernel.table()
    # Four stripes a thread even out that the middle of the grid is denser than its rim.
    stripes = 4 * threads()
    with LOCK:
        u, wu = gridding_numba.taps(cos, count, middle, kernel.width, table)
        v, wv = gridding_numba.taps(sin, count, middle, kernel.width, table)
        gridding_numba.grid_spokes(grid.view(np.float32), samples.view(np.float32), u, v, wu, wv, stripes)
