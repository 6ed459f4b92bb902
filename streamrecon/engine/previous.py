"""What a scan has taught that most likely holds for the next one of the same detector, until that one tells itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.recon.normalize import FloatImage, brightness
from streamrecon.scan import ScanInfo
from streamrecon.wire.messages import Range

FAINTEST, BRIGHTEST = 0.01, 1.5
"""A projection's brightest percent, less the dark, relative to that of a flat that was taken with the same beam and exposure."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A flat or dark that was measured in an earlier scan."""

    image: FloatImage
    """(row, column) counts of the slab, combined over the group."""
    uid: str
    """Of the scan that it was measured in."""


@dataclass(frozen=True, slots=True, eq=False)
class Previous:
    """Of one rank, by one scan."""

    uid: str
    """Of the scan."""
    detector: tuple[int, int, str]
    """Rows, columns and dtype."""
    rows: Range
    """Detector rows of the slab."""
    center: float | None
    """Column of the rotation axis, where that scan, or one before it, has told; rank 0 knows it."""
    flat: Field | None
    """Those that were measured last."""
    dark: Field | None

    def fits(self, info: ScanInfo, rows: Range) -> bool:
        """Whether another scan has the same detector, and the slab the same rows of it."""
        return self.detector == detector_of(info) and self.rows == rows


def detector_of(info: ScanInfo) -> tuple[int, int, str]:
    """By what it is told whether two scans have the same detector: its rows, columns and dtype."""
    return info.geometry.rows, info.geometry.columns, np.dtype(info.dtype).str


def credible_flat(flat: FloatImage, dark: FloatImage, open_counts: float) -> bool:
    """Whether a flat of an earlier scan can be of the same beam and exposure as a projection.

    Parameters
    ----------
    flat, dark
        (row, column) counts.
    open_counts
        Of the projection's brightest percent, less the dark: at most those of the flat, and less by what the object absorbs
        where it fills the view.
    """
    return FAINTEST <= open_counts / brightness(flat - dark) <= BRIGHTEST


def credible_dark(dark: FloatImage, projection: NDArray[Any]) -> bool:
    """Whether a dark of an earlier scan can be of the same detector and exposure as a projection, both (row, column) counts."""
    return float(np.nanmedian(dark)) < brightness(np.asarray(projection, np.float32))
