"""The viewers' two ends of the wire: what is malformed, what is none, and waking the thread that waits for them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq
from transport_engine import Call, raw

from streamrecon.errors import EndpointError, PeerLostError, RemoteProtocolError
from streamrecon.transport import Poller, Publisher, Subscription, Wakeup, subscribe
from streamrecon.wire.codec import MAGIC, decode, encode
from streamrecon.wire.messages import Control, Look, Picture, Result, Status, Update, Want

SHAPE = (2, 3, 4)


def made(version: int) -> tuple[Update, bytes]:
    pictures = tuple(
        Picture(kind="slice", axis=axis, index=1, shape=shape, full=shape)  # type: ignore[arg-type]
        for axis, shape in (("z", (3, 4)), ("y", (2, 4)), ("x", (2, 3)))
    )
    update = Update(
        version=version, uid="s", projections=version, coverage=0.5, final=False, binning=1, shape=SHAPE, full=SHAPE,
        pictures=pictures,
    )  # fmt: skip
    return update, np.arange(3 * 4 + 2 * 4 + 2 * 3, dtype="<f4").tobytes()


UPDATE, PIXELS = made(1)


def test_nothing_comes(ipc: str) -> None:
    began = time.monotonic()
    with pytest.raises(PeerLostError, match=r"has said nothing for 0\.2 s"):
        next(subscribe(ipc, timeout=0.2))
    assert time.monotonic() - began < 20


def test_requests_come_as_they_were_sent_and_nothing_else_does(ipc: str, caplog: pytest.LogCaptureFixture) -> None:
    publisher = Publisher(ipc)
    requests = [
        Want(after=3, uid="s", preview=64),
        Look(),
        Control(serial=5, token="t", action="center", numbers=(3.5,)),
    ]
    try:
        with Subscription(ipc) as viewer:
            stranger = raw(zmq.DEALER)
            stranger.connect(ipc)
            stranger.send_multipart(encode(Status(session=1, sent=0)))
            stranger.send_multipart([b"x"])
            for request in requests:
                viewer.ask(request)
            got, deadline = [], time.monotonic() + 5
            while len(got) < 3 and time.monotonic() < deadline:
                got += list(publisher.requests(64))
            assert [request for _, request in got] == requests
            while "STATUS" not in caplog.text and time.monotonic() < deadline:
                assert not list(publisher.requests(64))
            picture = Picture(kind="centers", shape=(1, 2, 2), full=(1, 2, 2))
            result = Result(serial=5, done=True, text="done", pictures=(picture,))
            publisher.send(got[0][0], result, np.arange(4, dtype="<f4").tobytes())
            answer = viewer.receive(5)
            assert answer is not None
            assert answer[0] == result
            np.testing.assert_array_equal(answer[1][0][1], [[[0, 1], [2, 3]]])
            stranger.close()
    finally:
        publisher.close()


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp://127.0.0.1"])
def test_a_malformed_endpoint(endpoint: str) -> None:
    with pytest.raises(EndpointError):
        next(subscribe(endpoint))
    with pytest.raises(EndpointError):
        Publisher(endpoint)
    with pytest.raises(EndpointError, match="insecure"):
        Publisher("tcp://0.0.0.0:*")


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 400 Bad Request"],
        [b"x", b"y", b"z", b"a"],
        [MAGIC + b"\x01\x13", b"\xc1", b""],
        encode(Status(session=1, sent=0)),
        [*encode(UPDATE), PIXELS[:-1]],
        [*encode(UPDATE), PIXELS + b"x"],
        [*encode(UPDATE), b""],
        [MAGIC + b"\x02\x13", encode(UPDATE)[1], PIXELS],
    ],
    ids=["one part", "four parts", "no msgpack", "another message", "short", "long", "empty", "version"],
)
def test_a_publisher_that_is_none(ipc: str, parts: list[bytes]) -> None:
    """Whatever is at the other end: an error that `subscribe` documents."""
    other = raw(zmq.ROUTER)
    other.bind(ipc)
    call = Call(lambda: next(subscribe(ipc, timeout=5)))
    try:
        peer, *asked = other.recv_multipart()
        assert decode(asked)[0] == Want(after=0)
        other.send_multipart([peer, *parts])
        with pytest.raises(RemoteProtocolError):
            call.result()
    finally:
        other.close()


@pytest.mark.parametrize("more", [*range(4), 8200])
def test_pixels_are_where_numbers_may_begin(ipc: str, more: int) -> None:
    """Of small messages libzmq gives a part of what it has read, which begins anywhere."""
    publisher = Publisher(ipc)
    picture = Picture(kind="projection", axis="", index=0, shape=(3, 1 + more), full=(3, 1 + more))
    pixels = np.arange(3 * (1 + more), dtype="<f4")
    try:
        with Subscription(ipc) as viewer:
            viewer.ask(Want(after=0))
            assert publisher.socket.poll(5000)
            ((who, _),) = publisher.requests(1)
            for title in ("", "a", "ab", "abc"):
                update = replace(UPDATE, title=title, pictures=(picture,))
                while not publisher.send(who, update, pixels.data.cast("B")):
                    time.sleep(0.005)  # it has not noticed yet that the one before was taken
                answer = viewer.receive(5.0)
                assert answer is not None
                ((_, got),) = answer[1]
                assert got.flags.aligned
                np.testing.assert_array_equal(got, pixels.reshape(3, -1))
    finally:
        publisher.close()


def test_a_wakeup_from_many_threads() -> None:
    wakeup = Wakeup()
    poller = Poller(wakeup)

    def hammer() -> None:
        for _ in range(5000):
            wakeup.set()

    calls = [Call(hammer) for _ in range(4)]
    for call in calls:
        call.result()
    began = time.monotonic()
    poller.wait(60.0)
    assert time.monotonic() - began < 20
    poller.wait(0.1)
    assert time.monotonic() - began >= 0.1, "the wake-up was not cleared"
    wakeup.set()
    poller.wait(60.0)
    assert time.monotonic() - began < 50
    wakeup.close()
    for _ in range(3):
        wakeup.set()
    wakeup.close()


def test_closing_while_others_set() -> None:
    for _ in range(20):
        wakeup, stop = Wakeup(), threading.Event()

        def hammer(wakeup: Wakeup = wakeup, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                wakeup.set()

        call = Call(hammer)
        time.sleep(0.002)
        wakeup.close()
        time.sleep(0.002)
        stop.set()
        call.result()


def test_waiting_no_time_and_less() -> None:
    wakeup = Wakeup()
    poller: Any = Poller(wakeup)
    began = time.monotonic()
    for seconds in (0.0, -1.0, 1e-9):
        poller.wait(seconds)
    assert time.monotonic() - began < 20
    wakeup.close()
