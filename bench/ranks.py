"""`python -m bench.ranks`: what a second rank gains, and what the measured costs come to with up to 1024 of them.

Measured by turns, with real processes (`mpiexec`, `streamrecon recon`, `streamrecon replay`): one scan by one rank with one
thread, by one rank with two threads, and by two ranks with one thread each. Efficiency is that of the second core.

The curve is a simulation: the costs of a rank for each frame and each row, of the sender for each message and each byte, and
of rank 0 for each report and each slab of a version are measured here; machines that each hold one rank are not. Nothing of
it says what a network or a shared file system takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from bench.end_to_end import record
from bench.machine import machine
from bench.measure import Times
from bench.transport import FRAME, Party
from streamrecon.config import ReconConfig, SimulatedConfig
from streamrecon.engine.alignment import Alignment
from streamrecon.engine.bins import bins_of
from streamrecon.engine.nxtomoproc import Provenance
from streamrecon.engine.orders import Aside, Part, Studied, pack, unpack
from streamrecon.engine.output import Output, slab_name
from streamrecon.recon.center import Bands
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo, VolumeUpdate
from streamrecon.wire.codec import encode
from streamrecon.wire.credit import CreditWindow
from streamrecon.wire.dispatch import Dispatch
from streamrecon.wire.messages import Lane
from streamrecon.wire.outputs import Opened, Reply
from streamrecon.wire.receiving import ReceivingEnd, lanes_of

FRAMES, ROWS, COLUMNS = 360, 64, 512
BATCH = 16
RING = 100
"""Frames that a rank may be behind."""
TARGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Costs:
    """Seconds."""

    frame: float
    """Of a rank, for a frame, whatever its rows: journal, bookkeeping, its share of a batch's calls."""
    row: float
    """Of a rank, for a row of a frame, on one core."""
    noise: float
    """Standard deviation of a batch's seconds, relative."""
    message: float
    """Of the sender, for a frame of a lane."""
    byte: float
    """Of the sender."""
    report: float
    """Of rank 0, for a projection that a rank tells of, with what tells the center."""
    part: float
    """Of rank 0, for a slab of a version."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if _mpiexec() is None:
        sys.exit("there is no MPI: pip install 'streamrecon[mpi]'")
    figures: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        figures["seconds"] = measured(Path(folder), 2 if options.quick else options.rounds)
        costs = costs_of(Path(folder), figures["seconds"])
    figures["costs"] = asdict(costs)
    show(figures, costs)
    figures["curve"] = {rows: [asdict_row(row) for row in curve(costs, rows)] for rows in (2048, 16384)}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


# Real processes.


def measured(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of a scan by turns."""
    scans = {rows: folder / f"{rows}.h5" for rows in (2, ROWS)}
    for rows, path in scans.items():
        record(SimulatedConfig(rows=rows, columns=COLUMNS, projections=FRAMES, phantom="disc", photons=0), path)
    candidates = {
        "1 rank, 1 thread": (1, 1, ROWS),
        "1 rank, 2 threads": (1, 2, ROWS),
        "2 ranks, 1 thread each": (2, 1, ROWS),
        "1 rank, 1 thread, 2 rows": (1, 1, 2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, (ranks, threads, rows) in candidates.items():
            took = one_scan(folder / "out", scans[rows], ranks, threads)
            if round_:
                seconds[name].append(took)
    return seconds


def one_scan(out: Path, scan: Path, ranks: int, threads: int) -> float:
    """Seconds from the first frame to the final volume."""
    shutil.rmtree(out, ignore_errors=True)
    endpoint = f"tcp://127.0.0.1:{_port()}"
    python = [sys.executable, "-m", "streamrecon"]
    options = ["--center", str((COLUMNS - 1) / 2), "--method", "direct", "--every", str(FRAMES), "--quiet"]
    engine = subprocess.Popen(
        [
            str(_mpiexec()),
            "-n",
            str(ranks),
            *python,
            "recon",
            "--once",
            "--listen",
            endpoint,
            "--out",
            str(out),
            *options,
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NUMBA_NUM_THREADS": str(threads * ranks)},  # ranks share them
    )
    sender = subprocess.Popen(
        [*python, "replay", str(scan), "--to", endpoint], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    text, _ = engine.communicate(timeout=120)
    sender.wait(20)
    if engine.returncode:
        raise RuntimeError(f"the engine ended with {engine.returncode}: {text[-2000:]}")
    line = next(line for line in text.splitlines() if " frames in " in line)
    return float(line.split(" frames in ")[1].split(" s,")[0])


def _mpiexec() -> str | None:
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1]) - 8  # and some after it


# Costs.


def costs_of(folder: Path, seconds: dict[str, list[float]]) -> Costs:
    """What a frame, a row, a message, a byte, a report and a slab take."""
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    small, large = (median[name] / FRAMES for name in ("1 rank, 1 thread, 2 rows", "1 rank, 1 thread"))
    row = (large - small) / (ROWS - 2)
    rounds = seconds["1 rank, 1 thread"]
    return Costs(
        frame=max(0.0, small - 2 * row),
        row=row,
        noise=float(np.std(rounds) / np.mean(rounds)) * np.sqrt(FRAMES / BATCH),
        message=message_cost() + socket_cost(),
        byte=byte_cost(),
        report=report_cost(),
        part=part_cost(folder),
    )


def message_cost(lanes: int = 256, frames: int = 50) -> float:
    """Seconds of the sender for a frame of a lane: choosing, numbering, hashing and encoding, without the socket."""
    count = {FrameKind.PROJECTION: frames, FrameKind.FLAT: 0, FrameKind.DARK: 0}
    info = ScanInfo("scan", Geometry(lanes, 8), np.dtype("<u2"), count, np.zeros(frames))
    others = tuple(Lane(rows=(rank, rank + 1), endpoint="elsewhere") for rank in range(1, lanes))
    ends = [
        ReceivingEnd("bench", lanes_of((rank, rank + 1), () if rank else others), peer_timeout=1e9)
        for rank in range(lanes)
    ]
    dispatch: Dispatch[Frame] = Dispatch(info, "here", 1, peer_timeout=1e9)
    dispatch.begin(0.0)

    def act(lane: int, outputs: list[Any]) -> None:
        for output in outputs:
            if isinstance(output, Opened):
                act(lane, ends[lane].accept(CreditWindow(1 << 40, 1 << 30), 0.0))
            elif isinstance(output, Reply):
                dispatch.hear(lane, output.message, output.payload, 0.0)

    while not dispatch.streaming:
        for lane in range(len(dispatch.lanes)):
            dispatch.greet(lane, 0.0)
        for lane, message, payload in dispatch.messages():
            act(lane, ends[lane].hear(b"sender", message, payload, 0.0))
    data = np.ones((lanes, 8), np.uint16)
    began = time.perf_counter()
    for index in range(frames):
        frame = Frame(FrameKind.PROJECTION, index, 0.0, data)
        dispatch.put((frame.kind, index), frame)
        while (following := dispatch.next(lambda lane: True)) is not None:
            lane, kept = following
            encode(dispatch.send(lane, replace(kept, data=kept.data[lane : lane + 1]), 0.0))
    return (time.perf_counter() - began) / (lanes * frames)


def socket_cost(messages: int = 20_000) -> float:
    """Seconds of the sending thread for one message of three parts."""
    context = zmq.Context.instance()
    receiver, sender = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    sender.connect(f"tcp://127.0.0.1:{receiver.bind_to_random_port('tcp://127.0.0.1')}")

    def drain() -> None:
        for _ in range(messages):
            receiver.recv_multipart(copy=False)

    thread = threading.Thread(target=drain)
    thread.start()
    payload = np.ones(4096, np.uint8)
    began = time.thread_time()
    for _ in range(messages):
        sender.poll(1000, zmq.POLLOUT)
        sender.send_multipart([b"SRC\x01\x07", b"h" * 150, payload.data], copy=False)
    seconds = time.thread_time() - began
    thread.join()
    receiver.close(linger=0)
    sender.close(linger=0)
    return seconds / messages


def byte_cost(frames: int = 64) -> float:
    """Seconds of the sender's processor for a byte of large frames, of both its threads."""
    party = Party("tcp", 1, True)
    try:
        party.run(frames)
        return float(np.median([party.run(frames).sender for _ in range(3)])) / (frames * FRAME)
    finally:
        party.close()


def report_cost(ranks: int = 64, projections: int = 64) -> float:
    """Seconds of rank 0 for each projection that each rank tells of."""
    rows = 4 * ranks
    alignment = Alignment(
        ReconConfig(), rows, COLUMNS, projections, None, None, range(ranks), lambda indices, bands: None
    )
    news = []
    for rank in range(ranks):
        bands = Bands(rows, COLUMNS, 4 * rank)
        sums = np.stack([bands.sums(np.ones((4, COLUMNS), np.float32))] * BATCH)
        for first in range(0, projections, BATCH):
            indices = tuple(range(first, first + BATCH))
            news.append((rank, pack(Studied((0,), indices, np.zeros(BATCH), sums))))
    began = time.perf_counter()
    for rank, data in news:
        alignment.take(rank, unpack(data))
    return (time.perf_counter() - began) / (ranks * projections)


def part_cost(folder: Path, ranks: int = 256) -> float:
    """Seconds of rank 0 for each slab: told of, and named in OUT/volume.h5."""
    out = Output(folder / "parts", "scan", keep=3, keep_seconds=0.0)
    info = ScanInfo("scan", Geometry(8 * ranks, COLUMNS), np.dtype("<u2"), {})
    slab = np.ones((8, COLUMNS, COLUMNS), np.float32)
    update = VolumeUpdate(1, np.zeros(FRAMES), 1.0, False, 1, slab)
    provenance = Provenance(info, (0, 8), {}, np.arange(FRAMES))
    parts = []
    for rank in range(ranks):
        rows = 8 * rank, 8 * rank + 8
        preview, moments = bins_of(slab, rows[0], 8)
        aside = Aside(preview, moments)
        parts.append(pack(Part(1, rank, rows, (1, 2), slab.shape, 0, aside)))
    offset = out.write_slab(1, update, provenance)
    for rank in range(1, ranks):
        shutil.copyfile(out.partials / ".cut-0001" / slab_name(0), out.partials / ".cut-0001" / slab_name(rank))
    began = time.perf_counter()
    out.publish(1, update, provenance, [replace(unpack(part), offset=offset) for part in parts])
    return (time.perf_counter() - began) / ranks


# The simulation.


@dataclass(frozen=True)
class Row:
    """What the simulation says of so many ranks."""

    ranks: int
    seconds: float
    efficiency: float
    limit: str
    """What the time is spent on most."""


def asdict_row(row: Row) -> dict[str, Any]:
    """For JSON."""
    return asdict(row)


def curve(costs: Costs, rows: int, columns: int = 2048, frames: int = 1500, versions: int = 10) -> list[Row]:
    """A scan by more and more ranks, each on a core of its own; rows of other lengths cost in proportion.

    The sender serves the lanes in turn; each rank takes a batch when it has come and the one before is done; no rank may be
    further behind than its ring. Rank 0 hears what each tells besides, and puts versions together while frames go on coming.
    """
    rng = np.random.default_rng(1)
    scale = columns / COLUMNS
    found: list[Row] = []
    for ranks in (r for r in TARGETS if r <= rows):
        batches = frames // BATCH
        send = BATCH * (ranks * costs.message + rows * columns * 2 * costs.byte)
        work = BATCH * (costs.frame + rows / ranks * costs.row * scale * scale)
        lead = ranks * (BATCH * costs.report + costs.part * versions / batches)
        arrival, done = 0.0, np.zeros(ranks)
        history: list[float] = []
        for batch in range(batches):
            behind = history[batch - RING // BATCH] if batch >= RING // BATCH else 0.0
            arrival = max(arrival + send, behind)
            noise = np.maximum(0.2, 1 + costs.noise * rng.standard_normal(ranks))
            spent = work * noise
            spent[0] += lead
            done = np.maximum(done, arrival) + spent
            history.append(float(done.max()))
        seconds = float(done.max())
        limits = {"the maths": work, "the sender": send, "rank 0": work + lead if lead > 0.25 * work else 0.0}
        first = found[0].seconds if found else seconds
        found.append(Row(ranks, seconds, first / seconds / ranks, max(limits, key=lambda name: limits[name])))
    return found


def show(figures: dict[str, Any], costs: Costs) -> None:
    """Print it."""
    times = Times(figures["seconds"])
    one, two_threads, two = "1 rank, 1 thread", "1 rank, 2 threads", "2 ranks, 1 thread each"
    print(
        f"{FRAMES} projections of {ROWS} x {COLUMNS}, direct method, medians of {len(times.rounds[one])} rounds by turns"
    )
    for name in (one, two_threads, two):
        print(f"  {times.median(name):6.2f} s  {name}")
    rank, thread = times.ratio(one, two) / 2, times.ratio(one, two_threads) / 2
    print(f"  efficiency of two cores: {rank:.0%} as two ranks, {thread:.0%} as two threads")
    print(
        "measured costs, microseconds: "
        + ", ".join(f"{name} {value * 1e6:.3g}" for name, value in asdict(costs).items() if name != "noise")
    )
    for rows in (2048, 16384):
        print(f"simulated: 1500 projections of {rows} x 2048, ten versions, a core each")
        for row in curve(costs, rows):
            print(
                f"  {row.ranks:5} ranks  {row.seconds:9.1f} s  efficiency {row.efficiency:4.0%}  limited by {row.limit}"
            )


if __name__ == "__main__":
    main()
