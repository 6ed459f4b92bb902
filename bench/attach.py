"""`python -m bench.attach [--quick]`: documents and frames per second, and the delay from file to accumulator.

* Documents: events over ZeroMQ from a process that publishes them, into a `Collector`, for each serializer; against a bare
  subscriber that does `pickle.loads`, `json.loads` or `msgpack.unpackb` and nothing else.
* Frames: an HDF5 file that is complete, read as a run (`RunSource`), against h5py reading the same blocks.
* Delay: a process writes frames with SWMR at a steady rate and says when each was flushed; a run of them goes to an engine. The
  delay is from then to when the engine has that many projections in its accumulator, which it adds in batches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import zmq

from bench.machine import machine
from streamrecon import Engine
from streamrecon.bluesky.collect import Collector
from streamrecon.bluesky.documents import open_documents
from streamrecon.bluesky.mapping import mapping_from_dict
from streamrecon.bluesky.run import Run
from streamrecon.bluesky.source import RunSource
from streamrecon.config import from_dict
from streamrecon.scan import Frame
from streamrecon.sources.roots import Roots
from streamrecon.transport import send_scan

PACK: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "pickle": (pickle.dumps, pickle.loads),
    "json": (lambda doc: json.dumps(doc).encode(), json.loads),
    "msgpack": (msgpack.packb, msgpack.unpackb),
}
DATA = "/entry/data/data"


def documents(uid: str, path: Path, frames: int, shape: tuple[int, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of a step scan, two for each frame."""
    yield "start", {"uid": uid, "time": 0.0, "plan_name": "bench"}
    keys = {
        "det": {"source": "", "dtype": "array", "shape": [1, *shape], "external": "STREAM:"},
        "rot": {"source": "", "dtype": "number", "shape": [], "units": "deg"},
    }
    yield "descriptor", {"uid": f"{uid}-d", "run_start": uid, "name": "primary", "time": 0.0, "data_keys": keys}
    yield "stream_resource", {
        "uid": f"{uid}-r", "run_start": uid, "data_key": "det", "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{path}", "parameters": {"dataset": DATA},
    }  # fmt: skip
    for n in range(frames):
        yield "stream_datum", {
            "uid": f"{uid}-r/{n}", "stream_resource": f"{uid}-r", "descriptor": f"{uid}-d",
            "indices": {"start": n, "stop": n + 1}, "seq_nums": {"start": n + 1, "stop": n + 2},
        }  # fmt: skip
        yield "event", {
            "uid": f"{uid}-{n}", "descriptor": f"{uid}-d", "seq_num": n + 1, "time": float(n),
            "data": {"rot": 180.0 * n / frames}, "timestamps": {"rot": float(n)}, "filled": {},
        }  # fmt: skip
    yield "stop", {"uid": f"{uid}-s", "run_start": uid, "time": 0.0, "exit_status": "success", "num_events": {}}


def _publish(address: str, form: str, count: int, go: Any) -> None:
    pack = PACK[form][0]
    messages = [
        b" ".join([b"", name.encode(), pack(doc)]) for name, doc in documents("r", Path("/x"), count // 2, (9, 9))
    ]
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.bind(address)
    go.wait()
    time.sleep(0.5)
    for message in messages:
        socket.send(message)
    time.sleep(0.2)
    socket.close()
    context.term()


def documents_per_second(form: str, count: int, bare: bool, port: int) -> float:
    """Taken, decoded and sorted into runs."""
    address, go = f"tcp://127.0.0.1:{port}", multiprocessing.get_context("spawn").Event()
    process = multiprocessing.get_context("spawn").Process(target=_publish, args=(address, form, count, go))
    process.start()
    total, first, taken = 2 * (count // 2) + 4, 0.0, 0
    try:
        if bare:
            context, unpack = zmq.Context(), PACK[form][1]
            socket = context.socket(zmq.SUB)
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(address)
            go.set()
            while taken < total:
                unpack(socket.recv().split(b" ", 2)[2])
                first = first or time.perf_counter()
                taken += 1
            socket.close()
            context.term()
        else:
            collector = Collector(lambda run: None)
            flow = open_documents(address.replace("tcp", "bluesky+zmq"))
            flow.take(0.0)
            go.set()
            while taken < total:
                found = flow.take(1.0)
                if found is not None:
                    first = first or time.perf_counter()
                    collector.hear(*found)
                    taken += 1
            flow.close()
        return taken / (time.perf_counter() - first)
    finally:
        process.join()


def run_of(found: Iterator[tuple[str, dict[str, Any]]]) -> Run:
    """All documents at once."""
    runs: list[Run] = []
    collector = Collector(runs.append)
    for name, doc in found:
        collector.hear(name, doc)
    return runs[0]


RULES = mapping_from_dict({"name": "bench", "projection": {"key": "det"}, "theta": {"key": "rot"}})


def frames_per_second(folder: Path, count: int, side: int) -> tuple[float, float]:
    """As a run, and by h5py alone."""
    path = folder / "frames.h5"
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(DATA, (count, side, side), "u2", chunks=(1, side, side))
        for n in range(count):
            data[n] = np.random.default_rng(n).integers(1, 60000, (side, side), np.uint16)
    time.sleep(1.5)  # a file that has just been changed may be changed again
    run = run_of(documents("f", path, count, (side, side)))
    source = RunSource(run, RULES, Roots([folder]))
    info = source.info()
    began = time.perf_counter()
    taken = sum(isinstance(item, Frame) for item in source.frames(slice(0, side), info))
    ours = taken / (time.perf_counter() - began)
    block = max(1, (16 << 20) // (side * side * 2))
    began = time.perf_counter()
    with h5py.File(path, "r", locking=False) as file:
        for n in range(0, count, block):
            np.ascontiguousarray(file[DATA][n : n + block])
    return ours, count / (time.perf_counter() - began)


def _write(path: str, count: int, side: int, fps: float, times: Any) -> None:
    image = np.random.default_rng(0).integers(100, 60000, (side, side), np.uint16)
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(DATA, (0, side, side), "u2", maxshape=(None, side, side), chunks=(1, side, side))
        file.swmr_mode = True
        due = time.monotonic()
        for n in range(count):
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))
            data.resize(n + 1, 0)
            data[n] = image
            data.flush()
            times[n] = time.monotonic()


def delays(folder: Path, count: int, side: int, fps: float) -> np.ndarray:
    """Seconds from a frame's being flushed to its being in the accumulator."""
    path, context = folder / "live.h5", multiprocessing.get_context("spawn")
    times = context.Array("d", count, lock=False)
    config = from_dict({"recon": {"center": (side - 1) / 2}, "emit": {"every": 10 * count}})
    run = Run({"uid": "live", "plan_name": "bench"})
    entered = np.full(count, np.nan)
    with Engine(config, folder / "out", lambda event: None) as engine:
        source = RunSource(run, RULES, Roots([folder]))

        def send() -> None:
            info = source.info()
            send_scan(info, partial(source.frames, info=info), engine.endpoint, can_replay=True)

        writer = context.Process(target=_write, args=(str(path), count, side, fps, times))
        collector = Collector(lambda found: None)
        collector._runs["live"], collector._seen["live"] = run, set()
        for name, doc in documents("live", path, count, (side, side)):
            if name != "start":
                collector.hear(name, doc)
        writer.start()
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        had = 0
        while engine.wait(0.0) is None:
            now = engine.status().in_volume
            if now > had:
                entered[had:now] = time.monotonic()
                had = now
            time.sleep(0.001)
        writer.join()
        sender.join()
    return entered - np.array(times[:])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    print(machine())
    count, port = 4000 if quick else 20000, 5661
    print(f"\n{count} documents, 127.0.0.1   documents/s   bare/s   ratio (median of 3)")
    for form in PACK:
        pairs = []
        for _ in range(1 if quick else 3):
            pairs.append([documents_per_second(form, count, bare, port + bare) for bare in (False, True)])
            port += 2
        ours, bare = np.median(pairs, axis=0)
        print(f"{form:25}   {ours:11.0f}   {bare:6.0f}   {ours / bare:.2f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("\nframes of a finished file   frames/s   h5py/s   ratio (median of 3)")
        for side in (256, 1024):
            pairs = [list(frames_per_second(folder, 64 if quick else 256, side)) for _ in range(1 if quick else 3)]
            ours, bare = np.median(pairs, axis=0)
            print(f"{side} x {side} uint16{'':12}   {ours:8.0f}   {bare:6.0f}   {ours / bare:.2f}")
        print("\ndelay from file to accumulator   p50 ms   p99 ms")
        for fps in (20.0, 50.0):
            found = delays(folder, 60 if quick else 300, 256, fps) * 1e3
            print(
                f"256 x 256, {fps:g} frames/s{'':10}   {np.nanpercentile(found, 50):6.0f}   {np.nanpercentile(found, 99):6.0f}"
            )
            (folder / "live.h5").unlink()


if __name__ == "__main__":
    main()
