"""The accumulator protocol: the linear state of a reconstruction, to which projections are added one by one."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from streamrecon_kernels import aligned_empty

from streamrecon.config import ReconConfig
from streamrecon.errors import GeometryError
from streamrecon.recon.filters import padded_length
from streamrecon.recon.means import bin_means
from streamrecon.recon.offset import overlap_weight
from streamrecon.scan import Axis, Geometry

BLOCK_ROWS = 32
"""Most rows of a block: one index and one weight serve them all."""

BINNINGS = (1, 2, 4, 8, 16)
"""Of snapshots."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What both accumulators derive from the geometry."""

    rows: int
    """Rows that are reconstructed."""
    columns: int
    center: float
    """Column of the rotation axis, pixels."""
    side: int
    """Of a slice, pixels."""
    radius: float
    """Of the circle that is reconstructed, pixels; infinite for the whole square."""
    scale: float
    """Factor from per pixel to the volume's unit."""
    offset_axis: bool = False
    """Whether opposed views complete each other (`recon.offset`): projections are weighted by column."""

    @classmethod
    def of(cls, geometry: Geometry, options: ReconConfig, center: float, offset_axis: bool = False) -> Shape:
        """Of a scan whose frames have `geometry.rows` rows.

        Parameters
        ----------
        geometry
            Of the frames.
        options
            Side and circle.
        center
            Column of the rotation axis.
        offset_axis
            Whether a full turn is seen by one side of the detector each half (`recon.offset`): all that the farther edge
            reaches is then reconstructed.

        Raises
        ------
        GeometryError
            If the center is not finite.
        """
        if not math.isfinite(center):
            raise GeometryError(f"center is {center}; expected a column")
        edges = center, geometry.columns - 1 - center
        # What every angle sees is at most the shorter way from the axis to the detector's edge; over a turn, the longer one.
        seen = max(edges) if offset_axis else min(edges)
        side = options.side or (2 * math.ceil(seen) + 1 if offset_axis else geometry.columns)
        radius = max(0.5, min(seen, (side - 1) / 2)) if options.circle else math.inf
        return cls(geometry.rows, geometry.columns, center, side, radius, 1 / (geometry.pixel_size or 1), offset_axis)

    @property
    def blocks(self) -> int:
        """Blocks of rows; all but the last are full."""
        return math.ceil(self.rows / self.block_rows)

    @property
    def block_rows(self) -> int:
        """Rows of a block, even: two real rows make a complex one."""
        blocks = math.ceil(self.rows / BLOCK_ROWS)
        rows = math.ceil(self.rows / blocks)
        return rows + rows % 2 if rows <= 8 else math.ceil(rows / 8) * 8

    @property
    def column_weight(self) -> NDArray[np.float32]:
        """(column,), times which projections are taken before the filter."""
        return overlap_weight(self.columns, self.center) if self.offset_axis else np.ones(self.columns, np.float32)

    @property
    def reach(self) -> float:
        """Farthest a pixel is seen from the axis, columns."""
        return min(self.radius, (self.side - 1) / math.sqrt(2)) + 1

    @property
    def beyond(self) -> float:
        """How far beyond the detector's edges filtered rows are needed, columns."""
        return max(0.0, self.reach - self.center, self.reach - (self.columns - 1 - self.center))

    @property
    def padded(self) -> int:
        """Length rows are padded to before the filter, so that they are kept apart from their own repetition."""
        return padded_length(self.columns, self.beyond)

    def block(self, index: int) -> slice:
        """Rows of one block; the last one may have fewer."""
        return slice(index * self.block_rows, min((index + 1) * self.block_rows, self.rows))

    def row_binning(self, binning: int) -> int:
        """How many rows a snapshot of one block bins by itself, so that no bin lies across two blocks."""
        return math.gcd(binning, self.block_rows) if self.rows >= binning else 1

    def inside(self, place: int) -> NDArray[np.bool_]:
        """(pixel,), which of a row or column of pixels are in the circle: in single precision, as `take_slices` has it."""
        squares = (np.arange(self.side, dtype=np.float32) - np.float32(self.side - 1) / 2) ** 2
        return np.asarray(squares + squares[place] <= np.float32(min(self.radius, 1e9)) ** 2)

    def slices(self, binning: int) -> list[slice]:
        """Where the slices of each block's snapshot lie among those of all blocks."""
        each = self.row_binning(binning)
        counts = [(rows.stop - rows.start) // each for rows in map(self.block, range(self.blocks))]
        ends = np.cumsum(counts).tolist()
        return [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]


class Accumulator(Protocol):
    """The linear state of a reconstruction.

    `add` is linear in the projections and in the weights, so a frame is removed by adding its negative.

    One thread at a time: a snapshot, too, writes to the state and restores it. Another thread waits until the call has ended, so
    that nothing is lost; but what it adds between two blocks is in the snapshot of the second one only.
    """

    shape: Shape
    filter_seconds: float
    """Spent in `add` before the projections reach the state, so far: transforms and filter."""

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""

    def add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        """Add projections.

        Parameters
        ----------
        projections
            (angle, row, column) line integrals, dimensionless.
        theta
            (angle,) radians.
        weight
            (angle,) radians: the arc each angle stands for.

        Raises
        ------
        GeometryError
            If they do not fit the shape or each other, or an angle or weight is not finite.
        """

    def add_constant(self, row: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        """Add a projection that is the same at every angle.

        Parameters
        ----------
        row
            (row, column) line integrals, dimensionless.
        theta, weight
            (angle,) radians, as in `add`.
        """

    def snapshot_block(self, index: int, out: NDArray[np.float32], gain: float = 1.0, binning: int = 1) -> None:
        """Write the slices of one block of rows, times `gain`.

        Parameters
        ----------
        index
            Of the block.
        out
            (slice, y, x), C-contiguous: as many slices as `shape.slices(binning)` has for the block, of side
            `shape.side // binning`, but at least 1.
        gain
            Factor that makes up for angles not yet measured.
        binning
            One of `BINNINGS`: 1, or b for the means of b x b pixels and of `shape.row_binning(b)` rows; rows that fill no bin are
            left out.

        Raises
        ------
        GeometryError
            If there are no such bins.
        """

    def cut(self, axis: Axis, places: Sequence[int], out: NDArray[np.float32], gain: float = 1.0) -> None:
        """Write single slices in full resolution, times `gain`: values of a snapshot without binning, in much less time.

        Parameters
        ----------
        axis, places
            At right angles to them, and where: rows, or pixels; one at least.
        out
            (place, y, x), or (place, row, x), or (place, row, y).
        gain
            As of `snapshot_block`.
        """

    def merge(self, other: Accumulator) -> None:
        """Add another accumulator's state, of the same shape and settings."""

    def reset(self) -> None:
        """Forget all projections."""


def snapshot(
    accumulator: Accumulator, gain: float = 1.0, binning: int = 1, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The whole volume, (slice, y, x), 1/m where the pixel size is known, else per pixel.

    Parameters
    ----------
    accumulator
        Whose state is looked at.
    gain
        Factor that makes up for angles not yet measured.
    binning
        One of `BINNINGS`: 1, or b for the means of b x b x b voxels; voxels that do not fill a bin are left out.
    out
        Memory of `snapshot_shape(accumulator.shape, binning)` to use: touching new pages takes about as long as a snapshot.
        What is returned is other memory where slices are left to be binned.

    Raises
    ------
    GeometryError
        If there are no such bins.
    """
    check_binning(binning)
    shape = accumulator.shape
    volume = aligned_empty(snapshot_shape(shape, binning), np.float32) if out is None else out
    for index, place in enumerate(shape.slices(binning)):
        accumulator.snapshot_block(index, volume[place], gain, binning)
    return bin_slices(volume, binning // shape.row_binning(binning))


def snapshot_shape(shape: Shape, binning: int) -> tuple[int, int, int]:
    """(slice, y, x) that the blocks of a snapshot have together, before slices are binned that lie across blocks."""
    side = max(1, shape.side // binning)
    return shape.slices(binning)[-1].stop, side, side


def bin_slices(volume: NDArray[np.float32], binning: int) -> NDArray[np.float32]:
    """Means of `binning` consecutive slices; those that do not fill a bin are left out, but at least one remains."""
    if binning == 1:
        return volume
    return bin_means(volume, [min(binning, len(volume)), 1, 1])


def check_binning(binning: int) -> None:
    """Refuse bins that snapshots do not have.

    Raises
    ------
    GeometryError
        Saying what was got and expected.
    """
    if binning not in BINNINGS:
        raise GeometryError(f"binning is {binning}; expected one of {', '.join(map(str, BINNINGS))}")


def check_batch(
    shape: Shape, projections: NDArray[np.float32], theta: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The angles and weights of a batch, in double precision; refuse a batch that does not fit.

    Raises
    ------
    GeometryError
        Saying what was got and expected.
    """
    expected = (*theta.shape, shape.rows, shape.columns)
    if (
        theta.ndim != 1
        or projections.shape != expected
        or projections.dtype != np.float32
        or weight.shape != theta.shape
        or not all(np.can_cast(each.dtype, np.float64, "same_kind") for each in (theta, weight))
    ):
        raise GeometryError(
            f"projections are {projections.dtype} {projections.shape}, theta {theta.dtype} {theta.shape}, weight "
            f"{weight.dtype} {weight.shape}; expected float32 {expected} and one theta and weight each, real numbers"
        )
    if not (np.isfinite(theta).all() and np.isfinite(weight).all()):
        raise GeometryError("theta or weight of a projection is not finite")
    return theta.astype(np.float64, copy=False), weight.astype(np.float64, copy=False)


class Locked(Protocol):
    """Has a lock."""

    lock: threading.Lock


Self = TypeVar("Self", bound=Locked)
Given = ParamSpec("Given")
Result = TypeVar("Result")


def alone(method: Callable[Concatenate[Self, Given], Result]) -> Callable[Concatenate[Self, Given], Result]:
    """Let one thread at a time into the methods of an accumulator that are marked with it; the accumulator has the `lock`."""

    @functools.wraps(method)
    def locked(self: Self, /, *given: Given.args, **named: Given.kwargs) -> Result:
        with self.lock:
            return method(self, *given, **named)

    return locked
