"""Showing a running scan: a live table on a terminal, plain lines elsewhere, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamrecon.engine import Engine, Status

PLAIN_SECONDS = 2.0
"""Between two plain lines of counters."""


def line(status: Status) -> str:
    """The counters in one line."""
    latency = "-" if status.latency is None else f"{status.latency[0]:.2f}/{status.latency[1]:.2f} s"
    expected = "?" if status.expected is None else status.expected
    return (
        f"{status.phase}: received {status.projections} of {expected} projections ({status.frames} frames), in volume "
        f"{status.in_volume}, coverage {status.coverage:.0%}, version {status.version}, {status.rate:.1f} frames/s, credit "
        f"{status.credit_frames} of {status.ring_frames}, latency p50/p99 {latency}"
    )


class Progress:
    """Shows events as they come and the counters all the time.

    Parameters
    ----------
    json_lines
        Write events and counters as JSON, a line each, to standard output.
    quiet
        Show events only, no counters.
    """

    def __init__(self, json_lines: bool = False, quiet: bool = False) -> None:
        self._json, self._quiet = json_lines, quiet
        self._console = Console(stderr=False, highlight=False)
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._next = time.monotonic() + PLAIN_SECONDS
        if self._console.is_terminal and not (json_lines or quiet):
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, entry: dict[str, Any]) -> None:
        """Show an event of the scan's story; any thread."""
        with self._lock:
            if self._json:
                self._write(json.dumps(entry, default=str))
            else:
                self._console.print(
                    f"[dim]{entry['seconds']:8.2f} s[/dim]  {escape(str(entry['text']))}", soft_wrap=True
                )

    def watch(self, engine: Engine) -> None:
        """Show the counters of an engine; call often."""
        status = engine.status()
        if self._live is not None:
            self._live.update(_table(status))
        elif not self._quiet and time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_SECONDS
            with self._lock:
                if self._json:
                    self._write(json.dumps({"event": "status", **dataclasses.asdict(status)}))
                else:
                    self._write(line(status))

    def _write(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _table(status: Status) -> Group:
    bars = Table.grid(padding=(0, 1))
    for name, done, total in (
        ("received", status.projections, status.expected),
        ("in volume", status.in_volume, status.expected),
        ("coverage", round(status.coverage * 100), 100),
        ("credit", status.credit_frames, status.ring_frames or None),
    ):
        value = f"{done} %" if name == "coverage" else f"{done} of {total if total is not None else '?'}"
        bars.add_row(name, ProgressBar(total=total or max(done, 1), completed=done, width=40), value)
    latency = "-" if status.latency is None else f"{status.latency[0]:.2f} / {status.latency[1]:.2f} s"
    center = "-" if status.center is None else f"{status.center:.2f}"
    facts = (
        f"{status.rate:.1f} frames/s   version {status.version}   latency p50 / p99 {latency}   center {center}"
        f"   {status.nbytes / 1e6:.1f} MB"
    )
    alarm = [Text(status.alarm, style="bold red")] if status.alarm else []
    return Group(Text(status.phase, style="bold"), *alarm, bars, Text(facts))
