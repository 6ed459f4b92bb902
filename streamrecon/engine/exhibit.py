"""One version as viewers see it: what is said of it, and its pictures, each made when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.bins import binned, joined
from streamrecon.engine.orders import Part
from streamrecon.engine.planes import Place
from streamrecon.engine.planes import joined as joined_planes
from streamrecon.engine.slab_files import AXES, SlabFiles
from streamrecon.engine.status import angles_of
from streamrecon.engine.writer import Job
from streamrecon.recon.means import Moments
from streamrecon.scan import Axis
from streamrecon.wire.messages import PREVIEW, Picture, Range, Update

Shot = tuple[Picture, NDArray[np.float32]]
"""A picture and its pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """Kept by the gallery until there is a newer one."""

    update: Update
    """Without pictures."""
    files: SlabFiles
    preview: NDArray[np.float32]
    """(slice, y, x), binned."""
    projection: tuple[int, NDArray[np.float32]] | None
    """Index of the newest one, and its line integrals (row, column), binned."""
    projection_shape: tuple[int, int]
    """Without binning."""
    sinograms: dict[int, NDArray[np.float32]]
    """(projection, column) by slice."""
    planes: dict[Place, NDArray[np.float32]]
    """Slices in full resolution, where the version is binned."""

    def slice(self, axis: Axis, index: int | None, most: int) -> Shot:
        """A slice, in full resolution where this version has it: one that was looked at before, or all of one without bins.

        Parameters
        ----------
        axis
            At right angles to it.
        index
            Along that axis, voxels of the full volume; None is the middle. Beyond the volume, its last slice.
        most
            Pixels of the longest side; 0 for any.

        Raises
        ------
        OSError
            If the version is gone, or the disk fails.
        """
        number, full = AXES[axis], self.update.full
        place = self._place(axis, index)
        others = tuple(size for i, size in enumerate(full) if i != number)
        found = self.planes.get((axis, place))
        pixels = self.files.slice(axis, self._voxel(axis, place)) if found is None else found
        return _shot("slice", binned(pixels, most), others, axis, place)

    def coarse(self, index: int | None, most: int) -> Shot | None:
        """A slice across x of the preview, where one in full resolution would take long and the next version will be here soon.

        Parameters
        ----------
        index, most
            As of `slice`.
        """
        place = self._place("x", index)
        voxel = self._voxel("x", place)
        if self.update.binning > 1 or not self.files.costs_much(voxel):
            return None
        width = math.ceil(max(self.files.shape) / PREVIEW)
        pixels = self.preview[:, :, min(voxel // width, self.preview.shape[2] - 1)]
        return _shot("slice", binned(pixels, most), self.update.full[:2], "x", place)

    def across(self, places: Sequence[int | None], more: Sequence[int | None]) -> None:
        """Have slices across x together; as `SlabFiles.across`, with places along x as those of `slice`."""
        known = {index for axis, index in self.planes if axis == "x"}
        wanted, others = ([self._place("x", place) for place in each] for each in (places, more))
        wanted = [place for place in wanted if place not in known]
        self.files.across(*([self._voxel("x", place) for place in each] for each in (wanted, others)))

    def _place(self, axis: Axis, index: int | None) -> int:
        full = self.update.full[AXES[axis]]
        return full // 2 if index is None else min(index, full - 1)

    def _voxel(self, axis: Axis, place: int) -> int:
        # What a bin leaves out at the end of the volume is shown by the last one.
        return min(place // self.update.binning, self.files.shape[AXES[axis]] - 1)

    def small(self, most: int) -> Shot:
        """The preview."""
        return _shot("preview", binned(self.preview, most), self.update.full)

    def newest_projection(self, most: int) -> Shot | None:
        """The newest projection in this version."""
        if self.projection is None:
            return None
        index, pixels = self.projection
        return _shot("projection", binned(pixels, most), self.projection_shape, index=index)

    def sinogram(self, row: int, most: int) -> Shot | None:
        """The sinogram of a slice, if it was asked for before this version."""
        pixels = self.sinograms.get(row)
        return None if pixels is None else _shot("sinogram", binned(pixels, most), pixels.shape, index=row)


def _shot(kind: str, pixels: NDArray[np.float32], full: tuple[int, ...], axis: Axis | str = "", index: int = 0) -> Shot:
    shape = tuple(int(size) for size in pixels.shape)
    return Picture(kind=kind, axis=axis, index=index, shape=shape, full=full), pixels  # type: ignore[arg-type]


def exhibit_of(
    job: Job, parts: Sequence[Part], files: SlabFiles, slabs: Sequence[Range], reconstruction: int = 0
) -> Exhibit:
    """A version from what all slabs have told.

    Parameters
    ----------
    job
        Of rank 0's slab, with the version's number.
    parts
        All slabs, in the order of their rows.
    files
        Where they are.
    slabs
        Detector rows of each rank.
    reconstruction
        As in `Update`.
    """
    update, info, parameters = job.update, job.provenance.info, job.provenance.parameters
    rows = max(slab[1] for slab in slabs) - slabs[0][0]
    asides = [part.aside for part in parts]
    projections = [aside.projection for aside in asides if aside.projection is not None]
    newest = (projections[0][0], joined([bins for _, bins in projections])) if len(projections) == len(parts) else None
    preview = joined([aside.preview for aside in asides if aside.preview is not None])
    if preview.shape == files.shape:
        files.hold(preview)
    elif len(parts) == 1:
        files.borrow(job.loan)
    statistics: dict[str, Any] = _statistics([aside.moments for aside in asides if aside.moments is not None])
    return Exhibit(
        Update(
            version=update.version,
            uid=info.uid,
            reconstruction=reconstruction,
            title=info.label[:200],
            projections=len(update.theta),
            coverage=update.coverage,
            final=update.final,
            binning=update.binning,
            shape=files.shape,
            full=(rows, job.side, job.side),
            pixel_size=info.geometry.pixel_size,
            center=parameters["center"],
            filter=parameters["filter"],
            angles=angles_of(update.theta),
            **statistics,
        ),
        files,
        preview,
        newest,
        (rows, info.geometry.columns),
        {place: pixels for aside in asides for place, pixels in aside.sinograms},
        joined_planes([aside.planes for aside in asides]),
    )


def change(before: Exhibit | None, now: Exhibit) -> Exhibit:
    """A version with how much its preview differs from the one before."""
    if before is None or before.update.key[:2] != now.update.key[:2] or before.preview.shape != now.preview.shape:
        return now
    deviation = float(now.preview.std())
    difference = float(np.sqrt(np.mean((now.preview - before.preview) ** 2)))
    return replace(now, update=replace(now.update, change=difference / deviation)) if deviation > 0 else now


def _statistics(parts: Sequence[Moments]) -> dict[str, float]:
    found = reduce(Moments.joined, parts).statistics() if parts else {}
    return found if all(math.isfinite(value) for value in found.values()) else {}
