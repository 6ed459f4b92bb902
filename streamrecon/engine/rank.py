"""The compute thread of a rank: frames become its slab of the volume. The loop reads as the pipeline."""

from __future__ import annotations

import dataclasses
import math
import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import Config
from streamrecon.engine.bins import bins_of
from streamrecon.engine.council import Council
from streamrecon.engine.emit import Versions
from streamrecon.engine.fields import Fields
from streamrecon.engine.ingest import Accepted, Event
from streamrecon.engine.intake import Intake
from streamrecon.engine.journal import Journal, Record
from streamrecon.engine.lacking import explained
from streamrecon.engine.nxtomoproc import Provenance
from streamrecon.engine.orders import (
    LAST,
    SETTLED,
    Align,
    Aside,
    Ask,
    Attend,
    Change,
    Done,
    Finish,
    Finished,
    Order,
    Stop,
    Sweep,
    Swept,
    Tag,
    Whole,
)
from streamrecon.engine.plan import Plan
from streamrecon.engine.planes import Plane, chosen
from streamrecon.engine.previous import Previous, detector_of
from streamrecon.engine.slab import Slab
from streamrecon.engine.slab_files import bands_about
from streamrecon.engine.status import Counters
from streamrecon.engine.story import Story
from streamrecon.engine.study import Study
from streamrecon.engine.writer import Job, Writer
from streamrecon.errors import ScanAbortedError
from streamrecon.recon.device import Device
from streamrecon.recon.offset import TURN
from streamrecon.recon.sweep import sweep_centers
from streamrecon.scan import Axis, FrameKind, VolumeUpdate
from streamrecon.wire.digest import Digest
from streamrecon.wire.messages import PREVIEW, Range
from streamrecon.wire.outputs import Ended
from streamrecon.wire.ranges import Ranges

PROJECTION = 512
"""Pixels of the longest side of the projection that viewers see, at most."""

SWEPT = 360
"""Projections that candidate centers are shown with, at most."""

WAIT = 0.05
"""Seconds to wait for an order when there is nothing else to do."""


class Rank:
    """Reconstructs one slab of a scan from its frames; used by one thread.

    Parameters
    ----------
    accepted
        The scan and the ring its frames come in.
    whole
        Detector rows of all slabs together.
    plan
        What was decided before.
    config
        The options.
    inbox
        Frames in the ring, and the scan's end.
    release
        Gives a slot of the ring back.
    journal
        Where frames go from the ring.
    writer
        Takes versions of the volume.
    policy
        When a version is due.
    council
        Who decides what all ranks do alike.
    counters, story
        What people see.
    bad
        (row, column) of the slab, True where a pixel is bad; None: the flats tell.
    previous
        What a scan of the same detector before this one has taught.
    viewers
        Whether there may be some.
    """

    def __init__(
        self,
        accepted: Accepted,
        whole: Range,
        plan: Plan,
        config: Config,
        inbox: queue.SimpleQueue[Event],
        release: Callable[[int], None],
        journal: Journal,
        writer: Writer,
        policy: Versions,
        council: Council,
        counters: Counters,
        story: Story,
        device: Device,
        bad: NDArray[np.bool_] | None = None,
        previous: Previous | None = None,
        viewers: bool = False,
    ) -> None:
        self._viewers = viewers
        self._info, self._rows, self._whole, self._ring = accepted.info, accepted.rows, whole, accepted.ring
        self._plan, self._config = plan, config
        self._journal, self._writer, self._policy, self._council = journal, writer, policy, council
        self._counters, self._story = counters, story
        size, count = accepted.info.geometry, accepted.rows[1] - accepted.rows[0]
        flats = accepted.info.counts.get(FrameKind.FLAT)
        self._previous, self._fields = previous, Fields(journal, config.normalize, flats, story, bad, previous)
        self._slab = Slab(
            accepted.info, count, journal.projections, self._fields, plan, config, device, self._between,
            policy.started_over, counters, story,
        )  # fmt: skip
        find = config.recon.center is None and size.center is None
        self._study = Study(accepted.rows, whole, size.columns, find, self._fields.line_integrals)
        self._followed = journal.gap
        self._settled = self._told_end = False
        self._finish: Finish | None = None
        self.done: Done | None = None
        """That the job is over, where it was said so early."""
        self._intake = Intake(
            accepted.ring, inbox, release, journal, self._fields.keep, self._mark, policy.session_lost, counters, story
        )
        self._shown = 0
        """Projections of the journal that a version has shown."""
        self._attended = Attend()
        for record in journal.recovered():
            if record.kind is FrameKind.FLAT:
                self._fields.keep(record)
        if journal.projections:
            self._shown = len(journal.projections)
            policy.resumed(self._shown)

    def stop(self, reason: str) -> None:
        """End the scan after the batch in work; any thread."""
        self._intake.stop(reason)

    def run(self) -> Finished:
        """Reconstruct until the scan has ended and its last version is handed to the writer; how it ended."""
        try:
            self._reconstruct()
        finally:
            self._slab.end_loans()
        assert self._finish is not None
        return self._finish.end

    def _reconstruct(self) -> None:
        while True:
            self._intake.absorb(self._room(), self._patience())
            self._take_back()
            self._combine_flats()
            self._report()
            self._obey(self._council.orders(WAIT if self._idle() else 0.0))
            if self.done is not None and self._finish is None:
                raise ScanAbortedError(f"rank 0 has given the scan up: {self.done.reason}")
            self._slab.accumulate(batch := self._next_batch())
            self._delay(batch)
            if self._complete() and (not self._slab.begun or self._slab.reweight()):
                break
            if not self._complete() and self._due():
                self._emit(last=False)
        if self._slab.cursor:
            self._emit(last=True)

    def taught(self) -> Previous:
        """What the scan has taught for the next one of its detector; once it has ended."""
        flat, dark = self._fields.taught()
        center = None if self._previous is None else self._previous.center
        if self._slab.align is not None and self._slab.align.estimate.method != "middle":
            center = self._slab.align.estimate.center
        return Previous(self._info.uid, detector_of(self._info), self._rows, center, flat, dark)

    def _complete(self) -> bool:
        """Whether every projection that counts is in the accumulator, and no more will come."""
        return self._finish is not None and self._slab.backlog == 0

    # What all ranks do alike.

    def _report(self) -> None:
        """Tell what came, and that nothing more will."""
        end = self._intake.end
        if end is not None and not self._settled and self._journal.projections:
            normalization = self._fields.better()
            if normalization is not None:
                self._slab.renormalize(normalization)
            self._settled = True
            self._tell_of_stand_ins()
        for news in self._study.news(self._journal.projections, self._tag):
            self._council.report(news)
        if end is not None and not self._told_end:
            self._told_end = True
            have = Ranges.of(record.index for record in self._journal.projections).ranges
            if isinstance(end, Ended):
                self._council.report(Finished(have, True, missing=end.missing, gaps=end.gaps))
            else:
                self._council.report(Finished(have, False, end.reason, end.given_up))

    def _tell_of_stand_ins(self) -> None:
        """What the scan itself does not have, now that nothing more will come."""
        for name, uid in (("flats", self._fields.flats_from), ("darks", self._fields.darks_from)):
            if uid is not None:
                self._story.tell(
                    "borrowed", f"the scan has no {name}: those of scan {uid} are used", kind=name, uid=uid
                )

    def _tag(self) -> Tag:
        return SETTLED if self._settled else (0, *self._followed, *self._fields.used)

    def _idle(self) -> bool:
        """Whether there is nothing to do but to wait for an order."""
        return self._told_end and self._finish is None and not (self._slab.begun and self._slab.backlog)

    def _obey(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Align):
                self._slab.begin(order, f"a better center: {order.estimate.note}")
            elif isinstance(order, Ask):
                answer = self._study.answer(order, self._journal.projections)
                if answer is not None:
                    self._council.report(answer)
            elif isinstance(order, Change):
                self._slab.change(order)
            elif isinstance(order, Whole):
                self._policy.make_whole(order.cut)
            elif isinstance(order, Attend):
                self._attended = order
            elif isinstance(order, Sweep):
                self._sweep(order)
            elif isinstance(order, Stop):
                self.stop(order.reason)
            elif isinstance(order, Done):
                self.done = order
            elif isinstance(order, Finish):
                self._finish, self._slab.agreed = order, True
                self._keep_only(Ranges(order.end.projections))
                if order.align is not None and not _same(order.align, self._slab.align):
                    self._slab.begin(order.align, f"the axis by all projections: {order.align.estimate.note}")
        if not self._slab.begun and self._journal.projections:
            self._counters.phase = "finding the center"

    def _sweep(self, order: Sweep) -> None:
        """Reconstruct a row of this slab with other centers, from the projections that are in the accumulator."""
        if not self._rows[0] <= order.row < self._rows[1] or not self._slab.cursor:
            return
        records = self._journal.projections[: self._slab.cursor]
        records = records[:: math.ceil(len(records) / SWEPT)]
        sinogram = self._fields.sinogram(records, order.row - self._rows[0])
        theta = np.array([record.theta for record in records])
        offset, centers = self._slab.turn == TURN, np.array(order.centers)
        slices = sweep_centers(
            sinogram, theta, centers, self._slab.options, self._between, offset, self._info.geometry.pixel_size
        )
        self._council.report(Swept(order.number, slices))

    def _mark(self, cut: int) -> None:
        self._policy.mark(cut, len(self._journal.projections))

    def _due(self) -> bool:
        received = len(self._journal.projections)
        return self._policy.due(self._slab.cursor, received, time.monotonic(), self._writer.idle)

    # Frames in: from the ring to the journal.

    def _room(self) -> int:
        """Frames that may leave the ring now: as many as can be accumulated, so that the sender is paced by the maths."""
        batch, backlog = self._config.engine.batch, self._slab.backlog
        if not self._slab.begun:
            return batch
        if backlog >= batch:
            # More where the accumulator holds less than the newest version showed, as it was started over.
            return max(1, batch // 2) if self._slab.cursor < self._shown else 0
        return batch - backlog

    def _between(self) -> None:
        """Take frames while nothing is accumulated: one ring more, so that ingestion goes on."""
        if self._finish is None:
            self._intake.absorb(self._ring.slots - self._slab.backlog)
        self._counters.beat()

    def _patience(self) -> float:
        """Seconds to wait for a frame."""
        if self._intake.end is not None:
            return 0.0
        if self._slab.begun and self._slab.backlog:
            oldest = self._journal.projections[self._slab.cursor].arrived
            return min(max(0.0, oldest + self._config.engine.batch_seconds - time.monotonic()), 0.1)
        return 0.1

    def _take_back(self) -> None:
        """Take out what the sender has withdrawn."""
        while self._intake.withdrawn:
            index = self._intake.withdrawn.pop(0)
            # Another one may have come under its name since; the first on the list is the one that is meant.
            place = next(i for i, record in enumerate(self._journal.projections) if record.index == index)
            self._take_out(place)
            self._story.tell("withdrawn", f"projection {index} was withdrawn by the sender", index=index)
        self._followed = self._journal.gap

    def _keep_only(self, agreed: Ranges) -> None:
        """Take out what not all slabs have."""
        out = [place for place, record in enumerate(self._journal.projections) if record.index not in agreed]
        for place in reversed(out):
            self._take_out(place)
        if out:
            self._story.tell("taken_out", f"{len(out)} projections are not in all slabs, and are left out")

    def _take_out(self, place: int) -> None:
        self._slab.take_out(place)
        self._policy.removed(place)
        self._shown -= place < self._shown

    def _combine_flats(self) -> None:
        """Combine the groups of flats that are complete."""
        with self._counters.stage("flats"):
            ended = self._intake.end is not None
            while self._fields.close_group(ended):
                if self._fields.normalizer is not None:
                    self._slab.renormalize(self._fields.known(ended))

    def _next_batch(self) -> list[Record]:
        """Projections to accumulate now."""
        slab = self._slab
        if not slab.begun or not slab.backlog:
            return []
        size = min(self._config.engine.batch, self._policy.remaining(slab.cursor))
        batch = self._journal.projections[slab.cursor : slab.cursor + size]
        if not batch:
            return []  # a version comes first
        full = len(batch) == size or self._intake.end is not None or self._ring.used >= self._ring.slots
        late = time.monotonic() - batch[0].arrived >= self._config.engine.batch_seconds
        return batch if full or late else []

    def _delay(self, batch: list[Record]) -> None:
        if self._config.engine.delay:
            time.sleep(self._config.engine.delay * len(batch))

    # Versions out.

    def _emit(self, last: bool) -> None:
        """Snapshot the accumulator, block by block, and hand the version to the writer."""
        slab, cut = self._slab, LAST if last else self._policy.number
        binning = 1 if last or self._policy.whole else self._plan.binning
        if not last:
            self._policy.emitted(slab.cursor, time.monotonic())
        records = sorted(self._journal.projections[: slab.cursor], key=lambda r: r.index)
        slab.correct_rings(last)
        gain = slab.gain()
        update = VolumeUpdate(
            version=cut,
            theta=np.array([record.theta for record in records], np.float64),
            coverage=slab.covered() / slab.turn,
            final=last and self._finish is not None and self._finish.end.ended,
            binning=binning,
            volume=slab.snapshot(gain, binning),
        )
        indices = np.array([r.index for r in records], np.int64)
        provenance = Provenance(self._info, self._rows, self._parameters(gain), indices, self._missing())
        arrivals = [r.arrived for r in self._journal.projections[self._shown : slab.cursor]]
        aside = self._aside(records, gain, binning)
        self._shown = max(self._shown, slab.cursor)
        while not (last or self._writer.idle):
            self._between()
            self._writer.wait_idle(0.02)
        content, side = self._content(records, binning, last), slab.side
        sagittal = partial(self._sagittal, update.volume.shape[2], side, binning)
        self._writer.put(Job(cut, update, provenance, content, arrivals, side, aside, slab.loan, sagittal))

    def _aside(self, records: Sequence[Record], gain: float, binning: int) -> Aside:
        """What viewers see besides the slices, where there may be some: the newest projection, and the sinograms they look at."""
        if not self._viewers:
            return Aside()
        newest = self._journal.projections[self._slab.cursor - 1]
        first, columns = self._rows[0] - self._whole[0], self._info.geometry.columns
        width = math.ceil(max(self._whole[1] - self._whole[0], columns) / PROJECTION)
        projection, _ = bins_of(self._fields.line_integrals([newest])[0], first, width)
        slices = [each for each in self._attended.sinograms if first <= each < first + self._rows[1] - self._rows[0]]
        sinograms = tuple((each, self._fields.sinogram(records, each - first)) for each in slices)
        planes: tuple[Plane, ...] = ()
        if binning > 1:
            side = self._slab.side
            full = self._whole[1] - self._whole[0], side, side
            middle: dict[Axis, int] = {"z": full[0] // 2, "y": side // 2, "x": side // 2}
            attended = [(axis, middle[axis] if i is None else i) for axis, i in reversed(self._attended.planes)]
            planes = self._slab.planes(chosen(attended, full), gain, first)
        return Aside(projection=(newest.index, projection), sinograms=sinograms, planes=planes)

    def _sagittal(self, width: int, side: int, binning: int) -> tuple[Range, ...]:
        """Slices across x that the picture of a version and those who look at it now need; any thread.

        Parameters
        ----------
        width, side
            Of the version and without binning, voxels; the slab may be another one by then.
        binning
            Of the version.
        """
        middle, shape = width // 2, (max(1, (self._whole[1] - self._whole[0]) // binning), width, width)
        # A small version is its own preview, which viewers have all slices of.
        if not self._viewers or max(shape) <= PREVIEW:
            return ((middle, middle + 1),)
        voxels = (side // 2 if x is None else x for x in reversed(self._attended.sagittal))
        places = middle, *(min(x // binning, width - 1) for x in voxels)
        return bands_about(places, shape)

    def _content(self, records: Sequence[Record], binning: int, last: bool) -> tuple[int, ...]:
        """What tells whether the slabs of a version belong together."""
        digest = Digest()
        for record in records:
            digest.add(FrameKind.PROJECTION, record.index, 0)
        known = () if last else (*self._followed, *self._fields.used)
        return digest.value, len(records), self._slab.alignments, binning, *known

    def _missing(self) -> str | None:
        end = None if self._finish is None else self._finish.end
        return None if end is None else explained(end.missing, end.gaps) or end.reason

    def _parameters(self, gain: float) -> dict[str, Any]:
        assert self._slab.align is not None
        estimate, normalizer = self._slab.align.estimate, self._fields.normalizer
        assert normalizer is not None
        options = {
            name: value
            for table in (self._slab.options, self._config.normalize)
            for name, value in dataclasses.asdict(table).items()
            if value is not None
        }
        return options | {
            "method": self._plan.method,
            "offset_axis": self._slab.turn == TURN,
            "center": estimate.center,
            "center_sigma": estimate.sigma,
            "center_method": estimate.method,
            "rows": list(self._whole),
            "floor": normalizer.normalization.floor,
            "flats": len(self._journal.flats),
            "darks": len(self._journal.darks),
            "dead_pixels": int(normalizer.dead.sum()),
            "gain": gain,
            **({"flats_from": uid} if (uid := self._fields.flats_from) else {}),
            **({"darks_from": uid} if (uid := self._fields.darks_from) else {}),
            **({"pixel_size": size} if (size := self._info.geometry.pixel_size) else {}),
        }


def _same(one: Align, other: Align | None) -> bool:
    """Whether both make the same volume."""
    return other is not None and (one.estimate.center, one.offset_axis) == (other.estimate.center, other.offset_axis)
