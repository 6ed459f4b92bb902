"""A page's side of the connection, for tests."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from streamrecon.viewer import ViewServer

PATIENCE = 30.0


@dataclass
class Pixels:
    """A binary message."""

    header: dict[str, Any]
    raw: NDArray[Any]
    values: NDArray[np.float64]
    """NaN where there is none."""


def unpack(message: bytes) -> Pixels:
    """As docs/page-protocol.md says."""
    length = int.from_bytes(message[:4], "little")
    assert (4 + length) % 8 == 0
    header = json.loads(message[4 : 4 + length])
    raw = np.frombuffer(message[4 + length :], header["dtype"]).reshape(header["shape"])
    if header["dtype"] == "<f4":
        return Pixels(header, raw, raw.astype(float))
    values = header["lo"] + raw.astype(float) * (header["hi"] - header["lo"]) / 65534
    return Pixels(header, raw, np.where(raw == 65535, np.nan, values))


@dataclass
class Page:
    """What a page has heard."""

    socket: ClientConnection
    texts: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Pixels] = field(default_factory=list)
    serial: int = 0
    asked: int = 1_000_000

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def want(self, places: list[list[Any]], **fields: Any) -> int:
        self.serial += 1
        self.say("want", serial=self.serial, places=places, **{"size": 512, **fields})
        return self.serial

    def hear(self, timeout: float = PATIENCE) -> dict[str, Any] | Pixels:
        message = self.socket.recv(timeout)
        if isinstance(message, bytes):
            self.pictures.append(unpack(message))
            return self.pictures[-1]
        self.texts.append(json.loads(message))
        return self.texts[-1]

    def until(self, kind: str, test: Callable[[dict[str, Any]], bool] = lambda text: True) -> dict[str, Any]:
        """The next text of a type."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            heard = self.hear()
            if isinstance(heard, dict) and heard["type"] == kind and test(heard):
                return heard
        raise AssertionError(f"no {kind} has come; last: {self.texts[-3:]}")

    def batch(self, places: list[list[Any]], **fields: Any) -> tuple[dict[str, Any], list[Pixels]]:
        """Ask, and take the answer: its update and its pictures."""
        before = len(self.pictures)
        serial = self.want(places, **fields)
        return self.until("update", lambda text: text["serial"] == serial), self.pictures[before:]

    def values(self, axis: str, index: int) -> Pixels:
        """A slice as it is."""
        self.asked += 1
        self.say("values", serial=self.asked, axis=axis, index=index)
        while not self.pictures or self.pictures[-1].header.get("serial") != self.asked:
            self.hear()
        return self.pictures[-1]

    def closed(self) -> int:
        """The code with which the other side closes the connection."""
        try:
            while True:
                self.hear()
        except ConnectionClosed as error:
            return error.rcvd.code if error.rcvd is not None else 0


@contextlib.contextmanager
def opened(server: ViewServer, token: str | None = None, origin: str | None = "own", **options: Any) -> Iterator[Page]:
    """A connection; with a token, one that has been let in."""
    own = f"http://127.0.0.1:{server.port}"
    with connect(
        f"ws://127.0.0.1:{server.port}/ws", origin=own if origin == "own" else origin, compression=None, max_size=None,
        proxy=None, open_timeout=PATIENCE, close_timeout=1, ping_interval=None, **options,
    ) as socket:  # fmt: skip
        page = Page(socket)
        if token is not None:
            page.say("hello", token=token)
            page.until("welcome")
        yield page


def token_of(url: str | None) -> str:
    """From a link."""
    assert url is not None
    return url.split("#token=")[1]


def until(test: Callable[[], Any], what: str = "") -> Any:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := test():
            return found
        time.sleep(0.01)
    raise AssertionError(f"it did not come to pass: {what}")
