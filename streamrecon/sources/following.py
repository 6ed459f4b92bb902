"""One pass over the frames of a file that grows: waiting for them, and matching them with their angles and keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import SourceConfig
from streamrecon.errors import SourceBusyError, SourceError, SourceFileError
from streamrecon.scan import Frame, FrameKind, Gap
from streamrecon.sources.growing import INTERVAL, LINGER, GrowingStack
from streamrecon.sources.outline import Outline, recognise
from streamrecon.sources.recording import radians_per, row_range
from streamrecon.sources.roots import Roots
from streamrecon.sources.storage import Limits
from streamrecon.sources.visit import NotYetError, Visitor

_PAUSE = 0.05
_BLOCK_BYTES = 64 << 20
_INVALID = 3

T = TypeVar("T")


def roots_of(config: SourceConfig, *more: Path) -> Roots:
    """The folders that the options allow, and others.

    Parameters
    ----------
    config
        Its `roots` and `remap` are used.
    more
        Folders that are allowed besides.
    """
    remap = dict(entry.split("=", 1) for entry in config.remap)
    return Roots([*map(Path, config.roots), *more], remap)


class Following:
    """Waiting for a file, and making readers of its datasets."""

    def __init__(
        self,
        path: Path,
        config: SourceConfig,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits
        self.path, self.config, self.clock, self.sleep = path.absolute(), config, clock, sleep
        self.roots = roots_of(config, self.path.resolve().parent)

    def stack(self, path: str, values: bool = False, settle: float | None = None) -> GrowingStack:
        patience = self.config.patience
        return GrowingStack(
            self.path,
            path,
            self.roots,
            values=values,
            limits=self.limits,
            clock=self.clock,
            patience=patience,
            linger=min(LINGER, patience / 2),
            settle=settle,
        )

    def outline(self) -> Outline:
        """Wait until the file shows how it is laid out."""
        config = self.config
        if config.data is not None:
            return Outline("explicit", {FrameKind.PROJECTION: config.data}, config.angles)
        visitor = Visitor(self.clock, self.roots)
        changes, better, why = -1, self.clock(), ""
        while True:
            try:
                with visitor.visit(self.path) as visit:
                    outline = recognise(visit.file, config, self.roots)
                    names = ", ".join(sorted(visit.file)[:12]) or "nothing"
                if outline is not None:
                    return outline
                why = (
                    f"it is laid out in no way that is known, and has in its root: {names}; name its frames with source.data, "
                    "and its angles with source.angles or source.angle_step"
                )
            except NotYetError as error:
                why = str(error)
            if visitor.changes != changes:
                changes, better = visitor.changes, self.clock()
            if self.clock() - better >= config.patience:
                raise SourceFileError(f"{self.path}: nothing changed for {config.patience:g} s: {why}")
            self.sleep(_PAUSE)

    def until(self, found: Callable[[], T | None], stacks: list[GrowingStack]) -> T:
        """Wait for something in the file."""
        while (value := found()) is None:
            if all(stack.overdue() for stack in stacks):
                raise SourceFileError(f"{self.path}: nothing came for {self.config.patience:g} s: {stacks[0].why}")
            self.sleep(_PAUSE)
        return value


class Pass:
    """One pass over the frames."""

    def __init__(self, following: Following, outline: Outline, rows: slice) -> None:
        self._following, self._config, self._outline = following, following.config, outline
        self._data = following.stack(outline.data[FrameKind.PROJECTION])
        self._angles = None if outline.angles is None else following.stack(outline.angles, values=True)
        self._stacks = [self._data, *([] if self._angles is None else [self._angles])]
        self._rows = rows
        self._next = dict.fromkeys(FrameKind, 0)
        self._late: tuple[float, int] | None = None
        """Since when frames wait for their angles, and up to which one."""

    def frames(self) -> Iterator[Frame | Gap]:
        ended: float | None = None
        while True:
            moved = False
            with suppress(SourceBusyError):  # its writer came in between: what is left is looked for again
                for item in self.step():
                    moved = True
                    yield item
                    if self._enough():
                        return
            now = self._following.clock()
            for stack in self._stacks:
                self._poll(stack)
            if self.over() and self._next[FrameKind.PROJECTION]:
                ended = now if ended is None else ended
                # All stacks have looked since the first of them saw the end.
                if not moved and now - ended > 2 * INTERVAL:
                    return
            else:
                ended = None
            if not moved:
                if all(stack.overdue(now) for stack in self._stacks):
                    why = self._data.why or "it was closed without more"
                    raise SourceFileError(
                        f"{self._following.path}: nothing came for {self._config.patience:g} s, after {self._said()}, and it is "
                        f"not complete: {why}. If its writer died, what it wrote is all there is"
                    )
                self._following.sleep(_PAUSE)

    def step(self) -> Iterator[Frame | Gap]:
        """What can be given now."""
        raise NotImplementedError

    def over(self) -> bool:
        """Whether nothing more will come."""
        raise NotImplementedError

    def _enough(self) -> bool:
        wanted = self._config.projections
        return wanted is not None and self._next[FrameKind.PROJECTION] >= wanted

    def _said(self) -> str:
        return ", ".join(f"{count} {kind.name.lower()}s" for kind, count in self._next.items() if count) or "no frames"

    def _poll(self, stack: GrowingStack) -> int:
        """What can be read of the file that was read before, and of no other."""
        count = stack.poll()
        if stack.replaced:
            raise SourceFileError(f"{stack.path}: {stack.name} was replaced after {self._said()} had been read")
        return count

    def _block(
        self, stack: GrowingStack, first: int, end: int, darks: Container[int] = frozenset()
    ) -> tuple[int, NDArray[Any]]:
        """(frame, row, column) as many frames as are read at once, and where they end."""
        shape, dtype = self._data.shape, self._data.dtype
        if shape is None or dtype is None or stack.shape is None or stack.dtype is None:
            raise SourceBusyError(f"{self._data.path}: {self._data.name} is not there yet")
        if stack.shape != shape or not np.can_cast(stack.dtype, dtype, "safe"):
            raise SourceError(
                f"{stack.path}: {stack.name} has frames of {stack.dtype} {stack.shape}, {self._data.name} of {dtype} {shape}; "
                "expected the same shape, and a type that fits in the projections'"
            )
        rows = row_range(self._rows, shape[0])
        end = min(end, first + max(1, _BLOCK_BYTES // (math.prod(shape) * dtype.itemsize)))
        return end, stack.read(first, end, rows, darks)

    def _theta(self, first: int, end: int) -> NDArray[np.float64]:
        """(frame,) radians of as many as can be had; NaN for one that has none."""
        if self._angles is None:
            return np.array([even_angle(self._config, index) for index in range(first, end)])
        end = min(end, self._poll(self._angles))
        if end <= first:
            return np.empty(0)
        return self._angles.read(first, end).astype(np.float64) * radians_per(self._angles.units, self._angles.name)

    def _wait_for_angles(self, first: int, count: int) -> str | None:
        """Why frames from `first` on will have no angle; None while they may have one."""
        assert self._angles is not None
        now = self._following.clock()
        if self._angles.complete:
            return f"{self._angles.name} has {self._poll(self._angles)} angles"
        if self._data.complete and self._angles.dtype is None and self._angles.overdue(now):
            return f"no angles: {self._angles.why}"
        if self._late is None or self._late[1] <= first:
            self._late = now, count
        elif now - self._late[0] >= self._config.patience:
            return f"its angle did not come for {self._config.patience:g} s: {self._angles.why}"
        return None

    def _give(self, kind: FrameKind, theta: float | None, data: NDArray[Any]) -> Frame | Gap:
        index = self._next[kind]
        self._next[kind] += 1
        if theta is not None and not np.isfinite(theta):
            return Gap(kind, index, index + 1, f"its angle is {theta}")
        return Frame(kind, index, theta, data.astype(self._data.dtype or data.dtype, order="C"))

    def _skip(self, kind: FrameKind, end: int, reason: str) -> Gap:
        first, self._next[kind] = self._next[kind], end
        return Gap(kind, first, end, reason)


class _Stacks(Pass):
    """A dataset for each kind of frames."""

    def __init__(self, following: Following, outline: Outline, rows: slice) -> None:
        super().__init__(following, outline, rows)
        self._of = {FrameKind.PROJECTION: self._data}
        for kind in (FrameKind.FLAT, FrameKind.DARK):
            if kind in outline.data:
                self._of[kind] = following.stack(outline.data[kind])
                self._stacks.append(self._of[kind])

    def step(self) -> Iterator[Frame | Gap]:
        # Looked at before the others: what was written before a projection is found with it.
        projections = self._poll(self._data)
        for kind in (FrameKind.DARK, FrameKind.FLAT, FrameKind.PROJECTION):
            stack = self._of.get(kind)
            if stack is None:
                continue
            count = projections if stack is self._data else self._poll(stack)
            first = self._next[kind]
            while first < count:
                yield from self._some(kind, stack, first, count)
                if self._next[kind] == first:
                    break
                first = self._next[kind]

    def over(self) -> bool:
        """The frames' file is complete, and what else is there, too."""
        rest = [stack for stack in self._stacks if stack is not self._data]
        done = all(self._poll(stack) <= self._next[kind] for kind, stack in self._of.items())
        return self._data.complete and done and all(stack.complete or stack.dtype is None for stack in rest)

    def _some(self, kind: FrameKind, stack: GrowingStack, first: int, count: int) -> Iterator[Frame | Gap]:
        end = count
        for start, stop in stack.holes:
            if start <= first < stop:
                yield self._skip(kind, min(stop, count), "the file has no data for it")
                return
            if start > first:
                end = min(end, start)
        theta = None
        if kind is FrameKind.PROJECTION:
            theta = self._theta(first, min(end, self._config.projections or end))
            if not theta.size:
                reason = self._wait_for_angles(first, end)
                if reason is not None:
                    yield self._skip(
                        kind, end if self._late is None else min(end, max(self._late[1], first + 1)), reason
                    )
                return
            end = first + len(theta)
        darks = range(first, end) if kind is FrameKind.DARK else range(0)
        end, block = self._block(stack, first, end, darks)
        for number, data in enumerate(block):
            yield self._give(kind, None if theta is None else float(theta[number]), data)


class _Keyed(Pass):
    """One dataset of frames of all kinds, told apart by NXtomo's image key."""

    def __init__(self, following: Following, outline: Outline, rows: slice) -> None:
        super().__init__(following, outline, rows)
        assert outline.keys is not None
        # The key of a projection is 0, as is what was not written yet.
        self._keys = following.stack(outline.keys, values=True, settle=LINGER)
        self._stacks.append(self._keys)
        self._row = 0

    def step(self) -> Iterator[Frame | Gap]:
        while True:
            first, end = self._row, min(self._poll(self._data), self._poll(self._keys))
            if first >= end:
                return
            keys = self._keys.read(first, end)
            bad = np.flatnonzero(~np.isin(keys, (*FrameKind, _INVALID)))
            if bad.size:
                raise SourceError(
                    f"{self._keys.path}: {self._keys.name} of frame {first + bad[0]} is {keys[bad[0]]}; expected 0 "
                    "(projection), 1 (flat), 2 (dark) or 3 (invalid)"
                )
            yield from self._some(first, end, keys)
            if self._row == first:
                return

    def over(self) -> bool:
        return (
            self._data.complete
            and self._keys.complete
            and self._row >= min(self._poll(self._data), self._poll(self._keys))
        )

    def _some(self, first: int, end: int, keys: NDArray[Any]) -> Iterator[Frame | Gap]:
        theta = self._theta(first, end)
        projections = np.flatnonzero(keys == FrameKind.PROJECTION)
        # Frames before the first projection need no angle.
        known = max(len(theta), int(projections[0]) if projections.size else len(keys))
        if not known:
            reason = self._wait_for_angles(first, end)
            if reason is not None:
                self._row += 1
                yield self._skip(FrameKind.PROJECTION, self._next[FrameKind.PROJECTION] + 1, reason)
            return
        darks = {first + int(number) for number in np.flatnonzero(keys == FrameKind.DARK)}
        end, block = self._block(self._data, first, first + known, darks)
        holes = [range(*hole) for hole in self._data.holes]
        for number, data in enumerate(block):
            self._row = first + number + 1
            if keys[number] == _INVALID:
                continue
            kind = FrameKind(int(keys[number]))
            if any(first + number in hole for hole in holes):
                yield self._skip(kind, self._next[kind] + 1, "the file has no data for it")
            else:
                yield self._give(kind, float(theta[number]) if kind is FrameKind.PROJECTION else None, data)


def pass_over(following: Following, outline: Outline, rows: slice) -> Pass:
    """A pass over a file that is laid out in that way."""
    return _Stacks(following, outline, rows) if outline.keys is None else _Keyed(following, outline, rows)


def even_angle(config: SourceConfig, index: int) -> float:
    """Radians of a projection whose file has no angles.

    Raises
    ------
    SourceError
        If the options do not say them.
    """
    if config.angle_step is None:
        raise SourceError("the angles of a growing file were not found; expected source.angles or source.angle_step")
    return math.radians(config.angle_start + index * config.angle_step)
