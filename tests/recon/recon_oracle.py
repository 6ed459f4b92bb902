"""Oracles of the reconstruction: analytic projections, filtered backprojection with sinc interpolation, and short cuts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import ReconConfig
from streamrecon.recon.accumulate import Accumulator, Shape, snapshot
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.weights import arc_weights
from streamrecon.scan import Geometry
from streamrecon.sources.phantom import phantom, project

METHODS = {"direct": DirectAccumulator, "fourier": FourierAccumulator}

Array = NDArray[np.float64]


def accumulator(
    method: str,
    rows: int,
    columns: int,
    center: float | None = None,
    pixel_size: float | None = None,
    options: ReconConfig | None = None,
) -> Accumulator:
    """An empty accumulator; the axis is in the middle unless said otherwise."""
    options = options or ReconConfig()
    middle = (columns - 1) / 2 if center is None else center
    return METHODS[method](Shape.of(Geometry(rows, columns, pixel_size), options, middle), options)


def fill(
    acc: Accumulator, projections: NDArray[np.floating], theta: Array, weight: Array | None = None, batch: int = 16
) -> Accumulator:
    """Add projections in batches; the weights are arcs unless given."""
    weight = arc_weights(theta) if weight is None else weight
    projections = projections.astype(np.float32)
    for i in range(0, len(theta), batch):
        acc.add(projections[i : i + batch], theta[i : i + batch], weight[i : i + batch])
    return acc


def reconstruct(
    method: str,
    projections: NDArray[np.floating],
    theta: Array,
    center: float | None = None,
    weight: Array | None = None,
    options: ReconConfig | None = None,
    pixel_size: float | None = None,
    gain: float = 1.0,
) -> NDArray[np.float32]:
    """The volume of (angle, row, column) line integrals."""
    acc = accumulator(method, *projections.shape[1:], center, pixel_size, options)
    return snapshot(fill(acc, projections, theta, weight), gain)


def relative(value: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """L2 norm of the difference over that of what is expected."""
    expected = np.asarray(expected, np.float64)
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def grid(side: int) -> tuple[Array, Array]:
    """x and y of the pixels of a slice, pixels from the axis."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return x, y


def disc(columns: int, theta: Array, center: float, radius: float, x: float = 0.0, y: float = 0.0) -> Array:
    """(angle, 1, column) chords through a disc, pixels."""
    u = np.arange(columns) - center - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return 2 * np.sqrt(np.clip(radius**2 - u**2, 0, None))[:, None]


def phantom_projections(
    name: str, columns: int, theta: Array, center: float, half: float, z: Array | None = None
) -> Array:
    """(angle, row, column) line integrals, per pixel, of a phantom whose unit is `half` pixels."""
    u = (np.arange(columns) - center) / half
    z = np.zeros(1) if z is None else z
    return np.stack([half * project(phantom(name), float(t), u, z) for t in theta])


def half_turn(angles: int) -> Array:
    return np.arange(angles) * math.pi / angles


def sinc_fbp(projections: Array, theta: Array, center: float, x: Array, y: Array, length: int = 2048) -> Array:
    """Filtered backprojection of (angle, column) at points, with equal weights, the ramp and periodic sinc interpolation.

    It shares nothing with streamrecon: rows are extended by zeros (the object must lie inside), the ramp is the spatial
    kernel of Kak and Slaney, eq. 3.61, and the trigonometric polynomial is evaluated at each point by Horner's rule.
    """
    angles, columns = projections.shape
    n = np.arange(-length // 2, length // 2)
    kernel = np.where(n % 2 == 1, -1 / (math.pi * np.where(n == 0, 1, n)) ** 2, np.where(n == 0, 0.25, 0))
    rows = np.zeros((angles, length))
    rows[:, :columns] = projections
    spectrum = np.fft.rfft(rows, axis=1) * np.fft.rfft(np.roll(kernel, length // 2)).real / length
    spectrum[:, 1:-1] *= 2
    total = np.zeros(len(x))
    for first in range(0, angles, 12):
        some = slice(first, first + 12)
        u = np.outer(np.cos(theta[some]), x) + np.outer(np.sin(theta[some]), y) + center
        turn = np.exp(2j * math.pi * u / length)
        value = np.zeros(u.shape, complex)
        for coefficient in spectrum[some, ::-1].T:
            value *= turn
            value += coefficient[:, None]
        total += value.real.sum(axis=0)
    return total * math.pi / angles
