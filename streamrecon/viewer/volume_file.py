"""A volume in an HDF5 file: streamrecon's own, or another one that is found in it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import SourceError, SourceFileError
from streamrecon.recon.means import Moments, bin_means, moments_of
from streamrecon.scan import Axis, scan_label
from streamrecon.viewer.source import Place
from streamrecon.wire.codec import clip
from streamrecon.wire.messages import Update

AXES: tuple[Axis, ...] = ("z", "y", "x")
PARTS = 72
"""Of the full circle, to count angles in."""
UNITS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "nm": 1e-9}
"""In m."""
NAMED = 5
"""Datasets named where there are several."""


class VolumeFile:
    """An open volume, never locked; used by one thread.

    Parameters
    ----------
    path
        An HDF5 file, a folder with a `volume.h5`, or FILE.h5:/DATASET.

    Raises
    ------
    SourceFileError
        If the file is missing, truncated or no HDF5 file, or files that it names are missing.
    SourceError
        If there is no volume in it, or several.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, named = _split(path)
        self.stamp = stamp(self.path)
        """Changes when another file takes this one's place, or it is written to."""
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except (OSError, RuntimeError) as error:
            raise SourceFileError(f"{self.path} cannot be opened as an HDF5 file: {error}") from error
        try:
            self._data = self._find(named)
            self._check_parts()
            self.shape: tuple[int, int, int] = self._data.shape
            """(slice, y, x)"""
            self.update = self._describe()
            """What is known of it; without pictures."""
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            self._file.close()
            if isinstance(error, SourceError | SourceFileError):
                raise
            raise SourceFileError(f"{self.path} cannot be read: {error}") from error

    def slice(self, place: Place) -> NDArray[np.float32] | None:
        """A slice, its place in voxels of the full volume; None where the volume has none there.

        Raises
        ------
        SourceFileError
            If the file cannot be read any more.
        """
        axis, index = AXES.index(place[0]), place[1] // self.update.binning
        if not 0 <= index < self.shape[axis]:
            return None
        return self._read(lambda data: data[(slice(None),) * axis + (index,)])

    def row_of_preview(self, number: int, size: int) -> tuple[NDArray[np.float32], Moments]:
        """One slice of the preview: whole rows of the volume are read, and no more of them than the preview has.

        Parameters
        ----------
        number
            Of the slice in the preview.
        size
            Voxels of the preview's longest side, at most.

        Returns
        -------
        voxels
            (y, x) of the preview.
        moments
            Of the values that were read.

        Raises
        ------
        SourceFileError
            If the file cannot be read any more.
        """
        step, (_, height, width) = self.step(size), self.preview_shape(size)
        of_z, of_y, of_x = (min(step, side) for side in self.shape)
        place = number * step + (of_z - 1) // 2
        rows = self._read(lambda data: data[place, (of_y - 1) // 2 :: step])[:height]
        return bin_means(rows, [1, of_x])[:, :width], moments_of(rows)

    def step(self, size: int) -> int:
        """Voxels along each axis for one of the preview."""
        return max(1, math.ceil(max(self.shape) / size))

    def preview_shape(self, size: int) -> tuple[int, int, int]:
        """(slice, y, x) of the preview."""
        depth, height, width = (max(1, side // self.step(size)) for side in self.shape)
        return depth, height, width

    @property
    def closed(self) -> bool:
        """Whether nothing can be read any more."""
        return not self._file

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(OSError, RuntimeError):  # of a network's file that is gone
            self._file.close()

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(self, take: Callable[[Any], Any]) -> NDArray[np.float32]:
        try:
            with np.errstate(over="ignore"):  # what single precision has no number for is infinite
                return np.ascontiguousarray(take(self._data), np.float32)
        except (OSError, RuntimeError) as error:
            raise SourceFileError(f"{self.path} cannot be read any more: {error}") from error

    def _find(self, named: str | None) -> Any:
        if named is not None:
            found = self._file.get(named)
            if not _is_volume(found):
                raise SourceError(f"{self.path} has no volume {named!r}: expected a dataset of numbers with three axes")
            return found
        for candidate in (_default(self._file), *map(self._file.get, ("entry/data/data", "exchange/data"))):
            if _is_volume(candidate):
                return candidate
        several: list[Any] = []
        self._file.visititems(lambda _, item: several.append(item) if _is_volume(item) else None)
        if len(several) == 1:
            return several[0]
        if not several:
            raise SourceError(f"there is no volume in {self.path}: expected a dataset of numbers with three axes")
        names = ", ".join(f"{self.path}:{each.name}" for each in several[:NAMED])
        raise SourceError(f"{self.path} has {len(several)} datasets with three axes; name one, such as {names}")

    def _check_parts(self) -> None:
        """HDF5 gives nothing but NaN for what is missing of a virtual dataset, and says nothing."""
        if self._data.is_virtual:
            for source in self._data.virtual_sources():
                part = self.path.parent / source.file_name
                if source.file_name != "." and not part.exists():
                    raise SourceFileError(
                        f"{self.path} names {source.file_name}, which is not there: where {self.path.name} was copied, "
                        "copy the folder with it"
                    )

    def _describe(self) -> Update:
        process = self._file.get("entry/reconstruction")
        ours = isinstance(process, h5py.Group) and "parameters" in process
        facts: Any = process if ours else {}
        parameters: Any = facts["parameters"] if ours else {}
        pixel = _number(parameters, "pixel_size")
        steps = [_step(self._data.parent, axis) for axis in range(3)]
        step = steps[2]
        # Of another program's file a size counts where voxels are cubes.
        known = [each for each, side in zip(steps, self._data.shape, strict=True) if side > 1]
        cube = step is not None and all(each is not None and math.isclose(each, step, rel_tol=0.01) for each in known)
        binning = max(1, round(step / pixel)) if ours and pixel and step else 1
        theta = np.asarray(facts["theta"][()], np.float64) if "theta" in facts else np.empty(0)
        angles, _ = np.histogram(theta % (2 * np.pi), PARTS, (0.0, 2 * np.pi))
        title = scan_label(_text(self._file, "entry/title") or self.path.name, _text(self._file, "entry/sample/name"))
        shape, coverage = self._data.shape, _number(facts, "coverage")
        return Update(
            version=int(_number(facts, "volume_version") or 1),
            uid=clip(_text(parameters, "scan_uid") or str(self.path)),
            title=clip(title),
            projections=theta.size,
            coverage=1.0 if coverage is None else min(max(coverage, 0.0), 1.0),
            final=bool(facts["final"][()]) if "final" in facts else True,
            binning=binning,
            shape=shape,
            full=(shape[0] * binning, shape[1] * binning, shape[2] * binning),
            pixel_size=pixel or (step if ours or cube else None),
            unit=None if ours else clip(_word(self._data.attrs.get("units")) or ""),
            center=_number(parameters, "center"),
            filter=clip(_text(parameters, "filter")),
            angles=tuple(int(count) for count in angles) if theta.size else (),
        )


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from another one at its place; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _split(path: str | Path) -> tuple[Path, str | None]:
    place = Path(path)
    if place.is_dir():
        if not (place / "volume.h5").exists():
            raise SourceFileError(f"there is no volume.h5 in the folder {place}")
        return place / "volume.h5", None
    name, colon, dataset = str(path).rpartition(":/")
    if colon and not place.exists():
        place, named = Path(name), dataset
    else:
        named = None
    if not place.is_file():
        raise SourceFileError(f"there is no file {place}")
    return place, named


def _default(file: Any) -> Any:
    """The dataset that a NeXus file says is to be shown first."""
    group = file
    for _ in range(8):
        name = _word(group.attrs.get("default"))
        if name is None or not isinstance(below := group.get(name), h5py.Group):
            break
        group = below
    signal = _word(group.attrs.get("signal"))
    return None if signal is None else group.get(signal)


def _word(value: Any) -> str | None:
    """A text of an attribute: C programs write bytes of a fixed length, some of them as the only element of an array."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.partition(b"\0")[0].decode("utf-8", "replace").rstrip()
    return value if isinstance(value, str) and value else None


def _is_volume(item: Any) -> bool:
    return isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "buif" and item.size > 0


def _step(group: Any, number: int) -> float | None:
    """Distance of voxels along an axis, m, as NXdata says; None where it does not."""
    names = group.attrs.get("axes")
    name = _word(names[number]) if isinstance(names, np.ndarray | list | tuple) and len(names) == 3 else None
    axis = None if name is None else group.get(name)
    if not isinstance(axis, h5py.Dataset) or axis.ndim != 1 or axis.size < 2 or axis.dtype.kind not in "iuf":
        return None
    unit = _word(axis.attrs.get("units"))
    step = abs(float(axis[1]) - float(axis[0])) * UNITS.get(unit or "", math.nan)
    return step if math.isfinite(step) and step > 0 else None


def _number(group: Any, name: str) -> float | None:
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.shape != () or item.dtype.kind not in "iuf":
        return None
    value = float(item[()])
    return value if math.isfinite(value) else None


def _text(group: Any, name: str) -> str:
    item = group.get(name)
    if not isinstance(item, h5py.Dataset) or item.shape != () or h5py.check_string_dtype(item.dtype) is None:
        return ""
    return item.asstr(errors="replace")[()] if item.dtype.kind == "O" else bytes(item[()]).decode("utf-8", "replace")
