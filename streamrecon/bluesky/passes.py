"""One pass over the documents and files of a run: frames as soon as they can be had, and named gaps for those that cannot."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrecon.bluesky.hearing import BROKEN, Hearing
from streamrecon.bluesky.lost import Lost, lost_together
from streamrecon.bluesky.mapping import FramesRule
from streamrecon.bluesky.pixels import fitting, plain
from streamrecon.bluesky.run import GRACE, Run
from streamrecon.bluesky.stream import Place, Shot
from streamrecon.errors import (
    MessageError,
    ScanAbortedError,
    SenderLeftError,
    SourceBusyError,
    SourceError,
    SourceFileError,
)
from streamrecon.scan import Frame, FrameKind, Gap, ScanInfo
from streamrecon.wire.positions import Positions
from streamrecon.wire.ranges import Ranges

if TYPE_CHECKING:
    from streamrecon.bluesky.source import RunSource

log = logging.getLogger(__name__)

BLOCK_BYTES = 32 << 20
"""Of images that are read at once."""
WINDOW = 2048
"""Images that are tried at once, of those that wait for their pixels or their angle."""
PAUSE = 0.05
"""Seconds between two looks at what does not tell by itself."""
PROJECTION = FrameKind.PROJECTION


@dataclass(slots=True, eq=False)
class _Wanted:
    """A shot that waits for its pixels or its angle."""

    shot: Shot
    since: float
    position: int | None
    """Of a flat or dark: projections before it, by the documents. Pixels and angles may be there in another order."""

    @property
    def name(self) -> tuple[FrameKind, int]:
        return self.shot.kind, self.shot.index


Batch = list[tuple[_Wanted, float | None]]
"""Shots that are read together, with their angles."""


class Pass:
    """One pass over a run, and those that hold its flats and darks.

    Parameters
    ----------
    source
        What is read.
    rows
        Detector rows wanted.
    info
        Of the scan; None where it is not known yet, and any image will do.
    """

    def __init__(self, source: RunSource, rows: slice, info: ScanInfo | None) -> None:
        self._source, self._rows, self._info = source, rows, info
        self._first = dict.fromkeys(FrameKind, 0)
        """Index of the first frame of each kind, after those of other runs."""
        self._order = Positions()
        self._wanted: dict[tuple[FrameKind, int], _Wanted] = {}
        self._given: dict[int, Shot] = {}
        """Projections that were given, or given up, by index."""
        self._older: dict[int, list[tuple[Shot, bool]]] = {}
        """Those that were measured again, by index, newest last, and whether each was given: they stand in for a newer one."""
        self._had = set[FrameKind]()
        """Kinds of frames that were given."""
        self.read_from: str | None = None
        """Where the last image was that was given, if it was in a file."""
        self.hearing = Hearing(source.run, source.mapping, {}, source.roots)

    def items(self) -> Iterator[Frame | Gap]:
        """Frames and gaps of all runs."""
        for kind, run in self._source.others:
            try:
                yield from self._of(run, {kind: self._source.mapping.rules()[kind]})
            except SourceError as error:
                log.warning("run %s has no %ss that fit: %s", run.uid, kind.name.lower(), error)
            if str((run.stop or {}).get("exit_status", "success")) != "success":
                log.warning("run %s, of which the %ss are, was not completed", run.uid, kind.name.lower())
        yield from self.own()
        looked = {kind for kind, rule in self._source.mapping.rules().items() if rule.select != "run"}
        looked |= {kind for kind, _ in self._source.others}
        for kind in sorted(looked - self._had - {PROJECTION}):
            name = kind.name.lower()
            self._source.note(self._source.run, f"it has no {name}s, though the mapping has [{name}]")

    def own(self) -> Iterator[Frame | Gap]:
        """Frames and gaps of the scan's own run."""
        rules = self._source.mapping.rules()
        yield from self._of(self._source.run, {kind: rule for kind, rule in rules.items() if rule.select != "run"})

    def _of(self, run: Run, rules: Mapping[FrameKind, FramesRule]) -> Iterator[Frame | Gap]:
        source = self._source
        more = source.elsewhere is not None
        hearing = self.hearing = Hearing(
            run, source.mapping, rules, source.roots, source.clock, source.limits, source.run.start, more
        )
        shots, files, angles = hearing.shots, hearing.files, hearing.angles
        self._wanted, self._given, self._older = {}, {}, {}
        heard = better = source.clock()
        while True:
            over = run.over
            documents, wrong = hearing.hear(0.0 if self._wanted else PAUSE)
            for what in wrong:
                log.warning("run %s: %s costs itself", run.uid, what)
            if documents:
                heard = better = source.clock()
            # The stop may overtake others: it says how many there were.
            done = over and not documents and not (run.short and source.clock() - heard <= GRACE)
            if done:
                with contextlib.suppress(*BROKEN):
                    shots.complete(run.num_events)
                files.finish()
            late = done and source.clock() - better > source.patience
            if late and shots.undecided:
                log.warning("run %s: it is not known what %d frames are: %s", run.uid, shots.undecided, files.why)
            self._decide(done, late)
            moved = False
            settled = done and (not more or source.missed.settled(angles, [e.shot for e in self._wanted.values()]))
            angles.why_missing = source.missed.why
            for item in self._ready(run, done, settled, better):
                moved = True
                yield item
                if isinstance(item, Frame):
                    better = source.clock()
            for note in files.notes + angles.notes:
                source.note(run, note)
            ended = done and not self._wanted and not shots.undecided
            if (renewed := files.renewed(look=ended)) is not None:
                yield from self._withdraw(run, renewed)
            elif ended:
                break
            if source.stopped.is_set():
                why = "the attachment to the run was ended"
                raise SenderLeftError(why) if source.resumes else ScanAbortedError(why)
            if not moved and not documents:
                source.why = files.why if self._wanted else "the run goes on, and has no new images"
                source.why += f", and {source.missed.why}" if done and not settled and source.missed.why else ""
                source.sleep(PAUSE)
        if PROJECTION in rules and self._given:
            for first, end in Ranges.of(self._given).gaps(shots.end(PROJECTION)):
                yield Gap(PROJECTION, first, end, "no document told where it is")
        for kind in (FrameKind.FLAT, FrameKind.DARK):
            self._first[kind] += shots.count(kind)

    def _decide(self, done: bool, late: bool) -> None:
        """What the frames are that documents have told of."""
        for item in self.hearing.shots.decide(done, self.hearing.key, late):
            if isinstance(item, Shot):
                self._want(item)
                continue
            wanted, given = self._wanted.pop((PROJECTION, item.index), None), self._given.pop(item.index, None)
            if given is not None:
                self._older.setdefault(item.index, []).append((given, True))
            elif wanted is not None:
                self._older.setdefault(item.index, []).append((wanted.shot, False))

    def _want(self, shot: Shot) -> None:
        position = self._order.of(shot.kind, shot.index + self._first[shot.kind])
        self._wanted[shot.kind, shot.index] = _Wanted(shot, self._source.clock(), position)
        if shot.kind is PROJECTION:
            self.hearing.angles.add(shot)

    def _withdraw(self, run: Run, renewed: Callable[[Shot], bool]) -> Iterator[Gap]:
        """A file is another one than that which was read, such as that of a scan before: all is read anew."""
        self.hearing.angles.renew()
        for index, older in self._older.items():
            for each in [each for each in older if each[1] and renewed(each[0])]:
                older.remove(each)
                self._given[index] = each[0]
        again = [shot for shot in self._given.values() if renewed(shot)]
        log.warning(
            "run %s: a file was replaced after it had been read: %d projections are read again, flats and darks stay",
            run.uid,
            len(again),
        )
        for first, end in Ranges.of(shot.index for shot in again).ranges:
            yield Gap(PROJECTION, first, end, "its file was replaced")
        for shot in again:
            del self._given[shot.index]
            if (PROJECTION, shot.index) not in self._wanted:
                self._want(shot)

    def _ready(self, run: Run, done: bool, settled: bool, better: float) -> Iterator[Frame | Gap]:
        """Those of the first and of the last shots that can be given, or given up, now."""
        source, files = self._source, self.hearing.files
        batch: Batch = []
        lost: list[Lost] = []
        for each in self._tried():
            shot, theta, has_row = each.shot, None, False
            # As long as the run goes on, waiting costs nothing: a pause may take hours, and a writer close its file after it.
            late = done and source.clock() - max(each.since, better) > source.patience
            try:
                ready = has_row = not isinstance(shot.pixels, Place) or files.ready(shot.pixels)
                if ready and shot.kind is PROJECTION and (theta := self._theta(shot, settled, late)) is None:
                    ready = False
                    if source.elsewhere is not None and not settled:
                        continue  # it is looked for there when the run is over, and that has an end of its own
                if not ready and late:
                    raise SourceError(f"{files.why}; nothing came for {source.patience:g} s")
            except SourceBusyError:
                continue
            except (SourceError, SourceFileError, MessageError) as error:
                self._gone(each)
                self._lose(lost, Lost(shot, str(error), not has_row))
                continue
            if not ready:
                continue
            if batch and not self._together(batch, shot):
                yield from self._read(batch, lost)
                batch = []
            batch.append((each, theta))
        yield from self._read(batch, lost)
        for kind, (first, end), why in lost_together(lost):
            source.why = why
            names = f"{kind.name.lower()} {first}" if end == first + 1 else f"{kind.name.lower()}s {first} to {end - 1}"
            log.warning("run %s: %s cannot be had: %s", run.uid, names, why)
            if kind is PROJECTION:  # of the others there are more
                yield Gap(PROJECTION, first, end, why[:200])

    def _tried(self) -> list[_Wanted]:
        """The oldest and the newest: those that wait for what was missed do not hold up the others."""
        if len(self._wanted) <= WINDOW:
            return list(self._wanted.values())
        newest = list(islice(reversed(self._wanted.values()), WINDOW // 2))
        return [*islice(self._wanted.values(), WINDOW // 2), *reversed(newest)]

    def _theta(self, shot: Shot, settled: bool, late: bool) -> float | None:
        files = self.hearing.files
        files.why = "its angle has not come"
        theta = self.hearing.angles.theta(shot, settled, late)
        if theta is None and self._source.mapping.theta.on_missing == "gap":
            raise SourceError(files.why)
        return theta

    def _lose(self, lost: list[Lost], each: Lost) -> None:
        """Give up an image, and go back to the one that it was to replace."""
        before = self._older.get(each.shot.index) if each.shot.kind is PROJECTION else None
        if not before:
            lost.append(each)
            return
        older, given = before.pop()
        log.warning("projection %d was measured again, but that image cannot be had: %s", older.index, each.why)
        if given:
            self._given[older.index] = older
        else:
            del self._given[older.index]
            self._want(older)

    def _gone(self, each: _Wanted) -> None:
        del self._wanted[each.name]
        if each.shot.kind is PROJECTION:
            self._given[each.shot.index] = each.shot

    def _together(self, batch: Batch, shot: Shot) -> bool:
        """Whether a shot is read with those before it."""
        last, size = batch[-1][0].shot.pixels, 0
        if self._info is not None:
            rows, columns = self._info.frame_shape
            size = rows * columns * self._info.dtype.itemsize
        if not (isinstance(last, Place) and isinstance(shot.pixels, Place)):
            return False
        follows = (last.resource, last.row + 1) == (shot.pixels.resource, shot.pixels.row)
        return follows and size > 0 and (len(batch) + 1) * size <= BLOCK_BYTES

    def _announced_otherwise(self, shot: Shot, dtype: np.dtype[Any]) -> None:
        """A dataset has one shape and type: where they are not those announced, the file was another one then."""
        info, place, files = self._info, shot.pixels, self.hearing.files
        if info is None or shot.kind is not PROJECTION or not isinstance(place, Place):
            return
        if files.where(place) == self._source.announced:
            rows, columns = info.frame_shape
            there = " x ".join(map(str, files.shape(place) or ()))
            raise SourceError(
                f"{files.where(place)} has images of {there} {dtype}; expected {rows} x {columns} {info.dtype}, as the scan was "
                "announced with: the file of an earlier run was at this path when the run began, and was replaced. Give each run "
                "a file of its own, or remove the old one before the run"
            )

    def _read(self, batch: Batch, lost: list[Lost]) -> Iterator[Frame | Gap]:
        """Read shots that are ready."""
        if not batch:
            return
        pixels, why = batch[0][0].shot.pixels, ""
        try:
            if isinstance(pixels, Place):
                images = self.hearing.files.read(pixels, [each.shot.kind for each, _ in batch], self._rows)
            else:
                images = np.ascontiguousarray(plain(pixels)[self._rows])[None]
        except SourceBusyError:
            return  # it is tried again
        except (SourceError, SourceFileError) as error:
            images, why = None, str(error)
        for number, (each, theta) in enumerate(batch):
            self._gone(each)
            shot, image = each.shot, None if images is None else plain(images[number])
            if image is not None and self._info is not None:
                rows = self._rows.stop - self._rows.start
                shape, dtype = (rows, self._info.geometry.columns), self._info.dtype
                exact = shot.kind is not PROJECTION
                if (image := fitting(image, shape, dtype, exact)) is None and images is not None:
                    self._announced_otherwise(shot, images.dtype)
                    why = f"the image is {images.dtype} {images[number].shape}, projections are {dtype} {shape}"
            if image is None:
                self._lose(lost, Lost(shot, why, True))
            else:
                if shot.kind is PROJECTION and shot.measured:
                    # An engine may have the one before, of this pass or of one before a restart.
                    self._older.pop(shot.index, None)
                    yield Gap(PROJECTION, shot.index, shot.index + 1, "it was measured again")
                self.read_from = self.hearing.files.where(pixels) if isinstance(pixels, Place) else None
                self._had.add(shot.kind)
                yield Frame(shot.kind, shot.index + self._first[shot.kind], theta, image, each.position)
