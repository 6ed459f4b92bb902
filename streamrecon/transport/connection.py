"""A connection that is made again also where libzmq gives it up: after a message that is too large, and where keys are refused.

libzmq makes a connection again that broke, but not one on which the other side did what it must not, and says so only to who
listens to its events.
"""

from __future__ import annotations

import contextlib
import math
import struct
import time
import uuid

import zmq

from streamrecon.errors import EndpointError
from streamrecon.transport.endpoint import connect, open_socket

EVENT = struct.Struct("=H")
"""Its number, at the start of what libzmq says of it. (pyzmq's reader of it takes longer to load than all of this package.)"""
PAUSE = 1.0
"""Seconds between attempts."""

REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it refuses these CURVE keys",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "it asks for CURVE keys, or other ones than these, or speaks no ZeroMQ",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it closed the connection at once; it may ask for CURVE keys, or other ones than these",
}


class Connection:
    """Keeps a socket connected to one address; owned by the thread that owns the socket.

    Parameters
    ----------
    socket
        To be connected.
    address
        Where to.

    Raises
    ------
    EndpointError
        If the address is malformed.
    """

    def __init__(self, socket: zmq.Socket[bytes], address: str) -> None:
        self._socket, self._address = socket, address
        self._broken, self._next_attempt = False, 0.0
        self.refusal: str | None = None
        """What the other side refuses, as long as it does."""
        name = f"inproc://connection-{uuid.uuid4()}"
        socket.monitor(name, zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | sum(REFUSALS))
        self.events = open_socket(zmq.PAIR)
        """For a poller: readable when `tend` has something to do."""
        self.events.connect(name)
        try:
            connect(socket, address)
        except EndpointError:
            self.close()
            raise

    def tend(self) -> None:
        """Connect again where that is needed, and due.

        To be called when all that came is read: what is unread is lost if it connects again.
        """
        while self.events.poll(0):
            (code,) = EVENT.unpack_from(self.events.recv_multipart(zmq.NOBLOCK)[0])
            event = zmq.Event(code)
            self._broken = event != zmq.EVENT_HANDSHAKE_SUCCEEDED
            if event in REFUSALS:
                # The first of them, as they may take turns.
                self.refusal = self.refusal or f"{self._address} cannot be listened to: {REFUSALS[event]}"
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.refusal = None
        if self._broken and time.monotonic() >= self._next_attempt:
            self._broken, self._next_attempt = False, time.monotonic() + PAUSE
            with contextlib.suppress(zmq.ZMQError):  # it is already forgotten
                self._socket.disconnect(self._address)
            connect(self._socket, self._address)

    def wait(self, seconds: float) -> bool:
        """Whether a message came, or there is something to tend to, within a time."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self.events, zmq.POLLIN)
        due = max(0.0, self._next_attempt - time.monotonic()) if self._broken else seconds
        return bool(poller.poll(math.ceil(1000 * max(0.0, min(seconds, due))))) or due < seconds

    def close(self) -> None:
        """Listen no more; the socket stays."""
        self._socket.monitor(None, 0)
        self.events.close()
