"""From projections to the grids of the Fourier method: a batch is cut into pieces that cores take as they become free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from streamrecon_kernels import (
    Gate,
    KaiserBessel,
    Share,
    Shrinking,
    Spokes,
    grid_spokes,
    pack_rows,
    shrink_rows,
    spoke_factors,
    threads,
)

from streamrecon.recon.accumulate import Shape
from streamrecon.recon.bands import Band, shrinking
from streamrecon.recon.device import Array, Device
from streamrecon.recon.workspace import Workspace, desks

HANDS = 3
"""Least pieces that gridding a block is done in: more take longer to hand out, fewer to wait for the slowest core."""


class Spreader:
    """Spreads projections onto grids, and keeps the memory that it needs from one batch to the next.

    Parameters
    ----------
    shape
        Of the reconstruction.
    bands
        The first one of rows as they are, another of shrunk ones.
    grids
        Of each band (block, v, u, row pair).
    period
        Of the grids, cells.
    kernel
        That samples are spread with.
    device
        Where the grids are.
    """

    def __init__(
        self,
        shape: Shape,
        bands: tuple[Band, ...],
        grids: list[Array],
        period: int,
        kernel: KaiserBessel,
        device: Device,
    ) -> None:
        self.shape, self.bands, self.grids, self.device = shape, bands, grids, device
        self._period, self._kernel = period, kernel
        self.column_weight = device.put(shape.column_weight)
        self.shrinking = [Shrinking.of(shrinking(shape, band), grids[0]) for band in bands[1:]]
        self.cores = threads()
        self.desks = desks(shape.blocks, device.angles_at_once)
        self._before: list[Spokes | None] = [None] * len(bands)
        self._factors, self._spectra = ([Workspace(device) for _ in bands] for _ in range(2))

    def spread(self, projections: Array, theta: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
        """Add projections, one for each angle or one for all; the seconds until they were transformed.

        Parameters
        ----------
        projections
            (angle or 1, row, column) line integrals, on the device.
        theta, weight
            (angle,) radians.
        """
        if not len(theta):
            return 0.0
        batch = _Batch(self, projections, theta, weight)
        self.device.each(_call, batch.pieces())
        return sum(batch.seconds) / self.cores

    def spokes(self, theta: NDArray[np.float64]) -> list[Spokes]:
        """Of each band, not yet filled; those of the batch before are no longer of use."""
        made = []
        for band, grids, before in zip(self.bands, self.grids, self._before, strict=True):
            cells = self._period * band.spacing
            steps = np.cos(theta) * cells, np.sin(theta) * cells
            made.append(Spokes(*steps, band.length + 1, grids.shape[1], self._kernel, grids, before))
        self._before = [*made]
        return made

    def factors(self, angles: int) -> list[Array]:
        """Memory for the factors of each band, (angle, sample)."""
        shapes = ((angles, band.length + 1) for band in self.bands)
        return [memory(shape, np.complex64) for memory, shape in zip(self._factors, shapes, strict=True)]

    def spectra(self, angles: int) -> list[list[Array]]:
        """Memory for the spectra of each band, by desk (angle, sample, row pair)."""
        shapes = ((self.desks, angles, band.length, self.shape.block_rows // 2) for band in self.bands)
        return [[*memory(shape, np.complex64)] for memory, shape in zip(self._spectra, shapes, strict=True)]

    def parts(self, angles: int, blocks: int) -> list[slice]:
        """Angles that are worked on at once: so few that every core has some, of some blocks."""
        most = self.device.angles_at_once
        step = max(1, min(most, angles * blocks // (2 * self.cores))) if most else angles
        return [slice(first, min(first + step, angles)) for first in range(0, angles, step)]


class _Batch:
    """One batch: its pieces, and the gates at which they wait for those before that they need."""

    def __init__(
        self, spreader: Spreader, projections: Array, theta: NDArray[np.float64], weight: NDArray[np.float64]
    ) -> None:
        self._all, self._projections, self._weight = spreader, projections, weight
        shape, bands, desks = spreader.shape, spreader.bands, spreader.desks
        # Pixel centers of an even side lie half a pixel beside the FFT's integers.
        self._shift = shape.center + (0.0 if shape.side % 2 else 0.5) * (np.cos(theta) + np.sin(theta))
        self._spokes, self._factors = spreader.spokes(theta), spreader.factors(len(theta))
        self._spectra = spreader.spectra(len(projections))
        self._angles, self._parts = spreader.parts(len(theta), 1), spreader.parts(len(projections), desks)
        self._hands = max(HANDS, -(-2 * spreader.cores // desks)) if spreader.device.angles_at_once else 1
        self._prepared = Gate(len(self._angles))
        self._transformed = [Gate(len(self._parts)) for _ in range(shape.blocks)]
        self._gridded = [Gate(self._hands + len(bands) - 1) for _ in range(shape.blocks)]
        self._dealing, self._dealt = threading.Lock(), list[Share | None]()
        self.seconds: list[float] = []
        """Of the pieces that pack and transform."""

    def pieces(self) -> list[Callable[[], None]]:
        """All pieces, in an order in which none waits for a later one."""
        pieces: list[Callable[[], None]] = [partial(self._prepare, some) for some in self._angles]
        work = [(0, hand) for hand in range(self._hands)] + [(band, 0) for band in range(1, len(self._spokes))]
        blocks, desks = self._all.shape.blocks, self._all.desks
        for first in range(0, blocks, desks):
            group = range(first, min(first + desks, blocks))
            pieces += [partial(self._transform, block, some) for block in group for some in self._parts]
            pieces += [partial(self._grid, block, *each) for block in group for each in work]
        return pieces

    def _prepare(self, some: slice) -> None:
        """Cells, weights and factors of some angles."""
        with self._prepared:
            for band, where, factor in zip(self._all.bands, self._spokes, self._factors, strict=True):
                where.fill(some)
                shift, weight = self._shift[some] + band.first, self._weight[some]
                factor[some] = self._all.device.put(spoke_factors(shift, weight, band.response, band.spacing))

    def _transform(self, block: int, some: slice) -> None:
        """Spectra of a block's rows at some angles."""
        shape, first, desk = self._all.shape, self._all.bands[0].first, block % self._all.desks
        with self._transformed[block]:
            if block >= self._all.desks:  # whose desk it is given
                self._gridded[block - self._all.desks].wait()
            began = time.perf_counter()
            high, *low = [spectra[desk][some] for spectra in self._spectra]
            pack_rows(self._projections[some, shape.block(block)], self._all.column_weight, high)
            for how, shrunk in zip(self._all.shrinking, low, strict=True):
                shrink_rows(high[:, first : first + shape.columns], how, shrunk)
            for spectra, values in zip(self._spectra, (high, *low), strict=True):
                transformed = fft.fft(values, axis=1, overwrite_x=True)
                if self._all.device.angles_at_once is None:
                    spectra[desk] = transformed
                elif not np.may_share_memory(transformed, values):
                    values[:] = transformed
            self.seconds.append(time.perf_counter() - began)

    def _grid(self, block: int, band: int, hand: int) -> None:
        """Add to the tiles that a hand has of the first band's grid, or to all of another's."""
        with self._gridded[block]:
            self._prepared.wait()
            share = None if band else self._deal()[hand]
            self._transformed[block].wait()
            spectra = self._spectra[band][block % self._all.desks]
            grid_spokes(self._all.grids[band][block], spectra, self._factors[band], self._spokes[band], share)

    def _deal(self) -> list[Share | None]:
        """The tiles of each hand; whoever needs them first deals."""
        with self._dealing:
            if not self._dealt:
                self._dealt += self._spokes[0].deal(self._hands) if self._all.device.angles_at_once else [None]
        return self._dealt


def _call(task: Callable[[], None]) -> None:
    task()
