"""A run as a source of frames: while its documents come and its files grow, or afterwards."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.bluesky.angles import Angles, value_of
from streamrecon.bluesky.files import Files
from streamrecon.bluesky.mapping import FramesRule, Value
from streamrecon.bluesky.mapping import Mapping as Rules
from streamrecon.bluesky.missed import Elsewhere, Missed
from streamrecon.bluesky.run import Run
from streamrecon.bluesky.shots import Moment, Place, Shot, Shots, Withdrawn
from streamrecon.errors import MessageError, ScanAbortedError, SourceBusyError, SourceError, SourceFileError
from streamrecon.scan import Frame, FrameKind, Gap, Geometry, ScanInfo
from streamrecon.sources.recording import METRES, row_range
from streamrecon.sources.roots import Roots
from streamrecon.wire.positions import Positions
from streamrecon.wire.ranges import Ranges

log = logging.getLogger(__name__)

BROKEN = (MessageError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a document may raise that is not as it should be."""
BLOCK_BYTES = 32 << 20
"""Of images that are read at once."""
WINDOW = 2048
"""Images that are tried at once, of those that wait for their pixels or their angle."""
PAUSE = 0.05
"""Seconds between two looks at what does not tell by itself."""
WHOLE = slice(None)


@dataclass(slots=True)
class _Wanted:
    """A shot that waits for its pixels or its angle."""

    shot: Shot
    since: float
    position: int | None
    """Of a flat or dark: projections before it, by the documents. Pixels and angles may be there in another order."""


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
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    elsewhere: Elsewhere | None = None
    """Where events are kept that did not come."""
    missed: Missed = field(init=False)
    why: str = field(init=False, default="no document of an image has come")
    """Why nothing comes, when nothing does."""

    def __post_init__(self) -> None:
        self.missed = Missed(self.elsewhere, self.run.uid, self.patience, self.clock)

    def info(self) -> ScanInfo:
        """The scan, as soon as its first image can be read: what a document says of shape and type is a hint.

        Raises
        ------
        SourceError
            If the run ends without an image, or the mapping does not fit it.
        ScanAbortedError
            If it is stopped before.
        """
        passed = _Pass(self, WHOLE, None)
        first = next((item for item in passed.own() if isinstance(item, Frame)), None)
        if first is None:
            raise SourceError(f"run {self.run.uid} has ended without an image that can be read: {self.why}")
        (rows, columns), scan, number = first.data.shape, self.mapping.scan, passed.number
        options: dict[str, float] = {}
        for name in ("projections", "center", "pixel_size", "energy"):
            value: Value | None = getattr(scan, name)
            if value is not None:
                try:
                    options[name] = number(value, f"scan.{name}")
                except SourceError as error:
                    log.warning("run %s: %s; it is taken as unknown", self.run.uid, error)
        size = options.get("pixel_size")
        expected = options.get("projections")
        start = self.run.start
        facts = {
            "title": scan.title
            or start.get("title")
            or f"{start.get('plan_name', 'run')} {start.get('scan_id', '')}".strip(),
            "sample": scan.sample or _text(start.get("sample_name") or start.get("sample")),
            "plan": _text(start.get("plan_name")),
            "scan_id": start.get("scan_id"),
            "energy": options.get("energy"),
            "mapping": self.mapping.name,
        }
        return ScanInfo(
            uid=self.run.uid,
            geometry=Geometry(
                rows, columns, None if size is None else size * METRES[scan.pixel_size_units], options.get("center")
            ),
            dtype=first.data.dtype,
            counts={
                FrameKind.PROJECTION: None if expected is None else int(expected),
                FrameKind.FLAT: None,
                FrameKind.DARK: None,
            },
            metadata={
                name: value if isinstance(value, int | float) else str(value)[:200]
                for name, value in facts.items()
                if value not in (None, "")
            },
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
        SourceError
            If the mapping does not fit the run.
        """
        info = info or self.info()
        yield from _Pass(self, row_range(rows, info.geometry.rows), info).items()
        stop = self.run.stop or {}
        status = stop.get("exit_status", "success")
        if status != "success":
            words = {"abort": "was aborted", "fail": "failed"}.get(str(status), f"ended with {str(status)[:20]!r}")
            raise ScanAbortedError(
                f"the run {words}" + (f": {str(stop['reason'])[:200]}" if stop.get("reason") else "")
            )
        if self.run.gone is not None:
            raise ScanAbortedError(f"the run broke off: {self.run.gone}")

    def notes(self) -> list[str]:
        """What a user should know."""
        return [f"run {self.run.uid} is mapped by {self.mapping.name or 'the mapping given'}"]


class _Pass:
    """One pass over the documents and files of a run."""

    def __init__(self, source: RunSource, rows: slice, info: ScanInfo | None) -> None:
        self._source, self._rows, self._info = source, rows, info
        self._first = dict.fromkeys(FrameKind, 0)
        """Index of the first frame of each kind, after those of other runs."""
        self._order = Positions()
        self._shots = Shots({})

    def number(self, value: Value, option: str) -> float:
        """The number that an option of the mapping stands for."""
        return value_of(value, self._source.run.start, self._shots.configuration, option)

    def items(self) -> Iterator[Frame | Gap]:
        """Frames and gaps of all runs."""
        for kind, run in self._source.others:
            try:
                yield from self._of(run, {kind: self._source.mapping.rules()[kind]})
            except SourceError as error:
                log.warning("run %s has no %ss that fit: %s", run.uid, kind.name.lower(), error)
            if (run.stop or {}).get("exit_status", "success") != "success":
                log.warning("run %s, of which the %ss are, was not completed", run.uid, kind.name.lower())
        yield from self.own()

    def own(self) -> Iterator[Frame | Gap]:
        """Frames and gaps of the scan's own run."""
        rules = self._source.mapping.rules()
        yield from self._of(self._source.run, {kind: rule for kind, rule in rules.items() if rule.select != "run"})

    def _of(self, run: Run, rules: dict[FrameKind, FramesRule]) -> Iterator[Frame | Gap]:
        source = self._source
        shots = self._shots = Shots(rules)
        files = Files(shots, source.roots, source.clock)
        angles = Angles(source.mapping.theta, self.number, files, source.elsewhere is not None)
        wanted: list[_Wanted] = []
        given = set[int]()
        """Projections that were given, or given up."""
        heard, better = 0, source.clock()
        while True:
            over = run.over
            documents = run.since(heard, 0.0 if wanted else PAUSE)
            heard += len(documents)
            for document in documents:
                try:
                    shots.hear(document)
                    angles.hear(document)
                except SourceError:
                    raise  # the mapping does not fit the run
                except BROKEN as error:
                    log.warning("run %s: a %s document costs itself: %s", run.uid, document.name, error)
            done = over and not documents
            counts = (run.stop or {}).get("num_events")
            counts = counts if isinstance(counts, Mapping) else {}
            if done:
                with contextlib.suppress(*BROKEN):
                    shots.complete(counts)
                files.finish()
            for item in shots.decide(done, lambda key, moment: self._key(shots, files, key, moment)):
                if isinstance(item, Shot):
                    position = self._order.of(item.kind, item.index + self._first[item.kind])
                    wanted.append(_Wanted(item, source.clock(), position))
                    if item.kind is FrameKind.PROJECTION:
                        angles.add(item)
                    continue
                wanted = [each for each in wanted if not _is(each.shot, item)]
                if item.index in given:
                    given.discard(item.index)
                    yield self._gap(item.index, "it was measured again")
            if documents:
                better = source.clock()
            moved = False
            settled = done and source.missed.settled(angles, [each.shot for each in wanted], counts)
            angles.why_missing = source.missed.why
            for frame in self._ready(run, wanted, files, angles, settled, better):
                moved = True
                if frame.kind is FrameKind.PROJECTION:
                    given.add(frame.first if isinstance(frame, Gap) else frame.index)
                yield frame
                better = source.clock()
            if done and not wanted and not (shots.undecided and source.clock() - better <= source.patience):
                if shots.undecided:
                    log.warning("run %s: it is not known what %d frames are: %s", run.uid, shots.undecided, files.why)
                break
            if source.stopped.is_set():
                raise ScanAbortedError("the attachment to the run was ended")
            if not moved and not documents:
                source.why = files.why if wanted else "the run goes on, and has no new images"
                source.why += f", and {source.missed.why}" if done and not settled and source.missed.why else ""
                source.sleep(PAUSE)
        if FrameKind.PROJECTION in rules:
            have = Ranges.of(given).ranges
            for first, end in zip([0, *(end for _, end in have)], (first for first, _ in have), strict=False):
                if first < end:
                    yield Gap(FrameKind.PROJECTION, first, end, "no document told where it is")
        for kind in (FrameKind.FLAT, FrameKind.DARK):
            self._first[kind] += shots.count(kind)
        for note in files.notes + angles.notes:
            log.info("run %s: %s", run.uid, note)

    def _key(self, shots: Shots, files: Files, key: str, moment: Moment) -> float | None:
        stream, frame = moment
        event, part = divmod(frame, shots.streams[stream][0].per_event)
        found = shots.number(stream, key, event, part)
        return files.of_key(stream, key, event, part) if found is None else found

    def _gap(self, index: int, why: str) -> Gap:
        return Gap(FrameKind.PROJECTION, index, index + 1, why[:200])

    def _ready(
        self, run: Run, wanted: list[_Wanted], files: Files, angles: Angles, over: bool, better: float
    ) -> Iterator[Frame | Gap]:
        """Those of the first shots that can be given, or given up, now; they leave the list as they are."""
        source = self._source
        batch: list[tuple[_Wanted, float | None]] = []
        # The oldest and the newest: those that wait for what was missed do not hold up the others.
        tried = wanted if len(wanted) <= WINDOW else wanted[: WINDOW // 2] + wanted[-WINDOW // 2 :]
        for each in list(tried):
            shot, theta = each.shot, None
            try:
                # Of the image first: files that have just been closed are waited for together, and not one after the other.
                ready = not isinstance(shot.pixels, Place) or files.ready(shot.pixels)
                if shot.kind is FrameKind.PROJECTION and (theta := angles.theta(shot, over)) is None:
                    if source.mapping.theta.on_missing == "gap":
                        raise SourceError("its angle has not come")
                    ready, files.why = False, f"the angle of projection {shot.index} has not come"
                    if source.elsewhere is not None and not over:
                        continue  # it is looked for there when the run is over, and that has an end of its own
                # As long as the run goes on, waiting costs nothing: a pause may take hours, and a writer close its file after it.
                if not ready and run.over and source.clock() - max(each.since, better) > source.patience:
                    raise SourceError(f"nothing came for {source.patience:g} s: {files.why}")
            except SourceBusyError:
                continue
            except (SourceError, SourceFileError, MessageError) as error:
                yield from self._read(run, batch, wanted, files)
                batch = []
                wanted.remove(each)
                yield from self._given_up(run, shot, str(error))
                continue
            if not ready:
                continue
            if batch and not self._together(batch, shot):
                yield from self._read(run, batch, wanted, files)
                batch = []
            batch.append((each, theta))
        yield from self._read(run, batch, wanted, files)

    def _together(self, batch: list[tuple[_Wanted, float | None]], shot: Shot) -> bool:
        """Whether a shot is read with those before it."""
        last, size = batch[-1][0].shot.pixels, 0
        if self._info is not None:
            rows, columns = self._info.frame_shape
            size = rows * columns * self._info.dtype.itemsize
        if not (isinstance(last, Place) and isinstance(shot.pixels, Place)):
            return False
        follows = (last.resource, last.row + 1) == (shot.pixels.resource, shot.pixels.row)
        return follows and size > 0 and (len(batch) + 1) * size <= BLOCK_BYTES

    def _read(
        self, run: Run, batch: list[tuple[_Wanted, float | None]], wanted: list[_Wanted], files: Files
    ) -> Iterator[Frame | Gap]:
        """Read shots that are ready."""
        if not batch:
            return
        pixels = batch[0][0].shot.pixels
        try:
            if isinstance(pixels, Place):
                images = files.read(pixels, len(batch), self._rows)
            else:
                images = np.ascontiguousarray(_plain(pixels)[self._rows])[None]
        except SourceBusyError:
            return  # it is tried again
        except (SourceError, SourceFileError) as error:
            images, why = None, str(error)
        gone = {id(each.shot) for each, _ in batch}
        wanted[:] = [each for each in wanted if id(each.shot) not in gone]
        for number, (each, theta) in enumerate(batch):
            shot, image = each.shot, None if images is None else self._fitting(images[number])
            if image is not None:
                yield Frame(shot.kind, shot.index + self._first[shot.kind], theta, image, each.position)
            else:
                if images is not None:
                    why = f"the image is {images.dtype} {images[number].shape}, others are {self._expected()}"
                yield from self._given_up(run, shot, why)

    def _fitting(self, image: NDArray[Any]) -> NDArray[Any] | None:
        """An image in the type of the others; None if it does not fit them."""
        image = _plain(image)
        if self._info is None:
            return image
        rows = self._rows.stop - self._rows.start
        if image.shape != (rows, self._info.geometry.columns) or not np.can_cast(image.dtype, self._info.dtype, "safe"):
            return None
        return image.astype(self._info.dtype, copy=False)

    def _expected(self) -> str:
        assert self._info is not None
        return f"{self._info.dtype} {self._info.frame_shape}"

    def _given_up(self, run: Run, shot: Shot, why: str) -> Iterator[Gap]:
        """A shot that cannot be had: a projection is named as missing, of the others there are more."""
        self._source.why = why
        log.warning("run %s: %s %d cannot be had: %s", run.uid, shot.kind.name.lower(), shot.index, why)
        if shot.kind is FrameKind.PROJECTION:
            yield self._gap(shot.index, why)


def _is(shot: Shot, item: Withdrawn) -> bool:
    return shot.kind is FrameKind.PROJECTION and shot.index == item.index


def _plain(image: NDArray[Any]) -> NDArray[Any]:
    """In native byte order, and in a type that frames may have: integers of 8 bytes become floats, which hold them up to 2^53."""
    kind = {"b": np.uint8, "i": np.float64, "u": np.float64}.get(image.dtype.kind)
    if kind is not None and (image.dtype.kind == "b" or image.dtype.itemsize == 8):
        return image.astype(kind)
    if image.dtype.kind == "f" and image.dtype.itemsize not in (4, 8):
        return image.astype(np.float32)
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
