"""A sender and a receiver back to back, with a clock of their own; everything between them passes through the codec."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.wire.codec import decode, encode
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.digest import frame_hash
from streamrecon.wire.messages import (
    Abort,
    Busy,
    End,
    FrameHeader,
    Have,
    Hello,
    Message,
    Range,
    Reset,
    ScanOpen,
    Welcome,
)
from streamrecon.wire.outputs import (
    Arrived,
    Broken,
    Cut,
    Ended,
    GivenUp,
    Opened,
    Output,
    Reply,
    SenderBack,
    SenderLost,
    TurnedAway,
    Withdrawn,
)
from streamrecon.wire.receiving import ReceivingEnd, lanes_of
from streamrecon.wire.sending import SendingEnd
from streamrecon.wire.session import State

PEER = b"\x00peer"
OTHER = b"\x00other"


def scan(
    projections: int = 4,
    flats: int = 2,
    darks: int = 1,
    rows: int = 4,
    columns: int = 3,
    dtype: str = "<u2",
    counts: bool = True,
    angles: bool = True,
    uid: str = "scan",
) -> ScanInfo:
    """A small scan's facts."""
    numbers = {FrameKind.PROJECTION: projections, FrameKind.FLAT: flats, FrameKind.DARK: darks}
    theta = np.linspace(0, np.pi, projections, endpoint=False) if angles and counts else None
    return ScanInfo(
        uid, Geometry(rows, columns), np.dtype(dtype), numbers if counts else dict.fromkeys(FrameKind), theta
    )


def frames_of(
    info: ScanInfo, rows: Range, numbers: tuple[int, int, int], rng: random.Random | None = None
) -> list[Frame]:
    """The frames of a scan, darks first or in random order; the pixels follow from kind and index."""
    frames = []
    for kind, count in reversed(list(zip(FrameKind, numbers, strict=True))):
        for index in range(count):
            whole = (np.arange(np.prod(info.frame_shape)) * (7 * index + 3 * kind + 1) % 101).astype(info.dtype)
            data = np.ascontiguousarray(whole.reshape(info.frame_shape)[slice(*rows)])
            theta = index * np.pi / max(1, count) if kind is FrameKind.PROJECTION else None
            frames.append(Frame(kind, index, theta, data, None if kind is FrameKind.PROJECTION else 0))
    if rng:
        rng.shuffle(frames)
    return frames


def through(message: Message, payload: bytes | None = None) -> tuple[Message, Any]:
    """As it comes out of the other side of the wire."""
    return decode([*encode(message), *([payload or b""] if message.PAYLOAD else [])])


@dataclass
class Engine:
    """A receiving end with a ring, that checks each of its outputs."""

    end: ReceivingEnd
    slots: int = 2
    now: float = 100.0
    sent: deque[tuple[bytes, Message, bytes | None]] = field(default_factory=deque)
    opened: list[Opened] = field(default_factory=list)
    arrived: list[tuple[FrameHeader, bytes]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    turned_away: list[TurnedAway] = field(default_factory=list)
    in_ring: int = 0
    withdrawn: list[int] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    lost: list[SenderLost] = field(default_factory=list)
    taken: int = 0
    """Frames and withdrawals that have left the ring, and are durable."""

    def hear(self, message: Message, payload: bytes | None = None, peer: bytes = PEER) -> list[Message]:
        """Pass a message in; the replies to that peer."""
        message, payload = through(message, payload)
        return self.take(self.end.hear(peer, message, payload, self.now), peer)

    def tick(self) -> list[Message]:
        return self.take(self.end.tick(self.now))

    def take(self, outputs: list[Output], peer: bytes = PEER) -> list[Message]:
        replies: list[Message] = []
        for output in outputs:
            if isinstance(output, Reply):
                message, payload = through(output.message, output.payload)
                assert message == output.message
                assert bytes(payload or b"") == (output.payload or b"")
                self.sent.append((output.peer, message, output.payload))
                replies += [message] if output.peer == peer else []
            elif isinstance(output, Opened):
                self.opened.append(output)
                window = CreditWindow(self.slots * self.end.nbytes, self.slots)
                replies += self.take(self.end.accept(window, self.now), peer)
            elif isinstance(output, Arrived):
                self.arrived.append((output.header, bytes(output.payload)))
                self.in_ring += 1
                assert self.in_ring <= self.slots, "the ring overflowed"
            elif isinstance(output, Withdrawn):
                self.withdrawn += [] if output.index is None else [output.index]
                replies += self.note(peer)
            elif isinstance(output, GivenUp):
                self.given_up.append(output)
            elif isinstance(output, SenderLost):
                self.lost.append(output)
            elif isinstance(output, SenderBack):
                if not self.ended:  # an engine writes nothing to its journal after the end
                    replies += self.note(peer)
            elif isinstance(output, Ended):
                self.ended.append(output)
            elif isinstance(output, TurnedAway):
                assert output.reason
                self.turned_away.append(output)
            elif isinstance(output, Cut):
                assert output.number
            else:
                assert isinstance(output, Broken)
                assert output.reason
                self.broken.append(output)
        return replies

    def note(self, peer: bytes) -> list[Message]:
        """What is noted in the journal besides frames."""
        self.taken += 1
        return self.take(self.end.durable(self.taken, self.now), peer)

    def free(self) -> None:
        if self.in_ring:
            self.in_ring -= 1
            self.taken += 1
            self.end.free(self.end.nbytes)
            self.take(self.end.durable(self.taken, self.now))


def engine(**options: Any) -> Engine:
    slots, lanes = options.pop("slots", 2), lanes_of(options.pop("rows", None))
    return Engine(ReceivingEnd(incarnation="i", lanes=lanes, **options), slots)


@dataclass
class Script:
    """A sender written by hand: makes the messages of a scan, each of which a test may bend."""

    info: ScanInfo
    session: int = 1
    rows: Range = (0, 0)

    def hello(self, **changes: Any) -> Hello:
        shape = self.info.geometry
        return replace(Hello(uid=self.info.uid, epoch=1, rows=shape.rows, columns=shape.columns), **changes)

    def scan_open(self, **changes: Any) -> ScanOpen:
        info = self.info
        message = ScanOpen(
            session=self.session, uid=info.uid, rows=info.geometry.rows, columns=info.geometry.columns,
            dtype=info.dtype.str, projections=info.counts[FrameKind.PROJECTION], flats=info.counts[FrameKind.FLAT],
            darks=info.counts[FrameKind.DARK], pixel_size=None, center=None, has_theta=info.theta is not None,
        )  # fmt: skip
        return replace(message, **changes)

    @property
    def theta(self) -> bytes:
        return b"" if self.info.theta is None else self.info.theta.astype("<f8").tobytes()

    def frame(
        self, n: int, kind: int, index: int, payload: bytes | None = None, **changes: Any
    ) -> tuple[Message, bytes]:
        info = self.info
        rows = (0, info.geometry.rows)
        if payload is None:
            payload = bytes([index % 256]) * (info.geometry.rows * info.geometry.columns * info.dtype.itemsize)
        theta = None
        if kind == 0:
            theta = 0.5 if info.theta is None else float(info.theta[min(index, len(info.theta) - 1)])
        header = FrameHeader(
            session=self.session, lane=0, n=n, kind=kind, index=index, theta=theta, position=0 if kind else None, rows=rows,
            nbytes=len(payload), xxh3=frame_hash(payload),
        )  # fmt: skip
        return replace(header, **changes), payload

    def end(self, **changes: Any) -> End:
        return replace(End(session=self.session, projections=0, flats=0, darks=0, digest=0), **changes)


def streaming(info: ScanInfo | None = None, **options: Any) -> tuple[Engine, Script]:
    """An engine that has accepted a scan, and the sender's script for it."""
    script = Script(info or scan())
    each = engine(**options)
    (welcome,) = each.hear(script.hello())
    assert isinstance(welcome, Welcome)
    script.session = welcome.session
    have, credit = each.hear(script.scan_open(), script.theta)
    assert isinstance(have, Have)
    assert credit.name() == "CREDIT"
    return each, script


def aborted(each: Engine, replies: list[Message]) -> str:
    """Check that a session was ended from the engine's side, and say why."""
    assert replies
    assert isinstance(replies[-1], Abort)
    assert each.tick() == []
    if each.end.info is None:  # no scan was announced: the engine goes on waiting for one
        assert each.end.session.state is State.NEW
        assert not each.broken
        return each.turned_away[-1].reason
    assert each.end.session.state is State.ABORTED
    assert len(each.broken) == 1
    return each.broken[0].reason


def undisturbed(each: Engine, before: Any, replies: Iterable[Message]) -> None:
    """Check that a stranger has not got further than the door, and nothing changed."""
    assert all(isinstance(reply, Reset | Busy | Welcome | Abort) for reply in replies)
    assert each.broken == []
    assert snapshot(each) == before


def snapshot(each: Engine) -> Any:
    end, window = each.end, each.end.window
    return (
        end.peer, end.session.state, end.received, dict(end.inventory.counts), end.inventory.digest.value,
        end.duplicates, end.missing(),
        len(each.arrived), len(each.opened), len(each.ended),
        None if window is None else (window.received_frames, window.told_frames, window.freed_frames),
    )  # fmt: skip


def run(
    info: ScanInfo, frames: list[Frame] | None, each: Engine, rng: random.Random, numbers: tuple[int, int, int]
) -> SendingEnd:
    """Play a whole scan with everything happening in random order; returns the sender when both ends are over."""
    end = SendingEnd(info, epoch=1)
    there: deque[tuple[Message, bytes | None]] = deque()
    back: deque[tuple[Message, bytes | None]] = deque()
    now = 100.0
    there.append((end.hello(now), None))
    todo: deque[Frame] | None = None
    given: set[tuple[FrameKind, int]] = set()
    end_counts = dict.fromkeys(FrameKind, 0)
    for _ in range(5000):
        if end.session.over and each.end.session.over:
            return end
        if todo is None and end.streaming:
            todo = deque(frames if frames is not None else frames_of(info, end.rows, numbers, rng))
        now += rng.choice([0.0, 0.01, 0.6])
        each.now = now
        action = rng.choice(["there", "there", "back", "back", "send", "send", "free", "tick", "finish"])
        if action == "there" and there:
            message, payload = there.popleft()
            each.hear(message, payload)
        elif action == "back" and back:
            message, payload = through(*back.popleft())
            there.extend(end.hear(message, payload, now))
        elif action == "send" and todo is not None and end.streaming:
            if not todo:
                there.append((end.end(end_counts, now), None))
            elif end.credit.allows(todo[0].data.nbytes):
                frame = todo.popleft()
                given.add((frame.kind, frame.index))
                end_counts = {kind: sum(k == kind for k, _ in given) for kind in FrameKind}
                there.append((end.frame(frame, now), frame.data.tobytes()))
        elif action == "free":
            each.free()
        elif action == "tick":
            each.tick()
            beat = end.tick(now)
            if beat is not None:
                there.append((beat, None))
        elif action == "finish" and each.ended and not each.in_ring and rng.random() < 0.3:
            each.take(each.end.finish())
        back.extend((message, payload) for _, message, payload in each.sent)
        each.sent.clear()
    raise AssertionError(f"a deadlock: {end.session.state}, {each.end.session.state}, {end.credit}, {each.end.window}")
