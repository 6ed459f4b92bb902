"""Sending a scan: a thread reads frames, the calling thread sends them as far as credit goes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import zmq

from streamrecon.errors import MessageError, PeerLostError, RemoteProtocolError, SourceError
from streamrecon.scan import Frame, FrameKind, ScanInfo
from streamrecon.transport.endpoint import connect
from streamrecon.transport.poller import Poller
from streamrecon.transport.wakeup import Wakeup
from streamrecon.wire.codec import decode, encode
from streamrecon.wire.messages import FrameHeader, Message, Range
from streamrecon.wire.sending import SendingEnd
from streamrecon.wire.session import State

log = logging.getLogger(__name__)

FramesOf = Callable[[slice], Iterator[Frame]]
"""Frames of some detector rows, from the scan's start."""

READ_AHEAD = 4
"""Frames read before there is credit for them."""

ATTEMPTS = 5
"""Sessions tried for one scan when the engine keeps forgetting it."""


@dataclass(frozen=True, slots=True)
class SendReport:
    """What was sent."""

    frames: int
    nbytes: int
    seconds: float
    """From the first frame to the last answer."""
    waited: float
    """Of them, seconds spent without credit: how much the engine paced the source."""
    missing: tuple[Range, ...]
    """Projections the engine never got."""


def send_scan(
    info: ScanInfo,
    frames: FramesOf,
    endpoint: str,
    *,
    heartbeat: float = 1.0,
    peer_timeout: float = 30.0,
    connect_timeout: float | None = None,
    progress: Callable[[SendingEnd], None] = lambda end: None,
) -> SendReport:
    """Send a whole scan and wait until the engine has its final volume.

    A frame's memory is bounded by the engine's credit window and `READ_AHEAD`, whatever the scan's length. Where the engine
    does not know the session any more, because it was restarted, the scan is sent again from its start.

    Parameters
    ----------
    info
        Of the scan.
    frames
        Gives the frames of some detector rows.
    endpoint
        Of the engine.
    heartbeat, peer_timeout
        Seconds.
    connect_timeout
        Seconds to wait for an engine; None waits for ever.
    progress
        Called often, with the state of the session.

    Raises
    ------
    EndpointError
        If the endpoint is malformed.
    PeerLostError
        If no engine came, or it fell silent.
    ScanAbortedError
        If the engine ended the scan.
    RemoteProtocolError
        If the engine's messages do not fit.
    SourceError
        If a frame does not fit the scan; and whatever reading the frames raises.
    """
    epoch = time.time_ns() // 1_000_000
    for attempt in range(ATTEMPTS):
        end = SendingEnd(info, epoch + attempt, heartbeat=heartbeat, peer_timeout=peer_timeout)
        sender = _Sender(end, frames, endpoint, progress)
        try:
            report = sender.run(connect_timeout)
        except KeyboardInterrupt:
            sender.abort("the sender was interrupted")
            raise
        except Exception as error:
            sender.abort(str(error))
            raise
        finally:
            sender.close()
        if report is not None:
            return report
        log.warning("the engine at %s does not know the scan any more; sending it again from the start", endpoint)
    raise PeerLostError(
        f"the engine at {endpoint} forgot the scan {ATTEMPTS} times; is it being restarted again and again?"
    )


class _Sender:
    def __init__(
        self, end: SendingEnd, frames: FramesOf, endpoint: str, progress: Callable[[SendingEnd], None]
    ) -> None:
        self._end, self._frames, self._endpoint, self._progress = end, frames, endpoint, progress
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        # Nothing is queued for an engine that is not there, so a new one never gets an old session's frames.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self._wakeup = Wakeup()
        self._queue: queue.Queue[Frame | Exception | None] = queue.Queue(READ_AHEAD)
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None
        self._next: Frame | None = None
        self._numbered: FrameHeader | None = None
        self._exhausted = False
        try:
            connect(self.socket, endpoint)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        self._stop.set()
        # A source that hangs must not hold back what went wrong; its thread ends with the process.
        patience = time.monotonic() + 1.0
        while self._reader is not None and self._reader.is_alive() and time.monotonic() < patience:
            self._drain()
            self._reader.join(0.05)
        self.socket.close()
        self._wakeup.close()

    def _drain(self) -> None:
        try:
            while True:
                self._queue.get_nowait()
        except queue.Empty:
            pass

    def abort(self, reason: str) -> None:
        message = self._end.abort(reason)
        if message is not None:
            self._send(message)
            self.socket.setsockopt(zmq.LINGER, 1000)
        elif self._end.session.over:
            self._part()

    def _part(self) -> None:
        self._send(self._end.farewell())
        self.socket.setsockopt(zmq.LINGER, 500)

    def run(self, connect_timeout: float | None) -> SendReport | None:
        """None where the engine does not know the session any more."""
        end, session = self._end, self._end.session
        poller = Poller(self._wakeup, self)
        began = time.monotonic()
        waited, first, waiting_since = 0.0, None, None
        hello_at = began
        while not session.over:
            now = time.monotonic()
            if session.state in (State.NEW, State.GREETING) and now >= hello_at:
                hello_at = self._greet(now, began, connect_timeout)
            timeout = min(end.heartbeat, 0.1 if session.state is State.NEW or end.busy else 1.0) / 2
            poller.wait(timeout)
            self._hear()
            now = time.monotonic()
            message = end.tick(now)
            if message is not None:
                self._send(message)
            if end.streaming:
                sent = self._send_frames()
                if sent and first is None:
                    first = now
                blocked = self._next is not None
                if blocked and waiting_since is None:
                    waiting_since = now
                elif waiting_since is not None and (sent or not blocked):
                    waited += now - waiting_since
                    waiting_since = now if blocked else None
            self._progress(end)
        if session.state is not State.CLOSED:
            return None
        self._part()
        seconds = time.monotonic() - (first or began)
        return SendReport(end.credit.sent_frames, end.credit.sent_bytes, seconds, waited, end.missing)

    def _greet(self, now: float, began: float, connect_timeout: float | None) -> float:
        """Say HELLO if someone is there; when to try again."""
        if connect_timeout is not None and now - began > connect_timeout:
            why = f": {self._end.busy.reason}" if self._end.busy else ""
            raise PeerLostError(f"no engine took the scan at {self._endpoint} within {connect_timeout:g} s{why}")
        state, busy = self._end.session.state, self._end.busy
        if state in (State.NEW, State.GREETING) or busy:
            # Said again while unanswered, as an engine may have been replaced before it could answer. Whether it can leave is
            # asked first, because a message that cannot leave must not change the session's state.
            if not self.socket.poll(0, zmq.POLLOUT):
                return now + 0.05
            self._send(self._end.hello(now))
            return now + 1.0
        return now + 1.0

    def _hear(self) -> None:
        while True:
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message, _ = decode(parts)
            except MessageError as error:
                raise RemoteProtocolError(f"the engine at {self._endpoint} sent something else: {error}") from error
            for reply, payload in self._end.hear(message, time.monotonic()):
                self._send(reply, payload)
            if self._end.streaming and self._reader is None:
                self._reader = threading.Thread(target=self._read, name="streamrecon-read", daemon=True)
                self._reader.start()

    def _send(self, message: Message, payload: bytes | None = None) -> None:
        parts = encode(message) + ([payload] if payload is not None else [])
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            log.debug("%s was not sent: the engine at %s is not connected", message.name(), self._endpoint)

    def _send_frames(self) -> int:
        """Send what credit allows; how many were sent."""
        sent = 0
        while True:
            if self._next is None and not self._exhausted:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    return sent
                if isinstance(item, Exception):
                    raise item
                self._next, self._exhausted = item, item is None
            if self._next is None:
                self._send(self._end.end(time.monotonic()))
                return sent
            if self._numbered is None:
                if not self._end.credit.allows(self._next.data.nbytes) or not self.socket.poll(0, zmq.POLLOUT):
                    return sent
                self._numbered = self._end.frame(self._next, time.monotonic())
            try:
                self.socket.send_multipart([*encode(self._numbered), self._next.data.data], zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return sent  # the connection broke just now: the frame keeps its number until another is there
            self._next = self._numbered = None
            sent += 1

    def _read(self) -> None:
        info, rows = self._end.info, self._end.rows
        shape = (rows[1] - rows[0], info.geometry.columns)
        item: Frame | Exception | None = None
        try:
            for item in self._frames(slice(*rows)):
                _check_frame(item, shape, info.dtype)
                if not self._put(item):
                    return
            item = None
        except Exception as error:
            item = error
        except BaseException as error:
            item = SourceError(f"the source ended with {type(error).__name__}: {error}")
        self._put(item)

    def _put(self, item: Frame | Exception | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            self._wakeup.set()
            return True
        return False


def _check_frame(frame: Frame, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> None:
    name = f"{FrameKind(frame.kind).name.lower()} {frame.index}"
    if frame.data.shape != shape or frame.data.dtype != dtype or not frame.data.flags.c_contiguous:
        raise SourceError(f"{name} is {frame.data.dtype} {frame.data.shape}; the scan announced {dtype} {shape}")
    if frame.kind == FrameKind.PROJECTION and (frame.theta is None or not np.isfinite(frame.theta)):
        raise SourceError(f"{name} has the angle {frame.theta}; expected a finite one")
