"""Updates for viewers: the latest wins, nobody waits for a viewer, and the final one ends the iteration."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq
from transport_engine import Call, raw, wait_for

from streamrecon.errors import EndpointError, PeerLostError, RemoteProtocolError
from streamrecon.transport import Poller, Publisher, Slices, Wakeup, subscribe
from streamrecon.transport.publisher import VIEWER_LIMIT
from streamrecon.wire.codec import MAGIC, decode, encode
from streamrecon.wire.messages import Status, Update, Want

SHAPE = (2, 3, 4)


def made(version: int, final: bool = False, uid: str = "s") -> tuple[Update, bytes]:
    update = Update(
        version=version, uid=uid, projections=version, coverage=0.5, final=final, binning=1, shape=SHAPE
    )  # fmt: skip
    return update, np.arange(3 * 4 + 2 * 4 + 2 * 3, dtype="<f4").tobytes()


class Served(threading.Thread):
    """A publisher in its thread; `offer` may be called from any other."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(name="test-publisher", daemon=True)
        self.publisher = Publisher(endpoint)
        self.endpoint = self.publisher.endpoint
        self.wakeup, self.done = Wakeup(), threading.Event()
        self.todo: list[tuple[Update, bytes]] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        poller = Poller(self.wakeup, self.publisher)
        try:
            while not self.done.is_set():
                poller.wait(0.05)
                while self.todo:
                    self.publisher.offer(*self.todo.pop(0))
                self.publisher.serve()
        except BaseException as error:
            self.error = error
        finally:
            self.publisher.close()
            self.wakeup.close()

    def offer(self, version: int, final: bool = False, uid: str = "s") -> None:
        self.todo.append(made(version, final, uid))
        self.wakeup.set()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.wakeup.set()
        self.join(5)
        assert not self.is_alive()
        assert self.error is None, repr(self.error)


def test_one_update_is_as_it_was_sent(ipc: str) -> None:
    with Served(ipc) as served:
        served.offer(1, final=True)
        (got,) = subscribe(ipc, timeout=5)
    assert isinstance(got, Slices)
    assert got.update == made(1, True)[0]
    assert (got.axial.shape, got.coronal.shape, got.sagittal.shape) == ((3, 4), (2, 4), (2, 3))
    joined = np.concatenate([got.axial.ravel(), got.coronal.ravel(), got.sagittal.ravel()])
    np.testing.assert_array_equal(joined, np.arange(26))


def test_who_asks_before_the_first_update_gets_it(ipc: str) -> None:
    with Served(ipc) as served:
        call = Call(lambda: [s.update.version for s in subscribe(ipc, timeout=5)])
        wait_for(lambda: served.publisher._waiting)
        served.offer(1)
        time.sleep(0.1)
        served.offer(2, final=True)
        assert call.result() == [1, 2]


@pytest.mark.parametrize("asks_before", [True, False])
def test_the_versions_of_another_scan_begin_anew(ipc: str, asks_before: bool) -> None:
    """A viewer that has version 7 of one is not kept waiting for version 8 of the next."""
    with Served(ipc) as served:
        served.offer(7)
        viewer = subscribe(ipc, timeout=5)
        assert next(viewer).update.version == 7
        if asks_before:
            call = Call(next, viewer)
            wait_for(lambda: served.publisher._waiting)
        served.offer(2, uid="another")
        if not asks_before:
            wait_for(lambda: not served.todo)
            call = Call(next, viewer)
        assert (call.result().update.uid, call.result().update.version) == ("another", 2)
        viewer.close()


def test_a_publisher_that_comes_later(ipc: str) -> None:
    call = Call(lambda: [s.update.version for s in subscribe(ipc, timeout=5)])
    time.sleep(0.2)
    with Served(ipc) as served:
        served.offer(1, final=True)
        assert call.result() == [1]


def test_a_slow_viewer_skips_and_sees_the_final_one(ipc: str) -> None:
    with Served(ipc) as served:
        served.offer(1)
        got = []
        for slices in subscribe(ipc, timeout=5):
            got.append(slices.update.version)
            if len(got) == 1:
                for version in range(2, 50):
                    served.offer(version)
                served.offer(50, final=True)
                wait_for(lambda: not served.todo)
    assert got[0] == 1
    assert got[-1] == 50
    assert len(got) <= 3
    assert got == sorted(set(got))


def test_several_viewers_do_not_disturb_each_other(ipc: str) -> None:
    with Served(ipc) as served:

        def view(pause: float) -> list[int]:
            versions = []
            for slices in subscribe(ipc, timeout=5):
                versions.append(slices.update.version)
                time.sleep(pause)
            return versions

        calls = [Call(view, pause) for pause in (0.0, 0.01, 0.1, 0.1)]
        for version in range(1, 21):
            served.offer(version, final=version == 20)
            time.sleep(0.01)
        for call in calls:
            versions = call.result()
            assert versions[-1] == 20
            assert versions == sorted(set(versions))


def test_a_viewer_that_left_hurts_nobody(ipc: str) -> None:
    with Served(ipc) as served:
        served.offer(1)
        for _ in range(5):
            updates = subscribe(ipc, timeout=5)
            assert next(updates).update.version == 1
            updates.close()  # type: ignore[attr-defined]
        gone = raw(zmq.DEALER, linger=200)
        gone.connect(ipc)
        gone.send_multipart(encode(Want(after=1)))
        gone.close()
        served.offer(2)
        served.offer(3, final=True)
        assert [s.update.version for s in subscribe(ipc, timeout=5)][-1] == 3


def test_viewers_that_wait_for_ever_keep_nobody_out(ipc: str) -> None:
    """Each asks for what will not come, or left long ago; the next viewer is still answered."""
    with Served(ipc) as served:
        crowd = [raw(zmq.DEALER) for _ in range(VIEWER_LIMIT + 5)]
        try:
            for each in crowd:
                each.connect(ipc)
                each.send_multipart(encode(Want(after=(1 << 64) - 1)))
            wait_for(lambda: len(served.publisher._waiting) >= VIEWER_LIMIT)
            for each in crowd:
                each.close()
            served.offer(1, final=True)
            assert [s.update.version for s in subscribe(ipc, timeout=2)] == [1]
        finally:
            for each in crowd:
                each.close()


def test_garbage_is_ignored(ipc: str) -> None:
    with Served(ipc) as served:
        stranger = raw(zmq.DEALER)
        stranger.connect(ipc)
        for parts in [[b""], [b"x"] * 9, [MAGIC + b"\x01\x12", b"\xc1"], encode(Status(session=1, sent=0))]:
            stranger.send_multipart(parts)
        big = raw(zmq.DEALER)
        big.connect(ipc)
        big.send_multipart([b"x" * 100_000])
        served.offer(1, final=True)
        assert [s.update.version for s in subscribe(ipc, timeout=5)] == [1]
        stranger.close()
        big.close()
        assert served.is_alive()


def test_nothing_comes(ipc: str) -> None:
    began = time.monotonic()
    with pytest.raises(PeerLostError, match="no update"):
        next(subscribe(ipc, timeout=0.2))
    with Served(ipc) as served:
        updates = subscribe(ipc, timeout=0.3)
        served.offer(1)
        assert next(updates).update.version == 1
        with pytest.raises(PeerLostError):
            next(updates)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp://127.0.0.1"])
def test_a_malformed_endpoint(endpoint: str) -> None:
    with pytest.raises(EndpointError):
        next(subscribe(endpoint))
    with pytest.raises(EndpointError):
        Publisher(endpoint)
    with pytest.raises(EndpointError, match="insecure"):
        Publisher("tcp://0.0.0.0:*")


UPDATE, PIXELS = made(1)


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


@pytest.mark.parametrize("shape", [(0, 3, 4), (0, 0, 0), (1, 1, 1)])
def test_shapes_at_the_edge(ipc: str, shape: tuple[int, int, int]) -> None:
    rows, height, width = shape
    pixels = bytes(4 * (height * width + rows * width + rows * height))
    with Served(ipc) as served:
        served.todo.append((replace(UPDATE, shape=shape, final=True), pixels))
        served.wakeup.set()
        (got,) = subscribe(ipc, timeout=5)
        assert got.axial.shape == (height, width)


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
    poller.wait(5.0)
    assert time.monotonic() - began < 1.0
    poller.wait(0.1)
    assert time.monotonic() - began >= 0.1, "the wake-up was not cleared"
    wakeup.set()
    poller.wait(5.0)
    assert time.monotonic() - began < 2.0
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
    assert time.monotonic() - began < 0.5
    wakeup.close()
