"""Scans in an HDF5 file that is still being written, followed without anyone telling how far its writer is."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.config import SourceConfig
from streamrecon.errors import SourceBusyError
from streamrecon.scan import Frame, FrameKind, Gap, Geometry, ScanInfo
from streamrecon.sources.following import Following, even_angle, pass_over
from streamrecon.sources.growing import GrowingStack
from streamrecon.sources.outline import Outline
from streamrecon.sources.storage import Limits

SCHEME = "file+swmr://"


@dataclass(frozen=True, slots=True)
class SwmrSource:
    """A scan in an HDF5 file that grows. The file is opened for moments, without locking, so its writer notices nothing.

    The scan ends when `source.projections` have come, or when the writer has closed the file and all was read. Frames of one
    kind come as they were written; darks and flats before the projections that were written by then.
    """

    path: Path
    config: SourceConfig = field(default_factory=SourceConfig)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    limits: Limits = field(default_factory=Limits)
    """Of what is allocated."""

    def info(self) -> ScanInfo:
        """The scan, as soon as its first frame is there.

        Raises
        ------
        SourceFileError
            If it does not come for `source.patience` seconds, or the file is damaged.
        SourceError
            If the file, its layout or the types of its datasets are refused.
        """
        config, following = self.config, self._following()
        outline = following.outline()
        stack = following.stack(outline.data[FrameKind.PROJECTION])
        first = following.until(lambda: _first(stack), [stack])
        assert stack.shape is not None
        assert stack.dtype is not None
        theta = None
        if (
            outline.angles is None
            and config.angle_step is not None
            and config.projections is not None
            and not outline.keys
        ):
            theta = np.array([even_angle(config, index) for index in range(config.projections)])
        return ScanInfo(
            uid=self._uid(outline, first),
            geometry=Geometry(*stack.shape, config.pixel_size),
            dtype=stack.dtype,
            counts={FrameKind.PROJECTION: config.projections, FrameKind.FLAT: None, FrameKind.DARK: None},
            theta=theta,
            metadata={"raw_file": self.path.name[:200], "layout": outline.layout},
        )

    def frames(self, rows: slice = slice(None)) -> Iterator[Frame | Gap]:
        """All frames from the first on, as they are written. It can be called again, as the file stays.

        Parameters
        ----------
        rows
            Detector rows to read: a contiguous range.

        Yields
        ------
        Frames of `info().dtype`; a gap for projections without an angle, and for those the file has no data for.

        Raises
        ------
        SourceFileError
            If nothing came for `source.patience` seconds before the end, or the file was replaced or is damaged.
        SourceError
            As `info` does.
        GeometryError
            If `rows` selects none, or not a contiguous range.
        """
        following = self._following()
        outline = following.outline()
        yield from pass_over(following, outline, rows).frames()

    def outline(self) -> Outline:
        """Which datasets are which, as soon as the file shows it.

        Raises
        ------
        SourceFileError, SourceError
            As `info` does.
        """
        return self._following().outline()

    def notes(self) -> list[str]:
        """What a user should know."""
        end = (
            f"{self.config.projections} projections have come"
            if self.config.projections
            else "its writer has closed it"
        )
        notes = [f"{self.path} is followed as it grows: the scan ends when {end}"]
        if self.config.pixel_size is None:
            notes.append("the pixel size of a growing file is not looked for: set source.pixel_size")
        return notes

    def _following(self) -> Following:
        return Following(self.path, self.config, self.clock, self.sleep, self.limits)

    def _uid(self, outline: Outline, first: NDArray[Any]) -> str:
        # The file's size and times change, its first frame does not.
        digest = hashlib.blake2b(np.ascontiguousarray(first).tobytes(), digest_size=8).hexdigest()
        facts = f"{self.path.resolve()}|{outline.data[FrameKind.PROJECTION]}|{digest}"
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", self.path.stem)[:48]
        return f"{stem}-{hashlib.blake2b(facts.encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()}"


def _first(stack: GrowingStack) -> NDArray[Any] | None:
    if not stack.poll():
        return None
    try:
        return stack.read(0, 1)
    except SourceBusyError:
        return None
