"""One version as NXtomoproc HDF5: all that is in its files but the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.scan import Axis, ScanInfo, VolumeUpdate
from streamrecon.version import __version__
from streamrecon.wire.messages import Range

DESCRIBED, EACH = 1 << 18, 64
"""Bytes that all of a file but its pixels takes at most, and those of each projection in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Provenance:
    """Where a version comes from, for its metadata."""

    info: ScanInfo
    rows: tuple[int, int]
    """Detector rows, first and one past the last."""
    parameters: dict[str, Any]
    """All that determines the values, by name."""
    indices: np.ndarray[Any, np.dtype[np.int64]]
    """Of the projections in the volume, ascending; `VolumeUpdate.theta` has their angles."""
    missing: str | None = None
    """Why projections are missing from a last version, where they are."""


def new_file(path: Path, provenance: Provenance, nbytes: int = 0) -> h5py.File:
    """A file to be written, with so many bytes of pixels.

    Raises
    ------
    OSError
        If there is no room for it: HDF5 itself would end the process by a signal as it is closed.
    """
    with path.open("wb") as file:
        file.write(bytes(DESCRIBED + EACH * len(provenance.indices)))
        file.truncate(file.tell() + nbytes)
    return h5py.File(path, "w", locking=False)


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def write_entry(file: h5py.File, update: VolumeUpdate, provenance: Provenance) -> h5py.Group:
    """All of NXtomoproc but the volume itself; the group that is to hold it."""
    info = provenance.info
    now = datetime.now(UTC).isoformat(timespec="seconds")
    file.attrs["NX_class"] = "NXroot"
    file.attrs["default"] = "entry"
    file.attrs["creator"] = f"streamrecon {__version__}"
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "data"
    entry["definition"] = "NXtomoproc"
    entry["title"] = str(info.metadata.get("title", info.uid))
    source = _group(_group(entry, "instrument", "NXinstrument"), "source", "NXsource")
    source["type"] = str(info.metadata.get("source_type", "Synchrotron X-ray Source"))
    source["name"] = str(info.metadata.get("source_name", "unknown"))
    source["probe"] = "x-ray"
    _group(entry, "sample", "NXsample")["name"] = str(info.metadata.get("sample", "unknown"))

    process = _group(entry, "reconstruction", "NXprocess")
    process["program"] = "streamrecon"
    process["version"] = __version__
    process["date"] = now
    process["final"] = update.final
    process["coverage"] = update.coverage
    process["projection_indices"] = provenance.indices
    process["theta"] = update.theta
    process["theta"].attrs["units"] = "rad"
    if provenance.missing:
        process["missing"] = provenance.missing
    parameters = _group(process, "parameters", "NXparameters")
    parameters["raw_file"] = str(info.metadata.get("raw_file", info.uid))
    parameters["scan_uid"] = info.uid
    for name, value in provenance.parameters.items():
        parameters[name] = value
    return _group(entry, "data", "NXdata")


def make_room(data: h5py.Group, shape: tuple[int, int, int]) -> int:
    """Make the dataset of a volume, whose pixels are still to be written; the byte of the file where they begin."""
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    options.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return int(data.create_dataset("data", shape, np.float32, dcpl=options).id.get_offset())


def finish_data(
    data: h5py.Group, binning: int, provenance: Provenance, shape: tuple[int, int, int], slabs: Sequence[Range]
) -> None:
    """Axes and units, so that viewers show the volume as it is."""
    pixel_size = provenance.info.geometry.pixel_size
    unit, step = ("m", pixel_size) if pixel_size else ("pixel", 1.0)
    data["data"].attrs["units"] = f"1/{unit}"
    # Viewers show a long name as it is, and units of their own accord only where there is none.
    data["data"].attrs["long_name"] = f"linear attenuation (1/{unit})"
    data["title"] = str(provenance.info.metadata.get("title", provenance.info.uid))
    data.attrs["signal"] = "data"
    data.attrs["axes"] = ["z", "y", "x"]
    for i, (name, values) in enumerate(places(slabs, binning, shape).items()):
        data[name] = values * step
        data[name].attrs["units"] = unit
        data.attrs[f"{name}_indices"] = i


def places(slabs: Sequence[Range], binning: int, shape: tuple[int, int, int]) -> dict[Axis, NDArray[np.float64]]:
    """Where voxels lie along each axis, in pixels: z by detector rows, y and x from the middle of the slice.

    Parameters
    ----------
    slabs
        Detector rows of each slab.
    binning
        Of the version.
    shape
        (slice, y, x) of the version.
    """
    _, height, width = shape
    return {
        "z": np.concatenate([_heights(rows, binning) for rows in slabs]),
        "y": (np.arange(height, dtype=np.float64) - (height - 1) / 2) * binning,
        "x": (np.arange(width, dtype=np.float64) - (width - 1) / 2) * binning,
    }


def _heights(rows: Range, binning: int) -> NDArray[np.float64]:
    """Detector rows at which the slices of a slab lie: a bin of slices at the middle of its rows."""
    count = rows[1] - rows[0]
    return rows[0] + (min(binning, count) - 1) / 2 + binning * np.arange(max(1, count // binning), dtype=np.float64)
