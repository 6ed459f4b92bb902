"""Where frames come from: an HDF5 file that is replayed or still written, or a simulated detector."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from streamrecon.config import Config
from streamrecon.errors import SourceError
from streamrecon.scan import Frame, Gap, ScanInfo
from streamrecon.sources.hdf5 import Hdf5Source
from streamrecon.sources.simulated import SimulatedSource
from streamrecon.sources.storage import Limits
from streamrecon.sources.swmr import SCHEME, SwmrSource

__all__ = ["Hdf5Source", "SimulatedSource", "Source", "SwmrSource", "open_source"]


class Source(Protocol):
    """One scan, frame by frame. Small and picklable: files are opened only while they are read."""

    def info(self) -> ScanInfo:
        """The scan as known before its first frame."""
        ...

    def frames(self, rows: slice = slice(None)) -> Iterator[Frame | Gap]:
        """All frames in the order of acquisition, from the start at every call.

        Parameters
        ----------
        rows
            Detector rows wanted: a contiguous range.

        Yields
        ------
        Frames whose data are (row, column) with only those rows, C-contiguous, of `info().dtype`, and the receiver's
        own. `Frame.index` counts the frames of a kind as acquired, also where they are replayed in another order. A gap
        stands for frames that a live source does not give.
        """
        ...

    def notes(self) -> list[str]:
        """What a user should know: every assumption made where the source says nothing."""
        ...


def open_source(spec: str | os.PathLike[str], config: Config) -> Source:
    """Choose the source that a command line names.

    Parameters
    ----------
    spec
        `simulated` (or `simulated:`), the path of an HDF5 file, or `file+swmr://PATH` for one that is still being written.
    config
        Its `source` and `simulated` tables are used, and `engine.max_frame_bytes` of a file that is still being written.

    Returns
    -------
    The source. Nothing has been opened yet, so a bad file shows only in `info` or `frames`.

    Raises
    ------
    SourceError
        If the URI names no file.
    """
    if spec in ("simulated", "simulated:"):
        return SimulatedSource(config.simulated, config.source.order)
    if isinstance(spec, str) and spec.startswith(SCHEME):
        if not (path := spec.removeprefix(SCHEME)):
            raise SourceError(f"{spec} names no file; expected {SCHEME}PATH")
        return SwmrSource(Path(path), config.source, limits=Limits(frame_bytes=config.engine.max_frame_bytes))
    return Hdf5Source(Path(spec), config.source)
