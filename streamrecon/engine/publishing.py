"""From slabs to versions that people see: what the writer has done is told to the other ranks, to people and to viewers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from streamrecon.engine.assembly import Assembly
from streamrecon.engine.bins import bins_of
from streamrecon.engine.exhibit import Exhibit, exhibit_of
from streamrecon.engine.ingest import Ingest
from streamrecon.engine.multiscale import image_of
from streamrecon.engine.orders import LAST, Aside, NotWritten, Part
from streamrecon.engine.output import Output, slab_files, version_folder
from streamrecon.engine.status import Counters
from streamrecon.engine.story import Story
from streamrecon.engine.writer import Job, Writer
from streamrecon.engine.zarr_writer import ZarrWriter
from streamrecon.scan import VolumeUpdate
from streamrecon.wire.messages import PREVIEW, Range


class Publishing:
    """The versions of one scan, as one rank sees them.

    Parameters
    ----------
    output
        Where they are written.
    rank
        Of this process; rank 0 puts them together.
    slabs
        Detector rows of each rank.
    ingest
        Carries what is said to other ranks.
    again
        Called when a cut did not become a version, and another one may.
    counters, story
        What people see.
    viewers
        Whether there may be viewers.
    show
        Called with each version for them; of rank 0.
    zarr
        Whether versions are written as OME-Zarr, too; by rank 0.
    """

    def __init__(
        self,
        output: Output,
        rank: int,
        slabs: Sequence[Range],
        ingest: Ingest,
        again: Callable[[], None],
        counters: Counters,
        story: Story,
        viewers: bool = False,
        show: Callable[[Exhibit], None] = lambda exhibit: None,
        zarr: bool = False,
    ) -> None:
        self._output, self._number, self._slabs, self._ingest, self._again = output, rank, slabs, ingest, again
        self._counters, self._story, self._viewers, self._show = counters, story, viewers, show
        self.writer = Writer(output, self._written, self._not_written, self._shown, counters.at_work)
        self._zarr = ZarrWriter(output.folder, story) if zarr and not rank else None
        self.members = [rank for rank, rows in enumerate(slabs) if rows[0] < rows[1]]
        """Ranks that have a slab."""
        self.assembly = Assembly(self.members, self.writer.show, self._spoilt)
        """Used at rank 0 only."""
        self.last_shown = threading.Event()
        """Set when the last version can be read."""
        self.broken: str | None = None
        """Why there will be no last version, if there will not."""

    def start(self) -> None:
        """Start the threads."""
        self.writer.start()
        if self._zarr is not None:
            self._zarr.start()

    def finish(self, watch: Callable[[], None]) -> None:
        """Wait until the last version is there in all its forms; `watch` is called meanwhile, and raises where it is in vain."""
        if self._zarr is not None:
            self._zarr.finish(watch)

    def close(self) -> None:
        """Finish the slab that was handed over, and end the threads."""
        self.writer.close()
        if self._zarr is not None:
            self._zarr.close()

    # Called by the writer thread; of spoilt versions also by others.

    def _tell(self, report: Part | NotWritten) -> None:
        if self._number:
            self._ingest.report(report)
        else:
            self.assembly.hear(report)

    def _written(self, job: Job, offset: int, seconds: float) -> None:
        self._counters.add("write", seconds)
        volume, rows = job.update.volume, job.provenance.rows
        self._tell(Part(job.cut, self._number, rows, job.content, volume.shape, offset, self._aside(job)))

    def _aside(self, job: Job) -> Aside:
        """What viewers see besides the slices."""
        began, volume, binning = time.perf_counter(), job.update.volume, job.update.binning
        sagittal = tuple((first, volume[:, :, first:end].copy()) for first, end in job.sagittal())
        if not self._viewers:
            return replace(job.aside, sagittal=sagittal)
        heights = [_slices(self._slabs[rank], binning) for rank in self.members]
        width = math.ceil(max(sum(heights), *volume.shape[1:]) / PREVIEW)
        first = sum(heights[: self.members.index(self._number)])
        preview, moments = bins_of(volume, first, width)
        self._counters.add("preview", time.perf_counter() - began)
        return replace(job.aside, preview=preview, moments=moments, sagittal=sagittal)

    def _not_written(self, cut: int, error: Exception) -> None:
        name = "the last version" if cut == LAST else f"a version (cut {cut})"
        self._story.tell("not_written", f"{name} could not be written: {error}", cut=cut)
        self._tell(NotWritten(cut, str(error)))

    def _spoilt(self, cut: int, why: str, again: bool) -> None:
        if cut == LAST:
            self.broken = why
            return
        if len(self.members) > 1:
            self._story.tell("spoilt", f"cut {cut} did not become a version: {why}", cut=cut)
            if again:
                # All slabs of it were there. Else they stay until the next version: some rank may still be writing one.
                self.writer.forget(cut)
                self._again()

    def _shown(self, job: Job, update: VolumeUpdate, parts: Sequence[Part], seconds: float) -> None:
        now = time.monotonic()
        self._counters.version = update.version
        self._counters.latencies.extend(now - at for at in job.arrivals)
        self._counters.add("write", seconds)
        self._ingest.in_volume(len(update.theta))
        self._story.tell(
            "version",
            f"version {update.version}: {len(update.theta)} projections, coverage {update.coverage:.0%}"
            + (f", binned {update.binning}" if update.binning > 1 else "")
            + (", final" if update.final else ""),
            version=update.version,
            projections=len(update.theta),
            coverage=update.coverage,
            final=update.final,
            binning=update.binning,
        )
        files = slab_files(version_folder(self._output.folder, update.version), parts)
        if self._zarr is not None:
            self._zarr.put(update.version, image_of(update, job.provenance, parts, files))
        if self._viewers:
            self._show(
                exhibit_of(replace(job, update=update), parts, files, self._slabs, self._counters.reconstruction)
            )
        if job.cut == LAST:
            self.last_shown.set()


def _slices(rows: Range, binning: int) -> int:
    """Slices of a slab."""
    return max(1, (rows[1] - rows[0]) // binning)
