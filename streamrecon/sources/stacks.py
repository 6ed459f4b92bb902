"""Layouts with a stack of frames for each kind: Data Exchange, and the flat export of NSLS-II FXI."""

from __future__ import annotations

import h5py
import numpy as np

from streamrecon.errors import SourceError
from streamrecon.scan import FrameKind
from streamrecon.sources.recording import (
    Recording,
    dangling,
    half_circle,
    length_of,
    resolve,
    stacked,
    text,
    theta_of,
    where,
)


def data_exchange(file: h5py.File, entry: str | None) -> Recording | None:
    """Map a Data Exchange file; None if it is not one.

    Parameters
    ----------
    file
        Open.
    entry
        Group that holds data, data_white, data_dark and theta; None is `exchange`.

    Raises
    ------
    SourceError
        If frames or angles do not fit the layout.
    """
    group = "exchange" if entry is None else entry.strip("/")
    data = f"{group}/data"
    found = resolve(file, data)
    if (found is None and dangling(file, data) is None) or isinstance(found, h5py.Group):
        return None
    if entry is not None and resolve(file, f"{group}/image_key") is not None:
        return None
    if found is not None:
        _check_axes(file, data, found)
    paths = {
        FrameKind.PROJECTION: data,
        FrameKind.FLAT: f"{group}/data_white",
        FrameKind.DARK: f"{group}/data_dark",
    }
    return _recording(
        file,
        "data-exchange",
        paths,
        f"{group}/theta",
        "measurement/instrument/detection_system/objective/resolution",
        None,
        text(file, f"{group}/title", f"{group}/name"),
        text(file, "measurement/sample/name"),
    )


def fxi(file: h5py.File, entry: str | None) -> Recording | None:
    """Map a file as NSLS-II FXI exports it; None if it is not one.

    Parameters
    ----------
    file
        Open.
    entry
        Group that holds img_tomo, img_bkg, img_dark and angle; None is the root.

    Raises
    ------
    SourceError
        If frames or angles do not fit the layout.
    """
    group = "" if entry is None or not entry.strip("/") else entry.strip("/") + "/"
    data = f"{group}img_tomo"
    if resolve(file, data) is None and dangling(file, data) is None:
        return None
    paths = {
        FrameKind.PROJECTION: data,
        FrameKind.FLAT: f"{group}img_bkg",
        FrameKind.DARK: f"{group}img_dark",
    }
    size = next((n for n in ("Pixel Size", "pixel_size") if resolve(file, group + n) is not None), "pixel_size")
    title = text(file, f"{group}note", f"{group}scan_id")
    return _recording(file, "fxi", paths, f"{group}angle", group + size, "nm", title, "")


def _recording(
    file: h5py.File,
    layout: str,
    paths: dict[FrameKind, str],
    angles: str,
    size: str,
    size_unit: str | None,
    title: str,
    sample: str,
) -> Recording:
    datasets, kinds, positions, notes = stacked(file, paths)
    count = int(np.count_nonzero(kinds == FrameKind.PROJECTION))
    if resolve(file, angles) is None and dangling(file, angles) is None:
        theta, more = half_circle(count, angles, layout)
    else:
        theta, more = theta_of(file, angles, np.arange(count), count)
    pixel_size, unusable = length_of(file, size, size_unit)
    notes += more + unusable
    return Recording(layout, datasets, kinds, positions, theta, pixel_size, title, sample, tuple(notes))


def _check_axes(file: h5py.File, path: str, dataset: h5py.Dataset) -> None:
    """Refuse sinograms, which the layout allows: read as projections they would give nonsense without an error."""
    axes = dataset.attrs.get("axes", "")
    names = axes.decode("utf-8", "replace") if isinstance(axes, bytes) else axes
    if isinstance(names, str) and "theta" in names.split(":") and not names.startswith("theta"):
        raise SourceError(
            f"{where(file, path)} has its axes in the order {names}; expected theta:y:x: write the file as projections"
        )
