"""The gridding kernel."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels.gridding_numba import EDGE, PER_CELL


@dataclass(frozen=True, slots=True)
class KaiserBessel:
    """The Kaiser-Bessel gridding kernel.

    `phi(t) = I0(beta sqrt(1 - (2 t / width)^2)) / I0(beta)` for |t| < width / 2 cells (less a billionth, see `reach`), else
    0, with the beta of Beatty et
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

    @property
    def reach(self) -> float:
        """Cells within which phi is not 0. A cell exactly at its end would else count on one side and, for rounding, not on
        the other: rows that share a grid would leak into each other."""
        return self.width / 2 - EDGE

    def table(self) -> NDArray[np.float32]:
        """phi at the cells of a window, (PER_CELL + 2, width): row f, column j is f / PER_CELL + j - width / 2."""
        return _table(self)

    def value(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """phi at distances in cells."""
        return np.where(np.abs(t) < self.width / 2, self._bell(t), 0)

    def _bell(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        root = np.sqrt(np.clip(1 - (2 * t / self.width) ** 2, 0, None))
        return np.asarray(np.i0(self.beta * root) / np.i0(self.beta))

    def transform(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fourier transform of phi at frequencies in cycles per cell; the same source, eq. 4."""
        argument = (math.pi * self.width * frequency) ** 2 - self.beta**2
        root = np.sqrt(np.abs(argument))
        safe = np.where(root == 0, 1, root)
        value = np.where(argument < 0, np.sinh(safe) / safe, np.sin(safe) / safe)
        return np.asarray(self.width / np.i0(self.beta) * np.where(root == 0, 1, value))


@functools.lru_cache(maxsize=8)
def _table(kernel: KaiserBessel) -> NDArray[np.float32]:
    t = np.arange(PER_CELL + 2)[:, None] / PER_CELL + np.arange(kernel.width) - kernel.width / 2
    return np.asarray(kernel._bell(t), np.float32)
