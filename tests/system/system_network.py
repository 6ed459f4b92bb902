"""A cable between a sender and an engine that a test can cut, to the byte."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType


class Wire(threading.Thread):
    """Passes bytes on between those who connect to `endpoint` and the engine.

    After `cut_after` bytes towards the engine the first connection carries nothing more, though it stays up until `cut` is
    called; those that are made later carry everything.

    Parameters
    ----------
    engine
        `tcp://HOST:PORT`.
    cut_after
        Bytes.
    """

    def __init__(self, engine: str, cut_after: int) -> None:
        super().__init__(name="test-wire", daemon=True)
        host, _, port = engine.removeprefix("tcp://").partition(":")
        self._engine, self._left = (host, int(port)), cut_after
        self._door = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self.full = threading.Event()
        """Set when all that the first connection may carry was carried."""
        self._cut, self._done = threading.Event(), threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._first: socket.socket | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._pass_on()
        except Exception as error:
            self.error = error
        finally:
            open_ones = {key.fileobj for key in self._selector.get_map().values()} | {self._first, self._door}
            for each in open_ones - {None}:
                each.close()  # type: ignore[union-attr]
            self._selector.close()

    def _pass_on(self) -> None:
        while not self._done.is_set():
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._door:
                    self._accept()
                elif key.fileobj.fileno() >= 0:  # type: ignore[union-attr]  # its other end may just have been closed
                    self._carry(key.fileobj, key.data)  # type: ignore[arg-type]
            if self._cut.is_set() and self._first is not None:
                self._close(self._first)
                self._first = None
                self._left = 1 << 60

    def _accept(self) -> None:
        inside, _ = self._door.accept()
        try:
            outside = socket.create_connection(self._engine)
        except OSError:  # there is no engine yet; who wants one comes again
            inside.close()
            return
        if self._first is None and not self._cut.is_set():
            self._first = inside
        self._selector.register(inside, selectors.EVENT_READ, outside)
        self._selector.register(outside, selectors.EVENT_READ, inside)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        limit = min(65536, self._left) if source is self._first else 65536
        try:
            data = source.recv(limit)
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._close(source)
        elif source is self._first:
            self._left -= len(data)
            if not self._left:
                # What it goes on sending fills its own buffers.
                self._selector.unregister(source)
                self.full.set()

    def _close(self, one: socket.socket) -> None:
        for each in [one, *(k.fileobj for k in list(self._selector.get_map().values()) if k.data is one)]:
            with contextlib.suppress(KeyError, ValueError):  # it was closed before
                self._selector.unregister(each)
            each.close()  # type: ignore[union-attr]

    def cut(self) -> None:
        """Close the first connection, on both sides."""
        self._cut.set()

    def __enter__(self) -> Wire:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self.join(5)
        assert self.error is None, repr(self.error)
