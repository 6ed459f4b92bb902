"""What a file shows: a finished volume, or one that is replaced as a scan goes on; read in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import SourceError, SourceFileError
from streamrecon.recon.means import Moments
from streamrecon.viewer.source import Link, Place, Shown
from streamrecon.viewer.volume_file import VolumeFile, stamp
from streamrecon.viewer.wants import Wants
from streamrecon.wire.messages import Action, Picture, Progress, Result, Update

LOOKS = 1.0
"""Seconds between two looks whether the file is another one."""
AGAIN = 10.0
"""Seconds after which what could not be read is tried again."""


class FileSource:
    """A volume in an HDF5 file; a `volume.h5` that is replaced by its next version is followed.

    Parameters
    ----------
    path
        As of `VolumeFile`.

    Raises
    ------
    SourceFileError, SourceError
        As `VolumeFile` says.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, self._file = path, VolumeFile(path)
        self._wants, self._wakeup, self._closing = Wants(), threading.Event(), threading.Event()
        self._changed: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self._slices: dict[Place, Shown] = {}
        self._preview: Shown | None = None
        self._building: list[tuple[NDArray[np.float32], Moments]] = []
        """Slices of the preview that is being read."""
        self._building_size = 0
        self._seen, self._anew = {(self._file.update.uid, self._file.update.version)}, 0
        """What files have said they are, and how often one has said what another one had said before."""
        self._damaged: dict[Place | None, float] = {}
        """Slices, and None for the preview, that could not be read; until when they are not tried again."""
        self._update, self._looked_at = self._file.update, time.monotonic()
        self._link = self._fine()

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to read."""
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="streamrecon-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._closing.set()
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join()
        self._file.close()

    @property
    def link(self) -> Link:
        """How it is doing."""
        return self._link

    @property
    def progress(self) -> Progress | None:
        """None: a file does nothing."""
        return None

    @property
    def update(self) -> Update | None:
        """What is known of the volume."""
        return self._update

    def want(self, viewer: object, places: Collection[Place], preview: int = 0, beside: bool = False) -> None:
        """What a viewer looks at from now on; a file has nothing beside."""
        self._wants.put(viewer, places, preview)
        self._wakeup.set()

    def slice(self, place: Place) -> Shown | None:
        """A slice, once it is read."""
        return self._slices.get(place)

    def other(self, kind: Literal["preview", "projection", "sinogram"], index: int = 0) -> Shown | None:
        """The preview, once it is read; there is nothing else."""
        return self._preview if kind == "preview" else None

    def control(
        self, action: Action, numbers: tuple[float, ...] = (), text: str = ""
    ) -> Future[tuple[Result, list[Shown]]]:
        """A refusal."""
        future = Future[tuple[Result, list[Shown]]]()
        why = "this is a file, which nothing can be changed in: reconstruct the scan again, with the options that you want"
        future.set_result((Result(serial=0, done=False, text=why), []))
        return future

    # The thread.

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                if time.monotonic() - self._looked_at >= LOOKS:
                    self._look()
                if self._link.state == "file" and self._read_something():
                    continue
            except (SourceFileError, SourceError) as error:
                self._show(Link("missing", f"{error}; looking for it again"))
            self._wakeup.wait(max(0.01, self._looked_at + LOOKS - time.monotonic()))
            self._wakeup.clear()

    def _look(self) -> None:
        """Open the file again where it is another one, or could not be read."""
        self._looked_at, before = time.monotonic(), self._file.stamp
        if stamp(self._file.path) == before and not self._file.closed:
            self._show(self._fine())
            return
        self._file.close()  # first: HDF5 takes a file that was written anew in its place for the one it has open
        self._file = VolumeFile(self._path)
        if self._file.stamp == before:  # it was away
            self._show(self._fine())
            return
        self._building, self._preview, self._damaged = [], None, {}
        # Nothing else tells files apart that say the same of themselves.
        which = self._file.update.uid, self._file.update.version
        self._anew += which in self._seen
        self._seen.add(which)
        update = replace(self._file.update, reconstruction=self._anew)
        if update.uid != self._update.uid:
            self._slices = {}
        self._update = update
        self._show(self._fine(), always=True)

    def _fine(self) -> Link:
        where = ", ".join("the preview" if at is None else f"slice {at[0]} = {at[1]}" for at in self._damaged)
        damaged = f", in which damaged parts cannot be read: {where}" if where else ""
        return Link("file", f"{self._file.path}{damaged}")

    def _cannot_be_read(self, what: Place | None, error: SourceFileError) -> None:
        """A part of a file that is still there; else it is the file that cannot."""
        if stamp(self._file.path) != self._file.stamp:
            raise error
        self._damaged = {**self._damaged, what: time.monotonic() + AGAIN}
        self._show(self._fine())

    def _show(self, link: Link, always: bool = False) -> None:
        if always or link != self._link:
            self._link = link
            self._changed()

    def _read_something(self) -> bool:
        """Read what is wanted most; whether there was anything."""
        wanted = self._wants.together()
        self._slices = {place: shown for place, shown in self._slices.items() if place in wanted.places}
        now = time.monotonic()
        self._damaged = {what: until for what, until in self._damaged.items() if now < until}
        for place in wanted.places:
            if not self._is_newest(self._slices.get(place)) and place not in self._damaged:
                try:
                    pixels = self._file.slice(place)
                except SourceFileError as error:
                    self._cannot_be_read(place, error)
                    return True
                if pixels is not None:
                    self._slices = {**self._slices, place: self._slice(place, pixels)}
                    self._changed()
                    return True
        return bool(wanted.preview) and self._read_preview(wanted.preview)

    def _is_newest(self, shown: Shown | None) -> bool:
        return shown is not None and shown.key == self._update.key

    def _slice(self, place: Place, pixels: NDArray[np.float32]) -> Shown:
        full = tuple(side for axis, side in zip("zyx", self._update.full, strict=True) if axis != place[0])
        picture = Picture(kind="slice", axis=place[0], index=place[1], shape=pixels.shape, full=full)
        return Shown(self._update.key, picture, pixels)

    def _read_preview(self, size: int) -> bool:
        """Read one slice more of the preview; whether there was one to read."""
        shape = self._file.preview_shape(size)
        if None in self._damaged or (self._preview is not None and max(self._preview.pixels.shape) >= max(shape)):
            return False
        if self._building_size != size:
            self._building, self._building_size = [], size
        try:
            self._building.append(self._file.row_of_preview(len(self._building), size))
        except SourceFileError as error:
            self._cannot_be_read(None, error)
            return True
        if len(self._building) == shape[0]:
            voxels = np.stack([row for row, _ in self._building])
            moments = reduce(Moments.joined, (each for _, each in self._building))
            self._building = []
            picture = Picture(kind="preview", shape=voxels.shape, full=self._update.full)
            self._update = _with_statistics(self._update, moments)
            self._preview = Shown(self._update.key, picture, voxels)
            self._changed()
        return True


def _with_statistics(update: Update, moments: Moments) -> Update:
    """Of the rows that the preview is made of: nobody waits until a large file is read."""
    if not moments.count:
        return update
    facts: dict[str, Any] = moments.statistics()
    return replace(update, **facts)
