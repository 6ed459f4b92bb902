"""Replaying a scan into an engine, in this process or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from streamrecon.config import Config, from_dict, to_dict
from streamrecon.errors import StreamreconError
from streamrecon.scan import Frame, Gap
from streamrecon.sources import open_source
from streamrecon.transport import SendReport, send_scan
from streamrecon.wire.sending import SendingEnd


def replay(
    spec: str | Path,
    endpoint: str,
    config: Config,
    *,
    live: bool = False,
    connect_timeout: float | None = None,
    progress: Callable[[SendingEnd], None] = lambda end: None,
) -> SendReport:
    """Send a scan to an engine and wait until its volume is final.

    Parameters
    ----------
    spec
        `simulated`, or the path of a scan.
    endpoint
        Of the engine.
    config
        Its `source`, `simulated`, `send` and `engine` tables are used.
    live
        Whether to keep what the engine does not have for good, as a detector must, rather than read it from the scan again.
    connect_timeout
        Seconds to wait for an engine; None waits for ever.
    progress
        Called often, with the state of the session.

    Raises
    ------
    StreamreconError
        As `open_source` and `send_scan` say.
    """
    source = open_source(spec, config)
    fps = config.source.fps

    def frames(rows: slice) -> Iterator[Frame | Gap]:
        return source.frames(rows) if fps is None else paced(source.frames(rows), fps)

    return send_scan(
        source.info(),
        frames,
        endpoint,
        options=config.send,
        can_replay=not live,
        heartbeat=config.engine.heartbeat,
        peer_timeout=config.engine.peer_timeout,
        connect_timeout=connect_timeout,
        progress=progress,
    )


def paced(frames: Iterator[Frame | Gap], fps: float) -> Iterator[Frame | Gap]:
    """Let frames out at a rate, as a detector would; what was late is not made up for in a burst.

    Parameters
    ----------
    frames
        As they can be had.
    fps
        Frames per second.
    """
    due = time.monotonic()
    for frame in frames:
        due = max(due + 1 / fps, time.monotonic() - 1 / fps)
        yield frame
        time.sleep(max(0.0, due - time.monotonic()))


class ReplayProcess:
    """A replay in a process of its own, so that reading and decompressing take no time from the engine.

    Parameters
    ----------
    spec
        `simulated`, or the path of a scan.
    endpoint
        Of the engine.
    config
        The options.
    """

    def __init__(self, spec: str | Path, endpoint: str, config: Config) -> None:
        order = json.dumps({"spec": str(spec), "endpoint": endpoint, "config": to_dict(config)})
        # Not a pipe, which would fill and stop the sender.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, it lives as long as the process
        self._process = subprocess.Popen(
            # -P: a file of the working folder must not stand in for a module.
            [sys.executable, "-P", "-m", "streamrecon.replayer"],
            stdin=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the engine, which tells its sender
        )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(order)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Why it ended before the volume was final; empty while it runs, and when all went well."""
        code = self._process.poll()
        if not code:
            return ""
        if code < 0:
            return f"the sender was killed by signal {-code}"
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"the sender ended with {code}"

    def close(self, patience: float = 5.0) -> None:
        """Wait for the end, and bring it about where it does not come."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
        self._errors.close()


def _main() -> int:
    order = json.load(sys.stdin)
    try:
        replay(order["spec"], order["endpoint"], from_dict(order["config"]))
    except StreamreconError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(_main())
