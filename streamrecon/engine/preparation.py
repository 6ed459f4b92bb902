"""Before the first frame: what an earlier engine left, the plan, the output folder and the journal of a rank."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import Config
from streamrecon.engine.decompose import decompose
from streamrecon.engine.ingest import Ingest
from streamrecon.engine.journal import Journal
from streamrecon.engine.journal_layout import Layout, assemble, begin_next, clear, find, place, settle
from streamrecon.engine.mask import Mask
from streamrecon.engine.output import Output, finished
from streamrecon.engine.plan import Plan, Share, make_plan
from streamrecon.engine.ring import Ring
from streamrecon.engine.status import Counters
from streamrecon.engine.story import Story
from streamrecon.engine.world import Watch, World
from streamrecon.errors import OutputError, PlanError, ScanAbortedError
from streamrecon.scan import FrameKind, ScanInfo
from streamrecon.wire.messages import Range
from streamrecon.wire.outputs import Opened


class Preparation:
    """What one rank makes for a scan when it is announced, or gone on with.

    Parameters
    ----------
    config
        The options.
    out
        Output folder.
    overwrite
        As of `Engine`.
    world, share
        The ranks that share the scan, and what part of the machine is this one's.

    Raises
    ------
    ConfigError
        If the mask of bad pixels cannot be read.
    """

    story: Story
    ingest: Ingest

    def __init__(self, config: Config, out: Path, overwrite: bool, world: World, share: Share) -> None:
        self.config, self._out, self._overwrite = config, out, overwrite
        self._world, self._share = world, share
        path = config.normalize.bad_pixels
        self._mask = None if path is None else Mask.read(path)
        self.bad: NDArray[np.bool_] | None = None
        """(row, column) of the slab, True where a pixel is bad; None: the flats tell."""
        self.plan: Plan | None = None
        self.output: Output | None = None
        self.journal: Journal | None = None
        self.left: Layout | None = None
        """The scan that is gone on with."""
        self.can_replay = True
        """Whether the sender can send the scan again."""

    def find_left(self, resume: bool) -> Layout | None:
        """The scan that an earlier engine left in the output folder; refuse to give one up that cannot be sent again."""
        try:
            left = find(self._out / "journal")
        except OutputError:
            if self._overwrite:
                return None
            raise
        if left is None or resume or self._overwrite or left.can_replay or finished(self._out, left.info.uid):
            return left
        raise OutputError(
            f"{left.folder} holds what came of scan {left.info.uid}, which was not finished and cannot be sent again: say "
            "--resume to go on with it, --overwrite to give it up, or choose another --out"
        )

    def resume(self, left: Layout | None) -> Range:
        """Go on with the scan that an earlier engine left, None where rank 0 has found it and this rank shall; its rows."""
        self.left = left or find(self._out / "journal")
        assert self.left is not None
        # A scan that was begun keeps its rows.
        rows = dataclasses.replace(self.config.recon, rows=self.left.whole)
        self.config = dataclasses.replace(self.config, recon=rows)
        return self.left.whole

    def slabs(self, info: ScanInfo) -> tuple[Range, ...]:
        """Detector rows of each rank."""
        return decompose(self.whole(info), self._world.size, self.config.emit.preview)

    def whole(self, info: ScanInfo) -> Range:
        """Detector rows of all of them."""
        return self.config.recon.rows or (0, info.geometry.rows)

    def prepare(self, opened: Opened, layout: int = 1, watch: Watch = lambda: None) -> Ring:
        """Plan before anything is allocated, then make what a scan needs; called by the I/O thread.

        Parameters
        ----------
        opened
            The scan, and the rows of this rank.
        layout
            Number of the journals' layout.
        watch
            Called between two entries of a journal that is there.

        Raises
        ------
        StreamreconError
            If the scan is refused.
        """
        info, rows = opened.info, opened.rows
        if self.plan is not None:
            raise ScanAbortedError("this engine has had its scan")
        frame = (rows[1] - rows[0]) * info.geometry.columns * info.dtype.itemsize
        if frame > self.config.engine.max_frame_bytes:
            limit = self.config.engine.max_frame_bytes
            raise PlanError(f"frames have {frame} bytes, at most {limit} are accepted: raise engine.max_frame_bytes")
        if self._mask is not None:
            self.bad = self._mask.rows(info.geometry, rows)
        plan = self._planned(info, rows)
        emit, rank, folder = self.config.emit, self._world.rank, self._out / "journal"
        resume = self.left is not None
        self.output = Output(
            self._out, info.uid, emit.keep, emit.keep_seconds, self._overwrite, resume=resume, rank=rank
        )
        for line in plan.lines():
            self.story.tell("plan", line)
        if rank == 0 and not resume:
            clear(folder)
        path = place(folder, layout, rows)
        self.journal = Journal(
            path,
            info,
            rows,
            self.config.engine.sync_seconds,
            self.ingest.durable,
            opened.can_replay,
            opened.epoch,
            resume=resume and path.exists(),
            whole=self.whole(info),
            watch=watch,
        )
        self.plan, self.can_replay = plan, opened.can_replay
        # Other ranks have waited for it: the output folder is theirs from now on, too.
        self.ingest.decide(plan.decided)
        return Ring(plan.slots, (rows[1] - rows[0], info.geometry.columns), info.dtype)

    def _planned(self, info: ScanInfo, rows: Range) -> Plan:
        """The plan of this rank; what all have to do alike follows from that of the largest slab."""
        decided = self.ingest.decided
        if decided is None and self._world.size > 1:
            decided = make_plan(info, self.slabs(info)[0], self.config, self._out, share=self._share).decided
        return make_plan(info, rows, self.config, self._out, share=self._share, decided=decided)

    def go_on(self, counters: Counters, watch: Watch) -> None:
        """With the scan that an earlier engine left, by as many ranks or by others; all of them call it.

        Parameters
        ----------
        counters
            What was there already is counted.
        watch
            Called between two pieces of work, and while another rank is waited for; raises where it is in vain.

        Raises
        ------
        StreamreconError
            If it does not fit the machine, or a journal cannot be read.
        """
        assert self.left is not None
        left, folder, rank = self.left, self._out / "journal", self._world.rank
        slabs, layout = self.slabs(left.info), left.number
        rows = slabs[rank]
        if not left.fits(slabs):
            layout = self._world.share(begin_next(left) if rank == 0 else 0, math.inf, watch)[0]
            self.story.tell("assemble", f"the journals of {len(left.files)} ranks become those of {self._world.size}")
            if rows[0] < rows[1]:
                assemble(left, rows, place(folder, layout, rows), watch)
            self._world.share(None, math.inf, watch)
            if rank == 0:
                settle(folder, layout)
        if rank == 0:
            ring = self.prepare(Opened(left.info, rows, left.can_replay), layout, watch)
        self.ingest.decide(self._world.share(self.ingest.decided, math.inf, watch)[0])
        if rows[0] == rows[1]:
            return
        if rank:
            ring = self.prepare(Opened(left.info, rows, left.can_replay), layout, watch)
        assert self.journal is not None
        had = self.journal.inventory
        text = f"going on with scan {left.info.uid}: {had.counts[FrameKind.PROJECTION]} projections are in the journal"
        if self.journal.damaged:
            text += f"; {self.journal.damaged} frames in it are damaged or were not written to their end"
        self.story.tell("resume", text, frames=len(had), damaged=self.journal.damaged)
        counters.projections = had.counts[FrameKind.PROJECTION]
        counters.frames = len(had)
        counters.version = self.output.newest if self.output else 0
        self.ingest.resume(left.info, rows, ring, had, self.journal.ended)

    def put_away(self, keep: bool) -> None:
        """The journal, once the sender has heard that the volume is final: until then it might be asked for again."""
        if self.journal is None:
            return
        ended, self.journal = self.journal, None
        ended.close(keep)
        if keep:
            self.story.tell("kept", f"the frames are kept as they came in {ended.path}: --resume goes on with them")
        elif self._world.rank == 0:
            clear(self._out / "journal")
