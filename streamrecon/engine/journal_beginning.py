"""The beginning of a journal: what the scan announced, so that an engine can go on with it before any sender has come."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash

from streamrecon.errors import GeometryError, OutputError
from streamrecon.scan import FrameKind, Geometry, ScanInfo
from streamrecon.wire.messages import Range

MAGIC = b"SRJOURN2"
BLOCK = 4096
"""Bytes that the entries are aligned to."""


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier process left."""

    path: Path
    info: ScanInfo
    rows: Range
    """Detector rows of the slab."""
    whole: Range
    """Detector rows that all ranks together reconstruct."""
    can_replay: bool
    """Whether the sender could have sent it all again."""
    reconstruction: int
    """64 random bits of the one that the journal was begun for, which journals for other ranks keep."""


def look(path: Path) -> Found:
    """Whose journal a file is.

    Raises
    ------
    OutputError
        If it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot read the journal {path}: {error.strerror}") from error
    try:
        header = read_beginning(file, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot read the journal {path}: {error.strerror}") from error
    finally:
        os.close(file)
    return Found(path, header["info"], header["rows"], header["whole"], header["can_replay"], header["reconstruction"])


def write_beginning(
    file: int,
    info: ScanInfo,
    rows: Range,
    can_replay: bool,
    epoch: int,
    identity: int,
    whole: Range,
    reconstruction: int,
) -> int:
    """Write it; the bytes that it takes."""
    geometry = info.geometry
    text = msgpack.packb(
        {
            "id": identity,
            "reconstruction": reconstruction,
            "uid": info.uid,
            "rows": rows,
            "whole": whole,
            "detector": (geometry.rows, geometry.columns),
            "pixel_size": geometry.pixel_size,
            "center": geometry.center,
            "dtype": info.dtype.newbyteorder("<").str,
            "counts": [info.counts.get(kind) for kind in FrameKind],
            "theta": None if info.theta is None else np.ascontiguousarray(info.theta, "<f8").tobytes(),
            "metadata": dict(info.metadata),
            "can_replay": can_replay,
            "epoch": epoch,
        }
    )
    data = MAGIC + struct.pack("<QQ", len(text), xxhash.xxh3_64_intdigest(text)) + text
    start = -(-len(data) // BLOCK) * BLOCK
    data, offset = data.ljust(start, b"\0"), 0
    while offset < start:
        offset += os.pwrite(file, data[offset:], offset)
    return start


def read_beginning(file: int, path: Path) -> dict[str, Any]:
    """What `write_beginning` was given, by name, and where the entries start.

    Raises
    ------
    OutputError
        If it is none, or damaged.
    """
    fault = (
        f"{path} is no journal, one of another version, or its beginning is damaged: it cannot be gone on with. Move it away, "
        "or say --overwrite"
    )
    begin = os.pread(file, len(MAGIC) + 16, 0)
    if len(begin) < len(MAGIC) + 16 or not begin.startswith(MAGIC):
        raise OutputError(fault)
    length, check = struct.unpack("<QQ", begin[len(MAGIC) :])
    size = os.fstat(file).st_size
    text = os.pread(file, length, len(begin)) if length <= size else b""
    if len(text) != length or xxhash.xxh3_64_intdigest(text) != check:
        raise OutputError(fault)
    try:
        fields = msgpack.unpackb(text, use_list=False)
        theta = fields["theta"]
        rows, columns = fields["detector"]
        info = ScanInfo(
            fields["uid"],
            Geometry(rows, columns, fields["pixel_size"], fields["center"]),
            np.dtype(fields["dtype"]),
            dict(zip(FrameKind, fields["counts"], strict=True)),
            None if theta is None else np.frombuffer(theta, "<f8").astype(np.float64),
            fields["metadata"],
        )
    except (ValueError, KeyError, TypeError, GeometryError) as error:
        raise OutputError(f"{fault} ({error})") from error
    start = -(-(len(begin) + length) // BLOCK) * BLOCK
    return {
        "id": fields["id"],
        "reconstruction": fields.get("reconstruction", fields["id"]),
        "start": start,
        "info": info,
        "rows": fields["rows"],
        "whole": fields.get("whole", fields["rows"]),
        "can_replay": fields["can_replay"],
        "epoch": fields["epoch"],
    }
