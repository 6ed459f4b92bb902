"""What the ranks of a job say to each other: reports to rank 0, which leads, and its orders to all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from streamrecon.config import FilterName
from streamrecon.engine.bins import Bins
from streamrecon.engine.planes import Plane
from streamrecon.recon.center import CenterEstimate
from streamrecon.recon.means import Moments
from streamrecon.scan import Axis
from streamrecon.wire.messages import Range

Tag = tuple[int, ...]
"""By what line integrals were made: whether the scan has ended, epoch and last GAP of the sender, flats, darks. What has a larger
one is better known; slabs add up where theirs are the same."""

SETTLED: Tag = (1,)
"""Once nothing more will come: what is known may then differ between slabs, where a scan broke off, but becomes no better."""

LAST = 0
"""Number of the cut at the scan's end."""


# Reports, from any rank to rank 0.


@dataclass(frozen=True, slots=True)
class Pulse:
    """A rank is alive: said with every heartbeat."""

    frames: int
    """Received."""
    in_volume: int
    """Projections."""
    working: float
    """Seconds since its compute thread last came round."""
    alarm: str | None
    """What has to be done by people."""


@dataclass(frozen=True, slots=True, eq=False)
class Studied:
    """Projections of a slab have come, and what of them tells the center."""

    tag: Tag
    indices: tuple[int, ...]
    theta: NDArray[np.float64]
    """(projection,) radians."""
    sums: NDArray[np.float32] | None
    """(projection, band, 4) as `Bands.sums`; None where the center is given."""


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """An answer to `Ask`."""

    tag: Tag
    indices: tuple[int, ...]
    bands: int
    images: NDArray[np.float32]
    """(projection, band, column) as `Bands.reduced`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """No more frames will come to a slab."""

    projections: tuple[Range, ...]
    """Those that it has."""
    ended: bool
    """Whether the sender has sent everything."""
    reason: str | None = None
    """Why the scan broke off, where it did."""
    given_up: bool = False
    """Whether the sender gave it up."""
    missing: tuple[Range, ...] = ()
    """Projections that never came."""
    gaps: tuple[tuple[int, str, int], ...] = ()
    """Frames that never came as the sender gave them up: kind, its reason, how many."""


@dataclass(frozen=True, slots=True, eq=False)
class Aside:
    """What goes with a slab of a version, for viewers and its picture; empty where nobody is to see it."""

    preview: Bins | None = None
    """Of its slices."""
    moments: Moments | None = None
    """Of its values."""
    projection: tuple[int, Bins] | None = None
    """Index of the newest projection in it, and its line integrals (row, column)."""
    sinograms: tuple[tuple[int, NDArray[np.float32]], ...] = ()
    """Slice and line integrals (projection, column), of those that viewers look at."""
    planes: tuple[Plane, ...] = ()
    """Its part of slices in full resolution, where the version is binned."""
    sagittal: tuple[tuple[int, NDArray[np.float32]], ...] = ()
    """What the slab has of slices across x, voxels of the version: where the first of a band is, and (slice, y, x)."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A slab of a version is on the disk."""

    cut: int
    """Number of the cut; `LAST` for the last version."""
    rank: int
    rows: Range
    """Detector rows of the slab."""
    content: tuple[int, ...]
    """What is in it, the same for all slabs of a version: digest of the projections, their number, times that the axis
    changed and, before the end, epoch and last GAP of the sender, flats, darks."""
    slices: tuple[int, int, int]
    """(slice, y, x) of the slab."""
    offset: int
    """Byte of its file where its pixels begin."""
    aside: Aside
    """What viewers see besides its slices."""


@dataclass(frozen=True, slots=True)
class NotWritten:
    """A slab of a version could not be written."""

    cut: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """The answer to `Sweep`, of the rank whose row it is."""

    number: int
    slices: NDArray[np.float32]
    """(center, y, x)."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A rank cannot go on."""

    kind: str
    """Name of the error, of `streamrecon.errors`."""
    reason: str


# Orders, from rank 0 to all.


@dataclass(frozen=True, slots=True)
class Decided:
    """What was planned for the largest slab, and holds for all."""

    method: str
    binning: int
    every: int


@dataclass(frozen=True, slots=True)
class Align:
    """The rotation axis; accumulate from the start where another one was used before."""

    estimate: CenterEstimate
    offset_axis: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Tell the sum over these projections' bands of rows."""

    tag: Tag
    indices: tuple[int, ...]
    bands: int


@dataclass(frozen=True, slots=True)
class Change:
    """Reconstruct with these options from now on: accumulate from the start."""

    filter: FilterName
    side: int | None


@dataclass(frozen=True, slots=True)
class Whole:
    """The version of this cut is to have no binning."""

    cut: int


@dataclass(frozen=True, slots=True)
class Attend:
    """What viewers look at: what of it is not read from a version's files goes with each version."""

    sinograms: tuple[int, ...] = ()
    """Slices whose sinograms they see."""
    planes: tuple[tuple[Axis, int | None], ...] = ()
    """Slices, the latest last: the axis at right angles to each, and where on it, voxels without binning; None is the middle."""

    @property
    def sagittal(self) -> tuple[int | None, ...]:
        """Where along x. Of such a slice a file has one pixel in each row, and would be read from its first byte to its last."""
        return tuple(index for axis, index in self.planes if axis == "x")


@dataclass(frozen=True, slots=True)
class Sweep:
    """Reconstruct a row with other centers."""

    number: int
    """For the answer."""
    row: int
    """Of the detector."""
    centers: tuple[float, ...]
    """Columns."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Every slab has all that comes: make the last version."""

    end: Finished
    """Of the whole scan; its projections are those that every slab has, and others do not count."""
    align: Align | None
    """By all of them; None where there is none."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The scan ends here."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last version can be read; part of the job."""

    final: bool
    keep: bool
    """Whether the journals stay."""
    reason: str | None = None
    """Why the scan was not completed, where it was not."""
    again: bool = False
    """Whether another job is to go on with it: senders are to wait for that."""


Report = Pulse | Studied | Reduced | Finished | Part | NotWritten | Swept | Failed
Order = Decided | Align | Ask | Change | Whole | Attend | Sweep | Finish | Stop | Done

_TYPES: dict[str, Any] = {
    each.__name__: each
    for each in (
        Pulse, Studied, Reduced, Finished, Part, Aside, Bins, Moments, NotWritten, Swept, Failed, Decided, Align, Ask, Change,
        Whole, Attend, Sweep, Finish, Stop, Done, CenterEstimate,
    )
}  # fmt: skip
_ARRAY, _OBJECT = 1, 2
_TEXT = "surrogatepass"
"""Paths in texts may be no UTF-8."""


def pack(message: Report | Order) -> bytes:
    """A message as bytes, for a rank of the same version of this program."""
    data: bytes = msgpack.packb(message, default=_default, unicode_errors=_TEXT)
    return data


def unpack(data: bytes) -> Any:
    """What `pack` was given."""
    return msgpack.unpackb(data, use_list=False, ext_hook=_extension)


def _default(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        whole = np.ascontiguousarray(item)
        return msgpack.ExtType(_ARRAY, msgpack.packb((whole.dtype.str, whole.shape, whole.tobytes())))
    if type(item).__name__ in _TYPES:
        fields = [getattr(item, field.name) for field in dataclasses.fields(item)]
        return msgpack.ExtType(
            _OBJECT, msgpack.packb((type(item).__name__, fields), default=_default, unicode_errors=_TEXT)
        )
    if isinstance(item, np.generic):
        return item.item()
    raise TypeError(f"ranks do not say {type(item).__name__}")


def _extension(code: int, data: bytes) -> Any:
    if code == _ARRAY:
        dtype, shape, raw = msgpack.unpackb(data, use_list=False)
        return np.frombuffer(raw, dtype).reshape(shape)
    name, fields = msgpack.unpackb(data, use_list=False, ext_hook=_extension, unicode_errors=_TEXT)
    return _TYPES[name](*fields)
