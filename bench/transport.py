"""`python -m bench.transport [--quick]`: frames over loopback with everything on, against bare pyzmq.

Everything on: `send_scan` with XXH3 of each frame, credit and acknowledgements, into the engine's own I/O thread (`Ingest`),
which checks the hash and copies into a ring whose pages were touched before. A thread takes each frame from there and gives
its slot back at once; nothing is reconstructed or written. Once from a source that can replay, whose frames are kept until
they have arrived, and once from one that cannot, whose frames are kept until they are durable, which they are here once they
have left the ring.

Bare: DEALER to ROUTER with the same socket options, no copy at either end, no hash, a receiver that looks at nothing, and as
many frames on their way as the ring of the others holds.

Senders and receivers are processes of their own on two cores. With two lanes there are two receivers, one for each half of a
frame's rows. Seconds are the sender's, from the first frame to the last answer, and so is the processor time from there on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq
from numpy.typing import NDArray

from bench.machine import machine
from bench.measure import Times, Verdict
from streamrecon.config import Config, ReconConfig, SendConfig
from streamrecon.engine.doors import Doors
from streamrecon.engine.ingest import Accepted, Arrival, Ingest
from streamrecon.engine.ring import Ring
from streamrecon.engine.status import Counters
from streamrecon.scan import Frame, FrameKind, Geometry, ScanInfo
from streamrecon.transport import private_ipc, send_scan
from streamrecon.transport.link import SEND_BUFFER
from streamrecon.wire.codec import Buffer
from streamrecon.wire.messages import Lane, Range
from streamrecon.wire.outputs import Broken, Ended, Opened
from streamrecon.wire.receiving import lanes_of

SHAPE = (2048, 2048)
DTYPE = np.dtype(np.uint16)
FRAME = SHAPE[0] * SHAPE[1] * DTYPE.itemsize
"""Bytes: 8 MiB."""
SLOTS = 32
"""Frames that the ring holds: as many as the engine's default of 256 MiB."""
DIFFERENT = 8
"""Frames that are sent again and again: together more than the caches hold."""
LEAST = 0.65
"""Of the rate of bare pyzmq."""
CANDIDATES = {"can replay": True, "live": False}
PATIENCE = 120.0
"""Seconds that a process may take for anything."""
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and frames")
    parser.add_argument("--frames", type=int, help="of each scan")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--schemes", nargs="+", default=["tcp", "ipc"], choices=["tcp", "ipc"])
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    frames = options.frames or (64 if options.quick else 128)
    rounds = options.rounds or (5 if options.quick else 15)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    figures: Figures = {"machine": machine(), "frames": frames, "rounds": rounds, "lines": [], "verdicts": []}
    print(figures["machine"])
    for scheme, lanes in itertools.product(options.schemes, (1, 2)):
        verdicts, line = measure(scheme, lanes, frames, rounds)
        for verdict in verdicts:
            print(verdict.line())
        show(line)
        figures["lines"].append(line)
        figures["verdicts"] += [verdict.figures() for verdict in verdicts]
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def show(line: Figures) -> None:
    """Print the figures of one line."""
    print(f"           meanwhile others used {line['others']:.2f} cores")
    for name, figures in line["candidates"].items():
        print(
            f"           {name}: {figures['GB/s']:.2f} GB/s; CPU s/GB: sender {figures['sender CPU s/GB']:.2f}, receiver "
            f"{figures['receiver CPU s/GB']:.2f}; copies per payload: {figures['copies']:.2f}",
            flush=True,
        )


def measure(scheme: str, lanes: int, frames: int, rounds: int) -> tuple[list[Verdict], Figures]:
    """Ours and bare by turns, one round that does not count first."""
    began, busy = time.perf_counter(), _busy()
    parties = {name: Party(scheme, lanes, replay) for name, replay in [("bare", None), *CANDIDATES.items()]}
    runs: dict[str, list[Run]] = {name: [] for name in parties}
    try:
        for round_ in range(rounds + 1):
            for name, party in parties.items():
                run = party.run(frames)
                if round_:
                    runs[name].append(run)
        ours = sum(party.cpu() for party in parties.values())
        others = max(0.0, (_busy() - busy - ours) / (time.perf_counter() - began))
    finally:
        for party in parties.values():
            party.close()
    times = Times({name: [run.seconds for run in some] for name, some in runs.items()})
    gigabytes = frames * FRAME / 1e9
    what = f"{scheme}, {lanes} lane{'s' if lanes > 1 else ''}"
    verdicts = [Verdict(f"{what}, {name}, of bare", times.ratio("bare", name), LEAST, True) for name in CANDIDATES]
    candidates = {
        name: {
            "GB/s": gigabytes / times.median(name),
            "sender CPU s/GB": float(np.median([run.sender for run in some])) / gigabytes,
            "receiver CPU s/GB": float(np.median([run.receiver for run in some])) / gigabytes,
            "copies": float(np.median([run.copied for run in some])) / (frames * FRAME),
        }
        for name, some in runs.items()
    }
    return verdicts, {"scheme": scheme, "lanes": lanes, "others": others, "candidates": candidates}


def _busy() -> float:
    """Seconds of processor time of everything on this machine."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "steal", 0.0))


@dataclass(frozen=True, slots=True)
class Run:
    """One scan."""

    seconds: float
    sender: float
    """Seconds of processor time."""
    receiver: float
    """Seconds of processor time, of all receivers."""
    copied: int
    """Bytes that the receivers copied."""


class Party:
    """A sender and its receivers, which stay from one round to the next.

    Parameters
    ----------
    scheme
        tcp or ipc.
    lanes
        Receivers.
    replay
        Whether the source can replay; None is bare pyzmq.
    """

    def __init__(self, scheme: str, lanes: int, replay: bool | None) -> None:
        self._scheme, self._lanes, self._replay = scheme, lanes, replay
        kinds = (_send_bare, _receive_bare) if replay is None else (_send_ours, _receive_ours)
        self._sender, self._receivers = Process(kinds[0]), [Process(kinds[1]) for _ in range(lanes)]

    def run(self, frames: int) -> Run:
        """One scan."""
        bounds = np.linspace(0, SHAPE[0], self._lanes + 1).astype(int).tolist()
        others: tuple[Lane, ...] = ()
        for receiver, rows in reversed(list(zip(self._receivers, itertools.pairwise(bounds), strict=True))):
            receiver.ask(self._scheme, rows, frames, others)
            others = (Lane(rows=rows, endpoint=receiver.answer()), *others)
        self._sender.ask(frames, others, self._replay)
        seconds, sender = self._sender.answer()
        shares = [receiver.answer() for receiver in self._receivers]
        return Run(seconds, sender, sum(cpu for cpu, _ in shares), sum(copied for _, copied in shares))

    def cpu(self) -> float:
        """Seconds of processor time of its processes, all rounds and their start included."""
        return sum(process.cpu() for process in (self._sender, *self._receivers))

    def close(self) -> None:
        """End the processes."""
        for process in (self._sender, *self._receivers):
            process.close()


class Process:
    """A process that does the same again and again, each time with new arguments.

    Parameters
    ----------
    task
        Gives its answers one after the other.
    """

    def __init__(self, task: Callable[..., Iterator[Any]]) -> None:
        spawn = get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, task), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *arguments: Any) -> None:
        """Begin."""
        self._connection.send(arguments)

    def answer(self) -> Any:
        """The next answer."""
        if not self._connection.poll(PATIENCE):
            raise TimeoutError(f"a process of the bench did not answer within {PATIENCE:g} s")
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cpu(self) -> float:
        """Seconds of processor time."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(5)
        self._process.kill()


def _serve(connection: Connection, task: Callable[..., Iterator[Any]]) -> None:
    while True:
        try:
            arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            for answer in task(*arguments):
                connection.send(answer)
        except Exception as error:
            connection.send(error)


def _cpu() -> float:
    """Seconds of processor time of this process, kernel included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


_pixels: list[NDArray[np.generic]] = []


def _frames() -> list[NDArray[np.generic]]:
    """The same pixels each time, so that reading costs nothing."""
    if not _pixels:
        rng = np.random.default_rng(0)
        _pixels.extend(rng.integers(0, 1 << 16, SHAPE, DTYPE) for _ in range(DIFFERENT))
    return _pixels


# Ours.


class _CountingRing(Ring):
    copied = 0

    def fill(self, payload: Buffer) -> int:
        self.copied += len(payload)
        return super().fill(payload)


def _receive_ours(scheme: str, rows: Range, frames: int, others: tuple[Lane, ...]) -> Iterator[Any]:
    """The endpoint; processor time and bytes copied."""
    began: list[float] = []

    def prepare(opened: Opened) -> Ring:
        shape = opened.rows[1] - opened.rows[0], opened.info.geometry.columns
        ring = _CountingRing(SLOTS, shape, opened.info.dtype)
        began.append(_cpu())
        return ring

    listen = None if scheme == "ipc" else "tcp://127.0.0.1:*"
    config = Config(recon=ReconConfig(rows=rows))
    ingest = Ingest(config, prepare, Counters(beats=None), Doors(config, listen), print)
    ingest._end.lanes = lanes_of(rows, others)
    ingest.start()
    ingest.let_in()
    yield ingest.endpoint
    ring: Any = None
    arrived, ended = 0, False
    try:
        while not ended:
            event = ingest.inbox.get(timeout=PATIENCE)
            if isinstance(event, Accepted):
                ring = event.ring
            elif isinstance(event, Arrival):
                arrived += 1
                ingest.release(event.slot)
                ingest.durable(arrived)
            elif isinstance(event, Broken):
                raise RuntimeError(event.reason)
            ended = isinstance(event, Ended)
        assert arrived == frames
        ingest.finish()
    finally:
        ingest.stop()
    yield _cpu() - began[0], ring.copied


def _send_ours(frames: int, lanes: Sequence[Lane], replay: bool) -> Iterator[Any]:
    """Seconds, and seconds of processor time."""
    theta = np.linspace(0, np.pi, frames, endpoint=False)
    counts = {FrameKind.PROJECTION: frames, FrameKind.FLAT: 0, FrameKind.DARK: 0}
    info = ScanInfo(f"bench-{time.time_ns()}", Geometry(*SHAPE), DTYPE, counts, theta)
    pixels = _frames()

    def source(rows: slice) -> Iterator[Frame]:
        for index in range(frames):
            yield Frame(FrameKind.PROJECTION, index, float(theta[index]), pixels[index % DIFFERENT][rows])

    began = _cpu()
    report = send_scan(
        info,
        source,
        lanes[0].endpoint,
        options=SendConfig(return_timeout=5.0),
        can_replay=replay,
        connect_timeout=PATIENCE,
    )
    assert report.frames == frames
    assert report.sessions == 1
    yield report.seconds, _cpu() - began


# Bare.


def _receive_bare(scheme: str, rows: Range, frames: int, _: object) -> Iterator[Any]:
    """The endpoint; processor time and bytes copied."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    endpoint = private_ipc() if scheme == "ipc" else "tcp://127.0.0.1:*"
    socket.bind(endpoint)
    yield socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\x00")
    began = _cpu()
    for count in range(1, frames + 1):
        peer, _header, payload = socket.recv_multipart(copy=False)
        assert len(payload) == FRAME * (rows[1] - rows[0]) // SHAPE[0]
        del payload
        if count % (SLOTS // 4) == 0 or count == frames:
            socket.send_multipart([peer.bytes, count.to_bytes(8, "little")])
    cpu = _cpu() - began
    socket.poll(5000)  # until the sender has read the answer: closing the connection may lose it
    socket.close(linger=0)
    if scheme == "ipc":
        shutil.rmtree(Path(endpoint.removeprefix("ipc://")).parent, ignore_errors=True)
    yield cpu, 0


def _send_bare(frames: int, lanes: Sequence[Lane], _: object) -> Iterator[Any]:
    """Seconds, and seconds of processor time."""
    pixels = _frames()
    cpu = _cpu()
    poller, sockets = zmq.Poller(), []
    for lane in lanes:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.SNDHWM, 0)
        if lane.endpoint.startswith("ipc:"):
            socket.setsockopt(zmq.SNDBUF, SEND_BUFFER)
        socket.connect(lane.endpoint)
        socket.poll(int(PATIENCE * 1000), zmq.POLLOUT)
        poller.register(socket, zmq.POLLIN)
        sockets.append(socket)
    sent, received = [0] * len(lanes), [0] * len(lanes)
    began = time.perf_counter()
    while min(received) < frames:
        ready = [n for n in range(len(lanes)) if sent[n] < frames and sent[n] - received[n] < SLOTS]
        if ready:
            lane = min(ready, key=sent.__getitem__)
            first, end = lanes[lane].rows
            sockets[lane].send_multipart([b"header", pixels[sent[lane] % DIFFERENT][first:end].data], copy=False)
            sent[lane] += 1
        for socket, _event in poller.poll(0 if ready else int(PATIENCE * 1000)):
            received[sockets.index(socket)] = int.from_bytes(socket.recv(), "little")
    seconds = time.perf_counter() - began
    for socket in sockets:
        socket.send(b"farewell")
        socket.close(linger=500)
    yield seconds, _cpu() - cpu


if __name__ == "__main__":
    main()
