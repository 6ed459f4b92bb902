"""The connection between rank 0 and the other ranks of a job: bytes to and fro, for ranks of this job only.

It is encrypted by a key that rank 0 makes for this run and tells the others through their launcher, so whoever else can reach
the port cannot talk to it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

import zmq

from streamrecon.errors import EndpointError, RankError
from streamrecon.transport.endpoint import open_socket

COUNT = struct.Struct("<Q")


class _Counts:
    """Numbers of the messages to and from each rank: one that is lost with a connection is never waited for in vain."""

    def __init__(self) -> None:
        self._sent, self._heard = Counter[int](), Counter[int]()

    def number(self, rank: int, message: bytes) -> bytes:
        """The message with its number."""
        self._sent[rank] += 1
        return COUNT.pack(self._sent[rank]) + message

    def check(self, rank: int, message: bytes) -> bytes:
        """The message without its number.

        Raises
        ------
        RankError
            If it is not the next one.
        """
        self._heard[rank] += 1
        if COUNT.unpack_from(message)[0] != self._heard[rank]:
            raise RankError(f"the connection to rank {rank} broke, and messages of it were lost")
        return message[COUNT.size :]


class ControlHub:
    """Rank 0's end; owned by one thread.

    Parameters
    ----------
    host
        Name of this machine by which ranks on others reach it; None: all are on this one.

    Raises
    ------
    EndpointError
        If no port can be had.
    """

    def __init__(self, host: str | None = None) -> None:
        self._socket, self._counts = open_socket(zmq.ROUTER), _Counts()
        _configure(self._socket)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a rank that connects again is still that rank
        public, secret = zmq.curve_keypair()
        self._socket.setsockopt(zmq.CURVE_SERVER, 1)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        try:
            port: int = self._socket.bind_to_random_port("tcp://127.0.0.1" if host is None else "tcp://*")
        except zmq.ZMQError as error:
            self._socket.close()
            raise EndpointError(f"no port can be had for the ranks of this job: {error.strerror}") from error
        self.address = f"tcp://{host or '127.0.0.1'}:{port}", public
        """Endpoint and key, for the other ranks."""

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._socket

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Rank and message of what has come.

        Raises
        ------
        RankError
            If something was lost.
        """
        while True:
            try:
                rank, message = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield int(rank), self._counts.check(int(rank), message)

    def send(self, rank: int, message: bytes) -> None:
        """Send to a rank; one that is gone is not an error, as its silence is noticed."""
        self._socket.send_multipart([b"%d" % rank, self._counts.number(rank, message)], zmq.NOBLOCK)

    def close(self) -> None:
        """Close the socket; what is queued gets a moment to leave."""
        self._socket.close(linger=1000)


class ControlLink:
    """The end of another rank; owned by one thread.

    Parameters
    ----------
    rank
        Of this process.
    address
        Of rank 0's `ControlHub`.
    """

    def __init__(self, rank: int, address: tuple[str, bytes]) -> None:
        endpoint, key = address
        self._socket, self._counts = open_socket(zmq.DEALER), _Counts()
        _configure(self._socket)
        self._socket.setsockopt(zmq.IDENTITY, b"%d" % rank)
        public, secret = zmq.curve_keypair()
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, key)
        self._socket.connect(endpoint)

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._socket

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """What has come, from rank 0; as of `ControlHub`."""
        while True:
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield 0, self._counts.check(0, message)

    def send(self, rank: int, message: bytes) -> None:
        """Send to rank 0."""
        self._socket.send(self._counts.number(0, message), zmq.NOBLOCK)

    def close(self) -> None:
        """Close the socket; what is queued gets a moment to leave."""
        self._socket.close(linger=1000)


def _configure(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.SNDHWM, 0)  # few messages, none of which may be lost
    socket.setsockopt(zmq.RCVHWM, 0)
