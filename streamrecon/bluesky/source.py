"""A run as a source of frames: while its documents come and its files grow, or afterwards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamrecon.bluesky.mapping import Mapping as Rules
from streamrecon.bluesky.missed import Elsewhere, Missed
from streamrecon.bluesky.passes import Pass
from streamrecon.bluesky.run import Run
from streamrecon.errors import ScanAbortedError, SourceError
from streamrecon.scan import Frame, FrameKind, Gap, Geometry, ScanInfo
from streamrecon.sources.recording import METRES, row_range
from streamrecon.sources.roots import Roots
from streamrecon.sources.storage import Limits

log = logging.getLogger(__name__)

WHOLE = slice(None)


@dataclass(slots=True, eq=False)
class RunSource:
    """One run of Bluesky as a `Source`. Its documents are kept, and its files stay: it can be read again from the start."""

    run: Run
    mapping: Rules
    roots: Roots
    patience: float = 60.0
    """Seconds to wait for pixels that a document has announced, and for angles, once the run is over and nothing else comes."""
    others: Sequence[tuple[FrameKind, Run]] = ()
    """Runs before it that hold its flats and darks; they are over."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set to give up waiting."""
    resumes: bool = False
    """Whether the run is gone on with later, after that."""
    limits: Limits | None = None
    """Of what is allocated."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    elsewhere: Elsewhere | None = None
    """Where events are kept that did not come."""
    tell: Callable[[str], None] = lambda text: log.info("%s", text)
    """Called with what was assumed or found out, in a sentence."""
    announced: str | None = field(init=False, default=None)
    """Where the image was by which the scan was announced, if it was in a file."""
    _told: set[str] = field(init=False, default_factory=set)
    missed: Missed = field(init=False)
    why: str = field(init=False, default="no document of an image has come")
    """Why nothing comes, when nothing does."""

    def __post_init__(self) -> None:
        self.missed = Missed(self.elsewhere, self.run.uid, self.patience, self.clock)

    def info(self) -> ScanInfo:
        """The scan, as soon as its first projection can be read: what a document says of shape and type is a hint.

        Raises
        ------
        SourceError
            If the run ends without one, or the mapping does not fit it.
        ScanAbortedError, SenderLeftError
            If it is stopped before.
        """
        passed = Pass(self, WHOLE, None)
        own = (item for item in passed.own() if isinstance(item, Frame))
        first = next((frame for frame in own if frame.kind is FrameKind.PROJECTION), None)
        if first is None:
            name, shots = self.mapping.projection.stream, passed.hearing.shots
            why = self.why if shots.count(FrameKind.PROJECTION) else shots.none_of(name)
            raise SourceError(f"run {self.run.uid} has ended without an image of a projection that can be read: {why}")
        self.announced = passed.read_from
        (rows, columns), scan, start, hearing = first.data.shape, self.mapping.scan, self.run.start, passed.hearing
        facts, notes = hearing.facts(scan, columns)
        for note in notes:
            log.warning("run %s: %s", self.run.uid, note)
        size, expected = facts.get("pixel_size"), facts.get("projections")
        plan, number = _text(start.get("plan_name")), _text(start.get("scan_id"))
        told = {
            "title": scan.title or _text(start.get("title")) or f"{plan or 'run'} {number or ''}".strip(),
            "sample": scan.sample or _text(start.get("sample_name")) or _text(start.get("sample")),
            "plan": plan,
            "scan_id": number,
            "energy": facts.get("energy"),
            "expected": None if expected is None else int(expected) * hearing.shots.frames_of(FrameKind.PROJECTION),
            "mapping": self.mapping.name or None,
        }
        return ScanInfo(
            uid=self.run.uid,
            geometry=Geometry(
                rows, columns, None if size is None else size * METRES[scan.pixel_size_units], facts.get("center")
            ),
            dtype=first.data.dtype,
            # What a plan says is no limit: it may measure more.
            counts=dict.fromkeys(FrameKind),
            metadata={name: value for name, value in told.items() if value is not None},
        )

    def frames(self, rows: slice = WHOLE, info: ScanInfo | None = None) -> Iterator[Frame | Gap]:
        """All frames from the first on, as they can be had; waits for those to come.

        Parameters
        ----------
        rows
            Detector rows wanted: a contiguous range.
        info
            What `info()` gave, where that is known.

        Yields
        ------
        Frames, and gaps for projections that cannot be had, or were measured again: the newer one comes then.

        Raises
        ------
        ScanAbortedError
            If the run was aborted, failed or broke off, after all that it has; if it is stopped.
        SenderLeftError
            If it is stopped, to go on later.
        SourceError
            If the mapping does not fit the run, or the file that announced it was that of an earlier one, with other images.
        """
        info = info or self.info()
        yield from Pass(self, row_range(rows, info.geometry.rows), info).items()
        self.why = "all of it has been read"
        stop = self.run.stop or {}
        status = str(stop.get("exit_status", "success"))
        if status != "success":
            reason = stop.get("reason")
            words = {"abort": "was aborted", "fail": "failed"}.get(status, f"ended with {status[:20]!r}")
            raise ScanAbortedError(
                f"the run {words}" + (f": {reason[:200]}" if isinstance(reason, str) and reason else "")
            )
        if self.run.gone is not None:
            raise ScanAbortedError(f"the run broke off: {self.run.gone}")

    def note(self, run: Run, what: str) -> None:
        """Tell something of a run, once in however many passes."""
        text = f"run {run.uid}: {what}"
        if text not in self._told:
            self._told.add(text)
            self.tell(text)

    def notes(self) -> list[str]:
        """What a user should know."""
        return [f"run {self.run.uid} is mapped by {self.mapping.name or 'the mapping given'}"]


def _text(value: Any) -> str | int | float | None:
    """What a document has for the record; None where that is neither a text nor a number."""
    return value if isinstance(value, int | float) else value[:200] if isinstance(value, str) and value else None
