"""Which datasets of a file that is still being written are frames, angles and keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import h5py

from streamrecon.config import SourceConfig
from streamrecon.errors import SourceError
from streamrecon.scan import FrameKind
from streamrecon.sources.roots import Landing, Roots

_DEPTH = 4


class Outline(NamedTuple):
    """Which datasets of a file are which."""

    layout: str
    data: dict[FrameKind, str]
    """Datasets of frames by kind; one for all where there are keys."""
    angles: str | None
    keys: str | None = None
    """NXtomo's image_key, one for each frame."""

    def names(self) -> Iterator[tuple[str, str]]:
        """What each dataset is, and its path."""
        for kind, path in self.data.items():
            yield "data" if self.keys else f"{kind.name.lower()}s", path
        yield "angles", self.angles or "at even steps"
        if self.keys:
            yield "image keys", self.keys


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

    Raises
    ------
    SourceError
        If there are several stacks of frames with image keys, or a link leads out of the roots.
    """

    def there(path: str) -> bool:
        with suppress(KeyError):
            roots.follow(file, path)
            return True
        return False

    def frames(path: str) -> bool:
        """Whether there may be frames at a path; what is in another file is not looked at."""
        with suppress(KeyError):
            landing = roots.follow(file, path)
            found = None if landing.file is not None else file[landing.path]
            return found is None or (isinstance(found, h5py.Dataset) and found.ndim == 3)
        return False

    entry = (config.entry or "").strip("/")
    below = f"{entry}/" if entry else ""
    tried = ("data-exchange", "fxi", "nxtomo") if config.layout == "auto" else (config.layout,)
    for layout in tried:
        if layout == "nxtomo":
            # Group of the keys, by where the frames are: a dataset may have several names.
            stacks: dict[Landing | h5py.Dataset, tuple[str, str]] = {}
            for keys in _image_keys(file, entry):
                group = keys.rpartition("/")[0]
                data = next((path for path in _near(group, "data") if frames(path)), None)
                if data is not None:
                    landing = roots.follow(file, data)
                    stacks.setdefault(file[landing.path] if landing.file is None else landing, (group, data))
            if len(stacks) > 1:
                groups = ", ".join(group for group, _ in stacks.values())
                raise SourceError(
                    f"{file.filename} has several stacks of frames; choose one with source.entry: {groups}"
                )
            for group, data in stacks.values():
                near = (path for path in _near(group, "rotation_angle") if not path.startswith(f"{data}/"))
                angles = config.angles or next(filter(there, near), None)
                if angles is not None or config.angle_step is not None:
                    return Outline(layout, {FrameKind.PROJECTION: data}, angles, f"{group}/image_key".lstrip("/"))
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
