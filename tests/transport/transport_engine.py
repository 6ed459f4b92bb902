"""A small engine for tests: Receiver, ReceivingEnd and Poller in a thread, and a raw peer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import zmq

from streamrecon.errors import EndpointError
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.transport import Clock, Poller, Receiver, Wakeup
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.messages import FrameHeader, Lane, Range
from streamrecon.wire.outputs import (
    Arrived,
    Broken,
    Ended,
    GivenUp,
    Opened,
    Reply,
    SenderBack,
    SenderLost,
    TurnedAway,
    Withdrawn,
)
from streamrecon.wire.receiving import ReceivingEnd, lanes_of

PATIENCE = 60.0
"""Seconds after which a test is given up."""


def scan(count: int = 20, rows: int = 4, columns: int = 8, dtype: str = "<u2", uid: str = "scan") -> ScanInfo:
    """A scan of projections only."""
    return ScanInfo(
        uid,
        Geometry(rows, columns),
        np.dtype(dtype),
        {FrameKind.PROJECTION: count, FrameKind.FLAT: 0, FrameKind.DARK: 0},
        np.linspace(0, np.pi, count, endpoint=False),
    )


class Source:
    """Frames of a scan; counts what was read."""

    def __init__(self, info: ScanInfo, delay: float = 0.0, fail_at: int | None = None, error: Any = None) -> None:
        self.info, self.delay, self.fail_at, self.error = info, delay, fail_at, error
        self.read = 0
        self.passes = 0

    def pixels(self, index: int) -> np.ndarray[Any, Any]:
        return np.full(self.info.frame_shape, index, self.info.dtype)

    def __call__(self, rows: slice) -> Iterator[Frame]:
        self.passes += 1
        assert self.info.theta is not None
        for index in range(len(self.info.theta)):
            if index == self.fail_at:
                raise self.error
            if self.delay:
                time.sleep(self.delay)
            self.read += 1
            data = np.ascontiguousarray(self.pixels(index)[rows])
            yield Frame(FrameKind.PROJECTION, index, float(self.info.theta[index]), data)


def _listen(endpoint: str, max_payload: int) -> Receiver:
    """Where an engine was just closed, libzmq gives its port back a little later, in a thread of its own."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            return Receiver(endpoint, max_payload)
        except EndpointError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class TestEngine(threading.Thread):
    """Receives one scan.

    `hold` keeps all frames in the ring while it is set; `delay` is the time between two frames leaving it. Frames that have
    left it are durable while `durable` is set.
    """

    __test__ = False

    def __init__(
        self,
        endpoint: str,
        slots: int = 4,
        rows: Range | None = None,
        heartbeat: float = 0.1,
        peer_timeout: float = 5.0,
        delay: float = 0.0,
        max_payload: int = 1 << 20,
        incarnation: str = "i",
        others: tuple[Lane, ...] = (),
        durable: bool = True,
    ) -> None:
        super().__init__(name="test-engine", daemon=True)
        self.receiver = _listen(endpoint, max_payload)
        self.endpoint = self.receiver.endpoint
        self.end = ReceivingEnd(incarnation, lanes_of(rows, others), heartbeat, peer_timeout)
        self.durable = threading.Event()
        if durable:
            self.durable.set()
        self.slots, self.delay = slots, delay
        self.hold, self.done = threading.Event(), threading.Event()
        self.wakeup, self.clock = Wakeup(), Clock()
        self.opened: list[Opened] = []
        self.arrived: list[tuple[FrameHeader, bytes]] = []
        self.ended: list[Ended] = []
        self.broken: list[Broken] = []
        self.freed = self.noted = 0
        self.error: BaseException | None = None
        self._free_at = 0.0
        self.refuse_with = ""
        self.start()

    def run(self) -> None:
        poller = Poller(self.wakeup, self.receiver)
        try:
            while not self.done.is_set():
                poller.wait(0.02)
                for peer, message, payload in self.receiver.messages():
                    self._act(self.end.hear(peer, message, payload, self.clock.now()))
                while not self.hold.is_set() and self.freed < len(self.arrived) and time.monotonic() >= self._free_at:
                    self.freed += 1
                    self._free_at = time.monotonic() + self.delay
                    self.end.free(self.end.nbytes)
                if self.durable.is_set():
                    # What else came is counted among the frames in their order: not before those that came earlier.
                    noted = self.noted if self.freed == len(self.arrived) else 0
                    self._act(self.end.durable(self.freed + noted, self.clock.now()))
                if self.ended and self.freed == len(self.arrived):
                    self._act(self.end.finish())
                if self.refuse_with:
                    self._act(self.end.refuse(self.refuse_with))
                    self.refuse_with = ""
                self._act(self.end.tick(self.clock.now()))
        except BaseException as error:
            self.error = error
        finally:
            self.receiver.close()
            self.wakeup.close()

    def _act(self, outputs: list[Any]) -> None:
        for output in outputs:
            if isinstance(output, Reply):
                self.receiver.send(output.peer, output.message, output.payload)
            elif isinstance(output, Opened):
                self.opened.append(output)
                window = CreditWindow(self.slots * self.end.nbytes, self.slots)
                self._act(self.end.accept(window, self.clock.now()))
            elif isinstance(output, Arrived):
                self.arrived.append((output.header, bytes(output.payload)))
            else:
                if isinstance(output, SenderBack | Withdrawn):
                    self.noted += 1
                if isinstance(output, TurnedAway | SenderBack | SenderLost | Withdrawn | GivenUp):
                    continue
                (self.ended if isinstance(output, Ended) else self.broken).append(output)

    def close(self) -> None:
        """End the thread at once: its peers see a dead engine."""
        self.done.set()
        self.wakeup.set()
        self.join(60)
        assert not self.is_alive()
        assert self.error is None, repr(self.error)

    def __enter__(self) -> TestEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Call(threading.Thread):
    """A call in a thread of its own; `result` waits for it."""

    def __init__(self, call: Any, *args: Any, **options: Any) -> None:
        super().__init__(name="test-call", daemon=True)
        self._call, self._args, self._options = call, args, options
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._call(*self._args, **self._options)
        except BaseException as error:
            self.error = error

    def result(self, timeout: float = PATIENCE) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "the call did not return"
        if self.error is not None:
            raise self.error
        return self.value


def limit(seconds: float = PATIENCE) -> Any:
    """A progress callback that ends a scan which takes for ever."""
    deadline = time.monotonic() + seconds

    def progress(_: object) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError("the scan did not end in time")

    return progress


def wait_for(condition: Any, timeout: float = PATIENCE) -> None:
    """Until something becomes true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def raw(kind: int, **options: int) -> zmq.Socket[bytes]:
    """A plain socket that does not linger."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.setsockopt(zmq.LINGER, options.get("linger", 0))
    return socket
