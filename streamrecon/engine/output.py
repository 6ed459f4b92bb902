"""Versions of the volume on disk: each complete before it can be seen.

OUT/partials/vNNNN/slab-RRR.h5 holds the slices of rank RRR and is never changed again; OUT/volume.h5 is a small file of its own,
replaced in one step, that names the newest version's slabs through a virtual dataset. Readers open it by its path, always anew.
Ranks write their slabs to a hidden folder for each cut; when all are there, rank 0 shows it under the version's number.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.orders import LAST, Part
from streamrecon.engine.picture import central, draw, save
from streamrecon.engine.slab_files import SlabFiles
from streamrecon.engine.sync import sync
from streamrecon.errors import OutputError
from streamrecon.failpoints import fail
from streamrecon.scan import Axis, ScanInfo, VolumeUpdate
from streamrecon.version import __version__
from streamrecon.wire.messages import Range

PIECE = 64 << 20
"""Bytes of a volume that are written at once."""

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


class Output:
    """The output folder; used by the writer thread.

    Parameters
    ----------
    folder
        OUT; made if it is not there.
    uid
        Of the scan. What an earlier reconstruction of the same scan left in the folder is replaced.
    keep, keep_seconds
        Versions beyond the newest `keep` that are older than `keep_seconds` are deleted; beyond `most_kept`, younger ones, too.
    overwrite
        Replace another scan's volume, too.
    resume
        Go on after the versions that an earlier process wrote of this scan.
    rank
        Of this process; rank 0 cleans up, and shows versions.

    Raises
    ------
    OutputError
        If the folder cannot be made, or holds the volume of another scan.
    """

    def __init__(
        self,
        folder: Path,
        uid: str,
        keep: int,
        keep_seconds: float,
        overwrite: bool = False,
        resume: bool = False,
        rank: int = 0,
    ) -> None:
        self.folder, self._keep, self._keep_seconds, self._rank = folder, keep, keep_seconds, rank
        self.partials = folder / "partials"
        self.newest = 0
        """Number of the newest version that is there."""
        if rank:
            return
        if not overwrite:
            _refuse_foreign(folder / "volume.h5", uid)
        try:
            self.partials.mkdir(parents=True, exist_ok=True)
            for unfinished in [*self.partials.glob(".cut-*"), *self.partials.glob(".zarr-*")]:
                shutil.rmtree(unfinished)
            if not resume:
                # What an earlier scan left here would be taken for this one's. First what names it: it would name nothing.
                for name in ("volume.h5", "volume.png"):
                    (folder / name).unlink(missing_ok=True)
                for old in _versions(self.partials).values():
                    shutil.rmtree(old)
            self.newest = max(_versions(self.partials), default=0)
        except OSError as error:
            raise OutputError(f"cannot use the output folder {folder}: {error.strerror}") from error

    def write_slab(
        self, cut: int, update: VolumeUpdate, provenance: Provenance, go_on: Callable[[], None] = lambda: None
    ) -> int:
        """Write this rank's slab of a version that nobody sees yet.

        Parameters
        ----------
        cut
            Its number.
        update, provenance
            What to write.
        go_on
            Called as some more is written.

        Returns
        -------
        offset
            Byte of the file where its pixels begin.

        Raises
        ------
        OutputError
            If the disk is full or fails; what was written before stays as it is.
        """
        folder = self._hidden(cut)
        place = folder / slab_name(self._rank)
        temporary = place.with_suffix(".tmp")
        try:
            fail("output.slab")
            folder.mkdir(parents=True, exist_ok=True)
            _try_room(temporary, provenance, update.volume.nbytes)
            with h5py.File(temporary, "w", locking=False) as file:
                data = _write_entry(file, update, provenance)
                offset = _make_room(data, update.volume.shape)
                _finish_data(data, update.binning, provenance, update.volume.shape, [provenance.rows])
            # Not by h5py, which holds the interpreter meanwhile: frames would wait.
            with temporary.open("r+b") as pixels:
                pixels.seek(offset)
                step = max(1, PIECE // max(1, update.volume[0].nbytes))
                for first in range(0, len(update.volume), step):
                    pixels.write(np.ascontiguousarray(update.volume[first : first + step]).data)
                    go_on()
            sync(temporary)
            temporary.replace(place)
            sync(folder)
            return offset
        except (OSError, RuntimeError) as error:  # h5py has both for a full disk
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            which = "its slab of a version" if self._rank else f"version {self.newest + 1}"
            raise OutputError(f"cannot write {which} in {self.folder}: {error}") from error

    def publish(self, cut: int, update: VolumeUpdate, provenance: Provenance, parts: Sequence[Part]) -> VolumeUpdate:
        """Show a version, all slabs of which are there, and make it the one that OUT/volume.h5 names; by rank 0.

        Parameters
        ----------
        cut
            Its number.
        update, provenance
            Of rank 0's slab.
        parts
            All slabs, in the order of their rows.

        Returns
        -------
        update
            With the version's number.

        Raises
        ------
        OutputError
            If the disk is full or fails; what was written before stays as it is.
        """
        update = replace(update, version=self.newest + 1)
        place, temporary = version_folder(self.folder, update.version), self._hidden(cut)
        try:
            title = provenance.info.metadata.get("title") or provenance.info.uid
            text = f"{title}   {place.name}   {len(update.theta)} projections   coverage {update.coverage:.0%}"
            text += "   final" if update.final else ""
            save(draw(central(slab_files(temporary, parts)), text), temporary / "volume.png")
            temporary.rename(place)
            self.newest = update.version  # also if it cannot be named: the next one needs another place
            sync(self.partials)
            self._point_to(place, update, provenance, parts)
            self._prune(update.version)
            self.forget(cut)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise OutputError(f"cannot write version {update.version} in {self.folder}: {error}") from error
        return update

    def forget(self, cut: int) -> None:
        """Slabs of this cut and of those before it are not needed any more."""
        with contextlib.suppress(OSError):  # what cannot go now goes with the next one
            for place in self.partials.glob(".cut-*"):
                if cut == LAST or LAST != int(place.name[5:]) <= cut:
                    shutil.rmtree(place, ignore_errors=True)

    def _hidden(self, cut: int) -> Path:
        return self.partials / f".cut-{cut:04d}"

    def _point_to(self, place: Path, update: VolumeUpdate, provenance: Provenance, parts: Sequence[Part]) -> None:
        temporary = self.folder / ".volume.h5.tmp"
        _try_room(temporary, provenance)
        with h5py.File(temporary, "w", locking=False) as file:
            data = _write_entry(file, update, provenance)
            file["entry/reconstruction/volume_version"] = update.version
            shape = sum(part.slices[0] for part in parts), *parts[0].slices[1:]
            layout, first = h5py.VirtualLayout(shape, np.float32), 0
            for part in parts:
                end = first + part.slices[0]
                slab = str((place / slab_name(part.rank)).relative_to(self.folder))
                layout[first:end] = h5py.VirtualSource(slab, "entry/data/data", part.slices)
                first = end
            data.create_virtual_dataset("data", layout, fillvalue=np.nan)
            _finish_data(data, update.binning, provenance, shape, [part.rows for part in parts])
        sync(temporary)
        temporary.replace(self.folder / "volume.h5")
        picture = self.folder / ".volume.png.tmp"
        shutil.copyfile(place / "volume.png", picture)
        picture.replace(self.folder / "volume.png")
        sync(self.folder)

    def _prune(self, newest: int) -> None:
        now = time.time()
        for number, place in _versions(self.partials).items():
            old = now - place.stat().st_mtime > self._keep_seconds
            if number <= newest - most_kept(self._keep) or (old and number <= newest - self._keep):
                shutil.rmtree(place, ignore_errors=True)  # what cannot go now goes with the next version


def slab_name(rank: int) -> str:
    """File of a rank's slab in a version's folder."""
    return f"slab-{rank:03d}.h5"


def slab_files(folder: Path, parts: Sequence[Part]) -> SlabFiles:
    """The slabs of a version in its folder."""
    files = [(folder / slab_name(part.rank), part.offset, part.slices) for part in parts]
    return SlabFiles(files, [part.aside.sagittal for part in parts])


def version_folder(out: Path, version: int) -> Path:
    """Where a version is."""
    return out / "partials" / f"v{version:04d}"


def most_kept(keep: int) -> int:
    """Versions on disk at the most: what a reader may still have open is spared, but not at the price of the disk."""
    return 2 * keep


def finished(folder: Path, uid: str | None = None) -> bool:
    """Whether the final volume of a scan is in a folder; without a uid, of any."""
    try:
        with h5py.File(folder / "volume.h5", "r", locking=False) as file:
            process = file["entry/reconstruction"]
            return bool(process["final"][()]) and uid in (None, process["parameters/scan_uid"][()].decode())
    except (OSError, KeyError, AttributeError):
        return False


def broke_off(folder: Path) -> bool:
    """Whether the volume in a folder is the last one of a scan that was not completed."""
    try:
        with h5py.File(folder / "volume.h5", "r", locking=False) as file:
            process = file["entry/reconstruction"]
            return not process["final"][()] and "missing" in process
    except (OSError, KeyError):
        return False


def _refuse_foreign(volume: Path, uid: str) -> None:
    if not volume.exists():
        return
    try:
        with h5py.File(volume, "r", locking=False) as file:
            found = file["entry/reconstruction/parameters/scan_uid"][()].decode()
    except (OSError, KeyError, AttributeError):
        found = "something else"
    if found != uid:
        raise OutputError(
            f"{volume} holds {found}, which is not the scan {uid}: choose another --out, or say --overwrite to replace it"
        )


def _versions(partials: Path) -> dict[int, Path]:
    """The folders of versions by number; what else a user put there is left alone."""
    return {int(place.name[1:]): place for place in partials.iterdir() if re.fullmatch(r"v\d{4,}", place.name)}


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _write_entry(file: h5py.File, update: VolumeUpdate, provenance: Provenance) -> h5py.Group:
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


def _try_room(path: Path, provenance: Provenance, nbytes: int = 0) -> None:
    """Raise where there is no room for a file with so many bytes of pixels: HDF5 does not, but ends the process by a signal."""
    with path.open("wb") as file:
        file.write(bytes(DESCRIBED + EACH * len(provenance.indices)))
        file.truncate(file.tell() + nbytes)


def _make_room(data: h5py.Group, shape: tuple[int, int, int]) -> int:
    """Make the dataset of a volume, whose pixels are still to be written; the byte of the file where they begin."""
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    options.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return int(data.create_dataset("data", shape, np.float32, dcpl=options).id.get_offset())


def _finish_data(
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
