"""`streamrecon view`, and `--view` of the commands that reconstruct."""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrecon.config import Config
from streamrecon.errors import ConfigError, StreamreconError

if TYPE_CHECKING:
    from streamrecon.viewer.page_process import PageProcess

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
    from streamrecon.viewer.page_process import yield_to_others

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
        yield_to_others()
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
        self._process: PageProcess | None = None
        self._event: Callable[[dict[str, Any]], None] | None = None
        self._trouble: str | None = None
        """What was said of it last."""

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
        if self._process is not None:
            control, view = self._process.control_url, self._process.view_url
            event({"event": "view", "seconds": 0.0, "text": f"look at {control}", "url": control, "view_url": view})
            event({"event": "view_only", "seconds": 0.0, "text": f"for looking only: {view}"})

    def wait_for_somebody(self, event: Callable[[dict[str, Any]], None]) -> None:
        """Until the page is open, so that a short scan is not over by then; or for `OPENED_WITHIN`."""
        if self._process is None:
            return
        event(
            {
                "event": "wait",
                "seconds": 0.0,
                "text": f"the scan begins when the page is open, or in {OPENED_WITHIN:g} s",
            }
        )
        deadline = time.monotonic() + OPENED_WITHIN
        while not self._process.opened and time.monotonic() < deadline:
            self._revive(self._process)
            time.sleep(0.05)

    def watch(self, engine: Any) -> None:
        """Learn of an engine what the page needs; call often."""
        if self._port is None:
            return
        if self._process is None and engine.publish_endpoint is not None:
            self._open(engine.publish_endpoint)
            if self._event is not None:
                self.tell(self._event)
        if self._process is not None:
            self._revive(self._process)
            if engine.control_token not in (None, self._token):
                self._token = engine.control_token
                self._process.use_token(self._token)

    def stay(self, volume: Path | None, json_lines: bool) -> None:
        """Show a finished volume, where there is one, until Ctrl-C."""
        if self._process is None or volume is None:
            return
        self._process.show(volume)
        print(json.dumps({"event": "stay", "text": STAYS}) if json_lines else STAYS, flush=True)
        _wait(partial(self._revive, self._process))

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self, endpoint: str) -> None:
        from streamrecon.viewer.page_process import PageProcess

        control, view = _tokens(self._kept)
        self._process = PageProcess(endpoint, self._port or 0, control, view)

    def _revive(self, process: PageProcess) -> None:
        """Whatever becomes of the page, the reconstruction goes on."""
        try:
            text = process.revive()
        except StreamreconError as error:
            text = f"the page's process has died, and cannot be started again yet: {error}"
        if text not in (None, self._trouble) and self._event is not None:
            self._event({"event": "page", "seconds": 0.0, "text": text})
        self._trouble = text or self._trouble


def _wait(meanwhile: Callable[[], None] = lambda: None) -> None:
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(1.0)
            meanwhile()


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
