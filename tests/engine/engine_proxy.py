"""A network of its own between a sender and an engine: it loses, repeats and changes the messages that a test chooses."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from streamrecon.wire.codec import decode
from streamrecon.wire.messages import Message

Parts = list[bytes]
Rule = Callable[[Message, Parts], list[Parts]]
"""What becomes of a message: all the multiparts that go on in its place."""


def on(kind: type[Message], change: Callable[[int, Any, Parts], list[Parts]]) -> Rule:
    """What becomes of the messages of one type, counted from 0; all others pass."""
    count = itertools.count()
    return lambda message, parts: change(next(count), message, parts) if isinstance(message, kind) else [parts]


def pass_on(message: Message, parts: Parts) -> list[Parts]:
    """As on a good day."""
    return [parts]


class Proxy(threading.Thread):
    """Carries messages between senders that connect to `endpoint` and the engine.

    Each sender has a connection of its own to the engine, as it would have without the proxy.

    Parameters
    ----------
    engine
        Endpoint of the engine.
    there, back
        What becomes of messages to the engine, and of its answers.
    """

    def __init__(self, engine: str, there: Rule = pass_on, back: Rule = pass_on) -> None:
        super().__init__(name="test-proxy", daemon=True)
        self._engine, self._there, self._back = engine, there, back
        self._folder = Path(tempfile.mkdtemp(prefix="srt-"))  # short, as ipc paths are limited
        self.endpoint = f"ipc://{self._folder / 'p'}"
        self._front = self._socket(zmq.ROUTER)
        self._front.bind(self.endpoint)
        self._lines: dict[bytes, zmq.Socket[bytes]] = {}
        self._done = threading.Event()
        self.error: Exception | None = None

    @staticmethod
    def _socket(kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        return socket

    def run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        try:
            while not self._done.is_set():
                poller.poll(20)
                while self._front.poll(0):
                    peer, *parts = self._front.recv_multipart()
                    if peer not in self._lines:
                        self._lines[peer] = self._socket(zmq.DEALER)
                        self._lines[peer].connect(self._engine)
                        poller.register(self._lines[peer], zmq.POLLIN)
                    for each in self._there(decode(parts)[0], parts):
                        self._lines[peer].send_multipart(each)
                for peer, line in self._lines.items():
                    while line.poll(0):
                        parts = line.recv_multipart()
                        for each in self._back(decode(parts)[0], parts):
                            self._front.send_multipart([peer, *each])
        except Exception as error:
            self.error = error
        finally:
            for socket in (self._front, *self._lines.values()):
                socket.close()

    def __enter__(self) -> str:
        self.start()
        return self.endpoint

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self.join(5)
        shutil.rmtree(self._folder, ignore_errors=True)
        assert self.error is None, repr(self.error)
