"""`streamrecon view`, and `--view` of the commands that reconstruct."""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrecon.config import Config
from streamrecon.errors import ConfigError, EndpointError

if TYPE_CHECKING:
    from streamrecon.viewer import ViewServer

VIEW = "look at a running reconstruction, or at a volume, in a browser"
OPENED_WITHIN = 30.0
"""Seconds."""
PAGE_TOKENS = "page-control.token", "page-view.token"
STAYS = "the page stays until Ctrl-C"
MOST_TOKEN = 1024
"""Characters of a token's file."""


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """The options of `view`."""
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="a volume.h5, its folder, or FILE.h5:/DATASET of another HDF5 file"
    )
    parser.add_argument("--subscribe", metavar="ENDPOINT", help="where an engine publishes, as --publish says")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="of the page; default: any that is free")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to serve at; default: %(default)s")
    parser.add_argument(
        "--public-url", metavar="URL", help="by which browsers reach the page, where that is another address"
    )
    parser.add_argument(
        "--control-token-file",
        metavar="FILE",
        help="with the engine's control token: who has the link may change things",
    )
    parser.add_argument("--insecure", action="store_true", help="allow a host that other machines can reach")


def add_page_option(group: argparse._ArgumentGroup) -> None:
    """`--view`."""
    group.add_argument(
        "--view", type=_port, nargs="?", const=0, metavar="PORT", help="show it in a browser; default: any free port"
    )


def view(options: argparse.Namespace) -> int:
    """Carry `view` out, until Ctrl-C; the exit code."""
    from streamrecon.viewer import FileSource, LiveSource, ViewServer

    if (options.file is None) == (options.subscribe is None):
        raise ConfigError("expected either a FILE or --subscribe ENDPOINT")
    if options.control_token_file is not None and options.subscribe is None:
        raise ConfigError("a file cannot be changed: --control-token-file goes with --subscribe")
    token, page_token = None, None
    if options.control_token_file is not None:
        # Read again for each change: an engine that is started again has another one.
        token, page_token = partial(_read_token, Path(options.control_token_file)), secrets.token_urlsafe()
        token()
    with (
        closing(LiveSource(options.subscribe, token) if options.subscribe else FileSource(options.file)) as source,
        ViewServer(
            source, options.port, options.host, options.public_url, page_token, insecure=options.insecure
        ) as server,
    ):
        if server.control_url is not None:
            print(f"look and change  {server.control_url}")
        print(f"look only        {server.view_url}\n{STAYS}", flush=True)
        _wait()
    return 0


class Page:
    """The page of `--view`, where it is asked for.

    Parameters
    ----------
    port
        0: any that is free; None: no page.
    config
        The options.
    folder
        Where the links' tokens are kept, so that pages come back to an engine that is started again; None: they are new.
    """

    def __init__(self, port: int | None, config: Config, folder: Path | None = None) -> None:
        from streamrecon.transport import private_ipc

        self._port, self._kept = port, folder
        self._folder: Path | None = None
        if port is not None and config.emit.publish is None:
            endpoint = private_ipc()
            self._folder = Path(endpoint.removeprefix("ipc://")).parent
            config = dataclasses.replace(config, emit=dataclasses.replace(config.emit, publish=endpoint))
        self.config = config
        """With an endpoint for the page, if the options had none."""
        self._token: str | None = None
        """Of the engine, once there is one."""
        self._server: ViewServer | None = None
        self._event: Callable[[dict[str, Any]], None] | None = None

    def __enter__(self) -> Page:
        endpoint = self.config.emit.publish
        if self._port is not None and endpoint is not None and "*" not in endpoint:  # else the engine will say
            try:
                self._open(endpoint)
            except BaseException:
                self.__exit__()
                raise
        return self

    def tell(self, event: Callable[[dict[str, Any]], None]) -> None:
        """Say where the page is, now or when there is one."""
        self._event = event
        if self._server is not None:
            facts = {"url": self._server.control_url, "view_url": self._server.view_url}
            event({"event": "view", "seconds": 0.0, "text": f"look at {self._server.control_url}", **facts})
            event({"event": "view_only", "seconds": 0.0, "text": f"for looking only: {self._server.view_url}"})

    def wait_for_somebody(self, event: Callable[[dict[str, Any]], None]) -> None:
        """Until the page is open, so that a short scan is not over by then; or for `OPENED_WITHIN`."""
        if self._server is None:
            return
        event(
            {
                "event": "wait",
                "seconds": 0.0,
                "text": f"the scan begins when the page is open, or in {OPENED_WITHIN:g} s",
            }
        )
        deadline = time.monotonic() + OPENED_WITHIN
        while not self._server.watched and time.monotonic() < deadline:
            time.sleep(0.05)

    def watch(self, engine: Any) -> None:
        """Learn of an engine what the page needs; call often."""
        if self._port is None:
            return
        if self._server is None and engine.publish_endpoint is not None:
            self._open(engine.publish_endpoint)
            if self._event is not None:
                self.tell(self._event)
        self._token = engine.control_token

    def stay(self, volume: Path | None, json_lines: bool) -> None:
        """Show a finished volume, where there is one, until Ctrl-C."""
        if self._server is None or volume is None:
            return
        from streamrecon.viewer import FileSource

        self._server.show(FileSource(volume))
        print(json.dumps({"event": "stay", "text": STAYS}) if json_lines else STAYS, flush=True)
        _wait()

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _engine_token(self) -> str:
        if self._token is None:
            raise EndpointError("the engine is not ready yet: ask again in a moment")
        return self._token

    def _open(self, endpoint: str) -> None:
        from streamrecon.viewer import LiveSource, ViewServer

        source = LiveSource(endpoint, self._engine_token)
        try:
            control, view = _tokens(self._kept)
            server = ViewServer(source, self._port or 0, control_token=control, view_token=view)
            server.start()
        except BaseException:
            source.close()
            raise
        self._server = server


def _wait() -> None:
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _tokens(folder: Path | None) -> tuple[str, str]:
    """For changing and for looking: those of before, where they are kept."""
    from streamrecon.engine.token import write_token

    tokens = secrets.token_urlsafe(), secrets.token_urlsafe()
    if folder is None:
        return tokens
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from error
    found = []
    for name, token in zip(PAGE_TOKENS, tokens, strict=True):
        if not (folder / name).exists():
            write_token(folder, token, name)
        found.append(_read_token(folder / name, f"page's {name.removesuffix('.token').partition('-')[2]} token"))
    if found[0] == found[1]:
        raise ConfigError(f"{' and '.join(PAGE_TOKENS)} in {folder} are the same: delete them to have new ones")
    return found[0], found[1]


def _read_token(path: Path, what: str = "control token") -> str:
    try:
        mode, text = path.stat().st_mode, path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the {what} cannot be read from {path}: {error}") from error
    if mode & 0o077:
        raise ConfigError(f"{path} with the {what} can be read by other users: chmod 600 {path}")
    if not text or len(text) > MOST_TOKEN or len(text.split()) > 1:
        raise ConfigError(f"{path} is no {what}'s file: expected one word")
    return text


def _port(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port (a scan is written before --view)")
