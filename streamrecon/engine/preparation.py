"""Before the first frame: what an earlier engine left, the plan, the output folder and the journal of a rank."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import Config
from streamrecon.engine.decompose import decompose
from streamrecon.engine.ingest import Ingest
from streamrecon.engine.journal import AtWork, Journal
from streamrecon.engine.journal_layout import Layout, assemble, begin_next, clear, find, place, settle
from streamrecon.engine.kept_requests import KeptRequests
from streamrecon.engine.mask import Mask
from streamrecon.engine.multiscale import need_zarr
from streamrecon.engine.output import Output, finished
from streamrecon.engine.plan import Plan, Share, make_plan
from streamrecon.engine.ring import Ring
from streamrecon.engine.status import Counters, angles_of
from streamrecon.engine.story import Story, log_name
from streamrecon.engine.world import Watch, World
from streamrecon.errors import OutputError, PlanError, ScanAbortedError
from streamrecon.lock import FolderLock
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
    apart
        Whether a scan gets a folder of its own in `out`, by its uid, once that is announced.

    Raises
    ------
    ConfigError
        If the mask of bad pixels cannot be read, or what writes OME-Zarr is not installed.
    """

    story: Story
    ingest: Ingest
    at_work: AtWork

    def __init__(
        self, config: Config, out: Path, overwrite: bool, world: World, share: Share, apart: bool = False
    ) -> None:
        self.config, self._overwrite = config, overwrite
        self.apart = apart
        """Whether the scan's folder is known only with the scan."""
        if config.emit.zarr:
            need_zarr()
        self._world, self._share = world, share
        self.out = out
        """The output folder: that of the scan, once it is known."""
        self.scan: ScanInfo | None = None
        """What was announced, or is gone on with; also where it is refused then."""
        self._lock: FolderLock | None = None
        """Of the scan's own folder."""
        path = config.normalize.bad_pixels
        self._mask = None if path is None else Mask.read(path)
        self.bad: NDArray[np.bool_] | None = None
        """(row, column) of the slab, True where a pixel is bad; None: the flats tell."""
        self.plan: Plan | None = None
        self.output: Output | None = None
        self.journal: Journal | None = None
        self.left: Layout | None = None
        """The scan that is gone on with."""
        self.over = False
        """Whether there was a scan to go on with, and its final volume is there."""
        self.can_replay = True
        """Whether the sender can send the scan again."""

    def find_left(self, resume: bool) -> Layout | None:
        """The scan that an earlier engine left in the output folder; refuse to give one up that cannot be sent again."""
        if resume and finished(self.out):
            # It was ended when only the journals were left to be deleted, of which some may be gone.
            self.over = True
            clear(self.out / "journal")
            return None
        try:
            left = find(self.out / "journal")
        except OutputError:
            if self._overwrite:
                return None
            raise
        if left is None or resume or self._overwrite or left.can_replay or finished(self.out, left.info.uid):
            return left
        raise OutputError(
            f"{left.folder} holds what came of scan {left.info.uid}, which was not finished and cannot be sent again: "
            + (
                f"recon --once --resume --out {self.out} goes on with it; move {self.out} away to give it up"
                if self.apart
                else "say --resume to go on with it, --overwrite to give it up, or choose another --out"
            )
        )

    def _move_in(self, info: ScanInfo, can_replay: bool) -> None:
        """Give the scan a folder of its own; refuse it where that holds what could not be had again."""
        self.out = self.out / info.uid
        self._lock = FolderLock(self.out, "engine", "--out", self._world.rank)
        self.story.go_on_in(self.out / log_name(self._world.rank))
        if self._world.rank:
            return  # rank 0 has looked
        self.find_left(resume=False)
        if not can_replay and not self._overwrite and finished(self.out, info.uid):
            # Such as one that was away when the volume became final. What it still has is not the whole scan.
            raise OutputError(
                f"scan {info.uid} is finished, its volume is in {self.out}; a sender that cannot send all of it again does not "
                "replace it: another scan needs another uid, or say --overwrite"
            )

    def resume(self, left: Layout | None) -> Range:
        """Go on with the scan that an earlier engine left, None where rank 0 has found it and this rank shall; its rows."""
        self.left = left or find(self.out / "journal")
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
        self.scan = info
        if self.apart and self.left is None:
            self._move_in(info, opened.can_replay)
        frame = (rows[1] - rows[0]) * info.geometry.columns * info.dtype.itemsize
        if frame > self.config.engine.max_frame_bytes:
            limit = self.config.engine.max_frame_bytes
            raise PlanError(f"frames have {frame} bytes, at most {limit} are accepted: raise engine.max_frame_bytes")
        if self._mask is not None:
            self.bad = self._mask.rows(info.geometry, rows)
        plan = self._planned(info, rows)
        emit, rank, folder = self.config.emit, self._world.rank, self.out / "journal"
        resume = self.left is not None
        self.output = Output(
            self.out, info.uid, emit.keep, emit.keep_seconds, self._overwrite, resume=resume, rank=rank
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
            at_work=self.at_work,
        )
        self.plan, self.can_replay = plan, opened.can_replay
        # Other ranks have waited for it: the output folder is theirs from now on, too.
        self.ingest.decide(plan.decided)
        return Ring(plan.slots, (rows[1] - rows[0], info.geometry.columns), info.dtype)

    def _planned(self, info: ScanInfo, rows: Range) -> Plan:
        """The plan of this rank; what all have to do alike follows from that of the largest slab."""
        decided = self.ingest.decided
        if decided is None and self._world.size > 1:
            decided = make_plan(
                info, self.slabs(info)[0], self.config, self.out, share=self._share, begun=self._begun()
            ).decided
        return make_plan(info, rows, self.config, self.out, share=self._share, decided=decided, begun=self._begun())

    def _begun(self) -> int | None:
        """Bytes that a scan which is gone on with has on the disk; None for a new one."""
        if self.left is None:
            return None
        places = [*(self.out / "journal").rglob("*"), *(self.out / "partials").rglob("*")]
        sizes = 0
        for found in places:
            with contextlib.suppress(OSError):  # another rank tidies up
                sizes += found.stat().st_size
        return sizes

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
        left, folder, rank = self.left, self.out / "journal", self._world.rank
        slabs, layout = self.slabs(left.info), left.number
        rows = slabs[rank]
        if not left.fits(slabs):
            layout = self._world.share(begin_next(left) if rank == 0 else 0, math.inf, watch)[0]
            self.story.tell("assemble", f"the journals of {len(left.files)} ranks become those of {self._world.size}")
            if rows[0] < rows[1]:
                done = assemble(left, rows, place(folder, layout, rows), watch)
                if done.left_out:
                    text = f"{done.left_out} frames are not sound in all of them, and are asked for again"
                    self.story.tell("left_out", text, left_out=done.left_out)
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
        counters.angles += np.array(angles_of(np.array([each.theta for each in self.journal.projections])))
        counters.frames = len(had)
        counters.version = self.output.newest if self.output else 0
        self.ingest.resume(left.info, rows, ring, had, self.journal.ended)

    def settle(self, watch: Watch) -> None:
        """See `Journal.settle`."""
        if self.journal is not None:
            self.journal.settle(watch)

    def put_away(self, keep: bool) -> None:
        """The journal, once the sender has heard that the volume is final: until then it might be asked for again."""
        if self.journal is not None:
            ended, self.journal = self.journal, None
            ended.close(keep)
            if keep:
                how = f"recon --once --resume --out {self.out}"
                self.story.tell("kept", f"the frames are kept as they came in {ended.path}: {how} goes on with them")
            elif self._world.rank == 0:
                clear(self.out / "journal")
                KeptRequests(self.out, ended.info.uid).forget()
        if self._lock is not None:
            self._lock.release()
