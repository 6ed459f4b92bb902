"""The engine: one rank and its three threads, for one scan."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from streamrecon_kernels import Shrinking, all_compiled, complete, line_integrals, shrink_rows

from streamrecon.config import Config, ReconConfig
from streamrecon.engine.device import choose
from streamrecon.engine.emit import EmitPolicy
from streamrecon.engine.ingest import Accepted, Event, Ingest
from streamrecon.engine.journal import Journal
from streamrecon.engine.journal_layout import Layout, clear, find, place
from streamrecon.engine.lock import FolderLock
from streamrecon.engine.mask import Mask
from streamrecon.engine.output import Output, finished
from streamrecon.engine.picture import central_slices
from streamrecon.engine.plan import Plan, make_plan
from streamrecon.engine.rank import ACCUMULATORS, Rank
from streamrecon.engine.ring import Ring
from streamrecon.engine.status import Counters, Status
from streamrecon.engine.story import Listener, Story
from streamrecon.engine.writer import Job, Writer
from streamrecon.errors import JournalError, OutputError, PlanError, ScanAbortedError, StreamreconError
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.device import Device
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.messages import Update
from streamrecon.wire.outputs import Broken, Ended, Opened


@dataclass(frozen=True, slots=True)
class Result:
    """How a scan ended."""

    volume: Path | None
    """OUT/volume.h5, or None where no version was written."""
    final: bool
    """Whether the sender ended the scan and everything it sent is in the volume."""
    reason: str | None
    """Why the volume is not complete, where it is not."""
    missing: int
    """Projections that were announced and never came."""
    status: Status
    """The counters at the end."""
    stages: dict[str, float]
    """Seconds by stage: transport in the I/O thread, write in the writer thread, all others in the compute thread."""
    seconds: float
    """From the first frame to the last version."""


class Engine:
    """Receives one scan and reconstructs it while it comes.

    ```
    with Engine(config, "out") as engine:   # listens at engine.endpoint
        result = engine.wait()
    ```

    Parameters
    ----------
    config
        The options.
    out
        Output folder.
    listener
        Called, from any thread, with each event of the scan's story.
    overwrite
        Replace another scan's volume in the output folder, and give up a scan that is in its journal.
    resume
        Go on with the scan that an earlier engine left in the output folder, if it left one.

    Raises
    ------
    ConfigError
        If the mask of bad pixels cannot be read.
    EndpointError
        If the endpoint cannot be used.
    OutputError
        If the output folder cannot be written, or another engine is writing to it.
    """

    def __init__(
        self,
        config: Config,
        out: str | Path,
        listener: Listener | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self._config, self._out, self._overwrite = config, Path(out), overwrite
        self._counters = Counters()
        self._plan: Plan | None = None
        self._output: Output | None = None
        self._writer: Writer | None = None
        self._policy: EmitPolicy | None = None
        self._journal: Journal | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._stopping, self._done = threading.Event(), threading.Event()
        self._rank: Rank | None = None
        self._sender_lost = False
        self._can_replay = True
        self._keep = True
        """Whether the journal stays when the engine ends."""
        path = config.normalize.bad_pixels
        self._mask = None if path is None else Mask.read(path)
        self._bad: NDArray[np.bool_] | None = None
        self._device = choose(config.engine.device, 1 << 20)
        self._ingest = Ingest(config, self._prepare, self._counters)
        try:
            self._lock = FolderLock(self._out)
        except OutputError:
            self._ingest.stop()
            raise
        try:
            self._left = self._find_left(resume)
            self._story = Story(self._out / "scan.log.jsonl", listener)
        except OutputError:
            self._ingest.stop()
            self._lock.release()
            raise
        self._resume = resume and self._left is not None
        if self._resume and self._left is not None:
            # A scan that was begun keeps its rows.
            self._config = dataclasses.replace(config, recon=dataclasses.replace(config.recon, rows=self._left.whole))
        self.endpoint = self._ingest.endpoint
        """Where a sender is to connect."""
        self.publish_endpoint = self._ingest.publish_endpoint
        """Where viewers are to connect, or None."""
        self._compute = threading.Thread(target=self._run, name="streamrecon-compute", daemon=True)
        self._story.tell("listen", f"waiting for a sender at {self.endpoint}", endpoint=self.endpoint)

    def _find_left(self, resume: bool) -> Layout | None:
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

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def out(self) -> Path:
        """The output folder."""
        return self._out

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start the threads; a sender may come from now on.

        Raises
        ------
        StreamreconError
            If there is a scan to go on with and it does not fit the machine, or its journal cannot be read.
        """
        if not all_compiled():
            self._story.tell("compile", "compiling the kernels, once after an install: this takes most of a minute")
        _compile(self._device)
        if self._resume:
            try:
                self._go_on()
            except BaseException:
                self.close()
                raise
        self._ingest.start()
        self._compute.start()

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait for the scan's end.

        Parameters
        ----------
        timeout
            Seconds; None waits for ever.

        Returns
        -------
        result
            None if the time is over before the scan is.

        Raises
        ------
        StreamreconError
            What ended the engine, where it was not the scan's end.
        """
        # Not by joining the thread: a KeyboardInterrupt in a join leaves Python 3.11 with a thread it takes for ended.
        if not self._done.wait(timeout):
            return None
        if self._error is not None:
            raise self._error
        return self._result

    def status(self) -> Status:
        """The counters now."""
        return self._counters.look()

    def request_version(self) -> None:
        """Ask for a version of the volume now, besides those that are due."""
        if self._policy is not None:
            self._policy.request()

    def stop(self, reason: str = "the engine was stopped") -> None:
        """End the scan from this side; what has arrived becomes a last partial volume."""
        self._stopping.set()
        if self._rank is not None:
            self._rank.stop(reason)
        self._ingest.refuse(reason)

    def sender_lost(self, reason: str) -> None:
        """The sender is known to be gone: what has come, also what is still in the ring, becomes a last partial volume."""
        if not self._sender_lost:
            self._sender_lost = True
            self._ingest.abandon()
            self._ingest.refuse(reason)

    def close(self) -> None:
        """Stop if necessary, and give everything back."""
        if self._compute.ident is not None and not self._done.is_set():
            self.stop()
            self._done.wait()
        if self._result is not None and self._result.final and self._ingest.unheard:
            seconds = self._config.engine.return_timeout
            text = f"the volume is final, and the sender away: it has {seconds:g} s to come back and hear of it"
            self._story.tell("unheard", text)
        self._ingest.stop()
        self._put_away()
        self._story.close()
        self._lock.release()

    # Called by the I/O thread.

    def _prepare(self, opened: Opened) -> Ring:
        """Plan before anything is allocated."""
        info, rows = opened.info, opened.rows
        if self._plan is not None:
            raise ScanAbortedError("this engine has had its scan")
        frame = (rows[1] - rows[0]) * info.geometry.columns * info.dtype.itemsize
        if frame > self._config.engine.max_frame_bytes:
            limit = self._config.engine.max_frame_bytes
            raise PlanError(f"frames have {frame} bytes, at most {limit} are accepted: raise engine.max_frame_bytes")
        if self._mask is not None:
            self._bad = self._mask.rows(info.geometry, rows)
        plan = make_plan(info, rows, self._config, self._out)
        emit = self._config.emit
        self._output = Output(self._out, info.uid, emit.keep, emit.keep_seconds, self._overwrite, self._resume)
        for line in plan.lines():
            self._story.tell("plan", line)
        folder = self._out / "journal"
        if not self._resume:
            clear(folder)
        self._journal = Journal(
            self._left.files[0].path if self._resume and self._left is not None else place(folder, 1, rows),
            info,
            rows,
            self._config.engine.sync_seconds,
            self._ingest.durable,
            opened.can_replay,
            opened.epoch,
            self._resume,
        )
        self._plan, self._can_replay = plan, opened.can_replay
        return Ring(plan.slots, (rows[1] - rows[0], info.geometry.columns), info.dtype)

    def _go_on(self) -> None:
        """With the scan that an earlier engine left."""
        assert self._left is not None
        left = self._left
        ring = self._prepare(Opened(left.info, left.whole, left.can_replay))
        assert self._journal is not None
        had = self._journal.inventory
        text = f"going on with scan {left.info.uid}: {had.counts[FrameKind.PROJECTION]} projections are in the journal"
        if self._journal.damaged:
            text += f"; {self._journal.damaged} frames in it are damaged or were not written to their end"
        self._story.tell("resume", text, frames=len(had), damaged=self._journal.damaged)
        self._counters.projections = had.counts[FrameKind.PROJECTION]
        self._counters.frames = len(had)
        self._counters.version = self._output.newest if self._output else 0
        self._ingest.resume(left.info, left.whole, ring, had, self._journal.ended)

    # The compute thread.

    def _run(self) -> None:
        try:
            self._result = self._reconstruct()
        except BaseException as error:
            self._error = error
            known = isinstance(error, StreamreconError)
            self._story.tell("failed", str(error) if known else f"{type(error).__name__}: {error}")
            if self._can_replay or (known and not isinstance(error, JournalError)):
                self._ingest.refuse(f"the engine failed: {error}")
            # Else without a word: a sender that cannot send the scan again keeps it for the engine that goes on.
        finally:
            self._counters.phase = "ended"
            try:
                self._give_back()
            finally:
                self._done.set()

    def _give_back(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _put_away(self) -> None:
        """The journal, once the sender has heard that the volume is final: until then it might be asked for again."""
        if self._journal is None:
            return
        ended, self._journal = self._journal, None
        ended.close(self._keep)
        if not self._keep:
            clear(self._out / "journal")
        else:
            self._story.tell("kept", f"the frames are kept as they came in {ended.path}: --resume goes on with them")

    def _reconstruct(self) -> Result:
        event: Event = self._ingest.inbox.get()
        if isinstance(event, Broken):
            raise self._ingest.refusal or ScanAbortedError(event.reason)
        assert isinstance(event, Accepted)
        assert self._plan
        assert self._output
        assert self._journal
        info = event.info
        self._counters.uid, self._counters.phase = info.uid, "receiving"
        expected = info.counts.get(FrameKind.PROJECTION)
        self._counters.expected = expected
        self._story.tell("scan", f"scan {info.uid}: {_describe(info)}", uid=info.uid, metadata=dict(info.metadata))
        self._writer = Writer(self._output, self._written, self._not_written)
        self._writer.start()
        self._policy = EmitPolicy(self._plan.every, self._config.emit.interval)
        inbox: queue.SimpleQueue[Event] = self._ingest.inbox
        self._rank = rank = Rank(
            event, self._plan, self._config, inbox, self._ingest.release, self._journal, self._writer, self._policy,
            self._counters, self._story, self._bad,
        )  # fmt: skip
        end = rank.run()
        self._writer.close()
        if self._writer.error is not None:
            raise self._writer.error
        missing = sum(b - a for a, b in end.missing) if isinstance(end, Ended) else 0
        if isinstance(end, Broken) and expected is not None:
            missing = expected - self._counters.projections
        if isinstance(end, Ended) and not self._counters.version:
            end = Broken("the scan had no projections")
            self._ingest.refuse(end.reason)
        complete = isinstance(end, Ended)
        # What can be sent again, or was given up, need not take the disk's space.
        self._keep = isinstance(end, Broken) and not end.given_up and not self._can_replay
        if complete:
            self._ingest.finish()
        reason = end.reason if isinstance(end, Broken) else None
        now = time.monotonic()
        status = self._counters.look()
        version = self._counters.version
        text = (
            f"version {version} is {'final' if complete else 'the last, and partial'}: {status.in_volume} projections"
        )
        if not version:
            text = "nothing had arrived to reconstruct"
        self._story.tell("done", text, version=version, final=complete, in_volume=status.in_volume, missing=missing)
        return Result(
            volume=self._out / "volume.h5" if version else None,
            final=complete and bool(version),
            reason=reason,
            missing=missing,
            status=status,
            stages=dict(self._counters.stages),
            seconds=now - (self._counters.began or now),
        )

    # Called by the writer thread.

    def _not_written(self, job: Job, error: Exception) -> None:
        version = job.update.version
        self._story.tell("not_written", f"version {version} could not be written: {error}", version=version)

    def _written(self, job: Job, seconds: float) -> None:
        update, now = job.update, time.monotonic()
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
        if self.publish_endpoint is None:
            return
        payload = b"".join(np.ascontiguousarray(s, "<f4").tobytes() for s in central_slices(update.volume))
        self._ingest.publish(
            Update(
                version=update.version,
                uid=self._counters.uid,
                projections=len(update.theta),
                coverage=update.coverage,
                final=update.final,
                binning=update.binning,
                shape=update.volume.shape,
            ),
            payload,
        )


def _describe(info: ScanInfo) -> str:
    counts = ", ".join(f"{'?' if n is None else n} {kind.name.lower()}s" for kind, n in info.counts.items())
    return f"{counts} of {info.geometry.rows} x {info.geometry.columns} {info.dtype}"


def _compile(device: Device) -> None:
    """Compile the kernels, or load them from their cache, before a sender is let in."""
    options = ReconConfig()
    # Of rows that fill vectors and of those that do not.
    for rows, columns in ((2, 8), (16, 24)):
        frame = np.ones((1, rows, columns), np.float32)
        line_integrals(frame.astype(np.uint16), frame[0], frame, 1.0, frame)
        for accumulator in ACCUMULATORS.values():
            tiny = accumulator(Shape.of(Geometry(rows, columns), options, (columns - 1) / 2), options, device)
            tiny.add(frame, np.zeros(1), np.ones(1))
            for binning in (1, 2):
                snapshot(tiny, 1.0, binning)
    if device.name == "cpu":
        # Short rows have one band.
        row, matrix = np.ones((1, 8, 1), np.complex64), np.ones((2, 8), np.float32)
        shrink_rows(row, Shrinking.of(matrix), row[:, :2].copy())
    complete()
