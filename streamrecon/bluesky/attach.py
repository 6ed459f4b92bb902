"""Attached to a flow of documents: every run that is a scan goes to an engine, one after the other."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from streamrecon.bluesky.collect import Collector, image_bytes
from streamrecon.bluesky.documents import Flow
from streamrecon.bluesky.keeping import Keeping
from streamrecon.bluesky.mapping import Mapping as Rules
from streamrecon.bluesky.mapping import reference_kinds, why_no_scan
from streamrecon.bluesky.references import References
from streamrecon.bluesky.run import GRACE, Run
from streamrecon.bluesky.source import RunSource
from streamrecon.bluesky.tiled import tiled_of
from streamrecon.config import Config
from streamrecon.errors import ScanAbortedError, SenderLeftError, StreamreconError
from streamrecon.scan import FrameKind
from streamrecon.sources.following import roots_of
from streamrecon.sources.storage import Limits
from streamrecon.transport import SendReport, send_scan
from streamrecon.wire.sending import SendingEnd
from streamrecon.wire.session import State

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds."""
SILENT = "another run has begun, and its own stop document did not come"
Listener = Callable[[str, str], None]
"""Called with a short name of what happened, and a sentence."""


@dataclass(slots=True)
class _Scan:
    """A run that is a scan."""

    run: Run
    rules: Rules
    others: Sequence[tuple[FrameKind, Run]]
    nbytes: int = 0
    """Of the images in its documents."""
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    silent: int = 0
    """Documents that it had when it was given up for its silence."""
    failed: bool = False
    """Whether a bug ended it: it is not tried again."""


class Attachment:
    """Reconstructs runs as they happen.

    Documents are taken by the thread that calls `run`; another one reads images and sends them.

    Parameters
    ----------
    documents
        Where they come from.
    endpoint
        Of the engine.
    rules
        How runs are mapped: the first that fits one counts.
    config
        Its `attach`, `source`, `send` and `engine` tables are used.
    keep
        Folder for the documents of runs in work; None keeps none.
    once
        Whether to end after one scan.
    listener
        Told of what happens; any thread.

    Raises
    ------
    OutputError
        If the folder cannot be used.
    ConfigError
        If the tiled server or its key is given in a way that cannot be used.
    """

    def __init__(
        self,
        documents: Flow,
        endpoint: str,
        rules: Sequence[Rules],
        config: Config,
        *,
        keep: Path | None = None,
        once: bool = False,
        listener: Listener = lambda event, text: log.info("%s", text),
    ) -> None:
        self._documents, self._endpoint, self._rules, self._config = documents, endpoint, list(rules), config
        self._once, self._listener = once, listener
        self._roots, self._tiled = roots_of(config.source), tiled_of(config.attach)
        self._keeping = None if keep is None else Keeping(keep)
        self._collector = Collector(self._opened, self._added, self._ignored, self._passed)
        self._streams = frozenset(stream for each in rules for stream in each.streams())
        self._scans: dict[str, _Scan] = {}
        """Runs that wait or are in work."""
        self._references = References(lambda run, text: listener("fields", f"run {run.uid} ({_name(run)}) {text}"))
        self._waiting: queue.SimpleQueue[_Scan | None] = queue.SimpleQueue()
        self._done: deque[_Scan] = deque()
        self._stopped = threading.Event()
        self._failed: BaseException | None = None
        # Not by joining the thread: a KeyboardInterrupt in a join leaves Python 3.11 with a thread it takes for ended.
        self._ended = threading.Event()
        self._worker = threading.Thread(target=self._work, name="streamrecon-attach", daemon=True)
        self._last = "no run has begun"
        """Why nothing happens."""
        self._look = 0.0
        """When silent runs are looked for again."""
        self._aside: dict[str, _Scan] = {}
        """Silent runs that were given up: their documents are kept, as they may go on."""
        self._given_up: set[str] = set()
        """Those before them, of which no documents are kept, until something comes of them."""
        self._going_on = False
        """Whether documents are those that are kept."""
        self._were_aside = frozenset[str]()
        """Those of them that were set aside."""
        self._sending: SendingEnd | None = None
        self._advised = ""
        self._current: RunSource | None = None
        self.scans = 0
        """That have been sent."""
        self.partial = 0
        """That were not completed."""

    def run(self) -> None:
        """Take documents until there are no more, or it is stopped.

        Raises
        ------
        StreamreconError
            What ends the attachment, and not just a scan.
        """
        self._worker.start()
        try:
            if self._keeping is not None:
                self._go_on(self._keeping)
            self._last = "no run has begun"
            self._listen()
            while self._scans and not self._stopped.is_set() and not self._ended.wait(POLL):
                self._tidy()  # what was set aside may go on
            self._waiting.put(None)
            self._ended.wait()
        except BaseException:
            # Only an orderly end waits for the runs that are there: Ctrl-C ends them.
            self._stopped.set()
            raise
        finally:
            self._waiting.put(None)
            self._ended.wait()
            self._tidy()
            if self._keeping is not None:
                self._keeping.close()
        if self._failed is not None:
            raise self._failed

    def _go_on(self, keeping: Keeping) -> None:
        """With the runs of before a restart."""
        self._going_on, self._were_aside = True, frozenset(keeping.asides())
        for name, doc in keeping.left():
            self._collector.hear(name, doc)
        self._going_on, self._were_aside = False, frozenset()
        # They were read in the order in which they began, by which they have their flats.
        self._scans = {uid: self._scans[uid] for uid in keeping.runs() if uid in self._scans}
        for scan in self._scans.values():
            self._waiting.put(scan)
        for scan in self._aside.values():
            scan.silent = len(scan.run)
            scan.run.give_up(SILENT)
        for uid in (*keeping.runs(), *keeping.asides()):
            if uid not in self._scans and uid not in self._aside and uid not in self._references:
                self._listener(
                    "forgotten", f"run {uid} was kept, but is not one to go on with: its documents are deleted"
                )
                keeping.forget(uid)

    def stop(self) -> None:
        """End the attachment; any thread. An exception in `run` does it, too.

        Where documents are kept the run in work is left as it is, for a restart to go on with; else it ends as a partial volume.
        """
        self._stopped.set()

    def _listen(self) -> None:
        while not self._stopped.is_set() and self._failed is None:
            if self._once and self.scans + self.partial:
                return
            if self._documents.can_wait and self._full():
                self._stopped.wait(POLL)
                self._tidy()
                continue
            found = self._documents.take(POLL)
            self._tidy()
            if found is not None:
                self._collector.hear(*found)
                self._give_up_silent()
            elif self._documents.ended:
                for scan in self._scans.values():
                    scan.run.give_up("the documents ended without the run's stop")
                return
            else:
                self._give_up_silent()

    def _full(self) -> bool:
        """Whether enough runs wait, and the one in work needs no more documents."""
        scans = list(self._scans.values())
        if len(scans) <= self._config.attach.waiting:
            return False
        run, heard = scans[0].run, scans[0].heard
        return run.over and not (run.short and time.monotonic() - heard <= GRACE)

    def why_nothing_happens(self) -> str:
        """One line, for people."""
        collector, current = self._collector, self._current
        why = self._last if current is None else self._why_not(current)
        if collector.waiting and current is None:
            why += f"; {collector.waiting} documents are of a run whose start was missed: it cannot be reconstructed"
        elif collector.waiting:
            why += f"; {collector.waiting} documents refer to one that has not come"
        if collector.refused:
            why += f"; {collector.refused} documents are left out, the last: {collector.last_refusal}"
        return why

    def _why_not(self, current: RunSource) -> str:
        sending, run = self._sending, current.run.uid
        if sending is None:
            return f"run {run}: {current.why}"
        if sending.busy:
            return f"run {run}: the engine is busy: {sending.busy.reason}"
        joined = sending.session.state is State.STREAMING
        return f"run {run}: {current.why if joined else sending.session.state.value}"

    # Documents, in the thread that listens.

    def _opened(self, run: Run) -> bool:
        self._last, run.streams = "nothing more has come", self._streams
        scan = self._scan_of(run)
        if scan is None:
            return run.uid in self._references
        if run.uid in self._were_aside:
            self._aside[run.uid] = scan
            return True
        most = self._config.attach.waiting
        if len(self._scans) > most and not self._going_on:
            self._listener("skipped", f"run {run.uid} is not reconstructed: {most} runs wait already (attach.waiting)")
            return False
        self._scans[run.uid] = scan
        self._listener("run", f"run {run.uid} ({_name(run)}) is a scan, by the mapping {scan.rules.name}")
        if not self._going_on:
            self._waiting.put(scan)
        return True

    def _scan_of(self, run: Run) -> _Scan | None:
        """What a run is, by the first mapping that knows."""
        whys = []
        self._references.another()
        for rules in self._rules:
            if kinds := reference_kinds(rules, run.start):
                self._references.begin(run, kinds)
                return None
            why = why_no_scan(rules, run.start)
            if why is None:
                others = self._references.of(rules)
                for kind, rule in rules.rules().items():
                    if rule.select == "run" and all(kind is not found for found, _ in others):
                        name = kind.name.lower()
                        self._listener(
                            "note",
                            f"run {run.uid}: no run with {name}s has come before it, as the mapping's [{name}] names",
                        )
                return _Scan(run, rules, others)
            whys.append(f"{rules.name}: {why}")
        self._listener("other", f"run {run.uid} ({_name(run)}) is no scan: " + "; ".join(whys))
        self._last = f"the last run ({_name(run)}) was no scan, and no other has begun"
        return None

    def _added(self, run: Run, name: str, doc: Mapping[str, Any]) -> None:
        scan = self._scans.get(run.uid)
        self._last = "nothing more has come"
        if run.uid in self._aside and scan is None:
            if not self._going_on:
                self._take_up(self._aside[run.uid])
            return
        if self._keeping is not None and not self._going_on:
            self._keeping.add(run.uid, name, doc)
        if name == "stop" and run.uid in self._aside:
            run.come_back()  # it is whole, before it was given up in earnest
        if scan is not None:
            scan.heard = time.monotonic()
            scan.nbytes += image_bytes(doc)
            if scan.nbytes > self._config.attach.document_bytes:
                run.give_up(
                    f"its images in documents take more than {self._config.attach.document_bytes} bytes (attach.document_bytes)"
                )
        if name == "stop":
            self._listener("stop", f"run {run.uid} has ended: {doc.get('exit_status', 'success')}")
            self._references.end(run)

    def _passed(self, run: Run) -> None:
        """A document that nothing is mapped to: the run goes on all the same."""
        if run.uid in self._scans:
            self._scans[run.uid].heard = time.monotonic()

    def _ignored(self, uid: str, name: str) -> None:
        """A document of a run that is not wanted, or not any more."""
        if uid in self._given_up:
            self._given_up.remove(uid)
            self._listener(
                "late",
                f"run {uid} was given up, and goes on (a document: {name}): the rest of it is not reconstructed; a longer "
                "--patience would have waited for it",
            )

    def _give_up_silent(self) -> None:
        """A run in work of which nothing comes any more keeps another one waiting: it was killed, or its stop was lost.

        Documents do not say whether it is: the other run may be a part of it. So it is set aside only, and is reconstructed
        anew if it goes on.
        """
        now, current = time.monotonic(), self._current
        if now < self._look or current is None or current.run.over:
            return
        self._look = now + POLL
        scans = list(self._scans.values())
        number = next((number for number, each in enumerate(scans) if each.run is current.run), len(scans))
        for newer in scans[number + 1 : number + 2]:
            silent = scans[number]
            if now - max(silent.heard, newer.began) > self._config.source.patience:
                self._aside[current.run.uid], silent.silent = silent, len(current.run)
                current.run.give_up(SILENT)

    def _take_up(self, scan: _Scan) -> None:
        """A run that was set aside goes on: it waits for its turn, and then begins anew."""
        run = scan.run
        del self._aside[run.uid]
        run.come_back()
        if self._keeping is not None:
            self._keeping.take_up(run.uid)
            for name, doc in run.since(scan.silent):
                self._keeping.add(run.uid, name, doc)
        again = _Scan(run, scan.rules, scan.others, scan.nbytes)
        self._scans[run.uid] = again
        self._waiting.put(again)
        self._listener(
            "again", f"run {run.uid} was given up, and goes on: it is reconstructed anew, after those that wait"
        )

    def _tidy(self) -> None:
        while self._done:
            scan = self._done.popleft()
            self._scans.pop(scan.run.uid, None)
            if scan.run.uid in self._aside and not scan.failed:
                self._set_aside(scan)
                continue
            self._aside.pop(scan.run.uid, None)
            if (
                scan.failed
                and self._keeping is not None
                and (path := self._keeping.set_aside(scan.run.uid)) is not None
            ):
                self._listener("aside", f"the documents of run {scan.run.uid} are in {path}")
            self._forget(scan.run)
        in_use = [*self._scans.values(), *self._aside.values()]
        for run in self._references.done_with([run for scan in in_use for _, run in scan.others]):
            self._forget(run)

    def _set_aside(self, scan: _Scan) -> None:
        """What there is of it is reconstructed."""
        if self._keeping is not None:
            self._keeping.put_aside(scan.run.uid)
        if len(scan.run) > scan.silent:
            self._take_up(scan)
        while len(self._aside) > self._config.attach.waiting:
            oldest = next(iter(self._aside))
            self._given_up.add(oldest)
            self._forget(self._aside.pop(oldest).run)

    def _forget(self, run: Run) -> None:
        self._collector.forget(run)
        if self._keeping is not None:
            self._keeping.forget(run.uid)

    # Images, in the thread that sends.

    def _work(self) -> None:
        try:
            while (scan := self._waiting.get()) is not None and not self._stopped.is_set():
                self._reconstruct(scan)
                if self._once:
                    return
        except BaseException as error:
            self._failed = error
        finally:
            self._ended.set()

    def _reconstruct(self, scan: _Scan) -> None:
        run, config = scan.run, self._config
        source = self._current = RunSource(
            run,
            scan.rules,
            self._roots,
            config.source.patience,
            scan.others,
            self._stopped,
            elsewhere=self._tiled,
            tell=partial(self._listener, "note"),
            resumes=self._keeping is not None,
            limits=Limits(frame_bytes=config.engine.max_frame_bytes),
        )
        left = False
        try:
            info = source.info()
            rows, columns = info.frame_shape
            self._listener("scan", f"run {run.uid}: images of {rows} x {columns} {info.dtype}")
            report = send_scan(
                info,
                partial(source.frames, info=info),
                self._endpoint,
                options=config.send,
                can_replay=True,
                heartbeat=config.engine.heartbeat,
                peer_timeout=config.engine.peer_timeout,
                progress=self._progress,
            )
        except SenderLeftError:
            left = True
            seconds = config.engine.peer_timeout + config.engine.return_timeout
            wait = f"the engine waits {seconds:g} s (engine.peer_timeout and engine.return_timeout), then it has a partial volume"
            self._listener(
                "left", f"run {run.uid} is left, and its documents are kept: a restart with this --keep goes on; {wait}"
            )
        except StreamreconError as error:
            self.partial += 1
            self._listener("failed", f"run {run.uid} was not completed: {error}")
        except Exception as error:
            scan.failed = True
            self.partial += 1
            log.exception("run %s could not be reconstructed", run.uid)
            what = "the system refused" if isinstance(error, OSError) else "a bug in streamrecon"
            self._listener("failed", f"run {run.uid} was not completed: {what}: {type(error).__name__}: {error}")
        else:
            self.scans += 1
            self._listener("done", f"run {run.uid} is reconstructed: {_told(report)}")
        finally:
            self._current = self._sending = None
            self._last = "the last scan is done, and no other has begun"
            if not left:
                self._done.append(scan)

    def _progress(self, end: SendingEnd) -> None:
        self._sending = end
        if end.advice != self._advised:
            self._advised = end.advice
            said = (
                f"who watches the scan advises to stop it: {end.advice}"
                if end.advice
                else "no more advice to stop the scan"
            )
            self._listener("advice", said)
        if self._stopped.is_set():
            why = "the attachment was ended"
            raise ScanAbortedError(why) if self._keeping is None else SenderLeftError(why)


def _told(report: SendReport) -> str:
    lost = sum(end - first for first, end in report.missing)
    return f"{report.frames} frames in {report.seconds:.1f} s" + (f", {lost} projections are missing" if lost else "")


def _name(run: Run) -> str:
    plan, number = run.start.get("plan_name", "no plan_name"), run.start.get("scan_id")
    return f"{str(plan)[:60]}{'' if number is None else f', scan_id {str(number)[:20]}'}"
