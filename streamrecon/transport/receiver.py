"""The ROUTER that sessions come in at: bytes to messages and back, with limits, and nothing of a scan."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np
import zmq

from streamrecon.errors import MessageError
from streamrecon.transport.endpoint import bind, open_socket
from streamrecon.wire.codec import PARTS_LIMIT, Buffer, decode, encode
from streamrecon.wire.messages import Message

log = logging.getLogger(__name__)

SMALLEST_LIMIT = 1 << 20
"""Bytes of a part that are accepted however small the frames are: a scan's list of angles is a payload, too."""

WARN_EVERY = 1.0
"""Seconds between two warnings of messages that were dropped: who floods a socket is not to fill a disk with them."""

BACKLOG = 64
"""Messages taken in one go before others get their turn."""


LARGEST_FREED = (32 << 20) - (1 << 16)
"""Bytes, just below the largest block that glibc adapts its limits to."""


def _keep_freed_memory() -> None:
    """Let messages be received into memory that was used before.

    libzmq allocates each message. glibc gives free memory at a heap's end back to the system from twice the size of the
    largest block that was mapped and freed so far, which is two frames; then each page of later ones is a fault again. Once a
    block of nearly 32 MiB, none of it touched, was freed, this is 64 MiB. Other allocators do not care.
    """
    np.empty(LARGEST_FREED, np.uint8)


class Receiver:
    """Owned by one thread.

    Parameters
    ----------
    endpoint
        Where to listen.
    max_payload
        Largest payload accepted, bytes; libzmq drops a connection that sends more in one part.
    insecure
        Allow an endpoint that other machines can reach.
    queue
        Messages that may wait for each peer; None: as many as ZeroMQ allows by itself.

    Raises
    ------
    EndpointError
        If the endpoint cannot be used.
    """

    def __init__(self, endpoint: str, max_payload: int, insecure: bool = False, queue: int | None = None) -> None:
        self.malformed = 0
        """Messages dropped because they were not of the protocol."""
        self._warn_next = 0.0
        _keep_freed_memory()
        self._socket = open_socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max(max_payload, SMALLEST_LIMIT))
        if queue is not None:
            self._socket.setsockopt(zmq.SNDHWM, queue)
        try:
            self.endpoint = bind(self._socket, endpoint, insecure)
        except Exception:
            self._socket.close()
            raise

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._socket

    def messages(self, most: int = BACKLOG) -> Iterator[tuple[bytes, Message, Buffer | None]]:
        """(peer, message, payload) of what has arrived, `most` at once; malformed ones are counted, logged and dropped."""
        for _ in range(most):
            try:
                peer, *parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                message, payload = decode([part.buffer for part in parts[: PARTS_LIMIT + 1]])
            except MessageError as error:
                self.malformed += 1
                now = time.monotonic()
                if now >= self._warn_next:
                    self._warn_next = now + WARN_EVERY
                    log.warning(
                        "dropped a message from %s: %s (%d so far)", bytes(peer.buffer).hex(), error, self.malformed
                    )
                continue
            yield bytes(peer.buffer), message, payload

    def send(self, peer: bytes, message: Message, payload: Buffer | None = None, copy: bool = True) -> None:
        """Send; a peer that is gone is not an error, as ROUTER drops what it cannot deliver.

        A payload that is not copied must not change any more.
        """
        parts: list[Buffer] = [peer, *encode(message)]
        self._socket.send_multipart(parts if payload is None else [*parts, payload], zmq.NOBLOCK, copy=copy)

    def close(self) -> None:
        """Close the socket; what is queued gets a moment to leave."""
        self._socket.close(linger=500)
