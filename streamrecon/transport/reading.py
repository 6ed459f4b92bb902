"""A thread that reads the source ahead, so that reading and sending overlap."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from streamrecon.errors import SourceError
from streamrecon.scan import Frame, FrameKind, Gap, ScanInfo
from streamrecon.transport.wakeup import Wakeup

FramesOf = Callable[[slice], Iterator[Frame | Gap]]
"""Frames of some detector rows, from the scan's start."""

READ_AHEAD = 4
"""Frames read before there is room for them."""


class Reading:
    """One pass over a source.

    Parameters
    ----------
    info
        Of the scan, which the frames must fit.
    frames
        The source.
    rows
        Detector rows to read.
    wakeup
        Set whenever there is something to take.
    """

    def __init__(self, info: ScanInfo, frames: FramesOf, rows: slice, wakeup: Wakeup) -> None:
        self._info, self._frames, self._rows, self._wakeup = info, frames, rows, wakeup
        self._queue: queue.Queue[Frame | Gap | Exception | None] = queue.Queue(READ_AHEAD)
        self._stop = threading.Event()
        self.exhausted = False
        """Whether the source has given all it has, and all was taken."""
        self._thread = threading.Thread(target=self._read, name="streamrecon-read", daemon=True)
        self._thread.start()

    def take(self) -> Frame | Gap | None:
        """What comes next; None where there is nothing yet, or nothing more.

        Raises
        ------
        Exception
            Whatever reading raised; SourceError if a frame does not fit the scan.
        """
        if self.exhausted:
            return None
        try:
            item = self._queue.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        self.exhausted = item is None
        return item

    def close(self) -> None:
        """End the thread; one that hangs in its source is left behind, and ends with the process."""
        self._stop.set()
        patience = time.monotonic() + 1.0
        while self._thread.is_alive() and time.monotonic() < patience:
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
            self._thread.join(0.05)

    def _read(self) -> None:
        first, end, _ = self._rows.indices(self._info.geometry.rows)
        shape = (end - first, self._info.geometry.columns)
        last: Exception | None = None
        try:
            for item in self._frames(self._rows):
                if isinstance(item, Frame):
                    _check_frame(item, shape, self._info.dtype)
                if not self._put(item):
                    return
        except Exception as error:
            last = error
        except BaseException as error:
            last = SourceError(f"the source ended with {type(error).__name__}: {error}")
        self._put(last)

    def _put(self, item: Frame | Gap | Exception | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            self._wakeup.set()
            return True
        return False


def _check_frame(frame: Frame, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> None:
    name = f"{FrameKind(frame.kind).name.lower()} {frame.index}"
    if frame.data.shape != shape or frame.data.dtype != dtype or not frame.data.flags.c_contiguous:
        raise SourceError(f"{name} is {frame.data.dtype} {frame.data.shape}; the scan announced {dtype} {shape}")
    if frame.kind == FrameKind.PROJECTION and (frame.theta is None or not np.isfinite(frame.theta)):
        raise SourceError(f"{name} has the angle {frame.theta}; expected a finite one")
    if frame.position is not None and (frame.kind == FrameKind.PROJECTION or frame.position < 0):
        raise SourceError(
            f"{name} has the position {frame.position}; expected that of a flat or dark: the projections measured before it"
        )
