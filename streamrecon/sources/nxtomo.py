"""NXtomo, as NeXus defines it and as beamlines loosen it: one stack of all frames, told apart by an image key."""

from __future__ import annotations

import re
from collections.abc import Iterator

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import SourceError
from streamrecon.scan import FrameKind
from streamrecon.sources.recording import (
    Recording,
    dangling,
    length_of,
    numbers,
    parents,
    resolve,
    stack,
    text,
    theta_of,
    where,
)

DEPTH = 3
"""Levels of groups that are searched below the root, and below an entry."""
_INVALID = 3
_ANGLES = re.compile(r"theta|rot|angle", re.IGNORECASE)
_SET_POINT = re.compile(r"_set$", re.IGNORECASE)


def nxtomo(file: h5py.File, entry: str | None) -> Recording | None:
    """Map an NXtomo file; None if it is not one.

    Parameters
    ----------
    file
        Open.
    entry
        Group that holds the scan: an NXentry, NXsubentry, NXdata or NXdetector; None: it is searched for.

    Raises
    ------
    SourceError
        If there are several scans or several stacks of frames to choose from, or frames, keys or angles do not fit.
    """
    base = _entry(file) if entry is None else entry.strip("/")
    keyed = [path for path in _groups(file, base, DEPTH) if resolve(file, _join(path, "image_key")) is not None]
    if not keyed:
        return None
    group, data = _frames(file, base, keyed)
    key_path = _join(group, "image_key")
    frames = len(stack(file, data))
    kinds, valid = _kinds(file, key_path)
    projections = np.flatnonzero(valid & (kinds == FrameKind.PROJECTION))
    if not projections.size:
        raise SourceError(f"{where(file, key_path)} marks no frame as a projection (0)")
    notes = []
    if not valid.all():
        notes.append(f"{np.count_nonzero(~valid)} frames that {key_path} marks as invalid are left out")
    for kind in (FrameKind.FLAT, FrameKind.DARK):
        if not np.any(valid & (kinds == kind)):
            notes.append(f"no {kind.name.lower()}s in the file: none is marked as {int(kind)} in {key_path}")
    angles, more = _angles(file, group, (frames, len(projections)))
    theta, further = theta_of(file, angles, projections, frames)
    pixel_size, unusable = _pixel_size(file, group)
    positions = np.flatnonzero(valid)
    return Recording(
        "nxtomo",
        {FrameKind(kind): data for kind in np.unique(kinds[positions])},
        kinds[positions],
        positions,
        theta,
        pixel_size,
        text(file, *(_join(parent, "title") for parent in parents(group))),
        text(file, *(_join(parent, "sample/name") for parent in parents(group))),
        tuple(notes + more + further + unusable),
    )


def _entry(file: h5py.File) -> str:
    """Path of the one group that says it is NXtomo; the root if none does."""
    found = [path for path in _groups(file, "", DEPTH) if text(file, _join(path, "definition")) == "NXtomo"]
    if len(found) > 1:
        raise SourceError(f"{file.filename} holds {len(found)} scans; choose one with source.entry: {_listed(found)}")
    return found[0] if found else ""


def _groups(file: h5py.File, base: str, depth: int) -> Iterator[str]:
    """Paths of the groups from `base` down, passing over broken links."""
    group = resolve(file, base)
    if not isinstance(group, h5py.Group):
        return
    yield base
    if depth:
        for name in group:
            if isinstance(resolve(group, name), h5py.Group):
                yield from _groups(file, _join(base, name), depth - 1)


def _frames(file: h5py.File, base: str, keyed: list[str]) -> tuple[str, str]:
    """Of the groups with an image key, the one whose frames can be read, and the path of these."""
    usable: dict[str, str] = {}
    reasons = []
    for group in keyed:
        keys = len(numbers(file, _join(group, "image_key")))
        own = _join(group, "data")
        if (reason := dangling(file, own)) is not None:
            reasons.append(reason)
            continue
        for path in [own, *(_join(place, "data") for place in _places(group))]:
            found = resolve(file, path)
            if not isinstance(found, h5py.Dataset) or found.ndim != 3:
                continue
            if len(found) == keys:
                usable[group] = path
                break
            reasons.append(f"{where(file, path)} holds {len(found)} frames, but {group}/image_key has {keys} entries")
    if not usable:
        raise SourceError(
            reasons[0] if reasons else f"{where(file, keyed[0])} has an image_key but no frames in `data`"
        )
    for group in (_join(base, "instrument/detector"), _join(base, "data"), base):
        if group in usable:
            return group, usable[group]
    first = next(iter(usable))
    others = [group for group, path in usable.items() if file[path] != file[usable[first]]]
    if others:
        raise SourceError(
            f"{file.filename} has several stacks of frames; choose one with source.entry: {_listed([first, *others])}"
        )
    return first, usable[first]


def _kinds(file: h5py.File, path: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(frame,) the kind of every frame, and which frames are valid."""
    keys = numbers(file, path)
    bad = np.flatnonzero(~np.isin(keys, (*FrameKind, _INVALID)))
    if bad.size:
        raise SourceError(
            f"{where(file, path)} of frame {bad[0]} is {keys[bad[0]]:g}; expected 0 (projection), 1 (flat), 2 (dark) "
            "or 3 (invalid)"
        )
    return keys.astype(np.uint8), keys != _INVALID


def _angles(file: h5py.File, group: str, lengths: tuple[int, int]) -> tuple[str, list[str]]:
    """Path of the angles: `rotation_angle`, or else the nearest list that has the name and the length of angles."""
    places = list(_places(group))
    for place in places:
        path = _join(place, "rotation_angle")
        if resolve(file, path) is not None or dangling(file, path) is not None:
            return path, []
    for place in places:
        found = resolve(file, place)
        names = [name for name in found if _ANGLES.search(name)] if isinstance(found, h5py.Group) else []
        for name in sorted(names, key=lambda name: (bool(_SET_POINT.search(name)), name)):
            dataset = resolve(found, name)
            if isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in "iuf" and dataset.size in lengths:
                path = _join(place, name)
                return path, [f"there is no rotation_angle: the angles are taken from /{path}"]
    raise SourceError(
        f"{where(file, group)}: no angles found, and NXtomo defines none by default; expected sample/rotation_angle or "
        f"data/rotation_angle with {lengths[0]} (frames) or {lengths[1]} (projections) entries: add it to the file"
    )


def _pixel_size(file: h5py.File, group: str) -> tuple[float | None, list[str]]:
    for place in _places(group):
        path = _join(place, "x_pixel_size")
        if resolve(file, path) is None:
            continue
        size, notes = length_of(file, path, "m")
        if size is None:
            return None, notes
        magnification = resolve(file, _join(place, "magnification"))
        if isinstance(magnification, h5py.Dataset) and magnification.size == 1 and magnification.dtype.kind in "iuf":
            factor = float(np.ravel(magnification[()])[0])
            if np.isfinite(factor) and factor > 0:
                return size / factor, notes
        if not place.endswith("sample"):
            notes.append(f"/{path} is taken as the pixel size at the sample; if it is not, set source.pixel_size")
        return size, notes
    return None, []


def _places(group: str) -> Iterator[str]:
    """Groups that may describe the frames of a group, nearest first."""
    name = group.rpartition("/")[2]
    for parent in parents(group):
        yield parent
        for child in ("sample", "data", "instrument/detector", *((name, f"instrument/{name}") if name else ())):
            yield _join(parent, child)


def _join(group: str, name: str) -> str:
    return f"{group}/{name}" if group else name


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (", ..." if len(paths) > 5 else "")
