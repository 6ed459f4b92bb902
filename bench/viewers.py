"""`python -m bench.viewers`: what viewers cost a scan, and how soon they see it.

While a scan is reconstructed, viewers come and go by turns: pages' sessions at the server of `streamrecon view`, each looking
at slices of its own and scrolling along one axis, so often that it is sent `--rate` updates a second, be they of a new version
or of another slice. The reference is the time between, when nobody looks. The engine has one half of the cores, server and
sessions the other one, as if the page were served by another machine, or by cores that the engine does not need: it is what the
engine itself does for viewers. With `--beside` they are all on the same cores, which the engine keeps busy; server and sessions
have the lowest priority.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.end_to_end import record
from bench.machine import machine
from bench.measure import Verdict
from streamrecon.config import Config, EmitConfig, EngineConfig, ReconConfig, SimulatedConfig
from streamrecon.engine import Engine
from streamrecon.run import run_scan
from streamrecon.transport import private_ipc
from streamrecon.viewer.page_process import yield_to_others

COST, FIRST = 0.05, 1.0
"""Limits: share of the scan's rate, and seconds from a version to its picture."""


@dataclass
class Window:
    """Some seconds of a scan."""

    watched: bool
    seconds: float
    frames: int
    cpu_seconds: float
    """Of the engine."""


class Turns:
    """Lets viewers come and go while a scan is in work.

    Parameters
    ----------
    crowd
        That is told.
    seconds
        Of a turn.
    expected
        Projections of the scan.
    versions
        Those that there are: the first turn begins with the first one.
    """

    def __init__(self, crowd: subprocess.Popen[str], seconds: float, expected: int, versions: Sequence[float]) -> None:
        self.windows: list[Window] = []
        """Without the first one, in which the engine allocates its memory."""
        self._crowd, self._seconds, self._expected, self._versions = crowd, seconds, expected, versions
        self._watched, self._warm = True, False
        self._before: tuple[float, int, float] | None = None
        self._came = time.monotonic()
        self.watched_seconds = 0.0
        """In all."""

    def close(self) -> None:
        """The turn is over."""
        self.watched_seconds += (time.monotonic() - self._came) * self._watched

    def watch(self, engine: Engine) -> None:
        """Called by `run_scan`."""
        frames = engine.status().in_volume
        if not self._versions or frames == self._expected:
            return
        now = time.monotonic(), frames, sum(psutil.Process().cpu_times()[:2])
        if self._before is None:
            self._before = now
        elif now[0] - self._before[0] >= self._seconds:
            seconds, frames, cpu = (after - before for before, after in zip(self._before, now, strict=True))
            if self._warm:
                self.windows.append(Window(self._watched, seconds, int(frames), cpu))
            self._warm = True
            self.close()
            self._watched, self._before, self._came = not self._watched, now, now[0]
            assert self._crowd.stdin is not None
            self._crowd.stdin.write("on\n" if self._watched else "off\n")
            self._crowd.stdin.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="rows and columns; default: %(default)s")
    parser.add_argument("--projections", type=int, default=1600)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--rate", type=float, default=5.0, help="updates per second that each asks for, versions, too")
    parser.add_argument("--rounds", type=int, default=4, help="scans; an even number")
    parser.add_argument("--turn", type=float, default=4.0, help="seconds with viewers, and without")
    parser.add_argument("--full", action="store_true", help="versions without binning, kept where temporary files are")
    parser.add_argument(
        "--beside", action="store_true", help="page and viewers on the engine's cores, not on the other half of them"
    )
    parser.add_argument("--quick", action="store_true", help="a small scan, one round")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    others = cores if options.beside or not half else cores[half:]
    if options.crowd:
        asyncio.run(crowd(options.crowd, options.viewers, options.side, options.rate))
        return
    if others != cores:
        os.sched_setaffinity(0, cores[:half])
    if options.quick:
        options.side, options.projections, options.rounds, options.turn = 128, 6000, 1, 0.6
    simulated = SimulatedConfig(
        rows=options.side, columns=options.side, projections=options.projections, flats=4, darks=4
    )
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.h5"
        record(simulated, scan)
        for _ in range(options.rounds):
            figures.append(measure(scan, Path(folder) / "out", options, others))
            print(line(figures[-1]), flush=True)
    verdicts = judge(figures)
    for verdict in verdicts:
        print(verdict.line())
    if options.json:
        report = {"machine": machine(), "runs": figures, "verdicts": [verdict.figures() for verdict in verdicts]}
        options.json.write_text(json.dumps(report, indent=1))


def measure(scan: Path, out: Path, options: argparse.Namespace, others: Sequence[int]) -> dict[str, Any]:
    """One scan; the page and its viewers on these cores."""
    endpoint, side = private_ipc(), options.side
    volume = side**3 * 4
    config = Config(
        recon=ReconConfig(center=(side - 1) / 2),
        emit=EmitConfig(every=1 << 30, interval=1 / options.rate, publish=endpoint, keep=3),
        engine=EngineConfig(
            # Without `--full` ten full versions do not fit: those before the last are previews.
            disk_bytes=volume * (8 if options.full else 2) + options.projections * side * side * 3,
            return_timeout=0.0,
        ),
    )
    versions: list[float] = []

    def listener(entry: dict[str, Any]) -> None:
        if entry["event"] == "version":
            versions.append(time.time())

    with serving(endpoint) as (page, url), crowding(url, options) as crowd:
        for process in page, crowd:
            for thread in psutil.Process(process.pid).threads():
                os.sched_setaffinity(thread.id, others)
        turns = Turns(crowd, options.turn, options.projections, versions)
        spent = sum(psutil.Process(page.pid).cpu_times()[:2])
        result = run_scan(scan, out, config, listener=listener, watch=turns.watch, overwrite=True)
        turns.close()
        spent = sum(psutil.Process(page.pid).cpu_times()[:2]) - spent
        seen = json.loads(crowd.communicate("stop\n", timeout=60)[0])
    watched = turns.watched_seconds
    return {
        "viewers": options.viewers,
        "windows": [asdict(window) for window in turns.windows],
        "versions_per_second": len(versions) / result.seconds,
        "updates_per_second": seen["updates"] / watched / options.viewers,
        "first_picture": seen["first"] - versions[0],
        "megabytes_per_second": seen["nbytes"] / watched / 1e6,
        "page_cores": spent / watched,
        "viewers_cores": seen["cpu"] / watched,
    }


@contextlib.contextmanager
def serving(endpoint: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`streamrecon view`, and the address that it says."""
    command = [sys.executable, "-m", "streamrecon", "view", "--subscribe", endpoint]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        try:
            yield page, page.stdout.readline().split()[-1]
        finally:
            page.terminate()


@contextlib.contextmanager
def crowding(url: str, options: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """Viewers of a page, once they are there."""
    command = [sys.executable, "-m", "bench.viewers", "--crowd", url, "--viewers", str(options.viewers)]
    command += ["--side", str(options.side), "--rate", str(options.rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdout is not None
        crowd.stdout.readline()
        try:
            yield crowd
        finally:
            crowd.kill()


async def crowd(url: str, viewers: int, side: int, rate: float) -> None:
    """Pages' sessions, until a line is read; what they saw."""
    from websockets.asyncio.client import connect

    updates = nbytes = 0
    first = float("inf")
    address, token = url.split("/#token=")

    async def look(number: int) -> None:
        nonlocal updates, nbytes, first
        places = [[axis, (side * (number % 7 + 1)) // 9] for axis in "zyx"]
        want = {"type": "want", "places": places, "size": side, "preview": 0, "beside": False}
        async with connect(
            address.replace("http", "ws") + "/ws",
            origin=address,
            compression=None,
            max_size=None,  # type: ignore[arg-type]
        ) as socket:
            await socket.send(json.dumps({"type": "hello", "token": token}))
            serial, due = 0, time.monotonic()
            await socket.send(json.dumps({**want, "serial": serial}))
            async for message in socket:
                nbytes += len(message)
                if isinstance(message, bytes):
                    length = struct.unpack_from("<I", message)[0]
                    if json.loads(message[4 : 4 + length])["kind"] == "slice":
                        first = min(first, time.time())
                elif json.loads(message)["type"] == "update":
                    updates += 1
                    serial += 1
                    due = max(due + 1 / rate, time.monotonic())
                    await asyncio.sleep(due - time.monotonic())
                    axis = number % 3
                    places[axis][1] = (places[axis][1] + 1) % side
                    await socket.send(json.dumps({**want, "serial": serial}))

    async def come() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(look(number)) for number in range(viewers)]
        await asyncio.sleep(0.2)
        return tasks

    async def go(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    yield_to_others()  # as they would be on other machines
    tasks = await come()
    cpu = sum(psutil.Process().cpu_times()[:2])
    print("there", flush=True)
    while (word := (await asyncio.to_thread(sys.stdin.readline)).strip()) in ("on", "off"):
        await go(tasks)
        tasks = await come() if word == "on" else []
    await go(tasks)
    cpu = sum(psutil.Process().cpu_times()[:2]) - cpu
    print(json.dumps({"updates": updates, "nbytes": nbytes, "first": first, "cpu": cpu}))


def rates(figure: dict[str, Any], watched: bool) -> list[float]:
    """Frames per second of each window."""
    return [window["frames"] / window["seconds"] for window in figure["windows"] if window["watched"] is watched]


def line(figure: dict[str, Any]) -> str:
    """For people."""
    alone, watched = (sum(each) / max(1, len(each)) for each in (rates(figure, some) for some in (False, True)))
    return (
        f"{alone:5.1f} frames/s alone, {watched:5.1f} with {figure['viewers']} viewers; "
        f"{figure['versions_per_second']:.1f} versions/s; each viewer is sent {figure['updates_per_second']:.1f}/s, "
        f"{figure['megabytes_per_second']:.0f} MB/s in all, the first picture after {figure['first_picture']:.2f} s; "
        f"the page takes {figure['page_cores']:.2f} cores, the viewers {figure['viewers_cores']:.2f}"
    )


def pairs(windows: Sequence[dict[str, Any]], first: int) -> list[float]:
    """Logarithm of the rate with viewers over that without, of each two windows side by side.

    A machine that is slower for a while is slower for both; and of ratios themselves the mean would be too large.

    Parameters
    ----------
    windows
        Of one scan, with viewers and without by turns.
    first
        Where the first two are. In scans that differ in it viewers come first, or last: what only goes on with time cancels.
    """
    found = list[float]()
    for pair in zip(windows[first::2], windows[first + 1 :: 2], strict=False):
        rate = {window["watched"]: window["frames"] / window["seconds"] for window in pair}
        found.append(math.log(rate[True] / rate[False]))
    return found


def judge(figures: list[dict[str, Any]]) -> list[Verdict]:
    """Against the limits."""
    found = np.array([each for i, figure in enumerate(figures) for each in pairs(figure["windows"], i % 2)])
    if len(found) < 2:
        raise SystemExit(
            "the scans end before viewers have come and gone twice: more --projections, or a shorter --turn"
        )
    # Without its error the difference of two such rates says little.
    cost, error = 1 - math.exp(found.mean()), found.std(ddof=1) / len(found) ** 0.5
    first = np.median([figure["first_picture"] for figure in figures])
    count = figures[0]["viewers"]
    return [
        Verdict(f"what {count} viewers cost the scan's rate (+- {error:.3f})", cost, COST, False, "of it"),
        Verdict("first picture after the first version", float(first), FIRST, False, "s"),
    ]


if __name__ == "__main__":
    main()
