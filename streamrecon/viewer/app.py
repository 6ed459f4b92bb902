"""The page's files and its socket, as an ASGI application. Needs the extra `view`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from streamrecon.errors import MessageError
from streamrecon.viewer.encoding import Encodings, encode
from streamrecon.viewer.files import MEDIA
from streamrecon.viewer.requests import Hello, read
from streamrecon.viewer.session import Encoded, Pace, Role, Session, Tokens
from streamrecon.viewer.source import Source

log = logging.getLogger(__name__)

HELLO_WITHIN = 5.0
"""Seconds."""
AT_ONCE = 1 << 16
"""Pixels that are encoded in less time than another thread takes to begin."""
LOOKS = 0.25
"""Seconds after which all sessions look whether there is something to say."""
STRANGERS = 128
"""Connections at a time that have not said who they are."""
MALFORMED, NO_TOKEN, TOO_MANY = 4400, 4401, 4429
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; font-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Desk:
    """What all sessions share; used in the event loop, except `changed`.

    Parameters
    ----------
    source
        What is shown.
    tokens
        Who is let in.
    most
        Sessions at a time.
    volume
        Whether the library of the volume view is there.
    opened
        Called whenever a page was let in.
    """

    def __init__(
        self, source: Source, tokens: Tokens, most: int, volume: bool, opened: Callable[[], None] = lambda: None
    ) -> None:
        self.opened = opened
        self.source, self.tokens, self.most, self.volume = source, tokens, most, volume
        self.encodings = Encodings()
        self.sessions: dict[Session, Callable[[], None]] = {}
        """Those that were let in, and how to wake each."""
        self.strangers = 0
        """Connections that have not said who they are."""
        # One: encodings are made once, and the loop has the other core.
        self._encoder = ThreadPoolExecutor(1, "streamrecon-encode")
        self._loop: asyncio.AbstractEventLoop | None = None

    def changed(self) -> None:
        """The source has something new; any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed already
                self._loop.call_soon_threadsafe(self._wake_waiting)

    def attach(self) -> None:
        """Called in the loop, before all else."""
        self._loop = asyncio.get_running_loop()
        self._look()

    def show(self, source: Source) -> None:
        """From now on another source."""
        self.source = source
        self.encodings.clear()
        for session in self.sessions:
            session.show(source)

    def close(self) -> None:
        """Encode no more."""
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def message(self, picture: Encoded) -> bytes:
        """A picture as bytes."""
        loop = asyncio.get_running_loop()
        if picture.shown.pixels.size <= AT_ONCE and not picture.floats and picture.serial is None:
            return self.encodings.get(picture.shown, picture.size)
        if picture.floats or picture.serial is not None:
            return await loop.run_in_executor(
                self._encoder, encode, picture.shown, picture.size, picture.floats, picture.serial
            )
        return await loop.run_in_executor(self._encoder, self.encodings.get, picture.shown, picture.size)

    def _look(self) -> None:
        for wake in self.sessions.values():
            wake()
        asyncio.get_running_loop().call_later(LOOKS, self._look)

    def _wake_waiting(self) -> None:
        for session, wake in self.sessions.items():
            if session.waits:
                wake()


def make_app(desk: Desk, files: Mapping[str, Path], hosts: frozenset[str], origins: frozenset[str]) -> ASGIApp:
    """The application.

    Parameters
    ----------
    desk
        What sessions share.
    files
        What is served: a path of the URL, and where that is. Nothing else is.
    hosts, origins
        The only ones that are answered, as a browser writes them.
    """

    def serve(request: Request) -> Response:
        path = files.get(request.url.path)
        if path is None:
            return PlainTextResponse("there is no such page", 404)
        try:
            return Response(path.read_bytes(), media_type=MEDIA[path.suffix])
        except OSError:
            return PlainTextResponse("this part of the page is missing", 404)

    async def talk(socket: WebSocket) -> None:
        await _talk(desk, socket)

    routes = [WebSocketRoute("/ws", talk), Route("/{path:path}", serve)]
    return _Guard(Starlette(routes=routes), hosts, origins)


class _Guard:
    """Answers only who calls this server by its name, and adds the headers."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: frozenset[str]) -> None:
        self._app, self._hosts, self._origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        foreign = len(hosts) != 1 or hosts[0].lower() not in self._hosts or not self._origins.issuperset(origins)
        if foreign or (scope["type"] == "websocket" and len(origins) != 1):
            # A page of another origin that has made its name point here must not see the volume.
            await self._refuse(scope, receive, with_headers)
            return
        try:
            await self._app(scope, receive, with_headers)
        except Exception:
            log.exception("the server of the page failed; this is a bug in streamrecon")

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it is accepted: 403
            return
        names = " or ".join(sorted(self._hosts))
        text = (
            f"this page is served as {names} only: open the address that was printed, or start it with --public-url\n"
        )
        await PlainTextResponse(text, 403)(scope, receive, send)


async def _talk(desk: Desk, socket: WebSocket) -> None:
    await socket.accept()
    try:
        role = await _role(desk, socket)
        if role is not None:
            await _let_in(desk, socket, role)
    except MessageError as error:
        await _close(socket, MALFORMED, str(error))
    except WebSocketDisconnect:
        pass


async def _role(desk: Desk, socket: WebSocket) -> Role | None:
    """What a page may do; None where it is closed, as it may do nothing or there is no room."""
    desk.strangers += 1
    try:
        if desk.strangers > STRANGERS:
            await _close(socket, TOO_MANY, "too many pages open at the same moment; try again")
            return None
        try:
            async with asyncio.timeout(HELLO_WITHIN):
                hello = read(await _text(socket))
        except (TimeoutError, MessageError):
            hello = None
        role = desk.tokens.role(hello.token) if isinstance(hello, Hello) else None
        if role is None:
            await _close(socket, NO_TOKEN, "the token is wrong: open the address that was printed")
        return role
    finally:
        desk.strangers -= 1


async def _let_in(desk: Desk, socket: WebSocket, role: Role) -> None:
    if len(desk.sessions) >= desk.most:
        await _close(socket, TOO_MANY, f"{desk.most} pages are open already; close one")
        return
    loop, news = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(news.set)

    session = Session(desk.source, role, desk.volume, wake)
    desk.sessions[session] = news.set
    desk.opened()
    tasks = asyncio.create_task(_listen(socket, session)), asyncio.create_task(_tell(desk, socket, session, news))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        del desk.sessions[session]
        session.leave()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def _listen(socket: WebSocket, session: Session) -> None:
    pace = Pace(time.monotonic())
    while True:
        request = read(await _text(socket))
        await asyncio.sleep(pace.wait(time.monotonic()))
        session.hear(request, time.monotonic())


async def _tell(desk: Desk, socket: WebSocket, session: Session, news: asyncio.Event) -> None:
    while True:
        news.clear()
        for each in session.take(time.monotonic()):
            # A slow page is waited for here; what is new meanwhile is taken next.
            if isinstance(each, Encoded):
                await _sending(socket.send_bytes(await desk.message(each)))
            else:
                await _sending(socket.send_text(json.dumps(each, allow_nan=False)))
        await news.wait()


async def _sending(sent: Awaitable[None]) -> None:
    try:
        await sent
    except (RuntimeError, OSError) as error:  # starlette and uvicorn have several for a socket that is closed
        raise WebSocketDisconnect(1006) from error


async def _text(socket: WebSocket) -> str:
    message: dict[str, Any] = dict(await socket.receive())
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text = message.get("text")
    if not isinstance(text, str):
        raise MessageError("got bytes; expected a text")
    return text


async def _close(socket: WebSocket, code: int, why: str) -> None:
    # What a control frame can hold.
    reason = why.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
    with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):  # it is closed already
        await socket.close(code, reason)
