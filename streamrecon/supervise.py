"""Starting a job again when it dies, a limited number of times and ever more slowly."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from streamrecon.errors import ConfigError

FINE = (0, 1, 2, 130, 143)
"""Exit codes that a new start would not change: done, done in part, misused, interrupted."""


def resuming(command: Sequence[str]) -> list[str]:
    """The command with `--resume`, where it is one of `streamrecon recon`: a job that died goes on with its scan.

    Where no `streamrecon` can be found, as its environment is not active, it is this one; so are programs beside it (mpiexec).

    Raises
    ------
    ConfigError
        If the command is empty.
    """
    if not command:
        raise ConfigError(
            "expected a command after --, such as: streamrecon supervise -- streamrecon recon --listen ..."
        )
    words = list(command)
    if "streamrecon" in words and shutil.which("streamrecon") is None:
        place = words.index("streamrecon")
        words[place : place + 1] = [sys.executable, "-m", "streamrecon"]
    beside = Path(sys.executable).parent / words[0]
    if shutil.which(words[0]) is None and beside.exists():
        words[0] = str(beside)
    if "recon" not in words or "--resume" in words:
        return words
    place = len(words) - 1 - words[::-1].index("recon")
    return [*words[: place + 1], "--resume", *words[place + 1 :]]


def supervise(
    command: Sequence[str],
    *,
    restarts: int = 5,
    backoff: float = 1.0,
    healthy: float = 300.0,
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Run a command, and run it again when it dies; its last exit code.

    Parameters
    ----------
    command
        And its arguments.
    restarts
        At most, in a row.
    backoff
        Seconds before the first restart; they double with each, up to a minute.
    healthy
        Seconds after which a job that dies counts as having been well: the count and the seconds begin anew.
    tell
        Called with what happens.

    Raises
    ------
    ConfigError
        If the command is empty or cannot be started.
    """
    command, tries = resuming(command), 0
    process: subprocess.Popen[bytes] | None = None
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if process is not None:
            process.send_signal(number)

    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it: then the job does not hear it either
        signals.append(signal.SIGHUP)
    old = {number: signal.signal(number, pass_on) for number in signals}
    try:
        while True:
            began = time.monotonic()
            try:
                process = subprocess.Popen(command, start_new_session=True)
            except OSError as error:
                raise ConfigError(f"cannot start {command[0]!r}: {error.strerror}") from error
            if asked:  # while it was being started
                process.send_signal(asked[0])
            code = process.wait()
            if code in FINE or asked:
                return 128 - code if code < 0 else code
            tries = 1 if time.monotonic() - began > healthy else tries + 1
            why = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            if tries > restarts:
                tell(f"the job {why}; it was started {restarts + 1} times, and is given up")
                return 128 - code if code < 0 else code
            pause = min(60.0, backoff * 2 ** (tries - 1))
            tell(f"the job {why}; it is started again in {pause:g} s ({tries} of {restarts})")
            until = time.monotonic() + pause
            while not asked and time.monotonic() < until:
                time.sleep(min(0.1, pause))
            if asked:
                return 128 + asked[0]
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
