"""The waist: what every part of streamrecon passes to the next. Frozen, with units and axes stated under each field."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import GeometryError

Axis: TypeAlias = Literal["z", "y", "x"]
"""Of a volume, at right angles to a slice: along the rotation axis, or along the slices' own y or x."""

UID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FrameKind(enum.IntEnum):
    """What a detector image shows."""

    PROJECTION = 0
    """The sample in the beam."""
    FLAT = 1
    """The beam without the sample (also: white, open beam)."""
    DARK = 2
    """Neither: what the detector reads without beam."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Parallel beam, rotation axis parallel to the detector's columns.

    A point of the sample at (x, y), in pixels from the rotation axis, is seen at angle theta in the column

        u = x cos(theta) + y sin(theta) + center

    x grows with the volume's last index and y with its second index: pixel i of a side of n lies at i - (n - 1) / 2.
    So at theta = 0 the volume's last axis and the detector's columns run the same way, and at theta = pi / 2 the
    volume's second axis does. Drawn as an image with y downwards, the detector turns clockwise around the sample (the
    sample turns anticlockwise) as theta grows. Detector row r reconstructs slice r of the volume.
    """

    rows: int
    """Detector rows, which are the volume's slices."""
    columns: int
    """Detector columns."""
    pixel_size: float | None = None
    """Side of a pixel at the sample, m; None where unknown, then the volume is per pixel instead of 1/m."""
    center: float | None = None
    """Column of the rotation axis, pixels, 0-based and fractional: 0 is the center of the first pixel. None: to be found."""

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            if not 1 <= getattr(self, name) <= 1 << 20:
                raise GeometryError(f"Geometry.{name} is {getattr(self, name)!r}; expected 1 to {1 << 20} pixels")
        if self.pixel_size is not None and not (math.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise GeometryError(f"Geometry.pixel_size is {self.pixel_size!r} m; expected a positive length or None")
        if self.center is not None and not -self.columns <= self.center <= 2 * self.columns:
            raise GeometryError(
                f"Geometry.center is {self.center!r}; expected a column, or at most one detector width ({self.columns} "
                "pixels) beside it"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ScanInfo:
    """One acquisition, as known when it starts."""

    uid: str
    """Identity of the scan; matches `[A-Za-z0-9_-]{1,64}`."""
    geometry: Geometry
    dtype: np.dtype[Any]
    """Of a frame's pixels: unsigned or signed integers of 1, 2 or 4 bytes, or float32 or float64."""
    counts: Mapping[FrameKind, int | None]
    """Frames expected of each kind; None where unknown until the end."""
    theta: NDArray[np.float64] | None = None
    """(projection,) radians, of every projection by index; None where learned frame by frame."""
    metadata: Mapping[str, str | float | int] = field(default_factory=dict)
    """Small facts for the record: title, sample, raw file, ..."""

    def __post_init__(self) -> None:
        if not UID_PATTERN.fullmatch(self.uid):
            raise GeometryError(f"scan uid is {self.uid[:80]!r}; expected 1 to 64 letters, digits, '_' or '-'")
        if self.dtype.kind not in "uif" or self.dtype.itemsize not in ((4, 8) if self.dtype.kind == "f" else (1, 2, 4)):
            raise GeometryError(
                f"frames have dtype {self.dtype}; expected 8, 16 or 32 bit integers, float32 or float64"
            )
        if not self.dtype.isnative:
            raise GeometryError(f"frames have dtype {self.dtype.str}; expected this machine's byte order: convert them")
        for kind, count in self.counts.items():
            if count is not None and count < 0:
                raise GeometryError(
                    f"the scan announces {count} frames of kind {FrameKind(kind).name}; expected 0 or more"
                )
        if self.theta is not None:
            check_theta(self.theta)
            expected = self.counts.get(FrameKind.PROJECTION)
            if expected is not None and len(self.theta) != expected:
                raise GeometryError(f"the scan lists {len(self.theta)} angles for {expected} projections")

    @property
    def likely_projections(self) -> int | None:
        """How many will come: announced, or told in the metadata (`expected`) by who does not promise it; None where unknown."""
        told = self.metadata.get("expected")
        announced = self.counts.get(FrameKind.PROJECTION)
        return told if announced is None and isinstance(told, int) and told > 0 else announced

    @property
    def label(self) -> str:
        """What people call it."""
        return scan_label(str(self.metadata.get("title") or self.uid), str(self.metadata.get("sample", "")))

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(row, column) of one frame."""
        return self.geometry.rows, self.geometry.columns


def scan_label(title: str, sample: str) -> str:
    """Title and sample of a scan in a line, where the title does not name the sample."""
    known = sample.casefold() not in ("", "unknown") and sample.casefold() not in title.casefold()
    return f"{title}, {sample}" if known else title


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One detector image."""

    kind: FrameKind
    index: int
    """0-based, among the frames of its kind, in the order of acquisition."""
    theta: float | None
    """Rotation angle, radians; None for flats and darks."""
    data: NDArray[Any]
    """(row, column), C-contiguous, the detector's dtype."""
    position: int | None = None
    """Of a flat or dark: projections measured before it; None: as many as its source gave before it. None for projections."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that a source will not give, or that it gave and withdraws; others may come under their names later."""

    kind: FrameKind
    first: int
    end: int
    """One past the last index."""
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class VolumeUpdate:
    """One version of the volume, as it is published."""

    version: int
    """1, 2, ...; grows by one with each."""
    theta: NDArray[np.float64]
    """(n,) radians, of the projections in this version, in the order of their index."""
    coverage: float
    """Share of the half circle, with an offset axis of the full one, that these angles cover, 0 to 1."""
    final: bool
    """True for the last version of a scan."""
    binning: int
    """1 for a full volume; b for a preview whose voxels are means of b x b x b."""
    volume: NDArray[np.float32]
    """(slice, y, x), 1/m where the pixel size is known, else per pixel."""


def check_theta(theta: NDArray[np.float64]) -> None:
    """Refuse angles that are not finite or not (projection,).

    Raises
    ------
    GeometryError
        Naming the first bad projection.
    """
    if theta.ndim != 1:
        raise GeometryError(f"theta has shape {theta.shape}; expected (projection,)")
    bad = np.flatnonzero(~np.isfinite(theta))
    if bad.size:
        raise GeometryError(
            f"theta of projection {bad[0]} is {theta[bad[0]]}; expected a finite angle "
            f"({bad.size} of {theta.size} are not): correct or leave out those projections"
        )
