"""Scans in HDF5 files, replayed frame by frame."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from streamrecon.config import SourceConfig
from streamrecon.errors import SourceError, SourceFileError, StreamreconError
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.sources.nxtomo import nxtomo
from streamrecon.sources.order import projection_order
from streamrecon.sources.recording import Recording, dangling, resolve, row_range, stack, where
from streamrecon.sources.stacks import data_exchange, fxi

BLOCK_BYTES = 64 << 20
"""Most bytes of frames that are read, and kept, at once."""


class Layout(NamedTuple):
    """One way of laying out a scan in a file."""

    recognise: Callable[[h5py.File, str | None], Recording | None]
    """From the open file and `source.entry`; None if the file is laid out in another way."""
    expects: str
    """What it looks for, for people whose file has none of it."""


LAYOUTS: dict[str, Layout] = {
    "data-exchange": Layout(data_exchange, "exchange/data with data_white, data_dark and theta beside it"),
    "fxi": Layout(fxi, "img_tomo with img_bkg, img_dark and angle beside it"),
    "nxtomo": Layout(nxtomo, "a group with the definition NXtomo, or one with an image_key"),
}
"""Layouts by name, in the order in which they are tried: what `source.layout` may be, besides `auto`."""


@dataclass(frozen=True, slots=True)
class Hdf5Source:
    """A scan in an HDF5 file. The file is opened without locking, and only during a call."""

    path: Path
    config: SourceConfig = field(default_factory=SourceConfig)

    def info(self) -> ScanInfo:
        """The scan as the file describes it, all projections' angles included.

        Raises
        ------
        SourceFileError
            If the file is missing, truncated, or not HDF5.
        SourceError
            If it is laid out in no known way, or frames, angles or types do not fit together.
        """
        with _opened(self.path) as file:
            recording = self._recording(file)
            dtype, _ = _common_dtype(file, recording)
            rows, columns = _frame_shape(file, recording)
            projection_order(self.config.order, recording.count(FrameKind.PROJECTION))  # a wrong one is refused at once
        texts = {"raw_file": self.path.name, "title": recording.title, "sample": recording.sample}
        return ScanInfo(
            uid=self._uid(),
            geometry=Geometry(rows, columns, recording.pixel_size),
            dtype=dtype,
            counts={kind: recording.count(kind) for kind in FrameKind},
            theta=recording.theta,
            metadata={name: text[:200] for name, text in texts.items() if text} | {"layout": recording.layout},
        )

    def frames(self, rows: slice = slice(None)) -> Iterator[Frame]:
        """All frames in the order of acquisition, or the projections among them in the order of `source.order`.

        Parameters
        ----------
        rows
            Detector rows to read: a contiguous range.

        Yields
        ------
        Frames of `info().dtype`, (row, column), C-contiguous, in native byte order.

        Raises
        ------
        SourceFileError
            If the file cannot be opened or a frame cannot be read.
        SourceError
            As `info` does.
        GeometryError
            If `rows` selects none, or not a contiguous range.
        """
        with _opened(self.path) as file:
            recording = self._recording(file)
            wanted = row_range(rows, _frame_shape(file, recording)[0])
            dtype, _ = _common_dtype(file, recording)
            order = projection_order(self.config.order, len(recording.theta))
            sequential = bool(np.all(np.abs(np.diff(order)) == 1))
            paths = set(recording.datasets.values())
            stacks = {path: _Stack(file, path, wanted, dtype, sequential) for path in paths}
            kinds, positions = recording.kinds, recording.positions
            # (frame of the kind,) where the frames of a kind lie.
            of_kind = {kind: positions[kinds == kind] for kind in FrameKind}
            turns = {kind: iter(range(len(found))) for kind, found in of_kind.items()}
            turns[FrameKind.PROJECTION] = iter(order.tolist())
            for kind in map(FrameKind, kinds.tolist()):
                index = next(turns[kind])
                theta = float(recording.theta[index]) if kind is FrameKind.PROJECTION else None
                yield Frame(kind, index, theta, stacks[recording.datasets[kind]].frame(int(of_kind[kind][index])))

    def notes(self) -> list[str]:
        """Every assumption made where the file says nothing.

        Raises
        ------
        SourceFileError, SourceError
            As `info` does.
        """
        with _opened(self.path) as file:
            recording = self._recording(file)
            return [*recording.notes, *_common_dtype(file, recording)[1]]

    def _recording(self, file: h5py.File) -> Recording:
        layout, entry = self.config.layout, self.config.entry
        group = resolve(file, (entry or "").strip("/"))
        if not isinstance(group, h5py.Group):
            reason = dangling(file, entry or "") or f"{where(file, entry or '')} is not a group of the file"
            raise SourceError(f"{reason}; correct source.entry")
        tried = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
        for candidate in tried.values():
            recording = candidate.recognise(file, entry)
            if recording is not None:
                size = self.config.pixel_size
                return recording if size is None else replace(recording, pixel_size=size)
        below = f"under {entry}" if entry is not None else "in its root"
        names = sorted(group)
        raise SourceError(
            f"{self.path} is laid out in no way that is known. Looked for: "
            + "; ".join(f"{name}: {candidate.expects}" for name, candidate in tried.items())
            + f". The file has {below}: {', '.join(names[:12]) or 'nothing'}{', ...' if len(names) > 12 else ''}. "
            "Name the layout with source.layout and its group with source.entry"
        )

    def _uid(self) -> str:
        stat = self.path.stat()
        facts = f"{self.path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{self.config.entry}"
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", self.path.stem)[:48]
        return f"{stem}-{hashlib.blake2b(facts.encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()}"


class _Stack:
    """The frames of one dataset, read in blocks of whole chunks so that none is decompressed twice without need."""

    def __init__(self, file: h5py.File, path: str, rows: slice, dtype: np.dtype[Any], sequential: bool) -> None:
        self._dataset = stack(file, path)
        self._where = where(file, path)
        self._rows = rows
        self._dtype = dtype
        single = self._dataset.ndim == 2
        self._length = 1 if single else len(self._dataset)
        self._chunk = chunk = 1 if single or self._dataset.chunks is None else self._dataset.chunks[0]
        frame_bytes = (rows.stop - rows.start) * self._dataset.shape[-1] * self._dataset.dtype.itemsize
        most = max(1, BLOCK_BYTES // frame_bytes)
        self._block = most // chunk * chunk if sequential and most >= chunk else min(chunk, most)
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._capacity = 1 if sequential else max(1, most // self._block)

    def frame(self, position: int) -> NDArray[Any]:
        """(row, column) a copy, so that a frame that is held for long does not hold its whole block."""
        number = position // self._block
        if number not in self._kept:
            if len(self._kept) >= self._capacity:
                self._kept.popitem(last=False)
            try:
                self._kept[number] = self._read(number * self._block, position)
            except SourceFileError:
                if self._block <= self._chunk:
                    raise
                # Only one chunk of the block may be damaged: the frames before it are still to be had.
                self._block = self._chunk
                self._kept.clear()
                return self.frame(position)
        self._kept.move_to_end(number)
        frame: NDArray[Any] = self._kept[number][position % self._block].astype(self._dtype, order="C")
        return frame

    def _read(self, first: int, position: int) -> NDArray[Any]:
        """(frame, row, column) a block, as stored."""
        try:
            if self._dataset.ndim == 2:
                return np.asarray(self._dataset[self._rows])[None]
            return np.asarray(self._dataset[first : min(first + self._block, self._length), self._rows])
        except (OSError, RuntimeError) as error:
            raise SourceFileError(
                f"{self._where}: frame {position} cannot be read ({error}): the file is damaged or incomplete, or "
                "compressed with a filter that hdf5plugin does not have"
            ) from error


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The open file, or an error for people."""
    if not path.exists():
        raise SourceFileError(f"{path} does not exist; expected an HDF5 file, or `simulated`")
    if not path.is_file():
        raise SourceFileError(f"{path} is not a file; expected an HDF5 file")
    importlib.import_module("hdf5plugin")  # registers the filters that compressed files need
    try:
        # The cache keeps chunks that hold more frames than a block does.
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=BLOCK_BYTES, rdcc_nslots=10_007)
    except OSError as error:
        if "truncated" in str(error):
            reason = f"is truncated ({path.stat().st_size} bytes are there; {error}): copy it again"
        elif "signature" in str(error):
            reason = "is not an HDF5 file"
        else:
            reason = f"cannot be opened: {error}"
        raise SourceFileError(f"{path} {reason}") from error
    with file:
        try:
            yield file
        except StreamreconError:
            raise
        except (OSError, RuntimeError) as error:
            raise SourceFileError(f"{path} cannot be read: {error}; the file is damaged or incomplete") from error


def _frame_shape(file: h5py.File, recording: Recording) -> tuple[int, int]:
    """(rows, columns), the same for all kinds."""
    shapes = {kind: stack(file, path).shape[-2:] for kind, path in recording.datasets.items()}
    expected: tuple[int, int] = shapes[FrameKind.PROJECTION]
    for kind, shape in shapes.items():
        if shape != expected:
            raise SourceError(
                f"{where(file, recording.datasets[kind])} has {kind.name.lower()}s of {shape} pixels, but "
                f"/{recording.datasets[FrameKind.PROJECTION]} has projections of {expected}; expected the same shape"
            )
    return expected


def _common_dtype(file: h5py.File, recording: Recording) -> tuple[np.dtype[Any], list[str]]:
    """The type of all frames, in native byte order, and a note where it is not the projections'."""
    types = {}
    for kind, path in recording.datasets.items():
        stored = stack(file, path).dtype
        if stored.kind not in "uif" or stored.itemsize not in ((4, 8) if stored.kind == "f" else (1, 2, 4)):
            raise SourceError(
                f"{where(file, path)} has dtype {stored}; expected 8, 16 or 32 bit integers, float32 or float64: "
                "write the file in one of these"
            )
        types[kind] = stored.newbyteorder("=")
    projections = types[FrameKind.PROJECTION]
    if all(np.can_cast(dtype, projections, "safe") for dtype in types.values()):
        return projections, []
    listed = ", ".join(f"{kind.name.lower()}s {dtype}" for kind, dtype in types.items())
    return np.dtype(np.float32), [f"types differ ({listed}): all frames are converted to float32"]
