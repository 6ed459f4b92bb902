"""A writer in a process of its own, which does one thing after another as it is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SCRIPT = """
import os, sys, h5py, numpy as np
names = {"h5py": h5py, "np": np, "os": os}
for line in sys.stdin:
    try:
        exec(eval(line), names)
        print("done", flush=True)
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
"""


class Writer:
    """Two handles of one process would share what HDF5 knows of a file, so the writer has a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def tell(self, code: str, **values: Any) -> None:
        """Run some lines of Python, with these values by name; an error there is one here."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        self.process.stdin.write(repr("\n".join([*lines, code])) + "\n")
        answer = self.process.stdout.readline().strip()
        assert answer == "done", f"the writer could not {code!r}: {answer}"

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def writing() -> Iterator[Writer]:
    started = Writer()
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.close()
