"""What is in the accumulator of a slab, with which weight. All that is linear is put right here, whenever it becomes known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import Config, ReconConfig
from streamrecon.engine.fields import Fields, positions
from streamrecon.engine.journal import Record
from streamrecon.engine.loan import Loan
from streamrecon.engine.orders import Align, Change
from streamrecon.engine.plan import Plan, fit
from streamrecon.engine.planes import Place, Plane, cut
from streamrecon.engine.status import Counters
from streamrecon.engine.story import Story
from streamrecon.recon.accumulate import Accumulator, Shape, bin_slices
from streamrecon.recon.device import CPU, Device
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.recon.normalize import Normalization, Normalizer
from streamrecon.recon.offset import TURN
from streamrecon.recon.rings import Stripes
from streamrecon.recon.weights import arc_weights, covered_arc
from streamrecon.recon.workspace import Workspace
from streamrecon.scan import Geometry, ScanInfo

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


class Slab:
    """The accumulator of some detector rows; used by one thread.

    Parameters
    ----------
    info
        Of the scan.
    rows
        Detector rows.
    projections
        Those that have come, in their order; the first `cursor` of them are in the accumulator.
    fields
        What they are normalized by.
    plan, config
        What was decided, and the options.
    device
        Where the accumulator lives.
    between
        Called between pieces of work that take long.
    restarted
        Called when the accumulator begins anew.
    counters, story
        What people see.
    """

    def __init__(
        self,
        info: ScanInfo,
        rows: int,
        projections: list[Record],
        fields: Fields,
        plan: Plan,
        config: Config,
        device: Device,
        between: Callable[[], None],
        restarted: Callable[[], None],
        counters: Counters,
        story: Story,
    ) -> None:
        self._info, self._projections, self._fields = info, projections, fields
        self._plan, self._config, self._device = plan, config, device
        self.options = config.recon
        """Of the reconstruction; viewers may change some."""
        self._between, self._restarted = between, restarted
        self._counters, self._story = counters, story
        size = info.geometry
        self._geometry = Geometry(rows, size.columns, size.pixel_size)
        width = config.normalize.rings
        self._stripes = None if width is None else Stripes(rows, size.columns, width)
        self._volumes = Workspace(CPU), Workspace(CPU)
        self._loans: dict[int, Loan] = {}
        """Of the snapshots that are in these."""
        self._snapshots = 0
        self._accumulator: Accumulator | None = None
        self.align: Align | None = None
        """The axis that is accumulated with; None while none is known."""
        self.alignments = 0
        """Times that the accumulator was made."""
        self.cursor = 0
        self.agreed = False
        """Whether all projections are known that will count."""
        self._weights_used = np.zeros(0)
        """Of those in the accumulator, in their order."""
        self.turn = math.pi
        """Radians after which views repeat."""
        self._planned: NDArray[np.float64] | None = None
        self._final: NDArray[np.float64] | None = None
        self._counted = 0.0

    @property
    def begun(self) -> bool:
        """Whether there is an accumulator."""
        return self._accumulator is not None

    @property
    def side(self) -> int:
        """Of a slice without binning, pixels."""
        assert self._accumulator is not None
        return self._accumulator.shape.side

    @property
    def backlog(self) -> int:
        """Projections that are not in the accumulator."""
        return len(self._projections) - self.cursor

    # The axis.

    def begin(self, align: Align, reason: str) -> None:
        """Make the accumulator, at first or for a better center or field of view.

        Raises
        ------
        PlanError
            If the field of view does not fit the memory.
        """
        first, self.align = self._accumulator is None, align
        estimate, offset = align.estimate, align.offset_axis
        shape = Shape.of(self._geometry, self.options, estimate.center, offset)
        self.turn = TURN if offset else math.pi
        self._planned = None if self._info.theta is None else arc_weights(self._info.theta, self.turn)
        self._final = None
        if offset:
            # Where the axis was not known, the plan was made for a smaller side.
            plan = self._plan
            config = replace(self._config, recon=self.options)
            self._plan = fit(
                self._info, shape, config, plan.memory_limit, plan.disk_limit, plan.out, decided=plan.decided
            )
            text = f"opposed views of the full turn are joined: slices have a side of {shape.side} pixels"
            self._story.tell("offset_axis", text, side=shape.side)
        self._accumulator = None  # its memory is free before the next one is made
        self._accumulator = ACCUMULATORS[self._plan.method](shape, self.options, self._device)
        self.alignments += 1
        self._counters.center, self._counters.phase = estimate.center, "accumulating"
        self._story.tell("center", estimate.note, center=estimate.center, sigma=estimate.sigma, method=estimate.method)
        if not first:
            self._start_over(reason)

    def change(self, order: Change) -> None:
        """Reconstruct with other options from now on."""
        options = replace(self.options, filter=order.filter, side=order.side)
        if options == self.options:
            return
        self.options = options
        if self.align is not None:
            side = "" if order.side is None else f", a side of {order.side} pixels"
            self.begin(self.align, f"a viewer has asked for the filter {order.filter}{side}")

    def _start_over(self, reason: str) -> None:
        """Forget what is in the accumulator; the journal has it all. The newest version stays to be read meanwhile."""
        assert self._accumulator is not None
        self._accumulator.reset()
        self._story.tell(
            "start_over", f"accumulating {self.cursor} projections again: {reason}", projections=self.cursor
        )
        self.cursor, self._weights_used = 0, np.zeros(0)
        if self._stripes is not None:
            self._stripes.forget()
        self._restarted()

    # Projections in and out.

    def accumulate(self, batch: list[Record]) -> None:
        """Add the projections that follow the cursor."""
        if not batch:
            return
        with self._counters.stage("normalize"):
            projections = self._fields.line_integrals(batch)
            if self._stripes is not None:
                self._stripes.learn(projections)
                projections -= self._stripes.row
        weights = self._weights(batch)
        self._add(projections, _theta(batch), weights)
        self.cursor += len(batch)
        self._weights_used = np.concatenate([self._weights_used, weights])
        self._count()

    def _add(self, projections: NDArray[np.float32], theta: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        assert self._accumulator is not None
        began, filtered = time.perf_counter(), self._accumulator.filter_seconds
        self._accumulator.add(projections, theta, weight)
        filtering = self._accumulator.filter_seconds - filtered
        self._counters.add("filter", filtering)
        self._counters.add("accumulate", time.perf_counter() - began - filtering)

    def take_out(self, place: int) -> None:
        """Take a projection out of the accumulator, by adding its negative, and off the list."""
        if place < self.cursor:
            records = self._projections[place : place + 1]
            projections = self._fields.line_integrals(records)
            if self._stripes is not None:
                self._stripes.learn(-projections, count=-1)
                projections -= self._stripes.row
            self._add(projections, _theta(records), -self._weights_used[place : place + 1])
            self._weights_used = np.delete(self._weights_used, place)
            self.cursor -= 1
            self._count()
        del self._projections[place]
        self._final = None

    def _count(self) -> None:
        self._counters.in_volume = self.cursor
        now = time.monotonic()
        if now - self._counted < COUNT_SECONDS and not (self.agreed and not self.backlog):
            return
        self._counted = now
        self._counters.coverage = covered_arc(_theta(self._projections[: self.cursor]), self.turn) / self.turn

    # Weights.

    def _weights(self, batch: list[Record]) -> NDArray[np.float64]:
        """Of the projections that follow the cursor."""
        if self.agreed:
            return self._final_weights()[self.cursor : self.cursor + len(batch)]
        if self._planned is not None:
            return self._planned[[r.index for r in batch]]
        return np.full(len(batch), self.turn / (self._info.likely_projections or UNKNOWN))

    def _final_weights(self) -> NDArray[np.float64]:
        """Of all projections, in their order, once it is known which ones count."""
        if self._final is None:
            self._final = arc_weights(_theta(self._projections), self.turn)
        return self._final

    def reweight(self) -> bool:
        """Give every projection its final weight; False where they have to be accumulated again for it."""
        weights = self._final_weights()
        change = weights - self._weights_used
        changed = np.flatnonzero(np.abs(change) > 1e-9)
        if 2 * changed.size > weights.size:
            self._start_over("the angles weigh otherwise, now that all are known")
            return False
        for first in range(0, changed.size, self._config.engine.batch):
            which = changed[first : first + self._config.engine.batch]
            records = [self._projections[i] for i in which]
            projections = self._fields.line_integrals(records)
            if self._stripes is not None:
                projections -= self._stripes.row
            self._add(projections, _theta(records), change[which])
        if changed.size:
            self._story.tell("reweighted", f"{changed.size} projections beside missing ones take over their arc")
        self._weights_used = weights
        return True

    # Normalization.

    def renormalize(self, normalization: Normalization) -> None:
        """Put right what is in the accumulator: add the difference of the flats, or start over where that is not exact."""
        old, new = self._fields.normalizer, Normalizer(normalization)
        self._fields.normalizer = new
        if old is None or self._accumulator is None or not self.cursor:
            return
        if not new.differs_only_in_flats(old):
            self._start_over("the dark or the dead pixels are now known better")
            return
        if old.steady and new.steady:
            row = new.flat_difference(old, np.zeros(1))[0]
            if self._stripes is not None:
                self._stripes.learn(row[None] * np.float32(self.cursor), count=0)
            self._add_constant(row)
        else:
            self._add_difference(new, old)
        self._story.tell("flats_corrected", f"the flats' difference was added at {self.cursor} angles")

    def _add_difference(self, new: Normalizer, old: Normalizer) -> None:
        """Add the difference of flats that are interpolated over the scan."""
        for first in range(0, self.cursor, self._config.engine.batch):
            done = slice(first, min(first + self._config.engine.batch, self.cursor))
            records = self._projections[done]
            difference = new.flat_difference(old, positions(records))
            if difference.any():  # before the previous group nothing has changed
                if self._stripes is not None:
                    self._stripes.learn(difference, count=0)
                self._add(difference, _theta(records), self._weights_used[done])
            self._between()

    def _add_constant(self, row: NDArray[np.float32]) -> None:
        """Add the same row (row, column) at all angles in the accumulator."""
        assert self._accumulator is not None
        if not row.any():
            return
        step = CONSTANT_BATCHES * self._config.engine.batch
        for first in range(0, self.cursor, step):
            done = slice(first, min(first + step, self.cursor))
            with self._counters.stage("accumulate"):
                theta = _theta(self._projections[done])
                self._accumulator.add_constant(row, theta, self._weights_used[done])
            self._between()

    # Slices out.

    def covered(self) -> float:
        """Radians that the angles in the accumulator cover."""
        return covered_arc(_theta(self._projections[: self.cursor]), self.turn)

    def correct_rings(self, last: bool) -> None:
        """Put the stripes right by what the angles in the accumulator tell, if they tell more than before."""
        # The mean over few angles shows the object rather than what is the same at all of them.
        if self._stripes is not None and self.covered() >= self.turn / 2 and (last or self._stripes.stale):
            with self._counters.stage("rings"):
                change = self._stripes.refresh()
            self._add_constant(change)

    def gain(self) -> float:
        """Factor that makes up for the angles that are missing."""
        return (self.covered() or self.turn) / float(self._weights_used.sum())

    def snapshot(self, gain: float, binning: int) -> NDArray[np.float32]:
        """Slices of all rows, (slice, y, x). Nothing is accumulated meanwhile, so that all hold the same angles."""
        assert self._accumulator is not None
        shape = self._accumulator.shape
        side = max(1, shape.side // binning)
        places = shape.slices(binning)
        # One version is made while the one before is being written.
        self._snapshots += 1
        desk = self._snapshots % 2
        if desk in self._loans:
            self._loans[desk].end(superseded=True)
        memory = self._volumes[desk]
        volume: NDArray[np.float32] = memory((places[-1].stop, side, side), np.float32)
        for block, place in enumerate(places):
            with self._counters.stage("snapshot"):
                self._accumulator.snapshot_block(block, volume[place], gain, binning)
            self._between()
        volume = bin_slices(volume, binning // shape.row_binning(binning))
        self._loans[desk] = Loan(volume)
        return volume

    @property
    def loan(self) -> Loan:
        """Of the newest snapshot, which viewers may read until it is the last but one."""
        return self._loans[self._snapshots % 2]

    def end_loans(self) -> None:
        """No snapshot is lent any more: its memory may be needed for another scan."""
        for loan in self._loans.values():
            loan.end()

    def planes(self, places: Sequence[Place], gain: float, first: int) -> tuple[Plane, ...]:
        """Its part of single slices in full resolution; `first` is the slice of the volume that it begins with."""
        assert self._accumulator is not None
        with self._counters.stage("snapshot"):
            return tuple(cut(self._accumulator, places, gain, first))


def _theta(records: Sequence[Record]) -> NDArray[np.float64]:
    return np.array([record.theta for record in records], np.float64)
