"""Where a sender keeps frames: in memory up to a limit, then in a file that is bounded, too."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamrecon.config import SendConfig
from streamrecon.errors import SourceError
from streamrecon.failpoints import fail
from streamrecon.scan import Frame

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Spooled:
    """A frame in the file."""

    frame: Frame
    """Without its pixels: its data is a view of zeros of their shape and dtype."""
    slot: int


Kept = Frame | Spooled


class Retention:
    """Keeps frames of one shape; used by one thread.

    Parameters
    ----------
    options
        The limits.

    Raises
    ------
    SourceError
        If the folder of the spool cannot be written.
    """

    def __init__(self, options: SendConfig) -> None:
        self._options = options
        self.memory_bytes = 0
        """In use."""
        self.spool_bytes = 0
        """In use."""
        self.alarm: str | None = None
        """Why the file cannot take another frame, though its limit would allow it."""
        self._free: list[int] = []
        self._slots = 0
        self._file: int | None = None
        if options.when_full == "spool":
            folder = options.spool or tempfile.gettempdir()
            try:
                # The file has no name, so nothing of it is left when the process ends, however it does.
                self._file, name = tempfile.mkstemp(prefix="streamrecon-spool-", dir=folder)
                Path(name).unlink()
            except OSError as error:
                raise SourceError(f"cannot make a spool in {folder} (send.spool): {error.strerror}") from error

    @property
    def nbytes(self) -> int:
        """Kept in all."""
        return self.memory_bytes + self.spool_bytes

    def keep(self, frame: Frame) -> Kept | None:
        """Keep a frame; None where there is no room. One frame always has room in memory."""
        size = frame.data.nbytes
        # What is in the file is younger than what is in memory, and is needed later.
        if not self.spool_bytes and (not self.memory_bytes or self.memory_bytes + size <= self._options.retain_bytes):
            self.memory_bytes += size
            return frame
        if self._file is None or self.spool_bytes + size > self._options.spool_bytes:
            return None
        slot = self._free[-1] if self._free else self._slots
        try:
            self._write(frame, slot)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise SourceError(f"cannot write the spool (send.spool): {error.strerror}") from error
            if self.alarm is None:
                self.alarm = f"the disk of the spool is full ({error.strerror}): make space; the scan goes on by itself"
                log.error("%s", self.alarm)
            return None
        self.alarm = None
        if self._free:
            self._free.pop()
        else:
            self._slots += 1
        self.spool_bytes += size
        hollow = np.broadcast_to(np.zeros((), frame.data.dtype), frame.data.shape)
        return Spooled(replace(frame, data=hollow), slot)

    def _write(self, frame: Frame, slot: int) -> None:
        assert self._file is not None
        view, offset = frame.data.data.cast("B"), slot * frame.data.nbytes
        while view:
            fail("spool.write")
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written

    def rows(self, kept: Kept, first: int, end: int) -> Frame:
        """Some rows of a frame, counted from the first one kept; not copied where it is in memory."""
        if isinstance(kept, Frame):
            return replace(kept, data=kept.data[first:end])
        assert self._file is not None
        hollow = kept.frame.data
        data = np.empty((end - first, hollow.shape[1]), hollow.dtype)
        view, offset = data.data.cast("B"), kept.slot * hollow.nbytes + first * hollow.shape[1] * hollow.itemsize
        while view:
            got = os.preadv(self._file, [view], offset)
            if not got:
                raise SourceError("the spool is shorter than what was written to it")
            view, offset = view[got:], offset + got
        return replace(kept.frame, data=data)

    def free(self, kept: Kept) -> None:
        """A frame need not be kept any more."""
        if isinstance(kept, Frame):
            self.memory_bytes -= kept.data.nbytes
        else:
            self.spool_bytes -= kept.frame.data.nbytes
            self._free.append(kept.slot)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
