"""Documents as lines of JSON, from a pipe or a file: for Kafka and whatever else something can be written that prints them."""

from __future__ import annotations

import math
import os
import select
import time
from pathlib import Path
from typing import Any

from streamrecon.bluesky.account import Account, Document
from streamrecon.bluesky.serial import decode_json
from streamrecon.errors import ConfigError, MessageError

LINE_LIMIT = 1 << 24
"""Bytes of a line."""
CHUNK = 1 << 16


class JsonlDocuments(Account):
    """Documents from lines `{"name": NAME, "doc": {...}}` (Bluesky's `JSONLinesWriter`) or `[NAME, {...}]`; owned by one thread.

    The pipe is read only when a document is asked for, so whoever writes to it waits for whoever reads. No thread is in it: one
    that waits for the standard input cannot be stopped.

    Parameters
    ----------
    path
        Of a file or a named pipe; None is the standard input.
    max_bytes
        Of one line. A longer one is malformed.

    Raises
    ------
    ConfigError
        If it cannot be opened.
    """

    can_wait = True
    """Whoever writes to the pipe waits."""

    def __init__(self, path: Path | None, max_bytes: int = LINE_LIMIT) -> None:
        super().__init__()
        self.ended = False
        """Whether all is read and the writer has gone. A file has ended where it ended when its end was reached."""
        self._max_bytes, self._line, self._skipping = max_bytes, bytearray(), False
        self._lines: list[bytes] = []  # complete ones, the next one last
        self._no_more = False
        try:
            # A named pipe is opened without waiting for its writer.
            self._file = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"no documents can be read from {path or 'the standard input'}: {error.strerror}"
            ) from error
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def take(self, timeout: float) -> Document | None:
        """The next document, if one comes within the time (seconds)."""
        deadline = time.monotonic() + timeout
        while True:
            while self._lines:
                document = self._read(self._lines.pop())
                if document is not None:
                    return document
            if self._no_more:
                self.ended = True
                return None
            left = deadline - time.monotonic()
            if not self._fill(max(0.0, left)):
                return None

    def _fill(self, seconds: float) -> bool:
        """Read what is there; whether there was anything, or its end."""
        if not self._poll.poll(math.ceil(seconds * 1000)):
            return False
        try:
            chunk = os.read(self._file, CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            self.refuse(f"the documents cannot be read: {error.strerror}")
            chunk = b""
        if not chunk:
            self._no_more = True
            chunk = b"\n" if self._line else b""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._add(end)
            if not self._skipping:
                self._lines.append(bytes(self._line))
            self._line.clear()
            self._skipping = False
        self._add(rest)
        self._lines.reverse()
        return True

    def _add(self, part: bytes) -> None:
        """Go on with a line, as long as it is none too long."""
        if self._skipping:
            return
        if len(self._line) + len(part) > self._max_bytes:
            self.refuse(f"a line has more than {self._max_bytes} bytes")
            self._skipping = True
            self._line.clear()
            return
        self._line += part

    def _read(self, line: bytes) -> Document | None:
        if not line.strip():
            return None
        try:
            name, contents = _name_and_contents(decode_json(line))
        except MessageError as error:
            self.refuse(str(error))
            return None
        return self.accept(name, contents) if self.knows(name) else None

    def close(self) -> None:
        """Close the file, or this end of the pipe."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _name_and_contents(value: Any) -> tuple[Any, Any]:
    if isinstance(value, dict) and {"name", "doc"} <= set(value):
        return value["name"], value["doc"]
    if isinstance(value, list) and len(value) == 2:
        return value[0], value[1]
    raise MessageError(
        f'a line is a {type(value).__name__}; expected ["NAME", {{...}}] or {{"name": "NAME", "doc": {{...}}}}'
    )
