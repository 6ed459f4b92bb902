"""Where the samples of spokes go: their cells and weights, and which tiles of the grid they touch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon_kernels import gridding_cuda, gridding_numba
from streamrecon_kernels.kaiser_bessel import KaiserBessel
from streamrecon_kernels.memory import beside, on_device

TILE = 128
"""Side of a tile of the grid, cells: what a batch of angles adds to it stays in the second-level cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """Tiles of the grid that are worked on by one hand, and the samples that touch them."""

    spokes: Spokes
    """Whose tiles they are."""
    tiles: NDArray[np.int64]
    """(tile, 4), first and one past the last row, and column."""
    ranges: NDArray[np.int32]
    """(tile, angle, 2), first and one past the last sample."""


class Spokes:
    """Where the samples of some angles go: computed once, used for every block of slices. On the device of the grids.

    Sample k of a spoke lies `k - (samples - 1) / 2` steps from the zero frequency; a step is (cos[a], sin[a]) cells along
    u and v. On a CPU two neighbouring samples are a group, whose cells are loaded and stored once, where a step is no longer
    than a cell; else a group is one sample.

    Parameters
    ----------
    cos, sin
        (angle,), cells per sample; in host memory.
    samples
        Of a spoke, an odd number, at least 3.
    side
        Of the grid, cells, odd; the zero frequency is in its middle, and it must hold the kernel at the spokes' ends.
    kernel
        Its width and shape.
    like
        An array of the device that the grids are on; None is the CPU.
    before
        Spokes that are no longer needed, whose memory is used again: touching new pages takes as long as filling them.

    Attributes
    ----------
    first_u, first_v
        (angle, group) int32, first cell along u and v of the window that the samples of a group share.
    end_u, end_v
        (angle, group) int32, one past the last cell; None on a GPU.
    weight_u, weight_v
        (angle, group, sample, cell) float32, weights of the window's columns and rows, 0 where a sample does not reach;
        there may be more than the widest window has.
    ranges
        (angle, tile row, tile column, 2) int32, first and one past the last sample that may touch a tile; not on a GPU.

    Raises
    ------
    ValueError
        If a spoke would leave the grid, or a number is not finite or of the wrong parity.
    """

    def __init__(
        self,
        cos: NDArray[np.float64],
        sin: NDArray[np.float64],
        samples: int,
        side: int,
        kernel: KaiserBessel,
        like: Any = None,
        before: Spokes | None = None,
    ) -> None:
        for name, axis in (("cos", cos), ("sin", sin)):
            if axis.dtype != np.float64 or axis.ndim != 1 or not np.isfinite(axis).all():
                raise ValueError(f"{name} is {axis.dtype} {axis.shape}: {axis}; expected finite float64 (angle,)")
        if cos.shape != sin.shape or samples % 2 == 0 or samples < 3 or side % 2 == 0:
            raise ValueError(
                f"cos, sin are {cos.shape}, {sin.shape}, {samples} samples, {side} cells; expected as many of each, and odd "
                "numbers of samples, 3 or more, and cells"
            )
        middle = (side - 1) // 2
        step = max(np.abs(cos).max(initial=0), np.abs(sin).max(initial=0))
        reach = (samples - 1) / 2 * step + kernel.width / 2
        if reach > middle:
            raise ValueError(
                f"the spokes reach {reach:.1f} cells from the middle of a grid with {middle} on each side; expected at most "
                "these"
            )
        self.side, self.samples, self.kernel = side, samples, kernel
        self._like = like
        if on_device(like):
            self.cos, self.sin = beside(like, cos), beside(like, sin)
            self.end_u = self.end_v = None
            make = [beside(like, np.empty((len(cos), samples), np.int32)) for _ in range(2)]
            self.first_u, self.first_v = make
            shape = (len(cos), samples, 1, kernel.width)
            self.weight_u, self.weight_v = (beside(like, np.empty(shape, np.float32)) for _ in range(2))
            return
        self.cos, self.sin = np.ascontiguousarray(cos), np.ascontiguousarray(sin)
        self._table = _padded_table(kernel)
        together = 2 if step <= 1 else 1
        groups = (2, len(cos), -(-samples // together))
        across = -(-side // TILE)
        shapes = groups, groups, (*groups, together, self._table.shape[1]), (len(cos), across, across, 2)
        self._arrays: tuple[NDArray[Any], ...] = () if before is None else before._arrays
        if tuple(array.shape for array in self._arrays) != shapes:
            self._arrays = tuple(map(np.empty, shapes, (np.int32, np.int32, np.float32, np.int32)))
        first, end, weight, self.ranges = self._arrays
        self.first_u, self.first_v = first
        self.end_u, self.end_v = end
        self.weight_u, self.weight_v = weight

    def fill(self, some: slice = slice(None)) -> Spokes:
        """Find the cells and weights of some of the angles; on a GPU of all."""
        middle, width = (self.side - 1) // 2, self.kernel.width
        if on_device(self._like):
            table = beside(self._like, self.kernel.table())
            axes = (self.cos, self.first_u, self.weight_u), (self.sin, self.first_v, self.weight_v)
            for steps, first, weight in axes:
                gridding_cuda.spoke_taps(steps, table, width, middle, first, weight[:, :, 0])
            return self
        for steps, *arrays in (
            (self.cos, self.first_u, self.end_u, self.weight_u),
            (self.sin, self.first_v, self.end_v, self.weight_v),
        ):
            here = (array[some] for array in arrays)
            gridding_numba.taps(steps[some], self.samples, middle, width, self._table, *here)
        # What the samples of a group before and after a range may reach beside those in it.
        wide = width + 2 * (self.weight_u.shape[2] - 1)
        ranges = self.ranges[some]
        gridding_numba.tile_ranges(self.cos[some], self.sin[some], self.samples, self.side, wide, TILE, ranges)
        return self

    def deal(self, hands: int) -> list[Share]:
        """Deal the tiles that have samples to so many hands, the fullest first and to and fro.

        Raises
        ------
        ValueError
            If there is no hand.
        """
        if hands < 1:
            raise ValueError(f"tiles are dealt to {hands} hands; expected 1 or more")
        samples = np.zeros(self.ranges.shape[1] ** 2, np.int64)
        gridding_numba.count_samples(self.ranges, samples)
        order = np.argsort(-samples, kind="stable")[: np.count_nonzero(samples)]
        turns = 2 * hands
        shares = []
        for hand in range(hands):
            mine = np.concatenate([order[hand::turns], order[turns - 1 - hand :: turns]])
            tiles = np.empty((len(mine), 4), np.int64)
            ranges = np.empty((len(mine), len(self.ranges), 2), np.int32)
            gridding_numba.pick_tiles(self.ranges, mine, self.side, TILE, tiles, ranges)
            shares.append(Share(self, tiles, ranges))
        return shares


def spokes(*arguments: Any, **options: Any) -> Spokes:
    """`Spokes` of these arguments, filled."""
    return Spokes(*arguments, **options).fill()


def spoke_factors(
    shift: NDArray[np.float64], weight: NDArray[np.float64], response: NDArray[np.float32], spacing: float
) -> NDArray[np.complex64]:
    """What the samples of spokes are multiplied by: `weight[a] response[|k|] exp(2 pi i k spacing shift[a])`.

    Parameters
    ----------
    shift
        (angle,), columns that a row is moved by.
    weight
        (angle,), of the angle.
    response
        (n / 2 + 1,), of the filter, at the frequencies from 0 on.
    spacing
        Of frequencies, cycles per column.

    Returns
    -------
    factor
        (angle, n + 1), at the frequencies from -n / 2 to n / 2; in host memory.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if shift.ndim != 1 or weight.shape != shift.shape or response.ndim != 1 or not response.size:
        raise ValueError(
            f"shift is {shift.shape}, weight {weight.shape}, response {response.shape}; expected (angle,) twice, (n / 2 + 1,)"
        )
    out = np.empty((len(shift), 2 * len(response) - 1), np.complex64)
    gridding_numba.factors(shift, weight, response, spacing, out)
    return out


@functools.lru_cache(maxsize=8)
def _padded_table(kernel: KaiserBessel) -> NDArray[np.float32]:
    """The table, a column of zeros before it, as many behind it as whole vectors need, and a row of zeros below."""
    behind = -(kernel.width + 1) % gridding_numba.LANES
    return np.pad(kernel.table(), ((0, 1), (1, behind)))
