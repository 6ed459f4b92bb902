"""Slow, obvious NumPy versions of the kernels: the oracles that the fast ones are tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels.gridding import KaiserBessel


def backproject(
    volume: NDArray[np.floating],
    filtered: NDArray[np.floating],
    cos: NDArray[np.floating],
    sin: NDArray[np.floating],
    offset: NDArray[np.floating],
    radius: float = np.inf,
) -> NDArray[np.float64]:
    """Return what `streamrecon_kernels.backproject` leaves in the volume, in float64; the same arguments."""
    total = volume.astype(np.float64)
    height, width = total.shape[:2]
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    inside = x**2 + y**2 <= radius**2
    for row, c, s, o in zip(
        filtered.astype(np.float64), cos.astype(float), sin.astype(float), offset.astype(float), strict=True
    ):
        u = np.where(inside, x * c + y * s + o, 0)
        column = np.floor(u).astype(int)
        right = (u - column)[..., None]
        total += inside[..., None] * ((1 - right) * row[column] + right * row[column + 1])
    return total


def grid_spokes(
    grid: NDArray[np.complexfloating],
    samples: NDArray[np.complexfloating],
    cos: NDArray[np.floating],
    sin: NDArray[np.floating],
    kernel: KaiserBessel,
) -> NDArray[np.complex128]:
    """Return what `streamrecon_kernels.grid_spokes` leaves in the grid, in complex128; the same arguments."""
    total = grid.astype(np.complex128)
    middle = (grid.shape[0] - 1) / 2
    cells = np.arange(grid.shape[0])
    for spoke, c, s in zip(samples, cos, sin, strict=True):
        for k, sample in enumerate(spoke):
            step = k - (samples.shape[1] - 1) / 2
            weights = []
            for axis in (s, c):
                t = cells - middle - step * axis
                inside = np.clip(1 - (2 * t / kernel.width) ** 2, 0, None)
                weights.append(
                    np.where(abs(t) < kernel.width / 2, np.i0(kernel.beta * np.sqrt(inside)) / np.i0(kernel.beta), 0)
                )
            total += np.multiply.outer(np.multiply.outer(weights[0], weights[1]), sample)
    return total


def take_slices(
    values: NDArray[np.floating],
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    factor_y: NDArray[np.floating],
    factor_x: NDArray[np.floating],
    slices: int,
    radius: float = np.inf,
) -> NDArray[np.float64]:
    """Return what `streamrecon_kernels.take_slices` writes, in float64; `slices` of them."""
    picked = values[np.ix_(y, x)].astype(np.float64) * np.multiply.outer(factor_y, factor_x)[..., None]
    height, width = len(y), len(x)
    dy, dx = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    picked[dy**2 + dx**2 > radius**2] = 0
    return np.asarray(np.moveaxis(picked, 2, 0)[:slices])
