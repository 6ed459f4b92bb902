"""The engine: one rank and its three threads, for one scan; with others of its job, for one slab of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import queue
import threading
import time
from pathlib import Path
from types import TracebackType

from streamrecon_kernels import all_compiled

from streamrecon.config import Config, ReconConfig
from streamrecon.engine.council import Council, Following, Leading
from streamrecon.engine.device import choose
from streamrecon.engine.emit import EmitPolicy, LeadingMarks, Marks, Versions
from streamrecon.engine.hands import Hands
from streamrecon.engine.ingest import BROKE_OFF, Accepted, Event, Ingest
from streamrecon.engine.journal_layout import Layout
from streamrecon.engine.kept_requests import KeptRequests
from streamrecon.engine.lead import Lead
from streamrecon.engine.orders import Done, Failed, Finished, NotWritten, Whole
from streamrecon.engine.plan import Plan, Share, fit
from streamrecon.engine.preparation import Preparation
from streamrecon.engine.previous import Previous
from streamrecon.engine.publishing import Publishing
from streamrecon.engine.rank import Rank
from streamrecon.engine.result import Result
from streamrecon.engine.series import Series
from streamrecon.engine.status import Counters, Status
from streamrecon.engine.story import Listener, Story, log_name
from streamrecon.engine.token import remove_token, write_token
from streamrecon.engine.warmup import compile_kernels
from streamrecon.engine.world import Alone, World
from streamrecon.engine.writer import Writer
from streamrecon.errors import JournalError, OutputError, RankError, ScanAbortedError, StreamreconError
from streamrecon.lock import FolderLock
from streamrecon.recon.accumulate import Shape
from streamrecon.scan import Geometry, ScanInfo
from streamrecon.transport import ControlHub, ControlLink
from streamrecon.wire.outputs import Broken
from streamrecon.wire.ranges import Ranges

WHOLE = (1 << 53) - 1
"""Of a number that a page reads: there all are floats of 64 bits."""


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
    world
        The ranks that share the scan; None: this process alone. All of them make an engine with the same options.
    series
        What stays from the scans before this one to those after it; None: there are none.
    apart
        Whether the scan gets a folder of its own in the output folder, by its uid.

    Raises
    ------
    ConfigError
        If the mask of bad pixels cannot be read, or what writes OME-Zarr is not installed.
    EndpointError
        If the endpoint cannot be used.
    OutputError
        If the output folder cannot be written, or another engine is writing to it.
    RankError
        If another rank is missing.
    """

    def __init__(
        self,
        config: Config,
        out: str | Path,
        listener: Listener | None = None,
        overwrite: bool = False,
        resume: bool = False,
        world: World | None = None,
        series: Series | None = None,
        apart: bool = False,
    ) -> None:
        self._world = world or Alone()
        self._number = rank = self._world.rank
        self._counters = Counters(ranks=self._world.size, beats=None)
        self._publishing: Publishing | None = None
        self._requests: EmitPolicy | None = None
        self._rank: Rank | None = None
        self._hands: Hands | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._stopping, self._ready, self._done = threading.Event(), threading.Event(), threading.Event()
        self._sender_lost = self._hangs = False
        self._keep = True
        """Whether the journal stays when the engine ends."""
        out = Path(out)
        with contextlib.ExitStack() as undo:
            if series is None:
                series = Series(config, self._world)
                undo.callback(series.close)
            self._series, doors = series, series.doors
            self._device = choose(config.engine.device, 1 << 20, series.index)
            share = Share(series.here, self._world.size)
            self._preparation = Preparation(config, out, overwrite, self._world, share, apart)
            self._ingest = Ingest(config, self._preparation.prepare, self._counters, doors, self._failed, rank)
            self._preparation.ingest, self._preparation.at_work = self._ingest, self._counters.at_work
            self._ingest.alarmed = self._alarmed
            undo.callback(self._ingest.stop)
            # A folder of many scans is held by whoever lets them have theirs in it.
            self._lock = None if apart else FolderLock(out, "engine", "--out", rank)
            if self._lock is not None:
                undo.callback(self._lock.release)
            self._meet(resume)
            self._story = self._preparation.story = Story(out / log_name(rank), listener)
            gallery = series.gallery
            self.control_token = None if gallery is None else gallery.token
            """What lets viewers change the reconstruction; also in OUT/control.token."""
            if self.control_token is not None and not series.stay:
                write_token(out, self.control_token)
            undo.pop_all()
        self.endpoint = doors.endpoint
        """Where a sender is to connect."""
        self.publish_endpoint = None if gallery is None else gallery.endpoint
        """Where viewers are to connect, or None."""
        if gallery is not None:
            gallery.look = self._counters.progress
        self._compute = threading.Thread(target=self._run, name="streamrecon-compute", daemon=True)
        self._story.tell("listen", f"waiting for a sender at {self.endpoint}", endpoint=self.endpoint)

    def _meet(self, resume: bool) -> None:
        """Let all ranks know where the others are, and whether there is a scan to go on with."""
        hub: ControlHub | None = None
        hosts = self._series.hosts
        left: Layout | None = None
        if self._number == 0:
            left = None if self._preparation.apart else self._preparation.find_left(resume)
            if len(hosts) > 1:
                hub = ControlHub(hosts[0] if len(set(hosts)) > 1 else None)
        address = None if hub is None else hub.address
        told = self._world.share(
            (
                self._series.advertised,
                address,
                resume and left is not None,
                self._preparation.over,
                self._series.gallery is not None,
            )
        )
        control = ControlLink(self._number, told[0][1]) if self._number else hub
        self._ingest.connect([endpoint for endpoint, *_ in told], control)
        self._viewers = told[0][4]
        """Whether there may be viewers."""
        if told[0][2]:
            self._ingest.keep_rows(self._preparation.resume(left))
        if told[0][3]:
            self._result = Result(self.out / "volume.h5", True, None, 0, self._counters.look(), {}, 0.0)
            self._done.set()

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def out(self) -> Path:
        """The output folder; one that the scan has of its own once it was announced."""
        return self._preparation.out

    @property
    def scan(self) -> ScanInfo | None:
        """What was announced, or is gone on with; None while a sender is waited for."""
        return self._preparation.scan

    @property
    def failure(self) -> BaseException | None:
        """A bug that has ended the scan rather than the scan's own end."""
        return self._ingest.failure

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
        if self._done.is_set():
            self._story.tell("done", "the scan is finished, and its final volume is there")
            return
        if not self._series.compiled and not all_compiled():
            self._story.tell("compile", "compiling the kernels, once after an install: this takes most of a minute")
        self._ingest.start()  # ranks that hang are noticed from here on
        self._compute.start()
        try:
            self._ready.wait()
            self._raise()
        except BaseException:
            self.close()
            raise

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _raise_if_it_hangs(self) -> None:
        if self._hangs:
            self._raise()

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
        self._raise()
        return self._result

    def status(self) -> Status:
        """The counters now."""
        return self._counters.look()

    def request_version(self) -> None:
        """Ask for a version of the volume now, besides those that are due; of rank 0."""
        if self._requests is not None:
            self._requests.request()

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
        if self._hangs:
            return  # what hangs may still write; it ends with the process
        if self._compute.ident is not None and not self._done.is_set():
            self.stop()
            self._done.wait()
        if self._result is not None and self._result.final and self._ingest.unheard:
            seconds = self._preparation.config.engine.return_timeout
            text = f"the volume is final, and the sender away: it has {seconds:g} s to come back and hear of it"
            self._story.tell("unheard", text)
        self._preparation.settle(self._raise_if_it_hangs)
        self._ingest.stop()
        self._preparation.put_away(self._keep)
        self._story.close()
        if not self._series.stay:
            self._series.close()
            if self.control_token is not None:
                remove_token(self.out)
        if self._lock is not None:
            self._lock.release()
        # What takes memory goes with the scan, also where somebody still looks at the counters.
        self._rank = self._publishing = self._hands = None

    # Called by the I/O thread.

    def _alarmed(self, rank: int, alarm: str) -> None:
        """Another rank needs people."""
        self._story.tell("alarm", f"rank {rank}: {alarm}", rank=rank)

    def _failed(self, why: str) -> None:
        """This job cannot go on: a rank hangs, or is gone. What is durable is gone on with by another one."""
        self._hangs = True
        self._error = RankError(f"{why}: recon --resume goes on with the scan")
        self._story.tell("failed", str(self._error))
        self._ready.set()
        self._done.set()

    # The compute thread.

    def _watch(self) -> None:
        """Between two pieces of work that are no part of a scan."""
        self._raise()
        self._counters.beat()

    def _get_ready(self) -> bool:
        """Compile, and read what an earlier engine left; whether senders may come."""

        def watch() -> None:
            self._watch()
            if self._stopping.is_set():
                raise ScanAbortedError("the engine was stopped before it was ready")

        try:
            watch()
            if not self._series.compiled:
                waits, self._counters.phase = self._counters.phase, "getting ready: compiling the kernels"
                compile_kernels(self._device, watch)
                self._series.compiled, self._counters.phase = True, waits
            if self._preparation.left is not None:
                self._preparation.go_on(self._counters, watch)
            self._world.share(None, math.inf, watch)
        except BaseException as error:
            self._error = self._error or error
            return False
        finally:
            self._ready.set()
        self._ingest.let_in()
        return True

    def _run(self) -> None:
        try:
            if self._get_ready():
                self._result = self._reconstruct()
        except BaseException as error:
            if not self._hangs:
                self._give_up(error)
        finally:
            self._counters.phase = "ended"
            self._counters.beats = None
            try:
                if self._publishing is not None:
                    self._publishing.close()
            finally:
                self._done.set()

    def _give_up(self, error: BaseException) -> None:
        self._error = error
        known = isinstance(error, StreamreconError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        self._story.tell("failed", text)
        again = not known or isinstance(error, JournalError | RankError)
        why = f"the engine failed: {text}" + ("; another one is waited for" if again else "")
        if again:
            self._ingest.dismiss(why)
        else:
            self._ingest.refuse(why)
        if self._number:
            self._ingest.report(Failed(type(error).__name__, text))
        else:
            self._ingest.tell(Done(False, True, why, again))

    def _reconstruct(self) -> Result:
        event = self._accepted()
        if isinstance(event, Done):
            return Result(None, event.final, None, 0, self._counters.look(), {}, 0.0)
        info, made = event.info, self._preparation
        assert made.journal
        self._counters.reconstruction = made.journal.reconstruction & WHOLE
        self._counters.uid, self._counters.phase = info.uid, "receiving"
        self._counters.expected = info.likely_projections
        self._story.tell("scan", f"scan {info.uid}: {_describe(info)}", uid=info.uid, metadata=dict(info.metadata))
        assert made.plan
        assert made.output
        self._counters.title = info.label
        gallery = self._series.gallery
        publishing = self._publishing = Publishing(
            made.output, self._number, made.slabs(info), self._ingest, self.request_version, self._counters, self._story,
            self._viewers, gallery.show if gallery is not None else lambda exhibit: None, made.config.emit.zarr,
        )  # fmt: skip
        publishing.start()
        policy, council = self._gather(event, made.plan, publishing)
        batch = made.config.engine.batch * (event.rows[1] - event.rows[0]) * info.geometry.columns * 4
        inbox: queue.SimpleQueue[Event] = self._ingest.inbox
        self._rank = rank = Rank(
            event, made.whole(info), made.plan, made.config, inbox, self._ingest.release, made.journal,
            publishing.writer, policy, council, self._counters, self._story,
            choose(made.config.engine.device, batch, self._series.index), made.bad, self._previous(event), self._viewers,
        )  # fmt: skip
        if self._stopping.is_set():
            rank.stop("the engine was stopped")
        try:
            end = rank.run()
        finally:
            self._let_go()
        if end.ended:  # all ranks know of the same scans
            self._series.previous = rank.taught()
        if self._number:
            return self._follow_to_the_end(end, rank, publishing, council)
        return self._conclude(end, publishing, council)

    def _let_go(self) -> None:
        """Viewers' requests come too late from now on."""
        if self._hands is not None and self._series.gallery is not None:
            self._series.gallery.control = self._series.gallery.attend = None
            self._hands.close()

    def _previous(self, scan: Accepted) -> Previous | None:
        """What a scan before this one has taught, where it was of the same detector."""
        previous = self._series.previous
        wanted = previous is not None and self._preparation.config.recon.previous
        return previous if wanted and previous is not None and previous.fits(scan.info, scan.rows) else None

    def _accepted(self) -> Accepted | Done:
        """The scan; or the end of the job, where it has no rows for this rank."""
        while True:
            self._counters.beat()
            with contextlib.suppress(queue.Empty):
                event: Event = self._ingest.inbox.get(timeout=0.1)
                if isinstance(event, Accepted):
                    return event
                assert isinstance(event, Broken)
                raise self._ingest.refusal or ScanAbortedError(event.reason)
            with contextlib.suppress(queue.Empty):
                order = self._ingest.orders.get_nowait()
                if isinstance(order, Done):
                    return order

    def _gather(self, scan: Accepted, plan: Plan, publishing: Publishing) -> tuple[Versions, Council]:
        """When versions are due, and who decides what all ranks do alike."""
        if self._number:
            report = self._ingest.report
            return Marks(lambda cut, why: report(NotWritten(cut, why))), Following(report, self._ingest.orders)
        config, assembly, members = self._preparation.config, publishing.assembly, publishing.members
        self._ingest.part = assembly.hear
        self._requests = EmitPolicy(plan.every, config.emit.interval)
        policy: Versions = self._requests
        if len(members) > 1:
            policy = LeadingMarks(self._requests, self._want_cut, assembly.over, assembly.give_up)
        previous = self._previous(scan)
        guess = None if previous is None else previous.center
        lead = Lead(scan.info, self._preparation.whole(scan.info), members, config.recon, guess)
        return policy, Leading(lead, self._ingest.reports, self._ingest.tell, self._take_hands(scan, plan, lead))

    def _want_cut(self, number: int, whole: bool) -> None:
        if whole:
            self._ingest.tell(Whole(number))
        self._ingest.want_cut(number)

    def _take_hands(self, scan: Accepted, plan: Plan, lead: Lead) -> Hands:
        """Let viewers ask for changes."""
        assert self._requests is not None
        config, geometry = self._preparation.config, scan.info.geometry

        def fits(options: ReconConfig) -> None:
            used = lead.alignment.used
            center = (geometry.columns - 1) / 2 if used is None else used.estimate.center
            slab = Geometry(scan.rows[1] - scan.rows[0], geometry.columns, geometry.pixel_size)
            shape = Shape.of(slab, options, center, used is not None and used.offset_axis)
            changed = dataclasses.replace(config, recon=options)
            fit(scan.info, shape, changed, plan.memory_limit, plan.disk_limit, plan.out, decided=plan.decided)

        kept = KeptRequests(self.out, scan.info.uid)
        hands = self._hands = Hands(
            lead, self._requests, config.recon, fits, plan.whole_fits, self._preparation.whole(scan.info), geometry.columns,
            self._ingest.advise, kept, self._counters, self._story,
        )  # fmt: skip
        if self._preparation.left is None:
            kept.forget()  # of the same scan, begun anew
        for control in kept.load():
            hands.ask(control, lambda result, pixels: None)
        gallery = self._series.gallery
        if gallery is not None:
            gallery.control, gallery.attend = hands.ask, hands.attend
            hands.attend(gallery.attended)
        return hands

    def _follow_to_the_end(self, end: Finished, rank: Rank, publishing: Publishing, council: Council) -> Result:
        """Wait until rank 0 says that the last version can be read."""
        _close(publishing.writer)
        done = rank.done
        while done is None:
            self._watch()
            done = next((order for order in council.orders(0.1) if isinstance(order, Done)), None)
        self._keep = done.keep
        return self._told(end, 0)

    def _conclude(self, end: Finished, publishing: Publishing, council: Council) -> Result:
        """See the last version shown, and tell everyone; at rank 0."""
        writer = publishing.writer
        while end.projections and not publishing.last_shown.wait(0.02) and writer.error is None:
            self._watch()
            council.orders()  # raises what another rank has failed with
            if publishing.broken is not None:
                raise RankError(f"the last version cannot be put together: {publishing.broken}")
        _close(writer)
        expected = self._counters.expected
        missing = sum(b - a for a, b in end.missing)
        if not end.ended and expected is not None:
            missing = max(0, expected - len(Ranges(end.projections)))
        if end.ended and not end.projections:
            end = dataclasses.replace(end, ended=False, reason="the scan had no projections", given_up=False)
        # What can be sent again, or was given up, need not take the disk's space.
        self._keep = not end.ended and not end.given_up and not self._preparation.can_replay
        if end.ended:
            self._ingest.finish()
        else:
            self._ingest.refuse(end.reason or BROKE_OFF)
        # Before the other ranks end: they would not be heard any more, and be waited for between two scans for so long only.
        publishing.finish(self._watch)
        self._ingest.tell(Done(end.ended, self._keep, end.reason))
        return self._told(end, missing)

    def _told(self, end: Finished, missing: int) -> Result:
        self._counters.others = {}  # all have what this rank has
        now, status, version = time.monotonic(), self._counters.look(), self._counters.version
        text = (
            f"version {version} is {'final' if end.ended else 'the last, and partial'}: {status.in_volume} projections"
        )
        if not version:
            text = "nothing had arrived to reconstruct"
        if not self._number:
            self._story.tell(
                "done", text, version=version, final=end.ended, in_volume=status.in_volume, missing=missing
            )
        return Result(
            volume=self.out / "volume.h5" if version else None,
            final=end.ended and bool(version or self._number),
            reason=end.reason,
            missing=missing,
            status=status,
            stages=dict(self._counters.stages),
            seconds=now - (self._counters.began or now),
        )


def _close(writer: Writer) -> None:
    """Wait for what is being written; raise why the last version could not be."""
    writer.close()
    if isinstance(writer.error, OutputError):
        raise JournalError(f"{writer.error}; what came is in the journal: recon --resume goes on with it")
    if writer.error is not None:
        raise writer.error


def _describe(info: ScanInfo) -> str:
    counts = ", ".join(f"{'?' if n is None else n} {kind.name.lower()}s" for kind, n in info.counts.items())
    return f"{counts} of {info.geometry.rows} x {info.geometry.columns} {info.dtype}"
