"""The messages of the protocol, version 1. docs/protocol.md has them as a table (`python -m streamrecon.wire.messages`)."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from streamrecon.scan import Axis

VERSION = 1

Range: TypeAlias = tuple[int, int]
"""First and one past the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Base of all messages."""

    TYPE: ClassVar[int]
    PAYLOAD: ClassVar[bool] = False
    """Whether a third part, the payload, follows the header."""
    HEADER_LIMIT: ClassVar[int] = 4096
    """Bytes of the header, at most."""

    @classmethod
    def name(cls) -> str:
        """As written in the protocol's tables."""
        return "".join("_" + c if c.isupper() and i else c for i, c in enumerate(cls.__name__)).upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """Sender: I want to send a scan."""

    TYPE: ClassVar[int] = 1
    version_min: int = VERSION
    version_max: int = VERSION
    uid: str
    """Of the scan."""
    epoch: int
    """Grows with every restart of the sender, not with its sessions: of two senders of a scan the younger one has it."""
    role: Literal["producer", "relay"] = "producer"
    codecs: tuple[str, ...] = ("raw",)
    can_replay: bool = False
    """Whether every frame can be sent again from the start."""
    retain_bytes: int = 0
    """How much the sender can hold until it is durable."""
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane(Message):
    """Part of WELCOME: which rows go where."""

    TYPE: ClassVar[int] = 0
    rows: Range
    endpoint: str = ""
    """Empty is this connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Message):
    """Receiver: send it, in this session."""

    TYPE: ClassVar[int] = 2
    HEADER_LIMIT: ClassVar[int] = 1 << 18
    version: int = VERSION
    incarnation: str
    """Changes whenever the receiver starts anew."""
    session: int
    lanes: tuple[Lane, ...]
    """Rows and endpoint of each, this connection's first (its endpoint is empty)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy(Message):
    """Receiver: another scan, or a younger sender of this one, has the engine."""

    TYPE: ClassVar[int] = 3
    reason: str
    retry_after: float
    """Seconds."""
    epoch: int = 0
    """Of the sender that has this scan, where it is not 0: one that was never let in may take over with a higher one."""
    soon: bool = False
    """Whether it is only getting ready, such as by reading what an earlier engine has left: it is there, and waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Message):
    """Receiver: this session is unknown here; start over with HELLO."""

    TYPE: ClassVar[int] = 4
    session: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanOpen(Message):
    """Sender: what is coming. The payload holds theta, (projection,) little-endian float64 radians, or is empty."""

    TYPE: ClassVar[int] = 5
    PAYLOAD: ClassVar[bool] = True
    session: int
    uid: str
    rows: int
    columns: int
    dtype: str
    """As NumPy writes it, little-endian: `<u2`, `|u1`, `<f4`, ..."""
    projections: int | None
    """Null where their number is unknown; so are those below."""
    flats: int | None
    darks: int | None
    pixel_size: float | None
    """m"""
    center: float | None
    """Column, pixels."""
    has_theta: bool
    metadata: dict[str, str | float | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Have(Message):
    """Receiver: the scan is accepted; these frames are durable here already. They are all that ever came.

    The payload holds ranges of indices, (range, 2) little-endian uint64, first those of the projections.
    """

    TYPE: ClassVar[int] = 6
    PAYLOAD: ClassVar[bool] = True
    session: int
    projections: int = 0
    """Ranges of them in the payload."""
    flats: int = 0
    darks: int = 0
    gaps: int = 0
    """Number of the last GAP of this sender that is known to have been followed; 0 is none."""
    ended: bool = False
    """Whether END has come already: nothing more is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader(Message):
    """Sender: one frame's rows of one lane. The payload holds (row, column) pixels."""

    TYPE: ClassVar[int] = 7
    PAYLOAD: ClassVar[bool] = True
    session: int
    lane: int
    n: int
    """Position among the frames of this session, 0, 1, ... over all kinds."""
    kind: int
    """0 projection, 1 flat, 2 dark."""
    index: int
    """Among the frames of its kind."""
    theta: float | None
    """Radians; null for flats and darks."""
    position: int | None = None
    """Projections measured before a flat or dark, whenever it is sent; null for projections."""
    rows: Range
    codec: str = "raw"
    nbytes: int
    """Of the payload."""
    xxh3: int
    """XXH3 (64 bit) of the payload."""
    cut: int = 0
    """Where it is not 0: the cut of this number comes after this frame, on every lane."""

    @classmethod
    def name(cls) -> str:
        return "FRAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(Message):
    """Sender: frames that will not come, or projections that are withdrawn after they were sent; they may still come later."""

    TYPE: ClassVar[int] = 8
    HEADER_LIMIT: ClassVar[int] = 1 << 18
    session: int
    number: int
    """1, 2, ... in the order in which a sender gives frames up, whatever the session. One that HAVE named, or a lower one,
    withdraws nothing more: it is said again for its reason."""
    kind: int
    indices: tuple[Range, ...]
    """Ranges, each by its first and one past its last."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit(Message):
    """Receiver: what the sender may have sent in this session so far, in all; also the heartbeat."""

    TYPE: ClassVar[int] = 9
    session: int
    lane: int
    max_bytes: int
    max_frames: int
    in_volume: int = 0
    """Projections in the newest version of the volume."""
    want_cut: int = 0
    """Where it is not 0: the cut of this number is to be placed where all lanes have had the same frames, as soon as there is
    such a place. Told on the first lane only."""
    advice: str = ""
    """Why people who watch the scan advise to stop it, where they do. What becomes of it is up to the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """Receiver: the two watermarks."""

    TYPE: ClassVar[int] = 10
    session: int
    lane: int
    received: int
    """Frames checked and in the ring: every n below this."""
    durable: int = 0
    """Frames that survive a crash of the receiver: every n below this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack(Message):
    """Receiver: frame n was refused."""

    TYPE: ClassVar[int] = 11
    session: int
    lane: int
    n: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Message):
    """Sender: the heartbeat."""

    TYPE: ClassVar[int] = 12
    session: int
    sent: int
    """Frames sent so far; the next has this n."""
    retained_bytes: int = 0
    paused: bool = False
    cut: int = 0
    """Where it is not 0: the cut of this number comes here, on every lane, as there is no frame to carry it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End(Message):
    """Sender: that was all."""

    TYPE: ClassVar[int] = 13
    session: int
    projections: int
    """In all sessions, without those withdrawn."""
    flats: int
    darks: int
    digest: int
    """Of the frames of this session, whatever their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndOk(Message):
    """Receiver: END has arrived; `received`: all frames are checked; `final`: they are in a final volume on disk."""

    TYPE: ClassVar[int] = 14
    session: int
    state: Literal["received", "final"]
    missing: tuple[Range, ...] = ()
    """Ranges of projection indices that never came."""
    digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Message):
    """Either: the scan ends here; what has arrived is kept as a partial volume."""

    TYPE: ClassVar[int] = 15
    session: int
    reason: str


PLANES = 32
"""Slices that a viewer may ask for at once."""

SINOGRAMS = 4
"""Sinograms that are made at the same time, for all viewers."""

PREVIEW = 128
"""Voxels of the longest side of a preview, at most."""

Action: TypeAlias = Literal[
    "center", "filter", "side", "every", "interval", "snapshot", "pause", "resume", "advise_stop", "centers"
]
"""What a viewer may ask for that has the control token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control(Message):
    """Viewer: change the reconstruction; applied at a cut, and answered once."""

    TYPE: ClassVar[int] = 16
    serial: int
    """Chosen by the viewer, for the answer."""
    token: str
    """The control token of the engine."""
    action: Action
    numbers: tuple[float, ...] = ()
    """What the action takes: `center`: column, none to find it; `side`: pixels, none for the detector's; `every`: projections;
    `interval`: seconds, none to have versions by number only; `centers`: slice, first and last column, how many."""
    text: str = ""
    """`filter`: its name; `advise_stop`: why, or empty to withdraw that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture(Message):
    """Part of UPDATE and RESULT: what the next pixels of the payload are."""

    TYPE: ClassVar[int] = 0
    kind: Literal["slice", "preview", "projection", "sinogram", "centers"]
    axis: Literal["z", "y", "x", ""] = ""
    """Of a slice: the axis that is at right angles to it."""
    index: int = 0
    """Of a slice: along that axis, in the full volume; of a projection: its index; of a sinogram: the detector row."""
    shape: tuple[int, ...]
    """slice: the other two axes; preview: (slice, y, x); projection: (row, column); sinogram: (projection, column); centers:
    (center, y, x)."""
    full: tuple[int, ...]
    """Shape before it was binned, as it is with whole numbers to be no larger than was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Message):
    """Publisher: the answer to CONTROL. The payload holds the pictures' pixels, little-endian float32."""

    TYPE: ClassVar[int] = 17
    HEADER_LIMIT: ClassVar[int] = 1 << 14
    PAYLOAD: ClassVar[bool] = True
    serial: int
    done: bool
    text: str
    """What was done, or why it was not."""
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane(Message):
    """Part of WANT: a slice."""

    TYPE: ClassVar[int] = 0
    axis: Axis
    index: int | None = None
    """Along that axis, in the full volume; null is the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want(Message):
    """Viewer: send me the newest version after this one, when there is one. One at a time: this is a viewer's credit."""

    TYPE: ClassVar[int] = 18
    uid: str = ""
    """Of the scan that `after` is a version of."""
    reconstruction: int = 0
    """Which reconstruction of that scan `after` is of; 0 for any."""
    after: int
    """0 for any: also what is there already, with other slices."""
    planes: tuple[Plane, ...] = (Plane(axis="z"), Plane(axis="y"), Plane(axis="x"))
    """Slices to be sent, at most `PLANES`, the latest last, in full resolution. Of a binned version those that were not looked at
    before it, or have no room, are as it has them. Across x of a whole one they are now and then those of the preview, where
    all of it would have to be read while the next one is on its way."""
    most: int = 0
    """Pixels of the longest side of a picture, at most; 0 for any."""
    preview: int = 0
    """Voxels of the longest side of a preview of the volume, at most; 0 for none."""
    projection: bool = False
    """Whether to send the newest projection, as line integrals."""
    sinograms: tuple[int, ...] = ()
    """Slices whose sinograms are to be sent with the next versions; at most `SINOGRAMS`."""
    also: tuple[Plane, ...] = ()
    """Slices that are looked at besides and not to be sent now: the next versions have them as they have `planes`."""
    also_sinograms: tuple[int, ...] = ()
    """Slices whose sinograms are looked at besides and not to be sent now: they come with the next versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update(Message):
    """Publisher: one version of the volume. The payload holds the pictures' pixels, little-endian float32, in their order."""

    TYPE: ClassVar[int] = 19
    HEADER_LIMIT: ClassVar[int] = 1 << 14
    PAYLOAD: ClassVar[bool] = True
    version: int
    uid: str
    reconstruction: int = 0
    """Which reconstruction of the scan: one that is begun anew has another number, one that goes on after a restart the same."""
    title: str = ""
    """What people call the scan."""
    projections: int
    """In this version."""
    coverage: float
    """Share of the half circle, with an offset axis of the full one, covered by them, 0 to 1."""
    final: bool
    binning: int
    """Of the volume's voxels."""
    shape: tuple[int, int, int]
    """(slice, y, x) of the volume; the full one has `full`."""
    full: tuple[int, int, int]
    """(slice, y, x) without binning: what indices refer to."""
    pixel_size: float | None = None
    """m, of the detector."""
    unit: str | None = None
    """Of the values, as a file says; null: 1/m, or per pixel where its size is not known."""
    center: float | None = None
    """Column of the rotation axis."""
    filter: str = ""
    angles: tuple[int, ...] = ()
    """Projections in each of equal parts of the full circle, the first beginning at 0."""
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    """Of the values within the volume; null where there are none."""
    change: float | None = None
    """Root mean square difference of the preview to that of the version before, as a share of its deviation."""
    pictures: tuple[Picture, ...] = ()

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells it from all other versions."""
        return self.uid, self.reconstruction, self.version


@dataclass(frozen=True, slots=True, kw_only=True)
class Look(Message):
    """Viewer: what is happening? Answered at once, by PROGRESS."""

    TYPE: ClassVar[int] = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """Publisher: what is happening, or why nothing is."""

    TYPE: ClassVar[int] = 21
    HEADER_LIMIT: ClassVar[int] = 1 << 14
    uid: str
    """Of the scan in work, or of the last one; empty where there was none."""
    reconstruction: int = 0
    """As in UPDATE."""
    title: str
    phase: str
    """In words."""
    frames: int
    projections: int
    """Received."""
    expected: int | None
    """Projections announced."""
    in_volume: int
    """Projections accumulated."""
    coverage: float
    version: int
    """Newest that can be read."""
    center: float | None
    filter: str
    rows: int
    """Slices of the volume."""
    columns: int
    """Of the detector; 0 before there is a scan."""
    side: int | None
    """Of a slice, pixels, where one was asked for; null is the detector's columns."""
    credit_frames: int
    ring_frames: int
    rate: float
    """Frames received per second, lately."""
    quiet: float | None
    """Seconds since the last frame came, or since the scan goes on; null where none is waited for."""
    nbytes: int
    latency: float | None
    """Seconds from a projection's arrival to the first version that holds it, median."""
    dropped: int
    alarm: str | None
    ranks: int
    angles: tuple[int, ...]
    """As in UPDATE, of the projections received."""
    paused: bool
    """Whether partial versions are made only when asked for."""
    advice: str | None
    """Why a viewer has advised to stop the scan, where one has, and it was not withdrawn."""
    every: int | None
    """Projections between versions."""
    interval: float | None
    """Seconds between versions."""
    viewers: int


MESSAGES: dict[int, type[Message]] = {
    cls.TYPE: cls
    for cls in (
        Hello, Welcome, Busy, Reset, ScanOpen, Have, FrameHeader, Gap, Credit, Ack, Nack, Status, End, EndOk, Abort,
        Control, Result, Want, Update, Look, Progress,
    )
}  # fmt: skip
"""By type."""


def table() -> str:
    """The messages as a Markdown table, from this text: each class says who sends it and why, each field what it is."""
    lines = ["| type | message | from | says | carries |", "|---|---|---|---|---|"]
    classes = {
        node.name: node
        for node in ast.parse(inspect.getsource(sys.modules[__name__])).body
        if isinstance(node, ast.ClassDef)
    }
    for number, cls in sorted(MESSAGES.items()):
        sender, _, says = _sentence(inspect.getdoc(cls) or "").partition(": ")
        fields = _fields(classes[cls.__name__])
        lines.append(f"| {number} | {cls.name()} | {sender.lower()} | {says} | {'; '.join(fields)} |")
    return "\n".join(lines)


def _fields(node: ast.ClassDef) -> list[str]:
    """Names of a message's fields, each with what is said of it."""
    found: list[str] = []
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if statement.target.id.islower():
                found.append(f"`{statement.target.id}`")
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and found:
            found[-1] += f": {_sentence(inspect.cleandoc(str(statement.value.value)))}"
    return found


def _sentence(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|")
    return words if words.endswith("...") else words.removesuffix(".")


if __name__ == "__main__":
    print(table())
