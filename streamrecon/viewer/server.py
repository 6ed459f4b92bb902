"""The server of the page, in a thread: who may reach it, and by what address."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import ipaddress
import re
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from streamrecon.errors import ConfigError, EndpointError
from streamrecon.viewer.files import served
from streamrecon.viewer.requests import LIMIT
from streamrecon.viewer.session import Tokens
from streamrecon.viewer.source import Source

SESSIONS = 64
"""Pages at a time."""
IDLE_CONNECTIONS = 64
"""Others that may fetch files at the same time."""
PACKAGES = "starlette", "uvicorn", "websockets", "bokeh"
"""Of the extra `view`."""
PORTS = {"http": 80, "https": 443}
START_WITHIN = 10.0
"""Seconds."""


class ViewServer:
    """Serves the page of a source; any thread, one at a time.

    Parameters
    ----------
    source
        What is shown. It is started and closed by the server.
    port
        0 chooses a free one.
    host
        Address to listen at.
    public_url
        By which browsers reach it where that is another address, such as of a proxy or a tunnel's other end.
    control_token, view_token
        What lets a page in. Without a control token nobody can change anything; without one for viewing, one is made.
    insecure
        Allow an address that other machines can reach.
    sessions
        Pages at a time.
    opened
        Called whenever one was let in.

    Raises
    ------
    ConfigError
        If the packages of the extra `view` are missing, or the public URL is none.
    EndpointError
        If the address is not allowed without `insecure`.
    """

    def __init__(
        self,
        source: Source,
        port: int = 0,
        host: str = "127.0.0.1",
        public_url: str | None = None,
        control_token: str | None = None,
        view_token: str | None = None,
        *,
        insecure: bool = False,
        sessions: int = SESSIONS,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"the page needs {' and '.join(missing)}, not installed here: pip install 'streamrecon[view]'"
            )
        from streamrecon.viewer.app import Desk

        if not insecure and not _is_loopback(host):
            raise EndpointError(
                f"the page would be served at {host}, which other machines can reach, without encryption: leave it on "
                "127.0.0.1 and tunnel, or say --insecure if the network is trusted"
            )
        self._public = None if public_url is None else _origin(public_url)
        self._base = public_url.rstrip("/") if public_url else None
        self._source, self._host, self._port = source, host, port
        self._tokens = Tokens(view_token or secrets.token_urlsafe(), control_token)
        files = served()
        self._files = files
        self._desk = Desk(source, self._tokens, sessions, "/k3d/standalone.js" in files, opened)
        self._sessions = sessions
        self._server: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.port = port
        """Where it listens, once it does."""

    @property
    def view_url(self) -> str:
        """For looking only."""
        return f"{self._address()}/#token={self._tokens.view}"

    @property
    def control_url(self) -> str | None:
        """For looking and changing; None where nobody can change anything."""
        return None if self._tokens.control is None else f"{self._address()}/#token={self._tokens.control}"

    def start(self) -> str:
        """Listen; the URL for who started it: that for changing, where there is one.

        Raises
        ------
        EndpointError
            If the address cannot be had.
        """
        import uvicorn

        from streamrecon.viewer.app import STRANGERS, make_app
        from streamrecon.viewer.connections import Connection

        listener = self._bind()
        self.port = int(listener.getsockname()[1])
        hosts, origins = self._names()
        app = make_app(self._desk, self._files, hosts, origins)
        config = uvicorn.Config(
            app, http=Connection, log_level="critical", log_config=None, access_log=False, lifespan="off", server_header=False,
            date_header=False,
            proxy_headers=False, ws_max_size=LIMIT, ws_max_queue=8, ws_per_message_deflate=False, ws_ping_interval=20.0,
            ws_ping_timeout=60.0, limit_concurrency=self._sessions + STRANGERS + IDLE_CONNECTIONS,
            timeout_keep_alive=5, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        started = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._desk.attach()
            started.set()
            await self._server.serve(sockets=[listener])

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),), name="streamrecon-page", daemon=True)
        self._thread.start()
        if not started.wait(START_WITHIN):
            raise EndpointError(f"the page is not served after {START_WITHIN:g} s")
        self._source.start(self._desk.changed)
        return self.control_url or self.view_url

    def show(self, source: Source) -> None:
        """From now on another source, in the same pages; the one before is closed."""
        before, self._source = self._source, source
        source.start(self._desk.changed)
        done = threading.Event()

        def swap() -> None:
            self._desk.show(source)
            done.set()

        if self._loop is not None:
            self._loop.call_soon_threadsafe(swap)
            done.wait(START_WITHIN)
        else:
            self._desk.source = source
        before.close()

    def stop(self) -> None:
        """Close all pages' connections and the source; once is enough however often it is called."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._desk.close()
        self._source.close()

    def __enter__(self) -> ViewServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Said to be TCP, or asyncio leaves Nagle's algorithm on, and a picture after a text waits for 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host.strip("[]"), self._port))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            listener.close()
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise EndpointError(f"cannot serve the page at {self._host}, port {self._port}: {why}") from error
        listener.setblocking(False)
        return listener

    def _address(self) -> str:
        return self._base or f"http://{self._name()}:{self.port}"

    def _name(self) -> str:
        host = self._host.strip("[]")
        if host in ("0.0.0.0", "::"):
            return socket.gethostname()
        return f"[{host}]" if ":" in host else host

    def _names(self) -> tuple[frozenset[str], frozenset[str]]:
        """Hosts and origins by which browsers may call."""
        names = {self._name().lower()}
        if _is_loopback(self._host) or self._host in ("0.0.0.0", "::"):
            names |= {"localhost", "127.0.0.1"}
        ends = {f"{name}:{self.port}" if self.port != PORTS["http"] else name for name in names}
        hosts, origins = set(ends), {f"http://{end}" for end in ends}
        if self._public is not None:
            origins.add(self._public)
            hosts.add(self._public.partition("://")[2])
        return frozenset(hosts), frozenset(origins)


def _origin(url: str) -> str:
    """Of a URL, as a browser writes it.

    Raises
    ------
    ConfigError
        If it is no http or https URL.
    """
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        host, more = parts.hostname or "", parts.query or parts.fragment or parts.username
        if parts.scheme in PORTS and re.fullmatch(r"[\w.:-]+", host) and not more:
            host = f"[{host}]" if ":" in host else host
            usual = parts.port in (None, PORTS[parts.scheme])
            return f"{parts.scheme}://{host}" + ("" if usual else f":{parts.port}")
    raise ConfigError(f"the public URL {url!r} is not like https://HOST/PATH")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False
