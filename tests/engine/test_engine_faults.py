"""Faults of the wire, of clocks and of disks, each by its name: the scan ends as one that nothing happened to."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_proxy import Parts, Proxy, on
from engine_scans import (
    D,
    F,
    P,
    Scan,
    Sending,
    Streamed,
    batch,
    config,
    difference,
    read,
    read_volume,
    simulated,
    stream,
)

from streamrecon.engine import Engine
from streamrecon.errors import RemoteProtocolError, ScanAbortedError
from streamrecon.scan import Frame, Gap
from streamrecon.transport.retention import Retention
from streamrecon.wire.codec import encode
from streamrecon.wire.digest import frame_hash
from streamrecon.wire.messages import Ack, Credit, End, EndOk, FrameHeader, Message
from streamrecon.wire.session import State

FRAME = 6 * 48 * 2
"""Bytes."""


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3)


@pytest.fixture(scope="module")
def undisturbed(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return stream(scan, config(), tmp_path_factory.mktemp("undisturbed")).volume


@pytest.fixture
def where() -> Iterator[str]:
    """An endpoint that stays when its engine is replaced; its path is short, as ipc paths are limited."""
    folder = Path(tempfile.mkdtemp(prefix="srt-"))
    yield f"ipc://{folder / 'e'}"
    shutil.rmtree(folder, ignore_errors=True)


def same(out: Path, undisturbed: np.ndarray) -> None:
    """The same frames, once each; the same volume."""
    assert read(out, "entry/reconstruction/final")
    assert list(read(out, "entry/reconstruction/projection_indices")) == list(range(60))
    assert difference(read_volume(out), undisturbed) < 1e-5


def partial(scan: Scan, streamed: Streamed, projections: int) -> None:
    """Both sides say that the scan failed; what came, and nothing else, is in a partial volume."""
    assert isinstance(streamed.sender_error, ScanAbortedError), streamed.sender_error
    assert streamed.result is not None
    assert not streamed.result.final
    assert not read(streamed.out, "entry/reconstruction/final")
    assert list(read(streamed.out, "entry/reconstruction/projection_indices")) == list(range(projections))
    part = scan.arranged(scan.of(D), scan.of(F), scan.of(P)[:projections])
    assert difference(read_volume(streamed.out), batch(part, config())) < 1e-5


def slowly(scan: Scan, seconds: float = 0.01) -> Callable[[slice], Iterator[Frame]]:
    def frames(rows: slice) -> Iterator[Frame]:
        for frame in scan.frames(rows):
            time.sleep(seconds)
            yield frame

    return frames


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(0.005)


# Messages that are lost, repeated, changed, or overtake each other.


@pytest.mark.parametrize("lost", [End, EndOk])
def test_end_lost(scan: Scan, tmp_path: Path, undisturbed: np.ndarray, lost: type[Message]) -> None:
    """END, or its answer: it is said again with each heartbeat until it is answered."""
    ends: list[int] = []

    def count(n: int, end: End, parts: Parts) -> list[Parts]:
        ends.append(n)
        return [] if lost is End and n < 2 else [parts]

    back = on(EndOk, lambda n, answer, parts: [] if lost is EndOk and n < 2 else [parts])
    streamed = stream(scan, config(), tmp_path, through=lambda engine: Proxy(engine, on(End, count), back))
    assert streamed.sender_error is None
    same(tmp_path, undisturbed)
    assert len(ends) >= 2 if lost is EndOk else len(ends) >= 3


@pytest.mark.parametrize("lost", [Credit, Ack])
def test_credit_lost(scan: Scan, tmp_path: Path, undisturbed: np.ndarray, lost: type[Message]) -> None:
    """Four of five, the first among them: each one says all that the ones before it did."""
    came: list[int] = []

    def most(n: int, message: Message, parts: Parts) -> list[Parts]:
        came.append(n)
        return [parts] if n % 5 == 4 else []

    options = config(
        engine={"ring_bytes": 4 * FRAME, "heartbeat": 0.05, "sync_seconds": 0.0}, send={"retain_bytes": 6 * FRAME}
    )
    streamed = stream(
        scan, options, tmp_path, through=lambda engine: Proxy(engine, back=on(lost, most)), can_replay=False
    )
    assert streamed.sender_error is None
    same(tmp_path, undisturbed)
    assert len(came) >= 10


def test_frame_lost(scan: Scan, tmp_path: Path, undisturbed: np.ndarray) -> None:
    """What is lost comes again, in a new session; what had come does not."""
    passed: list[tuple[int, int]] = []

    def lose(n: int, header: FrameHeader, parts: Parts) -> list[Parts]:
        if (header.session, header.n) in ((1, 8), (2, 30)):
            return []
        passed.append((header.kind, header.index))
        return [parts]

    options = config(engine={"return_timeout": 20.0})
    streamed = stream(scan, options, tmp_path, through=lambda engine: Proxy(engine, on(FrameHeader, lose)))
    assert streamed.report is not None
    assert streamed.report.sessions == 3
    same(tmp_path, undisturbed)
    assert set(passed) == {(frame.kind, frame.index) for frame in scan.items}


def test_frame_duplicated(scan: Scan, tmp_path: Path, undisturbed: np.ndarray) -> None:
    """Every one, also where its credit is all there is."""
    options = config(engine={"ring_bytes": 2 * FRAME})
    twice = on(FrameHeader, lambda n, header, parts: [parts, parts])
    streamed = stream(scan, options, tmp_path, through=lambda engine: Proxy(engine, twice))
    assert streamed.sender_error is None
    same(tmp_path, undisturbed)
    assert streamed.result is not None
    assert streamed.result.status.dropped == len(scan.items)
    assert streamed.result.status.frames == len(scan.items)


@pytest.mark.parametrize("numbered", ["as before", "as the next"])
def test_same_identity_with_other_bytes(scan: Scan, tmp_path: Path, numbered: str) -> None:
    """Nobody can tell which of the two is right: a hard error, however sound the message is."""

    def forge(n: int, header: FrameHeader, parts: Parts) -> list[Parts]:
        if (header.kind, header.index) != (P, 30):
            return [parts]
        other = bytes(byte ^ 1 for byte in parts[2])
        number = header.n + (numbered == "as the next")
        return [parts, [*encode(replace(header, n=number, xxh3=frame_hash(other))), other]]

    streamed = stream(scan, config(), tmp_path, through=lambda engine: Proxy(engine, on(FrameHeader, forge)))
    partial(scan, streamed, 31)
    assert "PROJECTION 30 again, with other pixels" in str(streamed.sender_error)


@pytest.mark.parametrize("fault", ["overtakes the last frame", "counts one more", "counts one less", "other digest"])
def test_end_before_the_last_frame(scan: Scan, tmp_path: Path, fault: str) -> None:
    """A peer whose END does not fit what came."""
    held: list[Parts] = []

    def there(message: Message, parts: Parts) -> list[Parts]:
        if isinstance(message, FrameHeader) and (message.kind, message.index) == (P, 59) and "overtakes" in fault:
            held.append(parts)
            return []
        if isinstance(message, End):
            more = {"counts one more": 1, "counts one less": -1}.get(fault, 0)
            digest = message.digest ^ (fault == "other digest")
            end = encode(replace(message, projections=message.projections + more, digest=digest))
            return [end, *held]
        return [parts]

    streamed = stream(scan, config(), tmp_path, through=lambda engine: Proxy(engine, there))
    partial(scan, streamed, 59 if held else 60)
    assert bool(held) == ("overtakes" in fault)
    for said in (str(streamed.sender_error), read(tmp_path, "entry/reconstruction/missing")):
        assert "the sender ends after" in said
        assert "received were" in said


def test_gap(scan: Scan, tmp_path: Path) -> None:
    """As a scan that never had these frames; the volume says which, and why."""
    lost = range(20, 25)

    def frames(rows: slice) -> Iterator[Frame | Gap]:
        yield from (frame for frame in scan.frames(rows) if not (frame.kind is P and frame.index in lost))
        yield Gap(P, lost.start, lost.stop, "the shutter was closed")

    streamed = stream(scan, config(), tmp_path, frames=frames)
    left = [frame for frame in scan.of(P) if frame.index not in lost]
    assert difference(streamed.volume, batch(scan.arranged(scan.of(D), scan.of(F), left), config())) < 1e-5
    assert list(read(tmp_path, "entry/reconstruction/projection_indices")) == [frame.index for frame in left]
    missing = read(tmp_path, "entry/reconstruction/missing")
    assert "20 to 24" in missing
    assert "5 the shutter was closed" in missing
    assert streamed.report is not None
    assert streamed.report.missing == ((20, 25),)


# Who is there when, and how fast.


def test_no_consumer_at_start(scan: Scan, tmp_path: Path, where: str, undisturbed: np.ndarray) -> None:
    """The sender waits, and takes nothing from its source; then the engine comes, and all arrives."""
    read_first = threading.Event()

    def frames(rows: slice) -> Iterator[Frame]:
        read_first.set()
        yield from scan.frames(rows)

    options = config(engine={"listen": where})
    sender = Sending(scan, where, options, frames, connect_timeout=None)
    assert not read_first.wait(0.5)
    with Engine(options, tmp_path) as engine:
        assert engine.wait(30) is not None
    sender.join(10)
    assert sender.error is None
    same(tmp_path, undisturbed)


def test_second_scan_while_one_runs(scan: Scan, tmp_path: Path, where: str, undisturbed: np.ndarray) -> None:
    """BUSY: the first is not disturbed, the second waits for an engine of its own."""
    other, options, busy = scan.with_info(uid="another"), config(engine={"listen": where}), set[str]()

    def watch(end: Any) -> None:
        if end.busy:
            busy.add(end.busy.reason)

    with Engine(options, tmp_path / "first") as engine:
        first = Sending(scan, where, options, slowly(scan))
        until(lambda: engine.status().frames, "a frame")
        second = Sending(other, where, options, connect_timeout=None, progress=watch)
        until(lambda: busy, "BUSY")
        assert not engine.status().phase.startswith("ended")
        result = engine.wait(30)
        first.join(10)
    assert first.error is None
    assert result is not None
    assert f"scan {scan.info.uid} is in work" in busy
    same(tmp_path / "first", undisturbed)
    with Engine(options, tmp_path / "second") as engine:
        assert engine.wait(30) is not None
    second.join(10)
    assert second.error is None
    assert read(tmp_path / "second", "entry/reconstruction/parameters/scan_uid") == "another"
    same(tmp_path / "second", undisturbed)


def test_slow_rank(scan: Scan, tmp_path: Path, undisturbed: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paced by credit, which is never more than the ring; what the sender keeps stays within its limit."""
    ring, retain = 4, 8
    told, sent, ahead, kept = [0], [0], list[int](), list[int]()
    keep = Retention.keep

    def watch(retention: Retention, frame: Frame) -> Any:
        place = keep(retention, frame)
        kept.append(retention.nbytes)
        return place

    def frame(n: int, header: FrameHeader, parts: Parts) -> list[Parts]:
        assert header.n < told[0], "a frame was sent without credit"
        sent[0] += 1
        return [parts]

    def credit(n: int, message: Credit, parts: Parts) -> list[Parts]:
        told[0] = message.max_frames
        ahead.append(message.max_frames - sent[0])
        return [parts]

    monkeypatch.setattr(Retention, "keep", watch)
    options = config(
        engine={"delay": 0.01, "ring_bytes": ring * FRAME, "batch": 4, "sync_seconds": 0.0, "heartbeat": 0.05},
        send={"retain_bytes": retain * FRAME},
    )
    streamed = stream(
        scan, options, tmp_path, can_replay=False,
        through=lambda engine: Proxy(engine, on(FrameHeader, frame), on(Credit, credit)),
    )  # fmt: skip
    same(tmp_path, undisturbed)
    assert 0 < max(ahead) <= ring
    assert ring * FRAME < max(kept) <= retain * FRAME
    assert streamed.report is not None
    assert streamed.report.seconds > 0.5, "60 projections at 0.01 s each"


# Clocks.


class Clock:
    """The clocks of this process, which a test can set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = 0.0, 0.0
        monotonic, wall = time.monotonic, time.time_ns
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + self.monotonic)
        monkeypatch.setattr(time, "time_ns", lambda: wall() + int(1e9 * self.wall))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("after", [5, 40, 70])
def test_clock_jumps_forward(
    scan: Scan, tmp_path: Path, undisturbed: np.ndarray, clock: Clock, live: bool, after: int
) -> None:
    """Such as of a machine that slept for an hour: both sides believe that the other was silent for as long."""

    def watch(engine: Engine) -> None:
        until(lambda: engine.status().frames >= after, "frames")
        clock.monotonic += 3600.0

    options = config(engine={"return_timeout": 30.0, "sync_seconds": 0.05})
    streamed = stream(scan, options, tmp_path, frames=slowly(scan, 0.005), watch=watch, can_replay=not live)
    assert streamed.sender_error is None
    same(tmp_path, undisturbed)


@pytest.mark.parametrize("live", [False, True])
def test_clock_jumps_forward_while_each_side_waits_for_the_other(
    scan: Scan, tmp_path: Path, undisturbed: np.ndarray, clock: Clock, live: bool
) -> None:
    """The connection is down when the machine falls asleep: what is left of the time to wait is left when it wakes up."""
    cut, waiting = threading.Event(), threading.Event()

    def carried(message: Message, parts: Parts) -> list[Parts]:
        return [] if cut.is_set() else [parts]

    def progress(end: Any) -> None:
        if cut.is_set() and end.session.state is State.GREETING:
            waiting.set()

    def watch(engine: Engine) -> None:
        until(lambda: engine.status().frames >= 30, "frames")
        cut.set()
        until(lambda: "waiting" in engine.status().phase and waiting.is_set(), "both sides wait")
        clock.monotonic += 3600.0
        time.sleep(0.5)
        cut.clear()

    options = config(engine={"return_timeout": 30.0, "peer_timeout": 0.5, "sync_seconds": 0.05})
    streamed = stream(
        scan, options, tmp_path, frames=slowly(scan, 0.005), watch=watch, progress=progress, can_replay=not live,
        through=lambda engine: Proxy(engine, carried, carried),
    )  # fmt: skip
    assert streamed.sender_error is None
    same(tmp_path, undisturbed)


def test_clock_jumps_back_between_two_senders(
    scan: Scan, tmp_path: Path, where: str, undisturbed: np.ndarray, clock: Clock
) -> None:
    """The second calls itself older than the first, which is frozen: it has the scan all the same, and the first is told."""
    go_on, frozen = threading.Event(), threading.Event()

    def freeze(end: Any) -> None:
        if end.credit.sent_frames >= 30:
            frozen.set()
            go_on.wait(20)

    options = config(engine={"listen": where, "peer_timeout": 0.5, "return_timeout": 20.0})
    with Engine(options, tmp_path) as engine:
        first = Sending(scan, where, options, slowly(scan, 0.005), progress=freeze)
        assert frozen.wait(20)
        clock.wall -= 3600.0
        second = Sending(scan, where, options)
        result = engine.wait(30)
        go_on.set()
        second.join(10)
        first.join(10)
    assert result is not None
    assert second.error is None
    assert isinstance(first.error, RemoteProtocolError)
    assert "replaced" in str(first.error)
    same(tmp_path, undisturbed)
