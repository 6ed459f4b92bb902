"""Messages that others publish as `prefix name payload`: how Bluesky sends its documents, directly or through its proxy."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator

import zmq

from streamrecon.errors import ConfigError, EndpointError
from streamrecon.transport.connection import Connection
from streamrecon.transport.curve import CurveKeys
from streamrecon.transport.endpoint import open_socket

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 1 << 24
"""Bytes of a message: a document with an image in it; others have some kilobytes."""
QUEUE_LIMIT = 1000
"""Messages that wait to be read, as many as the proxy keeps for a slow subscriber. Without a limit a reader that stalls would
fill the memory; with a small one it would lose documents that there is room for. What is beyond is lost where it is published,
and neither side is told."""
TELL_EVERY = 60.0
"""Seconds after which it is told again that the other side refuses this one."""
START_LIMIT = 256
"""Bytes of prefix and name."""


class Subscriber:
    """Takes what is published at an address; owned by one thread.

    Whoever publishes knows nothing of it: it connects when there is somebody, and again after a break, and what was published
    meanwhile never comes.

    Parameters
    ----------
    address
        `tcp://HOST:PORT` or `ipc://PATH`, of the side of the proxy where subscribers connect.
    prefix
        Which of several publishers is wanted; empty: all.
    curve
        Keys, where the address asks for them.
    max_bytes
        Of one message. A larger one is malformed; one of more than twice as many bytes is not even received, and breaks the
        connection, which `messages` makes again: what is published meanwhile is lost.

    Raises
    ------
    EndpointError
        If the address is malformed, or the keys are.
    ConfigError
        If the prefix has a space in it.
    """

    def __init__(
        self, address: str, prefix: bytes = b"", curve: CurveKeys | None = None, max_bytes: int = MESSAGE_LIMIT
    ) -> None:
        if b" " in prefix:
            raise ConfigError(f"the prefix {prefix!r} has a space, which ends a prefix; publishers refuse it as well")
        self._prefix, self._max_bytes = prefix, max_bytes
        self.malformed = 0
        """How many messages were not `prefix name payload`."""
        self.last_error: str | None = None
        """What was wrong with the last of them, or why there is no connection."""
        self._tell_next = -math.inf
        self._socket = open_socket(zmq.SUB)
        try:
            self._configure(curve)
            self._connection = Connection(self._socket, address)
        except BaseException:
            self._socket.close()
            raise

    def _configure(self, curve: CurveKeys | None) -> None:
        self._socket.setsockopt(zmq.RCVHWM, QUEUE_LIMIT)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * self._max_bytes)
        self._socket.setsockopt(
            zmq.TCP_KEEPALIVE, 1
        )  # a machine that vanished says nothing, and then nothing comes for ever
        self._socket.setsockopt(zmq.SUBSCRIBE, self._prefix + b" " if self._prefix else b"")
        if curve is not None:
            try:
                self._socket.setsockopt(zmq.CURVE_PUBLICKEY, curve.public)
                self._socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret)
                self._socket.setsockopt(zmq.CURVE_SERVERKEY, curve.server)
            except zmq.ZMQError as error:
                raise EndpointError(f"the CURVE keys are malformed: {error.strerror}") from error

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._socket

    def wait(self, seconds: float) -> bool:
        """Whether something came within a time: messages, or what `messages` has to see to."""
        return self._connection.wait(seconds)

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Name and payload of what has come; what is malformed is counted, told, and left out.

        A message that is yielded, or left out, is gone: one that is not asked for stays in the queue.
        """
        for _ in range(QUEUE_LIMIT):  # whoever floods it with what is left out does not keep the caller
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                self._connection.tend()
                self._tell_refusal()
                return
            problem = self._problem(parts)
            if problem is None:
                _, name, payload = parts[0].split(b" ", 2)
                yield name.decode("ascii"), payload
            else:
                self._refuse(problem)

    @property
    def refusal(self) -> str | None:
        """Why nothing can come, where the other side refuses this one."""
        return self._connection.refusal

    def _tell_refusal(self) -> None:
        if self.refusal is not None and time.monotonic() >= self._tell_next:
            self.last_error, self._tell_next = self.refusal, time.monotonic() + TELL_EVERY
            log.error("%s", self.refusal)

    def _problem(self, parts: list[bytes]) -> str | None:
        size = sum(map(len, parts))
        if len(parts) != 1:
            return f"a message of {len(parts)} parts; expected one"
        if size > self._max_bytes:
            return f"a message of {size} bytes; at most {self._max_bytes} are allowed"
        words = parts[0][:START_LIMIT].split(b" ", 2)
        if len(words) != 3 or not words[1].isascii():
            return f"a message that starts with {parts[0][:32]!r}; expected a prefix, a name, and a payload"
        return None

    def _refuse(self, problem: str) -> None:
        self.malformed += 1
        self.last_error = f"got {problem}"
        if self.malformed & (self.malformed - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...: a flood does not fill the log
            log.warning("got %s (%d malformed so far)", problem, self.malformed)

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()
        self._socket.close()
