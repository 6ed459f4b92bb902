"""Which datasets of a file that is still being written are frames, angles and keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import h5py

from streamrecon.config import SourceConfig
from streamrecon.scan import FrameKind
from streamrecon.sources.roots import Roots

_DEPTH = 4


class Outline(NamedTuple):
    """Which datasets of a file are which."""

    layout: str
    data: dict[FrameKind, str]
    """Datasets of frames by kind; one for all where there are keys."""
    angles: str | None
    keys: str | None = None
    """NXtomo's image_key, one for each frame."""


def recognise(file: h5py.File, config: SourceConfig, roots: Roots) -> Outline | None:
    """How a file is laid out that may be still without some of its datasets; None where what is there does not tell.

    Parameters
    ----------
    file
        Open. Links to other files are not followed.
    config
        Its `layout`, `entry`, `angles` and `angle_step` are used.
    roots
        Where links may lead.
    """

    def there(path: str) -> bool:
        with suppress(KeyError):
            roots.follow(file, path)
            return True
        return False

    entry = (config.entry or "").strip("/")
    below = f"{entry}/" if entry else ""
    tried = ("data-exchange", "fxi", "nxtomo") if config.layout == "auto" else (config.layout,)
    for layout in tried:
        if layout == "nxtomo":
            keys = next(_image_keys(file, entry), None)
            if keys is None:
                continue
            group = keys.rpartition("/")[0]
            data = next((p for p in _near(group, "data") if there(p)), None)
            angles = config.angles or next((p for p in _near(group, "rotation_angle") if there(p)), None)
            if data is not None and (angles is not None or config.angle_step is not None):
                return Outline(layout, {FrameKind.PROJECTION: data}, angles, keys)
            continue
        group = below if config.entry is not None or layout == "fxi" else "exchange/"
        projections, flats, darks, theta = (
            ("img_tomo", "img_bkg", "img_dark", "angle")
            if layout == "fxi"
            else ("data", "data_white", "data_dark", "theta")
        )
        if there(group + projections) and not there(f"{group}image_key"):
            paths = (group + projections, group + flats, group + darks)
            even = config.angle_step is not None and config.angles is None
            angles = None if even else config.angles or group + theta
            return Outline(layout, dict(zip(FrameKind, paths, strict=True)), angles)
    return None


def _image_keys(file: h5py.File, path: str, depth: int = _DEPTH) -> Iterator[str]:
    """Paths of image keys in groups of the file itself: other files are not searched."""
    group = file.get(path) if path else file
    if not isinstance(group, h5py.Group):
        return
    if "image_key" in group:
        yield f"{path}/image_key".lstrip("/")
    for name in group if depth else ():
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and group.get(name, getclass=True) is h5py.Group:
            yield from _image_keys(file, f"{path}/{name}".lstrip("/"), depth - 1)


def _near(group: str, name: str) -> Iterator[str]:
    """Where a dataset may lie that describes the frames of a group, nearest first."""
    while True:
        for child in ("", "sample", "data", "instrument/detector"):
            yield "/".join(part for part in (group, child, name) if part)
        if not group:
            return
        group = group.rpartition("/")[0]
