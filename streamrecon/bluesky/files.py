"""The files of a run: pixels and numbers out of them, as they are written."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.bluesky.assets import Asset, asset_of
from streamrecon.bluesky.shots import Shots
from streamrecon.bluesky.stream import Place, Shot
from streamrecon.errors import MessageError, SourceError, SourceFileError
from streamrecon.scan import FrameKind
from streamrecon.sources.growing import FILL, LINGER, GrowingStack
from streamrecon.sources.roots import Roots
from streamrecon.sources.storage import Limits


class _Values:
    """The numbers of one dataset, read once each."""

    def __init__(self, stack: GrowingStack) -> None:
        self.stack = stack
        self._values: dict[int, float] = {}
        self._unwritten = set[int]()
        """Rows that are what is read where nothing was written, where nothing else tells."""
        self._replaced = self._changes = 0
        self.why = ""
        """Why there is no number, when there is none."""

    def of(self, row: int, fills: bool) -> float | None:
        """One number. Where several may well be the fill value, such as keys, `fills`; else see `_doubtful`."""
        if row not in self._values or row in self._unwritten:
            there = self.stack.has(row)
            self.why = f"{self.stack.why}"
            if not there:
                return None
            if row not in self._values or self._changes != self.stack.changes:
                self._changes = self.stack.changes
                self._read(row, self.stack.until(row))
        if not fills and self._doubtful(row):
            self.why = f"{self.stack.path}: it {FILL}"
            return None
        return self._values[row]

    def renewed(self) -> bool:
        """Whether the file is another one since this was last asked."""
        replaced, self._replaced = self._replaced, self.stack.replaced
        if replaced != self._replaced:
            self._values.clear()
            self._unwritten.clear()
        return replaced != self._replaced

    def _doubtful(self, row: int) -> bool:
        """Whether a number that is the fill value is none; it is one if it is the first, or the only one in a complete file."""
        return row in self._unwritten and row > 0 and (len(self._unwritten) > 1 or not self.stack.complete)

    def _read(self, first: int, end: int) -> None:
        values = self.stack.read(first, end)
        self._values.update(enumerate(values.astype(np.float64).tolist(), first))
        self._unwritten -= set(range(first, end))
        if not self.stack.tells:
            self._unwritten |= {first + int(n) for n in np.flatnonzero(self.stack.unwritten(values))}


class Files:
    """Reads what the images and the numbers of one run are; used by one thread.

    Parameters
    ----------
    shots
        Of the run, with its resources.
    roots
        Where files may lie.
    clock
        Seconds, monotonic.
    limits
        Of what is allocated.
    """

    def __init__(
        self, shots: Shots, roots: Roots, clock: Callable[[], float] = time.monotonic, limits: Limits | None = None
    ) -> None:
        self._shots, self._roots, self._clock, self._limits = shots, roots, clock, limits
        self._assets: dict[str, Asset] = {}
        self._stacks: dict[str, GrowingStack] = {}
        """Of images, by resource."""
        self._replaced: dict[str, int] = {}
        """How often the file of each of them had been replaced."""
        self._values: dict[tuple[Path, str], _Values] = {}
        self._units: dict[str, str] = {}
        """Of data keys and datasets that have some."""
        self._over = False
        self.why = "no image has come"
        """Why nothing could be read when last that was so."""

    def finish(self) -> None:
        """The run is over: a file that is closed now is taken as complete, until it changes."""
        self._over = True
        for stack in (*self._stacks.values(), *(each.stack for each in self._values.values())):
            stack.finish()

    def ready(self, place: Place) -> bool:
        """Whether an image can be read now; else `why` says why not.

        Raises
        ------
        SourceError, MessageError
            If it never will.
        SourceFileError
            If its file is damaged.
        """
        stack = self._stack(place.resource)
        if stack.has(place.row):
            return True
        self.why = stack.why or self.why
        return False

    def renewed(self, look: bool = False) -> Callable[[Shot], bool] | None:
        """Which images are not what they were, as a file turned out to be another one since this was last asked; None if none is.

        Parameters
        ----------
        look
            Whether to look at the files now.
        """
        if look:
            for stack in (*self._stacks.values(), *(each.stack for each in self._values.values())):
                with contextlib.suppress(SourceError, SourceFileError):  # who asks for an image is told
                    stack.look()
        values = [path for (path, _), each in self._values.items() if each.renewed()]
        resources = {name for name, stack in self._stacks.items() if stack.replaced != self._replaced.get(name, 0)}
        if not values and not resources:
            return None
        self._replaced = {name: stack.replaced for name, stack in self._stacks.items()}
        # Numbers may be those of any image.
        return lambda shot: bool(values) or (isinstance(shot.pixels, Place) and shot.pixels.resource in resources)

    def read(self, place: Place, kinds: Sequence[FrameKind], rows: slice) -> NDArray[Any]:
        """Images of these kinds that follow each other, (frame, row, column), which are ready."""
        darks = {place.row + number for number, kind in enumerate(kinds) if kind is FrameKind.DARK}
        return self._stack(place.resource).read(place.row, place.row + len(kinds), rows, darks)

    def where(self, place: Place) -> str:
        """File and dataset of an image."""
        asset = self._asset(place.resource)
        return f"{asset.path}: {asset.dataset}"

    def place(self, place: Place) -> str:
        """Where an image is, for people."""
        stack = self._stack(place.resource)
        shape = "" if stack.shape is None else f" ({stack.shape[0]} x {stack.shape[1]} {stack.dtype})"
        return f"{self.where(place)}{shape}"

    def shape(self, place: Place) -> tuple[int, int] | None:
        """(row, column) of an image; None where it is not known yet."""
        return self._stack(place.resource).shape

    @property
    def notes(self) -> list[str]:
        """What was assumed."""
        stacks = [*self._stacks.values(), *(each.stack for each in self._values.values())]
        return [note for stack in stacks for note in stack.notes]

    # As `angles.Numbers`.

    def of_key(self, stream: str, key: str, event: int, part: int, fills: bool = False) -> float | None:
        """See `Numbers`; whether most of them may well be the fill value, as image keys are."""
        found = self._shots.link(stream, key, event)
        if found is None:
            self.why = f"no document says where {key} of event {event + 1} of the stream {stream} is"
            return None
        resource, index = found
        per = self._shots.per_event(stream, key, resource)
        return self._number(self._asset(resource), key, index * per + min(part, per - 1), fills, LINGER)

    def beside(self, shot: Shot, path: str, fills: bool = False) -> float | None:
        """See `Numbers`."""
        if not isinstance(shot.pixels, Place):
            raise SourceError(f"{path} is to be in the file of the images, and they are in events")
        return self._number(self._asset(shot.pixels.resource)._replace(dataset=path), path, shot.pixels.row, fills)

    def units_of(self, stream: str, key: str) -> str | None:
        """See `Numbers`."""
        return self._units.get(key)

    def _number(self, asset: Asset, key: str, row: int, fills: bool, settle: float | None = None) -> float | None:
        place = asset.path, asset.dataset
        if place not in self._values:
            self._values[place] = _Values(self._grow(asset, values=True, settle=settle if fills else None))
        values = self._values[place]
        found = values.of(row, fills)
        if values.stack.units is not None:
            self._units[key] = values.stack.units
        if found is None:
            self.why = f"{asset.dataset} has no number for it: {values.why}"
        return found

    def _stack(self, resource: str) -> GrowingStack:
        if resource not in self._stacks:
            self._stacks[resource] = self._grow(self._asset(resource), values=False)
        return self._stacks[resource]

    def _asset(self, resource: str) -> Asset:
        if resource not in self._assets:
            doc = self._shots.resources.get(resource)
            if doc is None:
                raise MessageError(f"no document says what the resource {resource[:60]} is")
            self._assets[resource] = asset_of(doc, self._roots)
        return self._assets[resource]

    def _grow(self, asset: Asset, values: bool, settle: float | None = None) -> GrowingStack:
        # Rows are asked for by name, and whoever asks gives them up.
        stack = GrowingStack(
            asset.path,
            asset.dataset,
            self._roots,
            values=values,
            limits=self._limits,
            clock=self._clock,
            patience=math.inf,
            settle=settle,
        )
        if self._over:
            stack.finish()
        return stack
