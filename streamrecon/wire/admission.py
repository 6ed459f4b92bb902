"""Who may have a scan: what a sender's HELLO and SCAN_OPEN must be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from streamrecon.errors import RemoteProtocolError
from streamrecon.scan import UID_PATTERN, FrameKind, Geometry, ScanInfo
from streamrecon.wire.codec import Buffer
from streamrecon.wire.messages import VERSION, Hello, Range, ScanOpen
from streamrecon.wire.session import Role, Session


def unfit(hello: Hello, rows: Range) -> str | None:
    """Why a sender cannot be let in, if it cannot.

    Parameters
    ----------
    hello
        What it said.
    rows
        Detector rows it would be asked for.
    """
    if not hello.version_min <= VERSION <= hello.version_max:
        return f"this engine speaks protocol version {VERSION}, the sender {hello.version_min} to {hello.version_max}"
    if not UID_PATTERN.fullmatch(hello.uid):
        return "the scan's uid is not 1 to 64 letters, digits, '_' or '-'"
    if "raw" not in hello.codecs:
        return "this engine knows the codec 'raw' only, which the sender does not offer"
    if rows[1] > hello.rows or rows[0] >= rows[1]:
        return f"rows {rows[0]}:{rows[1]} were asked for (--rows), but the detector has {hello.rows}"
    return None


@dataclass(slots=True)
class Candidate:
    """A sender that has said HELLO; it has the scan once it has announced it, and nobody is disturbed before."""

    peer: bytes
    id: int
    """Of its session."""
    hello: Hello
    rows: Range
    """It is asked for."""
    heard: float
    session: Session = field(default_factory=lambda: Session(Role.RECEIVER))

    def read(self, message: ScanOpen, payload: Buffer) -> ScanInfo:
        """The scan it announces.

        Raises
        ------
        RemoteProtocolError, GeometryError
            If that makes no sense, or HELLO said otherwise.
        """
        hello = self.hello
        if message.uid != hello.uid:
            raise RemoteProtocolError(f"SCAN_OPEN is of scan {message.uid}, HELLO was of {hello.uid}")
        if (message.rows, message.columns) != (hello.rows, hello.columns):
            raise RemoteProtocolError(
                f"SCAN_OPEN has {message.rows} rows x {message.columns} columns, HELLO had {hello.rows} x {hello.columns}"
            )
        theta = None
        if not message.has_theta and len(payload):
            raise RemoteProtocolError(f"SCAN_OPEN carries {len(payload)} bytes, but says that it has no angles")
        if message.has_theta:
            if message.projections is None or len(payload) != 8 * message.projections:
                raise RemoteProtocolError(
                    f"SCAN_OPEN carries {len(payload)} bytes of angles for {message.projections} projections; expected 8 each"
                )
            theta = np.frombuffer(bytes(payload), "<f8").astype(np.float64)
        if not re.fullmatch(r"[<|][uif][1248]", message.dtype):
            raise RemoteProtocolError(f"SCAN_OPEN names the dtype {message.dtype[:40]!r}; expected one like '<u2'")
        dtype = np.dtype(message.dtype)
        counts = {
            FrameKind.PROJECTION: message.projections,
            FrameKind.FLAT: message.flats,
            FrameKind.DARK: message.darks,
        }
        geometry = Geometry(message.rows, message.columns, message.pixel_size, message.center)
        return ScanInfo(message.uid, geometry, dtype, counts, theta, message.metadata)


def difference(ours: ScanInfo, theirs: ScanInfo) -> str | None:
    """What tells a scan from another one under the same uid; None where they are the same."""
    if ours.theta is None or theirs.theta is None:
        same_theta = ours.theta is theirs.theta
    else:
        same_theta = np.array_equal(ours.theta, theirs.theta)
    parts = {
        "the detector": ours.geometry == theirs.geometry,
        "the pixels' dtype": ours.dtype == theirs.dtype,
        "the number of frames": dict(ours.counts) == dict(theirs.counts),
        "the list of angles": same_theta,
    }
    return next((name for name, equal in parts.items() if not equal), None)
