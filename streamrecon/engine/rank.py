"""The compute thread of a rank: frames become a volume. The loop reads as the pipeline."""

from __future__ import annotations

import dataclasses
import math
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import Config, ReconConfig
from streamrecon.engine.alignment import Alignment
from streamrecon.engine.device import choose
from streamrecon.engine.emit import EmitPolicy
from streamrecon.engine.fields import Fields, positions
from streamrecon.engine.ingest import Accepted, Event
from streamrecon.engine.intake import Intake
from streamrecon.engine.journal import Journal, Record
from streamrecon.engine.output import Provenance
from streamrecon.engine.plan import Plan, fit
from streamrecon.engine.status import Counters
from streamrecon.engine.story import Story
from streamrecon.engine.writer import Job, Writer
from streamrecon.recon.accumulate import Accumulator, Shape, bin_slices
from streamrecon.recon.device import CPU, Device
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.normalize import Normalization, Normalizer
from streamrecon.recon.offset import TURN
from streamrecon.recon.rings import Stripes
from streamrecon.recon.weights import arc_weights, covered_arc
from streamrecon.recon.workspace import Workspace
from streamrecon.scan import FrameKind, Geometry, VolumeUpdate
from streamrecon.wire.outputs import Broken, Ended

ACCUMULATORS: dict[str, Callable[[Shape, ReconConfig, Device], Accumulator]] = {
    "direct": DirectAccumulator,
    "fourier": FourierAccumulator,
}

COUNT_SECONDS = 0.25
"""Between two looks at the coverage, which takes longer the more projections there are."""

CONSTANT_BATCHES = 8
"""Batches of angles to which a constant row is added between two looks at the ring."""

UNKNOWN = 1000
"""Projections assumed for provisional weights where their number is unknown; the gain makes up for it."""


class Rank:
    """Reconstructs one scan from the frames of one slab; used by one thread.

    Parameters
    ----------
    accepted
        The scan and the ring its frames come in.
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
    counters, story
        What people see.
    bad
        (row, column) of the slab, True where a pixel is bad; None: the flats tell.
    """

    def __init__(
        self,
        accepted: Accepted,
        plan: Plan,
        config: Config,
        inbox: queue.SimpleQueue[Event],
        release: Callable[[int], None],
        journal: Journal,
        writer: Writer,
        policy: EmitPolicy,
        counters: Counters,
        story: Story,
        bad: NDArray[np.bool_] | None = None,
    ) -> None:
        self._info, self._rows, self._ring = accepted.info, accepted.rows, accepted.ring
        self._plan, self._config = plan, config
        self._journal, self._writer, self._policy = journal, writer, policy
        self._counters, self._story = counters, story
        size = accepted.info.geometry
        self._geometry = Geometry(accepted.rows[1] - accepted.rows[0], size.columns, size.pixel_size)
        self._fields = Fields(journal, config.normalize, accepted.info.counts.get(FrameKind.FLAT), story, bad)
        width = config.normalize.rings
        self._stripes = None if width is None else Stripes(self._geometry.rows, size.columns, width)
        given = config.recon.center if config.recon.center is not None else size.center
        self._alignment = Alignment(
            config.recon,
            self._geometry.rows,
            size.columns,
            accepted.info.counts.get(FrameKind.PROJECTION),
            given,
            self._fields.line_integrals,
        )
        self._device = choose(config.engine.device, config.engine.batch * self._geometry.rows * size.columns * 4)
        self._volumes = Workspace(CPU), Workspace(CPU)
        self._accumulator: Accumulator | None = None
        self._cursor = 0
        """Projections of the journal, in its order, that are in the accumulator."""
        self._weights_used = np.zeros(0)
        """Of those projections, in the same order."""
        self._turn = math.pi
        """Radians after which views repeat."""
        self._planned: NDArray[np.float64] | None = None
        self._final: NDArray[np.float64] | None = None
        self._counted = 0.0
        self._intake = Intake(accepted.ring, inbox, release, journal, self._fields.keep, counters, story)
        self._version = writer.newest
        self._shown = 0
        """Projections of the journal that a version has shown."""
        for record in journal.recovered():
            if record.kind is FrameKind.FLAT:
                self._fields.keep(record)
        if journal.projections:
            self._shown = len(journal.projections)
            policy.resumed(self._shown)

    def stop(self, reason: str) -> None:
        """End the scan after the batch in work; any thread."""
        self._intake.stop(reason)

    def run(self) -> Ended | Broken:
        """Reconstruct until the scan has ended and its last version is handed to the writer; how it ended."""
        while True:
            self._absorb(self._room(), self._patience())
            self._take_back()
            self._combine_flats()
            self._align()
            self._accumulate(self._next_batch())
            if self._complete() and not self._corrected():
                break
            if not self._complete() and self._policy.due(self._cursor, time.monotonic(), self._writer.idle):
                self._emit(last=False)
        if self._cursor:
            self._emit(last=True)
        assert self._end is not None
        return self._end

    # Frames in: from the ring to the journal.

    @property
    def _backlog(self) -> int:
        return len(self._journal.projections) - self._cursor

    def _catching_up(self) -> bool:
        """Whether the accumulator holds less than the newest version showed, as it was started over."""
        return self._cursor < self._shown

    def _room(self) -> int:
        """Frames that may leave the ring now: as many as can be accumulated, so that the sender is paced by the maths."""
        batch = self._config.engine.batch
        if self._accumulator is None:
            return batch
        if self._backlog >= batch:
            return max(1, batch // 2) if self._catching_up() else 0
        return batch - self._backlog

    def _absorbable(self) -> int:
        """Frames that may leave the ring while nothing is accumulated: one ring more, so that ingestion goes on."""
        return self._ring.slots - self._backlog

    def _patience(self) -> float:
        """Seconds to wait for a frame."""
        if self._end is not None:
            return 0.0
        if self._accumulator is not None and self._backlog:
            oldest = self._journal.projections[self._cursor].arrived
            return min(max(0.0, oldest + self._config.engine.batch_seconds - time.monotonic()), 0.1)
        return 0.1

    def _absorb(self, room: int, patience: float = 0.0) -> None:
        self._intake.absorb(room, patience)

    @property
    def _end(self) -> Ended | Broken | None:
        return self._intake.end

    def _take_back(self) -> None:
        """Take withdrawn projections out of the accumulator, by adding their negative, and off the list."""
        while self._intake.withdrawn:
            index = self._intake.withdrawn.pop(0)
            # Another one may have come under its name since; the first on the list is the one that is meant.
            place = next(i for i, record in enumerate(self._journal.projections) if record.index == index)
            if place < self._cursor:
                records = self._journal.projections[place : place + 1]
                projections = self._fields.line_integrals(records)
                if self._stripes is not None:
                    self._stripes.learn(-projections, count=-1)
                    projections -= self._stripes.row
                self._add(projections, _theta(records), -self._weights_used[place : place + 1])
                self._weights_used = np.delete(self._weights_used, place)
                self._cursor -= 1
                self._count()
            del self._journal.projections[place]
            self._shown -= place < self._shown
            self._final = None
            self._alignment.restudy()
            self._story.tell("withdrawn", f"projection {index} was withdrawn by the sender", index=index)

    # Normalization.

    def _combine_flats(self) -> None:
        """Combine the groups of flats that are complete."""
        with self._counters.stage("flats"):
            while self._fields.close_group(self._end is not None):
                if self._fields.normalizer is not None:
                    self._renormalize(self._fields.known(self._end is not None))

    def _renormalize(self, normalization: Normalization) -> None:
        """Put right what is in the accumulator: add the difference of the flats, or start over where that is not exact."""
        old, new = self._fields.normalizer, Normalizer(normalization)
        self._fields.normalizer = new
        self._alignment.restudy()
        if old is None or self._accumulator is None or not self._cursor:
            return
        if not new.differs_only_in_flats(old):
            self._start_over("the dark or the dead pixels are now known better")
            return
        if old.steady and new.steady:
            row = new.flat_difference(old, np.zeros(1))[0]
            if self._stripes is not None:
                self._stripes.learn(row[None] * np.float32(self._cursor), count=0)
            self._add_constant(row)
        else:
            self._add_difference(new, old)
        self._story.tell("flats_corrected", f"the flats' difference was added at {self._cursor} angles")

    def _add_difference(self, new: Normalizer, old: Normalizer) -> None:
        """Add the difference of flats that are interpolated over the scan."""
        for first in range(0, self._cursor, self._config.engine.batch):
            done = slice(first, min(first + self._config.engine.batch, self._cursor))
            records = self._journal.projections[done]
            difference = new.flat_difference(old, positions(records))
            if difference.any():  # before the previous group nothing has changed
                if self._stripes is not None:
                    self._stripes.learn(difference, count=0)
                self._add(difference, _theta(records), self._weights_used[done])
            self._absorb(self._absorbable())

    def _add_constant(self, row: NDArray[np.float32]) -> None:
        """Add the same row (row, column) at all angles in the accumulator."""
        assert self._accumulator is not None
        if not row.any():
            return
        step = CONSTANT_BATCHES * self._config.engine.batch
        for first in range(0, self._cursor, step):
            done = slice(first, min(first + step, self._cursor))
            with self._counters.stage("accumulate"):
                theta = _theta(self._journal.projections[done])
                self._accumulator.add_constant(row, theta, self._weights_used[done])
            self._absorb(self._absorbable())

    def _correct_rings(self, covered: float, last: bool) -> None:
        """Put the stripes right by what the angles in the accumulator tell, if they tell more than before."""
        # The mean over few angles shows the object rather than what is the same at all of them.
        if self._stripes is not None and covered >= self._turn / 2 and (last or self._stripes.stale):
            with self._counters.stage("rings"):
                change = self._stripes.refresh()
            self._add_constant(change)

    # Center.

    def _align(self) -> None:
        if self._accumulator is None and not self._journal.projections:
            return
        with self._counters.stage("center"):
            better = self._alignment.better(self._journal.projections, self._end is not None)
        if self._accumulator is None:
            if self._alignment.estimate is not None:
                self._begin()
            else:
                self._counters.phase = "finding the center"
        elif better is not None:
            self._begin(f"a better center: {better.note}")

    def _begin(self, reason: str | None = None) -> None:
        """Make the accumulator, at first or for a better center or field of view."""
        estimate = self._alignment.estimate
        assert estimate is not None
        offset = self._offset_axis(refuse=self._info.theta is not None)
        shape = Shape.of(self._geometry, self._config.recon, estimate.center, offset)
        self._turn = TURN if offset else math.pi
        self._planned = None if self._info.theta is None else arc_weights(self._info.theta, self._turn)
        self._final = None
        if offset:
            # Where the axis was not known, the plan was made for a smaller side.
            self._plan = fit(
                self._info, shape, self._config, self._plan.memory_limit, self._plan.disk_limit, self._plan.out
            )
            text = f"opposed views of the full turn are joined: slices have a side of {shape.side} pixels"
            self._story.tell("offset_axis", text, side=shape.side)
        self._accumulator = None  # its memory is free before the next one is made
        self._accumulator = ACCUMULATORS[self._plan.method](shape, self._config.recon, self._device)
        self._counters.center, self._counters.phase = estimate.center, "accumulating"
        self._story.tell("center", estimate.note, center=estimate.center, sigma=estimate.sigma, method=estimate.method)
        if reason is not None:
            self._start_over(reason)

    def _offset_axis(self, refuse: bool) -> bool:
        """Whether opposed views complete each other, by what is known of angles and object."""
        projections = self._journal.projections
        theta = _theta(projections) if self._info.theta is None and self._end is not None else self._info.theta
        arc = None if theta is None else covered_arc(theta, TURN)
        return self._alignment.offset_axis(projections, arc, refuse)

    def _start_over(self, reason: str) -> None:
        """Forget what is in the accumulator; the journal has it all. The newest version stays to be read meanwhile."""
        assert self._accumulator is not None
        self._accumulator.reset()
        self._story.tell(
            "start_over", f"accumulating {self._cursor} projections again: {reason}", projections=self._cursor
        )
        self._cursor, self._weights_used = 0, np.zeros(0)
        if self._stripes is not None:
            self._stripes.forget()
        self._policy.started_over()

    # Projections into the accumulator.

    def _next_batch(self) -> list[Record]:
        if self._accumulator is None or not self._backlog:
            return []
        size = min(self._config.engine.batch, self._policy.remaining(self._cursor))
        batch = self._journal.projections[self._cursor : self._cursor + size]
        full = len(batch) == size or self._end is not None or self._ring.used >= self._ring.slots
        late = time.monotonic() - batch[0].arrived >= self._config.engine.batch_seconds
        return batch if full or late else []

    def _accumulate(self, batch: list[Record]) -> None:
        if not batch:
            return
        assert self._accumulator is not None
        with self._counters.stage("normalize"):
            projections = self._fields.line_integrals(batch)
            if self._stripes is not None:
                self._stripes.learn(projections)
                projections -= self._stripes.row
        weights = self._weights(batch)
        self._add(projections, _theta(batch), weights)
        self._cursor += len(batch)
        self._weights_used = np.concatenate([self._weights_used, weights])
        self._count()
        if self._config.engine.delay:
            time.sleep(self._config.engine.delay * len(batch))

    def _add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        assert self._accumulator is not None
        began, filtered = time.perf_counter(), self._accumulator.filter_seconds
        self._accumulator.add(projections, theta, weight)
        filtering = self._accumulator.filter_seconds - filtered
        self._counters.add("filter", filtering)
        self._counters.add("accumulate", time.perf_counter() - began - filtering)

    def _count(self) -> None:
        self._counters.in_volume = self._cursor
        now = time.monotonic()
        if now - self._counted < COUNT_SECONDS and not self._complete():
            return
        self._counted = now
        self._counters.coverage = self._covered(self._journal.projections[: self._cursor]) / self._turn

    def _covered(self, records: Sequence[Record]) -> float:
        return covered_arc(_theta(records), self._turn)

    def _weights(self, batch: list[Record]) -> NDArray[np.float64]:
        """Of the projections that follow the cursor."""
        if self._end is not None:
            return self._final_weights()[self._cursor : self._cursor + len(batch)]
        if self._planned is not None:
            return self._planned[[r.index for r in batch]]
        return np.full(len(batch), self._turn / (self._info.counts.get(FrameKind.PROJECTION) or UNKNOWN))

    def _final_weights(self) -> NDArray[np.float64]:
        """Of all projections of the journal, in its order, once no more will come."""
        if self._final is None:
            self._final = arc_weights(_theta(self._journal.projections), self._turn)
        return self._final

    # The end.

    def _complete(self) -> bool:
        """Whether every projection that came is in the accumulator, and no more will come."""
        return self._end is not None and self._backlog == 0 and not self._intake.withdrawn

    def _corrected(self) -> bool:
        """Put right what is only known now; whether projections have to be accumulated again for it."""
        if self._accumulator is None:
            return False
        normalization = self._fields.better()
        if normalization is not None:
            self._renormalize(normalization)
            if self._backlog:
                return True
        if self._offset_axis(refuse=False) != self._accumulator.shape.offset_axis:
            self._begin("all projections tell otherwise whether the object is cut off on the side of the axis")
            return True
        weights = self._final_weights()
        change = weights - self._weights_used
        changed = np.flatnonzero(np.abs(change) > 1e-9)
        if 2 * changed.size > weights.size:
            self._start_over("the angles weigh otherwise, now that all are known")
            return True
        for first in range(0, changed.size, self._config.engine.batch):
            which = changed[first : first + self._config.engine.batch]
            records = [self._journal.projections[i] for i in which]
            projections = self._fields.line_integrals(records)
            if self._stripes is not None:
                projections -= self._stripes.row
            self._add(projections, _theta(records), change[which])
        if changed.size:
            self._story.tell("reweighted", f"{changed.size} projections beside missing ones take over their arc")
        self._weights_used = weights
        return False

    # Versions out.

    def _emit(self, last: bool) -> None:
        """Snapshot the accumulator, block by block, and hand the version to the writer."""
        assert self._accumulator is not None
        records = sorted(self._journal.projections[: self._cursor], key=lambda r: r.index)
        theta = _theta(records)
        covered = covered_arc(theta, self._turn)
        self._correct_rings(covered, last)
        gain = (covered or self._turn) / float(self._weights_used.sum())
        binning = 1 if last else self._plan.binning
        volume = self._snapshot(gain, binning, absorb=not last)
        self._version += 1
        update = VolumeUpdate(
            version=self._version,
            theta=theta,
            coverage=covered / self._turn,
            final=last and isinstance(self._end, Ended),
            binning=binning,
            volume=volume,
        )
        indices = np.array([r.index for r in records], np.int64)
        provenance = Provenance(self._info, self._rows, self._parameters(gain), indices, self._missing())
        arrivals = [r.arrived for r in self._journal.projections[self._shown : self._cursor]]
        self._shown = max(self._shown, self._cursor)
        self._policy.emitted(self._cursor, time.monotonic())
        while not (last or self._writer.idle):
            self._absorb(self._absorbable())
            self._writer.wait_idle(0.02)
        self._writer.put(Job(update, provenance, arrivals))

    def _snapshot(self, gain: float, binning: int, absorb: bool) -> NDArray[np.float32]:
        """Slices of all rows. Nothing is accumulated meanwhile, so that all hold the same angles; frames go on coming in."""
        assert self._accumulator is not None
        shape = self._accumulator.shape
        side = max(1, shape.side // binning)
        places = shape.slices(binning)
        # One version is made while the one before is being written.
        memory = self._volumes[self._version % 2]
        volume: NDArray[np.float32] = memory((places[-1].stop, side, side), np.float32)
        for block, place in enumerate(places):
            with self._counters.stage("snapshot"):
                self._accumulator.snapshot_block(block, volume[place], gain, binning)
            if absorb:
                self._absorb(self._absorbable())
        return bin_slices(volume, binning // shape.row_binning(binning))

    def _missing(self) -> str | None:
        if isinstance(self._end, Broken):
            return self._end.reason
        if isinstance(self._end, Ended) and self._end.missing:
            never = "projections " + ", ".join(f"{a} to {b - 1}" for a, b in self._end.missing[:32]) + " never came"
            return "; ".join([never, *(f"{count} {reason}" for reason, count in self._end.gaps)])
        return None

    def _parameters(self, gain: float) -> dict[str, Any]:
        estimate, normalizer = self._alignment.estimate, self._fields.normalizer
        assert estimate is not None
        assert normalizer is not None
        options = {
            name: value
            for table in (self._config.recon, self._config.normalize)
            for name, value in dataclasses.asdict(table).items()
            if value is not None
        }
        return options | {
            "method": self._plan.method,
            "offset_axis": self._turn == TURN,
            "center": estimate.center,
            "center_sigma": estimate.sigma,
            "center_method": estimate.method,
            "rows": list(self._rows),
            "floor": normalizer.normalization.floor,
            "flats": len(self._journal.flats),
            "darks": len(self._journal.darks),
            "dead_pixels": int(normalizer.dead.sum()),
            "gain": gain,
            **({"pixel_size": size} if (size := self._info.geometry.pixel_size) else {}),
        }


def _theta(records: Sequence[Record]) -> NDArray[np.float64]:
    return np.array([record.theta for record in records], np.float64)
