"""The files of a run: pixels and numbers out of them, as they are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.bluesky.assets import Asset, asset_of
from streamrecon.bluesky.shots import Place, Shot, Shots
from streamrecon.errors import MessageError, SourceError, SourceFileError
from streamrecon.sources.growing import GrowingStack
from streamrecon.sources.roots import Roots


class _Values:
    """The numbers of one dataset, read once each."""

    def __init__(self, stack: GrowingStack) -> None:
        self.stack = stack
        self._values = np.empty(0)

    def of(self, row: int) -> float | None:
        if row >= len(self._values):
            count = self.stack.poll()
            if self.stack.replaced:
                raise SourceFileError(f"{self.stack.path} was replaced while it was read")
            if count > len(self._values):
                more = self.stack.read(len(self._values), count).astype(np.float64)
                self._values = np.concatenate([self._values, more])
        return float(self._values[row]) if row < len(self._values) else None


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
    """

    def __init__(self, shots: Shots, roots: Roots, clock: Callable[[], float] = time.monotonic) -> None:
        self._shots, self._roots, self._clock = shots, roots, clock
        self._assets: dict[str, Asset] = {}
        self._stacks: dict[str, GrowingStack] = {}
        """Of images, by resource."""
        self._values: dict[tuple[Path, str], _Values] = {}
        self._units: dict[str, str] = {}
        """Of data keys and datasets that have some."""
        self._over = False
        self.why = "no image has come"
        """Why nothing could be read when last that was so."""

    def finish(self) -> None:
        """The run is over: a file that is closed now will not be opened again to go on with it."""
        self._over = True
        for stack in (*self._stacks.values(), *(each.stack for each in self._values.values())):
            stack.finish()

    def ready(self, place: Place) -> bool:
        """Whether an image can be read now.

        Raises
        ------
        SourceError, MessageError
            If it never will.
        SourceFileError
            If its file is damaged, was replaced, or was closed without it.
        """
        stack = self._stack(place.resource)
        count = stack.poll()
        if stack.replaced:
            raise SourceFileError(f"{stack.path} was replaced while it was read")
        if count > place.row:
            if any(first <= place.row < end for first, end in stack.holes):
                raise SourceFileError(f"{stack.path} has no data for frame {place.row}: it was never written")
            return True
        self.why = stack.why or self.why
        if stack.complete:
            raise SourceFileError(
                f"{stack.path} ends after {count} frames, without frame {place.row} that was announced"
            )
        return False

    def read(self, place: Place, count: int, rows: slice) -> NDArray[Any]:
        """Images that follow each other, (frame, row, column), which are ready."""
        return self._stack(place.resource).read(place.row, place.row + count, rows)

    def place(self, place: Place) -> str:
        """Where an image is, for people."""
        asset, stack = self._asset(place.resource), self._stack(place.resource)
        shape = "" if stack.shape is None else f" ({stack.shape[0]} x {stack.shape[1]} {stack.dtype})"
        return f"{asset.path}: {asset.dataset}{shape}"

    @property
    def notes(self) -> list[str]:
        """What was assumed."""
        stacks = [*self._stacks.values(), *(each.stack for each in self._values.values())]
        return [note for stack in stacks for note in stack.notes]

    # As `angles.Numbers`.

    def of_key(self, stream: str, key: str, event: int, part: int) -> float | None:
        """See `Numbers`."""
        found = self._shots.link(stream, key, event)
        if found is None:
            self.why = f"no document says where {key} of event {event + 1} of the stream {stream} is"
            return None
        resource, index = found
        shape = self._shots.keys[stream].get(key, {}).get("shape") or ()
        per = self._asset(resource).per_event or (int(shape[0]) if shape and shape[0] else 1)
        return self._number(self._asset(resource), key, index * per + min(part, per - 1))

    def beside(self, shot: Shot, path: str) -> float | None:
        """See `Numbers`."""
        if not isinstance(shot.pixels, Place):
            raise SourceError(f"{path} is to be in the file of the images, and they are in events")
        return self._number(self._asset(shot.pixels.resource)._replace(dataset=path), path, shot.pixels.row)

    def units_of(self, stream: str, key: str) -> str | None:
        """See `Numbers`."""
        return self._units.get(key)

    def _number(self, asset: Asset, key: str, row: int) -> float | None:
        place = asset.path, asset.dataset
        if place not in self._values:
            self._values[place] = _Values(self._grow(asset, values=True))
        values = self._values[place]
        found = values.of(row)
        if values.stack.units is not None:
            self._units[key] = values.stack.units
        if found is None:
            self.why = values.stack.why or self.why
            if values.stack.complete:
                raise SourceFileError(f"{asset.path}: {asset.dataset} has no number {row}: {values.stack.why}")
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

    def _grow(self, asset: Asset, values: bool) -> GrowingStack:
        stack = GrowingStack(asset.path, asset.dataset, self._roots, values=values, clock=self._clock)
        if self._over:
            stack.finish()
        return stack
