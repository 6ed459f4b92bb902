"""Waking a thread that waits for its sockets."""

from __future__ import annotations

import contextlib
import socket


class Wakeup:
    """A socket pair: `set` in any thread makes the other thread's poll return."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def fileno(self) -> int:
        """To poll for reading."""
        return self._read.fileno()

    def set(self) -> None:
        """Wake the waiting thread; once is enough however often it is called, and after `close` it does nothing."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._write.send(b"\0")

    def clear(self) -> None:
        """Called by the thread that was woken."""
        with contextlib.suppress(BlockingIOError):
            while self._read.recv(4096):
                pass

    def close(self) -> None:
        """Give the sockets back."""
        self._read.close()
        self._write.close()
