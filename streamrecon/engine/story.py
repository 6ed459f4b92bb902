"""The story of a scan: what happened, when, in OUT/scan.log.jsonl and to whoever listens."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from streamrecon.errors import OutputError

log = logging.getLogger(__name__)

Listener = Callable[[dict[str, Any]], None]


class Story:
    """Appends events to a file; any thread may tell one.

    Parameters
    ----------
    path
        Of the file; it is continued where it exists.
    listener
        Called with each event besides.

    Raises
    ------
    OutputError
        If the file cannot be opened.
    """

    def __init__(self, path: Path, listener: Listener | None = None) -> None:
        self._lock, self._listener, self._began = threading.Lock(), listener, time.monotonic()
        self._file = _open(path)

    def go_on_in(self, path: Path) -> None:
        """From now on append to another file; its seconds begin anew.

        Raises
        ------
        OutputError
            If the file cannot be opened: then nothing has changed.
        """
        file = _open(path)
        with self._lock:
            self._close()
            self._file, self._began = file, time.monotonic()

    def tell(self, event: str, text: str, **facts: Any) -> None:
        """Tell one event. Never raises: a full disk or a closed terminal is no reason to lose a scan.

        Parameters
        ----------
        event
            A short name for programs.
        text
            A sentence for people.
        facts
            Numbers and names, as JSON can hold them.
        """
        seconds = round(time.monotonic() - self._began, 6)
        entry = {
            "time": datetime.now(UTC).isoformat(),
            "seconds": seconds,
            "event": event,
            "text": text,
            **facts,
        }
        with self._lock:
            if not self._file.closed:
                try:
                    self._file.write(json.dumps(entry, default=str) + "\n")
                except OSError as error:
                    log.warning("the story of the scan cannot be written: %s", error.strerror)
        listener = self._listener
        if listener is not None:
            try:
                listener(entry)
            except (Exception, SystemExit) as error:  # a closed terminal makes rich exit
                self._listener = None
                closed = isinstance(error, SystemExit | BrokenPipeError)
                why = "the output was closed" if closed else f"{type(error).__name__}: {error}"
                log.warning("events are no longer shown: %s", why)

    def close(self) -> None:
        """Close the file; what is told afterwards reaches the listener only."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # what could not be written before is tried once more
            log.warning("the story of the scan cannot be written: %s", error.strerror)


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def log_name(rank: int) -> str:
    """File that a rank tells its story in."""
    return f"scan.log.rank-{rank:03d}.jsonl" if rank else "scan.log.jsonl"
