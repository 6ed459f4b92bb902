"""Waiting for several sockets and a wake-up at once."""

from __future__ import annotations

from typing import Protocol

import zmq

from streamrecon.transport.wakeup import Wakeup


class HasSocket(Protocol):
    """What can be waited for."""

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """Owned by the thread that waits."""
        ...


class Poller:
    """Owned by one thread.

    Parameters
    ----------
    wakeup
        How other threads end the wait.
    sockets
        Whose messages end the wait.
    """

    def __init__(self, wakeup: Wakeup, *sockets: HasSocket) -> None:
        self._wakeup, self._poller = wakeup, zmq.Poller()
        self._poller.register(wakeup.fileno(), zmq.POLLIN)
        for each in sockets:
            self._poller.register(each.socket, zmq.POLLIN)

    def wait(self, seconds: float) -> None:
        """Return when a message is there, the wake-up was set, or the time is over."""
        if self._wakeup.fileno() in dict(self._poller.poll(int(max(0.0, seconds) * 1000))):
            self._wakeup.clear()
