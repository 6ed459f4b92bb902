"""Updates for viewers: latest wins, and a slow viewer costs updates, never projections."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import zmq
from numpy.typing import NDArray

from streamrecon.errors import MessageError, PeerLostError, RemoteProtocolError
from streamrecon.transport.endpoint import connect, open_socket
from streamrecon.transport.receiver import Receiver
from streamrecon.wire.codec import decode, encode
from streamrecon.wire.messages import Update, Want

log = logging.getLogger(__name__)

VIEWER_LIMIT = 256


class Publisher:
    """Offers the newest update to whoever asks; owned by one thread.

    A viewer asks for what is newer than the version it has and gets one answer, now or when there is one. So each has at
    most one update on its way, and what it missed meanwhile is never sent.

    Parameters
    ----------
    endpoint
        Where to listen.
    insecure
        Allow an endpoint that other machines can reach.

    Raises
    ------
    EndpointError
        If the endpoint cannot be used.
    """

    def __init__(self, endpoint: str, insecure: bool = False) -> None:
        self._receiver = Receiver(endpoint, max_payload=4096, insecure=insecure)
        self.endpoint = self._receiver.endpoint
        self._waiting: dict[bytes, int] = {}
        self._newest: tuple[Update, bytes] | None = None

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._receiver.socket

    def offer(self, update: Update, payload: bytes) -> None:
        """Take the newest update and send it to those who wait."""
        # The versions of another scan begin anew: what a viewer has is none of them.
        another = self._newest is None or self._newest[0].uid != update.uid
        self._newest = update, payload
        for viewer in [v for v, after in self._waiting.items() if another or after < update.version]:
            self._answer(viewer)

    def serve(self) -> None:
        """Answer the viewers that have asked."""
        for viewer, message, _ in self._receiver.messages():
            if not isinstance(message, Want):
                log.warning("a viewer sent %s; only WANT is expected here", message.name())
            else:
                self._waiting.pop(viewer, None)
                if len(self._waiting) >= VIEWER_LIMIT:
                    del self._waiting[next(iter(self._waiting))]  # who has waited longest is most likely gone
                self._waiting[viewer] = message.after
                # One that has a later version than there is has it of the scan before.
                if self._newest is not None and self._newest[0].version != message.after:
                    self._answer(viewer)

    def _answer(self, viewer: bytes) -> None:
        assert self._newest is not None
        update, payload = self._newest
        del self._waiting[viewer]
        self._receiver.send(viewer, update, payload)

    def close(self) -> None:
        """Close the socket."""
        self._receiver.close()


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """One update, as a viewer gets it."""

    update: Update
    """Version, angles, coverage, ..."""
    axial: NDArray[np.float32]
    """(y, x) through the middle slice."""
    coronal: NDArray[np.float32]
    """(slice, x) through the middle y."""
    sagittal: NDArray[np.float32]
    """(slice, y) through the middle x."""


def subscribe(endpoint: str, timeout: float = 30.0) -> Iterator[Slices]:
    """Updates as they come, up to the final one; what is missed while the caller is busy is skipped.

    Parameters
    ----------
    endpoint
        Of the engine's publisher.
    timeout
        Seconds to wait for an update.

    Raises
    ------
    EndpointError
        If the endpoint is malformed.
    PeerLostError
        If nothing came in time.
    RemoteProtocolError
        If the publisher sent something else.
    """
    socket = open_socket(zmq.DEALER)
    try:
        connect(socket, endpoint)
        version, final = 0, False
        while not final:
            socket.send_multipart(encode(Want(after=version)))
            deadline = time.monotonic() + timeout
            if not socket.poll(int(max(0.0, deadline - time.monotonic()) * 1000)):
                raise PeerLostError(f"no update came from {endpoint} within {timeout:g} s")
            try:
                update, payload = decode(socket.recv_multipart())
            except MessageError as error:
                raise RemoteProtocolError(f"{endpoint} sent something else: {error}") from error
            if not isinstance(update, Update) or payload is None:
                raise RemoteProtocolError(f"{endpoint} sent {update.name()}; expected UPDATE")
            yield _slices(update, bytes(payload))
            version, final = update.version, update.final
    finally:
        socket.close()


def _slices(update: Update, payload: bytes) -> Slices:
    rows, height, width = update.shape
    sizes = [height * width, rows * width, rows * height]
    if len(payload) != 4 * sum(sizes):
        raise RemoteProtocolError(f"UPDATE has {len(payload)} bytes for a volume of {update.shape}")
    pixels = np.frombuffer(payload, "<f4")
    axial, coronal, sagittal = np.split(pixels, np.cumsum(sizes)[:2])
    return Slices(update, axial.reshape(height, width), coronal.reshape(rows, width), sagittal.reshape(rows, height))
