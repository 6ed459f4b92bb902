"""A scan over real sockets: all of it arrives, the engine sets the pace, and every way to go wrong ends in a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq
from transport_engine import Call, Source, TestEngine, limit, raw, scan, wait_for

from streamrecon.config import SendConfig
from streamrecon.errors import (
    EndpointError,
    PeerLostError,
    RemoteProtocolError,
    ScanAbortedError,
    SourceError,
    StreamreconError,
)
from streamrecon.scan import Frame, FrameKind
from streamrecon.transport import Receiver, send_scan
from streamrecon.transport.reading import READ_AHEAD
from streamrecon.wire.codec import MAGIC, decode, encode
from streamrecon.wire.messages import Abort, End, Hello, Lane, Reset, Status, Want, Welcome

FAST: dict[str, Any] = {"heartbeat": 0.1, "peer_timeout": 5.0}


def complete(engine: TestEngine, source: Source, rows: slice = slice(None), in_order: bool = True) -> None:
    count = len(source.info.theta) if source.info.theta is not None else 0
    indices = [h.index for h, _ in engine.arrived]
    assert (indices if in_order else sorted(indices)) == list(range(count))
    for header, payload in engine.arrived:
        assert payload == source.pixels(header.index)[rows].tobytes()
    assert len(engine.ended) == 1
    assert engine.ended[0].missing == ()
    assert not engine.broken


@pytest.mark.parametrize("rows", [None, (1, 3)])
@pytest.mark.parametrize("over", ["ipc", "tcp"])
def test_every_frame_arrives(ipc: str, over: str, rows: tuple[int, int] | None) -> None:
    source = Source(scan(60))
    seen: list[int] = []
    with TestEngine(ipc if over == "ipc" else "tcp://127.0.0.1:*", rows=rows) as engine:
        report = send_scan(
            source.info, source, engine.endpoint, **FAST, progress=lambda end: seen.append(end.credit.sent_frames)
        )
        complete(engine, source, slice(*rows) if rows else slice(None))
    assert report.frames == 60
    assert report.nbytes == 60 * 16 * (2 if rows else 4)
    assert report.missing == ()
    assert 0 <= report.waited <= report.seconds
    assert seen == sorted(seen)
    assert source.passes == 1


def test_an_empty_scan() -> None:
    source = Source(scan(0))
    with TestEngine("tcp://127.0.0.1:*") as engine:
        report = send_scan(source.info, source, engine.endpoint, **FAST, progress=limit())
        complete(engine, source)
    assert report.frames == 0


@pytest.mark.parametrize("over", ["ipc", "tcp"])
def test_a_slow_engine_paces_the_source(ipc: str, over: str) -> None:
    source = Source(scan(60, rows=64, columns=256))
    worst = 0
    with TestEngine(ipc if over == "ipc" else "tcp://127.0.0.1:*", slots=3, delay=0.01) as engine:

        def watch(_: object) -> None:
            nonlocal worst
            worst = max(worst, source.read - engine.freed)

        report = send_scan(source.info, source, engine.endpoint, **FAST, progress=watch)
        complete(engine, source)
    assert worst <= 3 + READ_AHEAD + 3
    assert report.waited > 0.2
    assert report.seconds > 0.5


def test_an_engine_that_takes_nothing_holds_the_source_without_losing_the_session() -> None:
    source = Source(scan(30))
    with TestEngine("tcp://127.0.0.1:*", slots=2, peer_timeout=1.5) as engine:
        engine.hold.set()
        call = Call(send_scan, source.info, source, engine.endpoint, heartbeat=0.1, peer_timeout=1.5)
        time.sleep(2.5)
        assert source.read <= 2 + READ_AHEAD + 3
        assert len(engine.arrived) == 2
        engine.hold.clear()
        assert call.result().frames == 30
        complete(engine, source)


def test_a_slow_source_keeps_the_session() -> None:
    source = Source(scan(3), delay=2.0)
    with TestEngine("tcp://127.0.0.1:*", peer_timeout=1.5) as engine:
        send_scan(source.info, source, engine.endpoint, heartbeat=0.1, peer_timeout=1.5)
        complete(engine, source)


@pytest.mark.parametrize("over", ["ipc", "tcp"])
def test_the_engine_may_come_later(ipc: str, over: str) -> None:
    endpoint = ipc
    if over == "tcp":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    source = Source(scan(10))
    call = Call(send_scan, source.info, source, endpoint, **FAST, progress=limit())
    time.sleep(0.4)
    assert source.read == 0
    with TestEngine(endpoint) as engine:
        call.result()
        complete(engine, source)


def test_nobody_comes(ipc: str) -> None:
    source, began = Source(scan()), time.monotonic()
    with pytest.raises(PeerLostError, match="no engine took the scan"):
        send_scan(source.info, source, ipc, **FAST, connect_timeout=0.4)
    assert 0.3 < time.monotonic() - began < 20
    assert source.read == 0


def test_somebody_listens_and_says_nothing(ipc: str) -> None:
    silent = raw(zmq.ROUTER)
    silent.bind(ipc)
    source, began = Source(scan()), time.monotonic()
    try:
        with pytest.raises(PeerLostError):
            send_scan(source.info, source, ipc, **FAST, connect_timeout=0.4, progress=limit())
    finally:
        silent.close()
    assert time.monotonic() - began < 20


def test_a_hello_that_was_swallowed_is_said_again(ipc: str) -> None:
    """The HELLO reached a socket whose engine died before it answered; the next engine has never heard of it."""
    dying = raw(zmq.ROUTER)
    dying.bind(ipc)
    source = Source(scan(5))
    call = Call(send_scan, source.info, source, ipc, **FAST, progress=limit())
    _, *parts = dying.recv_multipart()
    assert isinstance(decode(parts)[0], Hello)
    dying.close()
    with TestEngine(ipc) as engine:
        call.result()
        complete(engine, source)


def test_somebody_else_listens(ipc: str) -> None:
    other = raw(zmq.ROUTER)
    other.bind(ipc)
    source = Source(scan())
    call = Call(send_scan, source.info, source, ipc, **FAST, progress=limit())
    try:
        peer, *_ = other.recv_multipart()
        other.send_multipart([peer, b"HTTP/1.1 400 Bad Request"])
        with pytest.raises(RemoteProtocolError, match="something else"):
            call.result()
    finally:
        other.close()


def test_a_busy_engine_is_asked_again(ipc: str) -> None:
    first, second = Source(scan(20)), Source(scan(5, uid="other"))
    with TestEngine(ipc) as engine:
        engine.hold.set()
        one = Call(send_scan, first.info, first, engine.endpoint, **FAST)
        wait_for(lambda: engine.arrived)
        began = time.monotonic()
        with pytest.raises(PeerLostError, match="in work"):
            send_scan(second.info, second, engine.endpoint, **FAST, connect_timeout=3.0)
        assert time.monotonic() - began < 60
        engine.hold.clear()
        two = Call(send_scan, second.info, second, engine.endpoint, **FAST, progress=limit())
        one.result()
        complete(engine, first)
        wait_for(lambda: two.is_alive())
    with TestEngine(ipc) as engine:
        two.result()
        complete(engine, second)
    assert second.passes == 1


def test_a_killed_engine_is_missed(ipc: str) -> None:
    source = Source(scan(200), delay=0.005)
    with TestEngine(ipc) as engine:
        options = SendConfig(return_timeout=0.5)
        call = Call(send_scan, source.info, source, ipc, options=options, heartbeat=0.1, peer_timeout=0.6)
        wait_for(lambda: len(engine.arrived) > 5)
        began = time.monotonic()
        engine.close()
        with pytest.raises(PeerLostError, match=r"did not come back within 0\.5 s"):
            call.result()
        assert 1.0 < time.monotonic() - began < 20


@pytest.mark.parametrize("over", ["ipc", "tcp"])
def test_a_restarted_engine_gets_the_scan_from_its_start(ipc: str, over: str) -> None:
    source = Source(scan(60), delay=0.005)
    engine = TestEngine(ipc if over == "ipc" else "tcp://127.0.0.1:*")
    call = Call(send_scan, source.info, source, engine.endpoint, **FAST, progress=limit())
    wait_for(lambda: len(engine.arrived) > 5)
    engine.close()
    assert len(engine.arrived) < 60
    with TestEngine(engine.endpoint, incarnation="j") as fresh:
        report = call.result()
        complete(fresh, source, in_order=False)  # what was still kept is sent first
    assert report.frames == 60
    assert report.sessions == 2
    assert source.passes == 2


def test_a_connection_that_breaks_as_a_frame_leaves(ipc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could leave when it was asked, and a moment later no more: it keeps its number and goes when it can."""
    send, refused = zmq.Socket.send_multipart, 0

    def refuse_two(self: Any, parts: Any, *args: Any, **options: Any) -> Any:
        nonlocal refused
        if options.get("copy") is False and refused < 2:
            refused += 1
            raise zmq.Again
        return send(self, parts, *args, **options)

    monkeypatch.setattr(zmq.Socket, "send_multipart", refuse_two)
    source = Source(scan(20))
    with TestEngine(ipc) as engine:
        report = send_scan(source.info, source, engine.endpoint, **FAST, progress=limit())
        complete(engine, source)
    assert refused == 2
    assert report.frames == 20
    assert source.passes == 1


def test_an_engine_that_is_restarted_again_and_again(ipc: str) -> None:
    """The sender gives up after some attempts rather than never."""
    forgetful = Receiver(ipc, 1 << 20)
    source = Source(scan(5))
    call = Call(send_scan, source.info, source, ipc, **FAST, progress=limit())
    hellos = 0
    try:
        while call.is_alive():
            if forgetful.socket.poll(50):
                for peer, message, _ in forgetful.messages():
                    if isinstance(message, Hello):
                        hellos += 1
                        forgetful.send(peer, Welcome(incarnation="i", session=1, lanes=(Lane(rows=(0, 4)),)))
                    else:
                        forgetful.send(peer, Reset(session=1, reason="forgotten"))
        with pytest.raises(PeerLostError, match="did not know the session 5 times"):
            call.result()
    finally:
        forgetful.close()
    assert hellos == 5


@pytest.mark.parametrize(
    "error",
    [
        OSError("the disk is gone"),
        SourceError("a frame is broken"),
        RuntimeError("no such file 'a\udcffb.h5'"),
        KeyError("漢" * 900),
        MemoryError(),
    ],
    ids=["plain", "ours", "surrogate", "wide", "empty"],
)
@pytest.mark.parametrize("fail_at", [0, 7])
def test_a_source_that_fails(ipc: str, error: Exception, fail_at: int) -> None:
    source = Source(scan(20), fail_at=fail_at, error=error)
    with TestEngine(ipc) as engine:
        with pytest.raises(type(error)) as caught:
            send_scan(source.info, source, ipc, **FAST, progress=limit())
        assert caught.value is error
        wait_for(lambda: engine.broken)
        assert len(engine.arrived) <= fail_at
        assert str(error)[:10] in engine.broken[0].reason


def test_a_source_whose_thread_is_ended(ipc: str) -> None:
    """SystemExit ends a thread without a word; the scan must not wait for its frames for ever."""
    source = Source(scan(20), fail_at=3, error=SystemExit(1))
    with TestEngine(ipc) as engine:
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            send_scan(source.info, source, ipc, **FAST, progress=limit())
        assert not isinstance(caught.value, TimeoutError)
        wait_for(lambda: engine.broken)


def test_a_source_that_hangs_does_not_keep_the_error_back(ipc: str) -> None:
    """A detector that gives no more frames; meanwhile the engine ends the scan."""
    go_on = threading.Event()
    source = Source(scan(20))

    def frames(rows: slice) -> Iterator[Frame]:
        for n, frame in enumerate(source(rows)):
            if n == 3:
                go_on.wait(60)
            yield frame

    with TestEngine(ipc) as engine:
        call = Call(send_scan, source.info, frames, ipc, **FAST)
        wait_for(lambda: len(engine.arrived) == 3)
        engine.refuse_with = "the disk is full"
        try:
            with pytest.raises(ScanAbortedError, match="disk is full"):
                call.result(30)
        finally:
            go_on.set()
        time.sleep(0.3)


def test_an_engine_that_gives_up(ipc: str) -> None:
    source = Source(scan(200), delay=0.005)
    with TestEngine(ipc) as engine:
        call = Call(send_scan, source.info, source, ipc, **FAST)
        wait_for(lambda: len(engine.arrived) > 3)
        engine.refuse_with = "the disk is full"
        with pytest.raises(ScanAbortedError, match="disk is full"):
            call.result()


def test_an_interrupt_is_told_to_the_engine(ipc: str) -> None:
    source = Source(scan(200), delay=0.005)

    def progress(end: Any) -> None:
        if end.credit.sent_frames > 5:
            raise KeyboardInterrupt

    with TestEngine(ipc) as engine:
        with pytest.raises(KeyboardInterrupt):
            send_scan(source.info, source, ipc, **FAST, progress=progress)
        wait_for(lambda: engine.broken)
        assert "interrupted" in engine.broken[0].reason


def odd(**changes: Any) -> Any:
    """A source whose third frame is not as announced."""
    source = Source(scan(10))

    def frames(rows: slice) -> Iterator[Frame]:
        for frame in source(rows):
            if frame.index == 2:
                values = {"kind": frame.kind, "index": frame.index, "theta": frame.theta, "data": frame.data, **changes}
                yield Frame(**values)
            else:
                yield frame

    return source.info, frames


@pytest.mark.parametrize(
    "changes",
    [
        {"data": np.zeros((3, 8), "<u2")},
        {"data": np.zeros((4, 9), "<u2")},
        {"data": np.zeros((4, 8, 1), "<u2")},
        {"data": np.zeros(32, "<u2")},
        {"data": np.zeros((4, 8), "<i2")},
        {"data": np.zeros((4, 8), ">u2")},
        {"data": np.zeros((4, 8), "<f4")},
        {"data": np.zeros((8, 4), "<u2").T},
        {"data": np.zeros((4, 16), "<u2")[:, ::2]},
        {"theta": None},
        {"theta": float("nan")},
        {"theta": float("inf")},
    ],
)
def test_a_frame_that_is_not_as_announced(ipc: str, changes: dict[str, Any]) -> None:
    info, frames = odd(**changes)
    with TestEngine(ipc) as engine:
        with pytest.raises(SourceError, match="projection 2"):
            send_scan(info, frames, ipc, **FAST, progress=limit())
        wait_for(lambda: engine.broken)
        assert "projection 2" in engine.broken[0].reason
        assert len(engine.arrived) <= 2


@pytest.mark.parametrize("changes", [{"index": 99}, {"index": 1}, {"theta": 3.0}, {"kind": FrameKind.FLAT}])
def test_a_frame_that_the_engine_refuses(ipc: str, changes: dict[str, Any]) -> None:
    info, frames = odd(**changes)
    with TestEngine(ipc) as engine:
        with pytest.raises((ScanAbortedError, SourceError)):
            send_scan(info, frames, ipc, **FAST, progress=limit())
        wait_for(lambda: engine.broken)


@pytest.mark.parametrize("dtype", [">u2", ">f4"])
def test_big_endian_pixels_are_never_misread(ipc: str, dtype: str) -> None:
    """The wire is little-endian: such a scan is either converted or refused."""
    with TestEngine(ipc) as engine:
        try:
            source = Source(scan(5, dtype=dtype))
            send_scan(source.info, source, ipc, **FAST, progress=limit())
        except StreamreconError:
            return
        for header, payload in engine.arrived:
            got = np.frombuffer(payload, engine.opened[0].info.dtype)
            np.testing.assert_array_equal(got, header.index)


@pytest.mark.parametrize("over", ["ipc", "tcp"])
def test_garbage_does_not_hurt_a_running_session(ipc: str, over: str) -> None:
    source = Source(scan(80), delay=0.01)
    with TestEngine(ipc if over == "ipc" else "tcp://127.0.0.1:*", max_payload=4096) as engine:
        call = Call(send_scan, source.info, source, engine.endpoint, **FAST)
        wait_for(lambda: engine.arrived)
        stranger = raw(zmq.DEALER, linger=300)
        stranger.connect(engine.endpoint)
        session = engine.arrived[0][0].session
        for parts in [
            [b""],
            [b"x"],
            [b"x"] * 50,
            [MAGIC],
            [MAGIC + b"\x01\x12", b"\xff" * 100],
            [MAGIC + b"\x01\x12", b"\x81\xa5after" + b"\x91" * 1000 + b"\x00"],
            encode(Abort(session=session, reason="r")),
            encode(End(session=session, projections=0, flats=0, darks=0, digest=0)),
            encode(Status(session=session, sent=0)),
            encode(Want(after=0)),
            encode(Hello(uid="x", epoch=1 << 60, rows=4, columns=8, codecs=("\0" * 1000,) * 3)),
            encode(Hello(uid="x" * 1000, epoch=1 << 60, rows=4, columns=8)),
            [*encode(engine.arrived[0][0]), b"x" * 64],
        ]:
            stranger.send_multipart(parts)
        big = raw(zmq.DEALER, linger=300)
        big.connect(engine.endpoint)
        big.send_multipart([*encode(engine.arrived[0][0]), b"x" * 100_000])
        if over == "tcp":
            host, _, port = engine.endpoint.removeprefix("tcp://").partition(":")
            for blob in [
                b"GET / HTTP/1.1\r\n\r\n",
                b"\xff" * 200,
                b"\x00" * 200,
                b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03",
            ]:
                with socket.create_connection((host, int(port)), timeout=2) as plain:
                    plain.sendall(blob)
        report = call.result()
        stranger.close()
        big.close()
        assert report.frames == 80
        complete(engine, source)
        assert engine.receiver.malformed >= 6


def test_a_hello_cannot_end_an_engine_that_waits(ipc: str) -> None:
    """Nothing that a first peer says before a scan is open may raise out of the receiving thread."""
    with TestEngine(ipc) as engine:
        stranger = raw(zmq.DEALER)
        stranger.connect(ipc)
        try:
            stranger.send_multipart(encode(Hello(uid="x", epoch=1, rows=4, columns=8, codecs=("\0" * 1000,) * 3)))
            stranger.poll(500)
        finally:
            stranger.close()
        assert engine.is_alive(), repr(engine.error)
        source = Source(scan(5))
        send_scan(source.info, source, ipc, **FAST, progress=limit())
        complete(engine, source)


def test_a_refused_endpoint_leaves_nothing_open() -> None:
    with pytest.raises(EndpointError):
        Receiver("tcp://0.0.0.0:*", 1000)
    source = Source(scan())
    with pytest.raises(EndpointError):
        send_scan(source.info, source, "nonsense")


@pytest.mark.parametrize("part", [1, 2, 3])
def test_ctrl_c_between_two_parts_of_a_frame_is_told(ipc: str, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Of the three, `part` have left."""
    source = Source(scan(60))
    send, sent = zmq.Socket.send, [0]

    def interrupted(self: Any, data: Any, flags: int = 0, **more: Any) -> Any:
        done = send(self, data, flags, **more)
        if not more.get("copy", True):
            sent[0] += 1
            if sent[0] == 3 * 20 + part:
                raise KeyboardInterrupt
        return done

    with TestEngine(ipc) as engine:
        monkeypatch.setattr(zmq.Socket, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            send_scan(source.info, source, engine.endpoint, **FAST)
        wait_for(lambda: engine.broken, timeout=2.0)
    assert "interrupted" in str(engine.broken)
    assert len(engine.arrived) in (20, 21)
