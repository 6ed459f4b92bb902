"""`python -m bench.viewers`: what viewers cost a scan, and how soon they see it.

One scan by turns without and with viewers: pages' sessions at one page server, each looking at slices of its own and scrolling
along one axis, so often that it is sent `--rate` updates a second, be they of a new version or of another slice. Server and
sessions are a process beside the engine's, on the same cores; the reference of each run is the scan without them. With
`--apart` they take only what the engine leaves of the cores, as if they had machines of their own: what they cost then is what
the engine does for them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.end_to_end import record
from bench.machine import machine
from bench.measure import Verdict
from streamrecon.config import Config, EmitConfig, EngineConfig, ReconConfig, SimulatedConfig
from streamrecon.run import run_scan
from streamrecon.transport import private_ipc

COST, FIRST = 0.05, 1.0
"""Limits: share of the scan's rate, and seconds from a version to its picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="rows and columns; default: %(default)s")
    parser.add_argument("--projections", type=int, default=400)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--rate", type=float, default=5.0, help="updates per second that each asks for, versions, too")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--full", action="store_true", help="versions without binning, kept where temporary files are")
    parser.add_argument(
        "--apart", action="store_true", help="viewers take only the processor time that nobody else wants"
    )
    parser.add_argument("--quick", action="store_true", help="a small scan, one round")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        if options.apart:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        asyncio.run(crowd(options.crowd, options.viewers, options.side, options.rate))
        return
    if options.quick:
        options.side, options.projections, options.rounds = 128, 200, 1
    simulated = SimulatedConfig(
        rows=options.side, columns=options.side, projections=options.projections, flats=4, darks=4
    )
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.h5"
        record(simulated, scan)
        for round_ in range(options.rounds + 1):
            for viewers in (0, options.viewers):
                figure = measure(scan, Path(folder) / "out", options, viewers)
                if round_:
                    figures.append(figure)
                    print(line(figure), flush=True)
    verdicts = judge(figures)
    for verdict in verdicts:
        print(verdict.line())
    if options.json:
        report = {"machine": machine(), "runs": figures, "verdicts": [verdict.figures() for verdict in verdicts]}
        options.json.write_text(json.dumps(report, indent=1))


def measure(scan: Path, out: Path, options: argparse.Namespace, viewers: int) -> dict[str, Any]:
    """One scan, watched by so many."""
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

    me = psutil.Process()
    with contextlib.ExitStack() as stack:
        page = crowd = None
        if viewers:
            page, url = stack.enter_context(serving(endpoint))
            crowd = stack.enter_context(crowding(url, options))
        spent = sum(me.cpu_times()[:2])
        page_spent = 0.0 if page is None else sum(psutil.Process(page.pid).cpu_times()[:2])
        result = run_scan(scan, out, config, listener=listener, overwrite=True)
        figure: dict[str, Any] = {
            "viewers": viewers,
            "frames_per_second": result.status.frames / result.seconds,
            "versions_per_second": len(versions) / result.seconds,
            "cpu_seconds": sum(me.cpu_times()[:2]) - spent,
        }
        if page is not None and crowd is not None:
            page_cpu = sum(psutil.Process(page.pid).cpu_times()[:2])
            seen = json.loads(crowd.communicate("stop\n", timeout=60)[0])
            figure |= {
                "updates_per_second": seen["updates"] / result.seconds / viewers,
                "first_picture": seen["first"] - versions[0],
                "megabytes_per_second": seen["nbytes"] / result.seconds / 1e6,
                "page_cpu_seconds": page_cpu - page_spent,
                "viewers_cpu_seconds": seen["cpu"],
            }
    return figure


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
    command += ["--side", str(options.side), "--rate", str(options.rate), *(["--apart"] if options.apart else [])]
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

    tasks = [asyncio.create_task(look(number)) for number in range(viewers)]
    await asyncio.sleep(0.5)
    print("there", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    cpu = sum(psutil.Process().cpu_times()[:2])
    print(json.dumps({"updates": updates, "nbytes": nbytes, "first": first, "cpu": cpu}))


def line(figure: dict[str, Any]) -> str:
    """For people."""
    text = (
        f"{figure['viewers']:3d} viewers: {figure['frames_per_second']:7.1f} frames/s, "
        f"{figure['versions_per_second']:.1f} versions/s, engine {figure['cpu_seconds']:.1f} s of processor"
    )
    if figure["viewers"]:
        text += (
            f", each sees {figure['updates_per_second']:.1f}/s ({figure['megabytes_per_second']:.0f} MB/s in all), "
            f"the first picture after {figure['first_picture']:.2f} s; "
            f"page {figure['page_cpu_seconds']:.1f}, viewers {figure['viewers_cpu_seconds']:.1f} s of processor"
        )
    return text


def judge(figures: list[dict[str, Any]]) -> list[Verdict]:
    """Against the limits."""
    alone, watched = ([figure for figure in figures if bool(figure["viewers"]) is some] for some in (False, True))
    rates = [np.array([figure["frames_per_second"] for figure in each]) for each in (alone, watched)]
    means = [each.mean() for each in rates]
    cost = 1 - means[1] / means[0]
    # Machines are shared: without its error the difference of two such rates says little.
    errors = [each.std(ddof=1) / each.mean() / len(each) ** 0.5 if len(each) > 1 else np.inf for each in rates]
    error = (1 - cost) * np.hypot(*errors)
    first = np.median([figure["first_picture"] for figure in watched])
    return [
        Verdict(
            f"what {watched[0]['viewers']} viewers cost the scan's rate, +- {error:.3f}",
            float(cost),
            COST,
            False,
            "of it",
        ),
        Verdict("first picture after the first version", float(first), FIRST, False, "s"),
    ]


if __name__ == "__main__":
    main()
