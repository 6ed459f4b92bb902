"""Documents that a run publishes over ZeroMQ."""

from __future__ import annotations

import socket
import time

from streamrecon.bluesky.account import Account, Document
from streamrecon.bluesky.serial import decode
from streamrecon.errors import ConfigError, MessageError
from streamrecon.transport import CurveKeys, Subscriber, is_private
from streamrecon.transport.subscriber import MESSAGE_LIMIT

ANSWER = 3.0
"""Seconds in which a host that is there takes a connection."""


class ZmqDocuments:
    """Documents from Bluesky's `Publisher`, through its proxy; owned by one thread.

    Nothing is kept of what was published before this was connected, and connecting takes a moment: the first document of a run
    may be any.

    Parameters
    ----------
    address
        `tcp://HOST:PORT` or `ipc://PATH`, where the proxy publishes.
    prefix
        That of the publisher; empty: any.
    curve
        Keys, where the proxy asks for them.
    trust_pickle
        Run pickles as Python does.
    max_bytes
        Of one document.

    Raises
    ------
    EndpointError
        If the address or the keys are malformed.
    ConfigError
        If pickles are to be run that others could have sent, or the prefix is malformed.
    """

    can_wait = False
    """What is published is lost if it is not taken."""
    ended = False
    """Never: a publisher that has gone may come back."""

    def __init__(
        self,
        address: str,
        *,
        prefix: str = "",
        curve: CurveKeys | None = None,
        trust_pickle: bool = False,
        max_bytes: int = MESSAGE_LIMIT,
    ) -> None:
        if trust_pickle and curve is None and not is_private(address):
            raise ConfigError(
                f"pickles from {address} are not to be trusted: whoever is on the network could send one, and it would be run. "
                "Leave trust_pickle out (documents do not need it), use CURVE keys, or tunnel to an address on the loopback"
            )
        self._address = address
        self._subscriber = Subscriber(address, prefix.encode(), curve, max_bytes)
        self._account, self._trust_pickle = Account(), trust_pickle

    @property
    def received(self) -> int:
        """Documents that were taken."""
        return self._account.received

    @property
    def ignored(self) -> int:
        """Messages of names that are not those of documents."""
        return self._account.ignored

    @property
    def malformed(self) -> int:
        """Messages that were no documents, or could not be read."""
        return self._account.malformed + self._subscriber.malformed

    @property
    def last_error(self) -> str | None:
        """What was wrong with one of the last of them."""
        return self._account.last_error or self._subscriber.last_error

    @property
    def refusal(self) -> str | None:
        """Why nothing can come, where the proxy refuses this side."""
        return self._subscriber.refusal

    def silence(self) -> str | None:
        """Why nothing comes, where that is because nobody answers at the address; it may take some seconds."""
        scheme, _, place = self._address.partition("://")
        host, _, port = place.rpartition(":")
        if scheme != "tcp" or not port.isdecimal():
            return None
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
        except (OSError, OverflowError) as error:
            return f"{self._address} does not answer: {error}; expected the side of bluesky-0MQ-proxy that publishes"
        return None

    def take(self, timeout: float) -> Document | None:
        """The next document, if one comes within the time (seconds)."""
        deadline = time.monotonic() + timeout
        while True:
            for name, payload in self._subscriber.messages():
                document = self._read(name, payload)
                if document is not None:
                    return document
                if time.monotonic() > deadline:
                    break  # a flood of what is malformed is no reason to stay
            left = deadline - time.monotonic()
            if left <= 0 or not self._subscriber.wait(left):
                return None

    def _read(self, name: str, payload: bytes) -> Document | None:
        if not self._account.knows(name):
            return None
        try:
            contents = decode(payload, self._trust_pickle)
        except MessageError as error:
            self._account.refuse(f"{name}: {error}")
            return None
        return self._account.accept(name, contents)

    def close(self) -> None:
        """Close the socket."""
        self._subscriber.close()
