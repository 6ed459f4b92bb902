"""One copy per payload: a frame is sent from the source's own memory and copied once, from the message into the ring."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from streamrecon.config import Config, EngineConfig
from streamrecon.engine.doors import Doors
from streamrecon.engine.ingest import Accepted, Arrival, Ingest
from streamrecon.engine.ring import Ring
from streamrecon.engine.status import Counters
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.transport import send_scan
from streamrecon.wire.codec import Buffer
from streamrecon.wire.digest import PIECE, copy_and_hash, frame_hash
from streamrecon.wire.outputs import Broken, Ended, Opened

ROWS, COLUMNS, FRAMES = 512, 1024, 6
FRAME = ROWS * COLUMNS * 2


def address(buffer: Any) -> int:
    return np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]


class WatchedRing(Ring):
    """Notes where each payload was when it was copied in."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(3, shape, np.dtype("<u2"))
        self.filled: list[tuple[int, int]] = []

    def fill(self, payload: Buffer) -> int:
        self.filled.append((address(payload), len(payload)))
        return super().fill(payload)


class Engine:
    """The I/O thread with a consumer that hands each slot back at once."""

    def __init__(self, listen: str) -> None:
        self.ring: WatchedRing | None = None
        self.arrived: list[tuple[int, int]] = []
        """Sum and address of each frame in the ring."""
        self.error: str | None = None
        config = Config(engine=EngineConfig(heartbeat=0.1))
        self.ingest = Ingest(config, self._prepare, Counters(beats=None), doors := Doors(config, listen), print)
        self.endpoint = doors.endpoint
        self._thread = threading.Thread(target=self._consume, daemon=True)
        self.ingest.start()
        self.ingest.let_in()
        self._thread.start()

    def _prepare(self, opened: Opened) -> Ring:
        self.ring = WatchedRing(opened.info.frame_shape)
        return self.ring

    def _consume(self) -> None:
        while True:
            event = self.ingest.inbox.get(timeout=20)
            if isinstance(event, Arrival):
                assert self.ring is not None
                frame = self.ring[event.slot]
                self.arrived.append((int(frame.sum(dtype=np.uint64)), address(frame.reshape(-1))))
                self.ingest.release(event.slot)
                self.ingest.durable(len(self.arrived))
            elif isinstance(event, Ended):
                self.ingest.finish()
                return
            elif isinstance(event, Broken):
                self.error = event.reason
                return
            else:
                assert isinstance(event, Accepted)

    def close(self) -> None:
        self.ingest.stop()
        self._thread.join(20)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Addresses of the payloads that were given to ZeroMQ, and of those that it gave."""
    seen: dict[str, list[int]] = {"sent": [], "received": []}
    send, receive = zmq.Socket.send_multipart, zmq.Socket.recv_multipart

    def send_multipart(self: Any, parts: Any, flags: int = 0, copy: bool = True, **options: Any) -> Any:
        if len(parts) == 3 and memoryview(parts[2]).nbytes == FRAME:
            assert not copy, "ZeroMQ was told to copy a frame"
            seen["sent"].append(address(memoryview(parts[2]).cast("B")))
        return send(self, parts, flags, copy=copy, **options)

    def recv_multipart(self: Any, flags: int = 0, copy: bool = True, **options: Any) -> Any:
        parts = receive(self, flags, copy=copy, **options)
        if not copy and len(parts[-1]) == FRAME:
            seen["received"].append(address(parts[-1].buffer))
        return parts

    monkeypatch.setattr(zmq.Socket, "send_multipart", send_multipart)
    monkeypatch.setattr(zmq.Socket, "recv_multipart", recv_multipart)
    return seen


@pytest.mark.parametrize("can_replay", [True, False], ids=["replay", "live"])
@pytest.mark.parametrize("over", ["ipc", "tcp"])
def test_a_payload_is_copied_once(ipc: str, over: str, can_replay: bool, messages: dict[str, list[int]]) -> None:
    pixels: list[NDArray[np.uint16]] = [np.full((ROWS, COLUMNS), i + 1, "<u2") for i in range(FRAMES)]
    theta = np.linspace(0, np.pi, FRAMES, endpoint=False)
    counts = {FrameKind.PROJECTION: FRAMES, FrameKind.FLAT: 0, FrameKind.DARK: 0}
    info = ScanInfo("copies", Geometry(ROWS, COLUMNS), np.dtype("<u2"), counts, theta)

    def source(rows: slice) -> Iterator[Frame]:
        for index, data in enumerate(pixels):
            yield Frame(FrameKind.PROJECTION, index, float(theta[index]), data[rows])

    engine = Engine(ipc if over == "ipc" else "tcp://127.0.0.1:*")
    try:
        send_scan(info, source, engine.endpoint, can_replay=can_replay, heartbeat=0.1, connect_timeout=20)
    finally:
        engine.close()
    assert engine.error is None
    assert engine.ring is not None
    # What ZeroMQ sends is the source's own memory, so nothing was copied before.
    assert messages["sent"] == [address(data.reshape(-1).view(np.uint8)) for data in pixels]
    # What is copied is the message itself, whole and once, and the frame in the ring is where the copy went.
    assert engine.ring.filled == [(at, FRAME) for at in messages["received"]]
    assert len(engine.ring.filled) == FRAMES
    first, size = address(engine.ring._memory.reshape(-1)), engine.ring.nbytes
    assert all(first <= at < first + size for _, at in engine.arrived)
    assert [total for total, _ in engine.arrived] == [(i + 1) * ROWS * COLUMNS for i in range(FRAMES)]


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_copy_has_the_hash_of_the_whole(size: int, kind: Any) -> None:
    payload = np.random.default_rng(size).bytes(size)
    room = bytearray(size)
    assert copy_and_hash(kind(payload), memoryview(room)) == frame_hash(payload)
    assert room == payload


def test_filling_the_ring_makes_no_copy_on_the_way() -> None:
    ring, payload = Ring(2, (ROWS, COLUMNS), np.dtype("<u2")), bytes(FRAME)
    ring.fill(payload)
    tracemalloc.start()
    try:
        ring.fill(memoryview(payload))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < FRAME // 16


def test_what_is_refused_leaves_its_slot_to_the_next() -> None:
    ring = Ring(2, (2, 4), np.dtype("<u2"))
    frames = [np.full((2, 4), i, "<u2") for i in range(4)]
    assert ring.fill(frames[0].tobytes()) == frame_hash(frames[0].tobytes())
    ring.fill(frames[1].tobytes())
    assert ring.used == 0
    first = ring.take()
    ring.fill(frames[2].tobytes())
    second = ring.take()
    assert (ring[first] == 1).all()
    assert (ring[second] == 2).all()
    # Beyond the credit there is no room, and nothing of what is in the ring may change.
    assert ring.fill(frames[3].tobytes()) == frame_hash(frames[3].tobytes())
    assert (ring[first] == 1).all()
    assert (ring[second] == 2).all()
