"""What every file layout is mapped to, and how facts are read from HDF5."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import GeometryError, SourceError
from streamrecon.scan import FrameKind

_RADIANS = {
    **dict.fromkeys(("deg", "degree", "degrees", "°"), np.pi / 180.0),
    **dict.fromkeys(("rad", "radian", "radians"), 1.0),
}
METRES = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0),
    "cm": 1e-2,
    **dict.fromkeys(("mm", "millimetre", "millimetres", "millimeter", "millimeters"), 1e-3),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometre", "micrometres", "micrometer"), 1e-6),
    **dict.fromkeys(("nm", "nanometre", "nanometres", "nanometer", "nanometers"), 1e-9),
}
_LENGTH = re.compile(r"\s*([-+.\deE]*[.\d])\s*([^\s\d]*)\s*")


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Where the frames of a scan lie in its file, and what the file says of them."""

    layout: str
    datasets: Mapping[FrameKind, str]
    """Path of the dataset that holds the frames of a kind; none for a kind that was not recorded."""
    kinds: NDArray[np.uint8]
    """(frame,) FrameKind of every frame, in the order of replay."""
    positions: NDArray[np.intp]
    """(frame,) where it lies in the dataset of its kind."""
    theta: NDArray[np.float64]
    """(projection,) radians."""
    pixel_size: float | None = None
    """At the sample, m; None where the file does not say."""
    title: str = ""
    sample: str = ""
    notes: tuple[str, ...] = ()
    """Assumptions made where the file says nothing."""

    def count(self, kind: FrameKind) -> int:
        """Frames of a kind."""
        return int(np.count_nonzero(self.kinds == kind))


def stacked(
    file: h5py.File, paths: Mapping[FrameKind, str]
) -> tuple[dict[FrameKind, str], NDArray[np.uint8], NDArray[np.intp], list[str]]:
    """Map one dataset for each kind, in an unrecorded order, to darks, then flats, then projections.

    Returns
    -------
    The `datasets`, `kinds` and `positions` of a `Recording`, and notes.

    Raises
    ------
    SourceError
        If there are no projections, or a dataset is not (frame, row, column).
    """
    notes = ["the file does not say when darks and flats were measured: they are replayed before the projections"]
    counts = {}
    for kind in (FrameKind.DARK, FrameKind.FLAT, FrameKind.PROJECTION):
        path = paths[kind]
        if resolve(file, path) is None and dangling(file, path) is None:
            counts[kind] = 0
        else:
            dataset = stack(file, path)
            counts[kind] = len(dataset) if dataset.ndim == 3 else 1
        if not counts[kind]:
            notes.append(f"no {kind.name.lower()}s in the file: {path} is missing or empty")
    if not counts[FrameKind.PROJECTION]:
        raise SourceError(f"{where(file, paths[FrameKind.PROJECTION])} holds no projections")
    kinds = np.repeat(np.array(list(counts), np.uint8), list(counts.values()))
    positions = np.concatenate([np.arange(count) for count in counts.values()])
    return {kind: paths[kind] for kind, count in counts.items() if count}, kinds, positions, notes


def where(file: h5py.File, path: str) -> str:
    """How errors name a place in a file."""
    return f"{file.filename}: /{path.strip('/')}"


def resolve(group: h5py.Group, path: str) -> Any:
    """The group or dataset at a path; None where there is none or its link is broken."""
    try:
        return group[path] if path else group
    except (KeyError, OSError):
        return None


def dangling(file: h5py.File, path: str) -> str | None:
    """Say which link on the way to a path is broken, and why; None if none is."""
    here = ""
    for part in path.strip("/").split("/"):
        parent, here = resolve(file, here), f"{here}/{part}"
        if not isinstance(parent, h5py.Group) or (link := parent.get(part, getlink=True)) is None:
            return None
        if resolve(file, here) is not None:
            continue
        if not isinstance(link, h5py.ExternalLink):
            return f"{where(file, here)} links to {getattr(link, 'path', 'an object')}, which is missing"
        target = Path(parent.file.filename).parent / link.filename
        if not target.exists():
            return f"{where(file, here)} links to the file {target}, which is missing: copy it there"
        return f"{where(file, here)} links to {link.path} in {target}, which cannot be opened or does not hold it"
    return None


def stack(file: h5py.File, path: str) -> h5py.Dataset:
    """The frames at a path: (frame, row, column), or (row, column) for a single one.

    Raises
    ------
    SourceError
        If there is no such dataset, or a file that it needs is missing.
    """
    dataset = resolve(file, path)
    if dataset is None:
        raise SourceError(dangling(file, path) or f"{where(file, path)} is missing; expected the frames there")
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim not in (2, 3):
        shape = getattr(dataset, "shape", "a group")
        raise SourceError(f"{where(file, path)} is {shape}; expected frames as (frame, row, column)")
    if 0 in dataset.shape[-2:]:
        raise SourceError(f"{where(file, path)} has shape {dataset.shape}: its frames have no pixels")
    if dataset.is_virtual:
        # HDF5 itself would give zeros for them and no error.
        for source in dataset.virtual_sources():
            target = Path(dataset.file.filename).parent / source.file_name
            if source.file_name != "." and "%" not in source.file_name and not target.exists():
                raise SourceError(f"{where(file, path)} takes frames from the file {target}, which is missing")
    return dataset


def text(file: h5py.File, *paths: str) -> str:
    """The string at the first of these paths that holds one; empty if none does."""
    for path in paths:
        found = resolve(file, path)
        if isinstance(found, h5py.Dataset) and found.size == 1 and found.dtype.kind in "OSU":
            value = found[()] if found.shape == () else found[(0,) * found.ndim]
            return value.decode("utf-8", "replace").strip("\0 ") if isinstance(value, bytes) else str(value)
    return ""


def units(dataset: h5py.Dataset) -> str | None:
    """The attribute `units`, in lower case; None without one, or where it is empty."""
    value = dataset.attrs.get("units")
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
    return text.strip().lower() or None


def numbers(file: h5py.File, path: str) -> NDArray[np.float64]:
    """(value,) the one-dimensional numeric dataset at a path.

    Raises
    ------
    SourceError
        If it is missing, or not numbers in one dimension.
    """
    dataset = resolve(file, path)
    if dataset is None:
        raise SourceError(dangling(file, path) or f"{where(file, path)} is missing")
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf" or dataset.ndim == 0:
        raise SourceError(f"{where(file, path)} is {dataset}; expected a list of numbers")
    values: NDArray[np.float64] = dataset.astype(np.float64)[()]
    if values.size != max(values.shape):
        raise SourceError(f"{where(file, path)} has shape {values.shape}; expected one number per frame")
    return values.ravel()


def theta_of(
    file: h5py.File, path: str, projections: NDArray[np.intp], frames: int
) -> tuple[NDArray[np.float64], list[str]]:
    """Angles of the projections, in radians, and notes.

    Parameters
    ----------
    file, path
        The dataset of angles, one per projection or one per frame, in degrees or radians by its `units`.
    projections
        (projection,) which of the frames are projections.
    frames
        Frames in the dataset of the projections.

    Raises
    ------
    SourceError
        If the number of angles or their units do not fit, or an angle of a projection is not finite.
    """
    values = numbers(file, path)
    if len(values) == frames:
        values = values[projections]
    elif len(values) != len(projections):
        raise SourceError(
            f"{where(file, path)} has {len(values)} angles; expected one for each of the {len(projections)} projections"
            + (f" or of the {frames} frames" if frames != len(projections) else "")
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise SourceError(
            f"{where(file, path)}: the angle of projection {bad[0]} is {values[bad[0]]}; expected a finite angle "
            f"({bad.size} of {len(values)} are not): correct the file or leave out those projections"
        )
    unit = units(file[path])
    notes = [] if unit else [f"{where(file, path)} has no units: its angles are taken as degrees"]
    return values * radians_per(unit, where(file, path)), notes


def radians_per(unit: str | None, place: str) -> float:
    """What an angle in a unit is multiplied with; without one it is in degrees.

    Raises
    ------
    SourceError
        If it is no unit of angles.
    """
    if unit is not None and unit not in _RADIANS:
        raise SourceError(f"{place} has units {unit!r}; expected one of: {', '.join(_RADIANS)}")
    return _RADIANS[unit or "degrees"]


def half_circle(count: int, path: str, layout: str) -> tuple[NDArray[np.float64], list[str]]:
    """Even angles, (projection,) in radians, for a file without a list of them, and the note that says so."""
    note = f"no angles at {path}: {count} even steps over 0 to 180 degrees, end excluded, as {layout} has it by default"
    return np.linspace(0.0, np.pi, count, endpoint=False), [note]


def length_of(file: h5py.File, path: str, default_unit: str | None = None) -> tuple[float | None, list[str]]:
    """A length in m, and notes on why it cannot be used.

    Parameters
    ----------
    file, path
        A dataset that holds one number with `units`, or a text such as "20nm".
    default_unit
        Of a number without units; None: such a number is not used.
    """
    found = resolve(file, path)
    if not isinstance(found, h5py.Dataset) or found.size != 1:
        return None, []
    unit = units(found)
    shown = text(file, path) or str(np.ravel(found[()])[0])
    match = _LENGTH.fullmatch(shown)
    try:
        value = float(match[1]) if match else float("nan")
    except ValueError:
        value = float("nan")
    unit = (match[2].lower() if match else "") or unit or default_unit
    if not (np.isfinite(value) and value > 0 and unit in METRES):
        return None, [f"{where(file, path)} is {shown[:40]!r}, units {unit!r}: not used; set source.pixel_size, m"]
    return value * METRES[unit], []


def row_range(rows: slice, count: int) -> slice:
    """Detector rows that are wanted, of so many.

    Raises
    ------
    GeometryError
        If that is none, or not a contiguous range.
    """
    first, end, step = rows.indices(count)
    if step != 1 or first >= end:
        raise GeometryError(
            f"rows {rows.start}:{rows.stop}:{rows.step} of {count}; expected a contiguous range with at least one row"
        )
    return slice(first, end)


def parents(path: str) -> list[str]:
    """The group at a path and those above it, up to the root, which is empty."""
    found = [path.strip("/")]
    while found[-1]:
        found.append(posixpath.dirname(found[-1]))
    return found
