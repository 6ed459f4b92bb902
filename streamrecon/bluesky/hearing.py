"""What a run is, by those of its documents that have been heard and by what is in its files: for reading it, and for people."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from streamrecon.bluesky.angles import Angles, value_of
from streamrecon.bluesky.files import Files
from streamrecon.bluesky.mapping import FramesRule, ScanRule, Value
from streamrecon.bluesky.mapping import Mapping as Rules
from streamrecon.bluesky.run import Document, Run
from streamrecon.bluesky.shots import Shots
from streamrecon.bluesky.stream import MOST_EVENTS
from streamrecon.errors import MessageError, SourceError, SourceFileError
from streamrecon.scan import FrameKind
from streamrecon.sources.roots import Roots
from streamrecon.sources.storage import Limits

BROKEN = (MessageError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a document may raise that is not as it should be."""


class Hearing:
    """Hears the documents of one run.

    Parameters
    ----------
    run
        The run.
    mapping
        From it to a scan.
    rules
        Of the kinds of frames that are looked for in it.
    roots, clock, limits
        As of `Files`.
    start
        Start document of the scan, where that is another run.
    more
        Whether events that were missed may be had when the run is over.
    """

    def __init__(
        self,
        run: Run,
        mapping: Rules,
        rules: Mapping[FrameKind, FramesRule],
        roots: Roots,
        clock: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
        start: Mapping[str, Any] | None = None,
        more: bool = False,
    ) -> None:
        self._run, self._start = run, run.start if start is None else start
        self.shots = Shots(rules)
        self.files = Files(self.shots, roots, clock, limits)
        self.angles = Angles(mapping.theta, self.number, self.files, more)
        self._heard = 0

    def hear(self, timeout: float = 0.0) -> tuple[list[Document], list[str]]:
        """Those that have come since, and what is wrong with some; each of them costs itself.

        Raises
        ------
        SourceError
            If the mapping does not fit the run.
        """
        documents, wrong = self._run.since(self._heard, timeout), []
        self._heard += len(documents)
        for document in documents:
            try:
                self.shots.hear(document)
                self.angles.hear(document)
            except SourceError:
                raise
            except BROKEN as error:
                wrong.append(f"a {document.name} document: {error}")
        return documents, wrong

    def number(self, value: Value, option: str) -> float:
        """The number that an option of the mapping stands for."""
        return value_of(value, self._start, self.shots.configuration, option)

    def key(self, stream: str, key: str, event: int, part: int) -> float | None:
        """What an image key has for a frame; None as long as that is not known."""
        found = self.shots.number(stream, key, event, part)
        if found is None:
            try:
                found = self.files.of_key(stream, key, event, part, fills=True)
            except (SourceError, SourceFileError, MessageError) as error:
                self.files.why = str(error)
        return found

    def facts(self, scan: ScanRule, columns: int) -> tuple[dict[str, float], list[str]]:
        """The numbers of a scan that are known, and why others are not.

        Parameters
        ----------
        scan
            Where they are.
        columns
            Of the detector.
        """
        can_be: dict[str, tuple[Callable[[float], bool], str]] = {
            "projections": (lambda n: n == int(n) and 1 <= n <= MOST_EVENTS, f"a number from 1 to {MOST_EVENTS}"),
            "center": (lambda n: -columns <= n <= 2 * columns, f"a column within {-columns} to {2 * columns}"),
            "pixel_size": (lambda n: n > 0, "more than 0"),
            "energy": (math.isfinite, "a number"),
        }
        found, notes = dict[str, float](), []
        for name, (holds, expected) in can_be.items():
            value: Value | None = getattr(scan, name)
            if value is None:
                continue
            try:
                number = self.number(value, f"scan.{name}")
                if holds(number):
                    found[name] = number
                else:
                    notes.append(f"scan.{name} is {number:g}; expected {expected}: it is taken as unknown")
            except SourceError as error:
                notes.append(f"{error}: it is taken as unknown")
        return found, notes
