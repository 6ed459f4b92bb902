"""The ROUTER that viewers come in at."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import zmq

from streamrecon.transport.receiver import Receiver
from streamrecon.wire.messages import Control, Look, Message, Want

log = logging.getLogger(__name__)

Request = Want | Look | Control


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
        self._receiver = Receiver(endpoint, max_payload=4096, insecure=insecure)
        self.endpoint = self._receiver.endpoint

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a `Poller`."""
        return self._receiver.socket

    def requests(self) -> Iterator[tuple[bytes, Request]]:
        """What viewers have asked, and who; what is no request is logged and dropped."""
        for viewer, message, _ in self._receiver.messages():
            if isinstance(message, Request):
                yield viewer, message
            else:
                log.warning("a viewer sent %s; expected WANT, LOOK or CONTROL", message.name())

    def send(self, viewer: bytes, message: Message, payload: bytes | None = None) -> None:
        """Answer; a viewer that is gone is no error."""
        self._receiver.send(viewer, message, payload)

    def close(self) -> None:
        """Close the socket."""
        self._receiver.close()
