"""One lane of a sender: a socket."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import zmq
from numpy.typing import NDArray

from streamrecon.errors import MessageError, RemoteProtocolError
from streamrecon.transport.endpoint import connect, open_socket
from streamrecon.wire.codec import Buffer, decode, encode
from streamrecon.wire.messages import FrameHeader, Message

log = logging.getLogger(__name__)

SEND_BUFFER = 1 << 20
"""Bytes in the kernel for each ipc connection; the system may allow less."""


class Link:
    """Owned by one thread.

    Parameters
    ----------
    endpoint
        Where the lane is received.

    Raises
    ------
    EndpointError
        If the endpoint is malformed, or there can be no more sockets.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._pending: list[bytes | memoryview] | None = None
        self._half_sent = False
        self._socket = open_socket(zmq.DEALER)
        # Nothing is queued for an engine that is not there, so a new one never gets an old session's frames.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        if endpoint.startswith("ipc:"):
            # A fifth of a megabyte, the system's default, has both ends wait for each other. TCP's grow by themselves.
            self._socket.setsockopt(zmq.SNDBUF, SEND_BUFFER)
        try:
            connect(self._socket, endpoint)
        except Exception:
            self._socket.close()
            raise

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._socket

    def ready(self) -> bool:
        """Whether a message can leave now: someone is there, and the frame before has left."""
        return self.flush() and bool(self._socket.poll(0, zmq.POLLOUT))

    def messages(self) -> Iterator[tuple[Message, Buffer | None]]:
        """What has arrived.

        Raises
        ------
        RemoteProtocolError
            If it is not of the protocol.
        """
        while True:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield decode(parts)
            except MessageError as error:
                raise RemoteProtocolError(f"the engine at {self.endpoint} sent something else: {error}") from error

    def say(self, message: Message, payload: bytes | None = None) -> None:
        """Send a message that may be lost when nobody is there."""
        parts = encode(message) + ([payload] if payload is not None else [])
        try:
            self._put(parts)
        except zmq.Again:
            log.debug("%s was not sent: the engine at %s is not connected", message.name(), self.endpoint)

    def send(self, header: FrameHeader, pixels: NDArray[np.generic]) -> None:
        """Send a frame, without a copy; it is kept where the connection breaks just now."""
        self._pending = [*encode(header), pixels.data]
        self.flush()

    def flush(self) -> bool:
        """Whether nothing is left to be sent."""
        if self._pending is not None:
            try:
                self._put(self._pending, copy=False)
            except zmq.Again:
                return False
            self._pending = None
        return True

    def _put(self, parts: Sequence[bytes | memoryview], copy: bool = True) -> None:
        """Send a message in all its parts, or raise `zmq.Again` and send none."""
        if self._half_sent:
            # Ctrl-C came between two parts: what follows would be more of them. With two empty ones it is dropped.
            self._socket.send_multipart([b"", b""], zmq.NOBLOCK)
        self._half_sent = True
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK, copy=copy)
        except zmq.Again:
            self._half_sent = False
            raise
        self._half_sent = False

    def close(self, linger: int = 0) -> None:
        """Close the socket; what is queued gets `linger` milliseconds to leave."""
        self._socket.close(linger=linger)
