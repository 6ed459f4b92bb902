"""The page of `--view` in a process of its own: it shares no interpreter with the engine, and may die without it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streamrecon import errors
from streamrecon.errors import EndpointError, StreamreconError

log = logging.getLogger("streamrecon.viewer.page_process")

NICENESS = 19
"""Of a page's process once it is there: until then it would not begin beside busy ones."""
START_WITHIN, STOP_WITHIN = 30.0, 5.0
"""Seconds."""
RESTART_EVERY = 5.0
"""Seconds from one start to the next, at least, of a process that dies."""
OFTEN = 10
"""Deaths that are told one by one; of more, every tenth."""


class PageProcess:
    """Serves the page of an engine, and later of its volume; used by one thread.

    Parameters
    ----------
    endpoint
        Where the engine publishes.
    port
        Of the page; 0 chooses a free one.
    control_token, view_token
        Of the page.

    Raises
    ------
    ConfigError, EndpointError
        As `ViewServer` and its `start` say; if the process does not begin.
    """

    def __init__(self, endpoint: str, port: int, control_token: str, view_token: str) -> None:
        self._order = {"endpoint": endpoint, "port": port, "control": control_token, "view": view_token}
        """With what was said since, for a process that is started again."""
        self._opened, self._deaths = threading.Event(), 0
        self.control_url, self.view_url = "", ""
        self._start()

    @property
    def opened(self) -> bool:
        """Whether somebody has opened the page."""
        return self._opened.is_set()

    def use_token(self, token: str) -> None:
        """From now on this is the engine's control token."""
        self._say(token=token)

    def show(self, volume: Path) -> None:
        """From now on a file, in the same pages."""
        self._say(show=str(volume))

    def revive(self) -> str | None:
        """Start the process again where it has died; what has happened, in words. Call often.

        Raises
        ------
        ConfigError, EndpointError
            As at first.
        """
        code = self._process.poll()
        if code is None or time.monotonic() - self._started < RESTART_EVERY:
            return None
        self.stop()
        self._start()
        self._deaths += 1
        if self._deaths > OFTEN and self._deaths % OFTEN:
            return None
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        often = f", {self._deaths} times by now" if self._deaths > 1 else ""
        return f"the page's process {how} and was started again{often}; nothing else was disturbed"

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._stdout.close()

    def _start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            # -P: a file of the working folder must not stand in for a module.
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the engine. Of the same session, or Linux may weigh it as much as the engine.
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        facts: list[dict[str, Any]] = []
        begun = threading.Event()
        self._reader = threading.Thread(
            target=self._read, args=(facts, begun), name="streamrecon-page-process", daemon=True
        )
        self._reader.start()
        self._say()
        begun.wait(START_WITHIN)
        if not facts or "error" in facts[0]:
            self._process.kill()
            self.stop()
            if not facts:
                raise EndpointError(f"the page's process has not begun within {START_WITHIN:g} s, or has died")
            raise getattr(errors, facts[0]["kind"], EndpointError)(facts[0]["error"])
        self.control_url, self.view_url = facts[0]["control_url"], facts[0]["view_url"]
        self._order["port"] = facts[0]["port"]

    def _read(self, facts: list[dict[str, Any]], begun: threading.Event) -> None:
        for line in self._stdout:
            said = json.loads(line)
            if "opened" in said:
                self._opened.set()
            else:
                facts.append(said)
                begun.set()
        begun.set()

    def _say(self, **order: str) -> None:
        self._order |= order
        with contextlib.suppress(OSError):  # it has died: the next one is told
            self._stdin.write(json.dumps(self._order) + "\n")
            self._stdin.flush()


def yield_to_others() -> None:
    """From now on have the lowest priority: of a core that another process keeps busy, Linux gives this one a part in 70."""
    # By thread, those of libraries, too; later ones have what the one has that begins them.
    tasks = Path("/proc/self/task")
    for thread in tasks.iterdir() if tasks.exists() else ():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread.name), NICENESS)


def _main() -> int:
    """Serve what the first line orders, until there are no more lines."""
    from streamrecon.viewer import FileSource, LiveSource, ViewServer

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    order, said = json.loads(sys.stdin.readline()), threading.Lock()

    def say(**facts: Any) -> None:
        with said, contextlib.suppress(OSError):
            print(json.dumps(facts), flush=True)

    def engine_token() -> str:
        if "token" not in order:
            raise EndpointError("the engine is not ready yet: ask again in a moment")
        return str(order["token"])

    with ExitStack() as stack:
        try:
            shown = order.get("show")
            source = FileSource(shown) if shown else LiveSource(order["endpoint"], engine_token)
            stack.callback(source.close)
            server = stack.enter_context(
                ViewServer(
                    source,
                    order["port"],
                    control_token=order["control"],
                    view_token=order["view"],
                    opened=lambda: say(opened=True),
                )
            )
        except StreamreconError as error:
            say(error=str(error), kind=type(error).__name__)
            return 2
        yield_to_others()
        say(control_url=server.control_url, view_url=server.view_url, port=server.port)
        for line in sys.stdin:
            order = json.loads(line)
            if order.get("show") != shown:
                shown = order["show"]
                try:
                    server.show(FileSource(shown))
                except StreamreconError as error:
                    log.warning("the page goes on as it is: %s", error)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
