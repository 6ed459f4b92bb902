"""The ROUTER that viewers come in at."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import zmq

from streamrecon.transport.receiver import Receiver
from streamrecon.wire.codec import Buffer
from streamrecon.wire.messages import Control, Look, Message, Want

log = logging.getLogger(__name__)

Request = Want | Look | Control

QUEUE = 2
"""Messages that may wait for each viewer: what it does not read is not to fill the engine's memory."""


class Publisher:
    """Owned by one thread.

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
        self._receiver = Receiver(endpoint, max_payload=4096, insecure=insecure, queue=QUEUE)
        self._receiver.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.endpoint = self._receiver.endpoint

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._receiver.socket

    def requests(self, most: int) -> Iterator[tuple[bytes, Request]]:
        """What viewers have asked, and who, of so many messages; what is no request is logged and dropped."""
        for viewer, message, _ in self._receiver.messages(most):
            if isinstance(message, Request):
                yield viewer, message
            else:
                log.warning("a viewer sent %s; expected WANT, LOOK or CONTROL", message.name())

    def send(self, viewer: bytes, message: Message, payload: Buffer | None = None) -> bool:
        """Answer; False where the viewer has not yet taken what was sent before. One that is gone is no error.

        The payload is not copied: it must not change any more.
        """
        try:
            self._receiver.send(viewer, message, payload, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        return True

    def close(self) -> None:
        """Close the socket."""
        self._receiver.close()
