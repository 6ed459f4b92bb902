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
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from streamrecon.engine.nxtomoproc import Provenance, finish_data, make_room, new_file, write_entry
from streamrecon.engine.orders import LAST, Part
from streamrecon.engine.picture import central, draw, save
from streamrecon.engine.slab_files import SlabFiles
from streamrecon.engine.sync import sync
from streamrecon.errors import OutputError
from streamrecon.failpoints import fail
from streamrecon.scan import VolumeUpdate

PIECE = 64 << 20
"""Bytes of a volume that are written at once."""


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
            with new_file(temporary, provenance, update.volume.nbytes) as file:
                data = write_entry(file, update, provenance)
                offset = make_room(data, update.volume.shape)
                finish_data(data, update.binning, provenance, update.volume.shape, [provenance.rows])
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
        with new_file(temporary, provenance) as file:
            data = write_entry(file, update, provenance)
            file["entry/reconstruction/volume_version"] = update.version
            shape = sum(part.slices[0] for part in parts), *parts[0].slices[1:]
            layout, first = h5py.VirtualLayout(shape, np.float32), 0
            for part in parts:
                end = first + part.slices[0]
                slab = str((place / slab_name(part.rank)).relative_to(self.folder))
                layout[first:end] = h5py.VirtualSource(slab, "entry/data/data", part.slices)
                first = end
            data.create_virtual_dataset("data", layout, fillvalue=np.nan)
            finish_data(data, update.binning, provenance, shape, [part.rows for part in parts])
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
