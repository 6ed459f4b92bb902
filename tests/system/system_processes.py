"""Running the program as others would: processes, their output, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil


class Processes:
    """Starts programs and ends, at the end, those that still run, with their children."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python, self._all = folder, sys.executable, []

    def start(self, *arguments: Any, cwd: Path | None = None, **environment: str) -> Process:
        process = Process([str(a) for a in arguments], self.folder / f"p{len(self._all)}", cwd, environment)
        self._all.append(process)
        return process

    def streamrecon(self, *arguments: Any, **options: Any) -> Process:
        return self.start(sys.executable, "-m", "streamrecon", *arguments, **options)

    def end(self) -> None:
        for process in self._all:
            process.kill()


class Process:
    def __init__(self, command: list[str], log: Path, cwd: Path | None, environment: dict[str, str]) -> None:
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=cwd, env={**os.environ, **environment}
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait(self, seconds: float = 150) -> int:
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s\n{self.out[-2000:]}\n{self.err[-2000:]}") from None

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def kill(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL)
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


def until(condition: Callable[[], Any], seconds: float = 150, what: str = "") -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def told(out: Path, event: str) -> list[dict[str, Any]]:
    import json

    path = out / "scan.log.jsonl"
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [e for e in entries if e["event"] == event]


def processes(folder: Path) -> Iterator[Processes]:
    started = Processes(folder)
    yield started
    started.end()


def volume(out: Path) -> dict[str, Any]:
    with h5py.File(out / "volume.h5", "r", locking=False) as file:
        group = file["entry/reconstruction"]
        return {
            "data": file["entry/data/data"][:],
            "final": bool(group["final"][()]),
            "version": int(group["volume_version"][()]),
            "indices": group["projection_indices"][:],
            "theta": group["theta"][:],
            "center": float(group["parameters/center"][()]),
            "missing": group["missing"][()].decode() if "missing" in group else None,
        }


def circle(side: int, share: float = 0.95) -> np.ndarray:
    x = np.arange(side) - (side - 1) / 2
    return np.add.outer(x**2, x**2) < (share * side / 2) ** 2


def same(out: Path, undisturbed: dict[str, Any]) -> None:
    """The same frames, once each; the same volume."""
    found = volume(out)
    assert found["final"]
    assert found["missing"] is None
    np.testing.assert_array_equal(found["indices"], undisturbed["indices"])
    expected = np.asarray(undisturbed["data"])
    assert np.abs(found["data"] - expected).max() < 1e-5 * np.abs(expected).max()
    assert not (out / "journal").exists(), "the journal of a finished scan is left behind"


def finished(folder: Path, config: str) -> dict[str, Any]:
    """The volume of a run of its own that nothing happens to."""
    folder.mkdir(exist_ok=True)
    path = folder / "c.toml"
    path.write_text(config)
    for started in processes(folder):
        run = started.streamrecon("run", "simulated", "--out", folder / "out", "--config", path)
        assert run.wait(150) == 0, run.err
    return volume(folder / "out")


def free_endpoint(ports: int = 1) -> str:
    """On the loopback, with so many free ports in a row."""
    while True:
        with contextlib.ExitStack() as stack:
            first = 0
            try:
                for offset in range(ports):
                    free = stack.enter_context(socket.socket())
                    free.bind(("127.0.0.1", first + offset if offset else 0))
                    first = first or free.getsockname()[1]
            except (OSError, OverflowError):
                continue
            return f"tcp://127.0.0.1:{first}"


def beside_python(program: str) -> str | None:
    """A program of this environment, which need not be active."""
    path = Path(sys.executable).parent / program
    return str(path) if path.exists() else None
