"""Places at which a test can make a process fail: `STREAMRECON_FAILPOINTS=journal.write=full:3:5,journal.sync=kill:1`.

Each names a place, what happens there, from which call on and up to which, counted from 1; without the last, at that call
only. What happens: `kill` (the process is killed), `freeze` (it is stopped), `full` (the disk is), `error` (the disk
fails), `slow` (it takes a second), `hang` (it takes for ever). Without the variable a place costs a look into an empty dict.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass

VARIABLE = "STREAMRECON_FAILPOINTS"


@dataclass
class _Point:
    action: str
    first: int
    last: int
    calls: int = 0


def _read(text: str) -> dict[str, _Point]:
    points = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.partition("=")
        action, *calls = rest.split(":")
        first = int(calls[0]) if calls else 1
        points[name] = _Point(action, first, int(calls[1]) if len(calls) > 1 else first)
    return points


_points = _read(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """Set the points of this process, as the variable would; empty takes all away."""
    _points.clear()
    _points.update(_read(text))


def fail(place: str) -> None:
    """Fail here if a test says so.

    Raises
    ------
    OSError
        As a full or failing disk would.
    """
    point = _points.get(place)
    if point is None:
        return
    point.calls += 1
    if not point.first <= point.calls <= point.last:
        return
    if point.action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if point.action == "error":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if point.action in ("slow", "hang"):
        time.sleep(1.0 if point.action == "slow" else 1e6)
    else:
        os.kill(os.getpid(), signal.SIGSTOP if point.action == "freeze" else signal.SIGKILL)
