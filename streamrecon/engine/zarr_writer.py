"""The thread of rank 0 that writes versions as OME-Zarr, once they are published: nothing but the scan's end waits for it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from streamrecon.engine.multiscale import Image, write_image
from streamrecon.engine.output import version_folder
from streamrecon.engine.story import Story
from streamrecon.engine.sync import sync
from streamrecon.failpoints import fail

NAME = "volume.ome.zarr"
"""Of the image in the folder of its version, with which it is deleted."""


class _ClosedError(Exception):
    """The rest is not wanted any more."""


class ZarrWriter(threading.Thread):
    """Writes one version at a time, the newest one that is there.

    It is written to a hidden folder, and appears when it is complete. What goes wrong is told, and costs no more than the image.

    Parameters
    ----------
    out
        The output folder.
    story
        Where it is told.
    """

    def __init__(self, out: Path, story: Story) -> None:
        super().__init__(name="streamrecon-zarr", daemon=True)
        self._out, self._story = out, story
        self._changed = threading.Condition()
        self._next: tuple[int, Image] | None = None
        self._at_work: int | None = None
        self._skipped: list[int] = []
        self._closing = False

    def put(self, version: int, image: Image) -> None:
        """Hand over a version; one that still waits is skipped. Does not wait."""
        with self._changed:
            if self._next is not None:
                self._skipped.append(self._next[0])
            self._next = version, image
            self._changed.notify_all()

    def finish(self, watch: Callable[[], None]) -> None:
        """Wait until the newest version is written, or could not be.

        Parameters
        ----------
        watch
            Called meanwhile; raises where it is in vain.
        """
        told = False
        while (version := self._newest()) is not None:
            if not told:
                self._story.tell("zarr_awaited", f"version {version} is being written as OME-Zarr", version=version)
                told = True
            with self._changed:
                self._changed.wait(0.05)
            watch()

    def _newest(self) -> int | None:
        with self._changed:
            return self._at_work if self._next is None else self._next[0]

    def close(self) -> None:
        """End the thread; what is not complete is left out."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while (job := self._take()) is not None:
            try:
                self._write(*job)
            finally:
                with self._changed:
                    self._at_work = None
                    self._changed.notify_all()

    def _take(self) -> tuple[int, Image] | None:
        with self._changed:
            while self._next is None and not self._closing:
                self._changed.wait()
            if self._closing:
                return None
            job, self._next = self._next, None
            assert job is not None
            self._at_work = job[0]
            return job

    def _go_on(self) -> None:
        if self._closing:
            raise _ClosedError

    def _write(self, version: int, image: Image) -> None:
        folder, began = version_folder(self._out, version), time.perf_counter()
        # Not in the version's own folder: one that is deleted meanwhile would come back with it.
        hidden = folder.with_name(f".zarr-{version:04d}")
        try:
            fail("zarr.write")
            write_image(hidden, image, self._go_on)
            for each in [*hidden.rglob("*"), hidden]:
                self._go_on()
                sync(each)
            hidden.rename(folder / NAME)
            sync(folder)
        except _ClosedError:
            pass
        except Exception as error:
            if folder.exists():
                text = f"version {version} could not be written as OME-Zarr: {error}"
                self._story.tell("zarr_failed", text, version=version)
            else:
                self._skipped.append(version)  # its time was over before it was complete
        else:
            self._tell(version, time.perf_counter() - began)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

    def _tell(self, version: int, seconds: float) -> None:
        with self._changed:
            skipped = [each for each in self._skipped if each < version]
            self._skipped = [each for each in self._skipped if each > version]
        text = f"version {version} is there as OME-Zarr, too, after {seconds:.1f} s"
        if skipped:
            text += f"; {len(skipped)} before it were skipped"
        self._story.tell("zarr", text, version=version, took=round(seconds, 3), skipped=sorted(skipped))
