"""Two runs, interleaved: their writers are slow, flush late, close their files and open them again; by the seed.

Run as a program: SEED, where to publish, and the folder of the images. The documents go over Bluesky's own publisher.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
from bluesky.callbacks.zmq import Publisher

from streamrecon.config import SimulatedConfig
from streamrecon.sources import SimulatedSource

ROWS, COLUMNS, PROJECTIONS = 4, 64, 40


class Writer:
    """One file."""

    def __init__(self, path: Path, swmr: bool) -> None:
        self.path, self.swmr = path, swmr
        self.open("w")

    def open(self, mode: str) -> None:
        self.file = h5py.File(self.path, mode, libver="latest")
        if mode == "w":
            shape = ROWS, COLUMNS
            self.file.create_dataset("data", (0, *shape), "u2", maxshape=(None, *shape), chunks=(1, *shape))
        if self.swmr:
            self.file.swmr_mode = True

    def put(self, image: np.ndarray, flush: bool) -> None:
        data = self.file["data"]
        data.resize(len(data) + 1, 0)
        data[-1] = image
        if flush:
            self.file.flush()

    def again(self) -> None:
        self.file.close()
        self.open("a")


def main(seed: int, publish: str, folder: Path) -> None:
    rng, publisher = random.Random(seed), Publisher(publish)
    time.sleep(1.0)
    events: list[tuple[float, int, Callable[[], None]]] = []
    order = itertools.count()

    def at(when: float, call: Callable[..., Any], *arguments: Any) -> None:
        heapq.heappush(events, (when, next(order), lambda: call(*arguments)))

    for number in range(2):
        config = SimulatedConfig(
            phantom="disc", rows=ROWS, columns=COLUMNS, projections=PROJECTIONS, flats=0, darks=0, seed=number
        )
        bundle = event_model.compose_run(metadata={"plan_name": "scan", "scan_id": number})
        keys = {
            "det": {"source": "x", "dtype": "array", "shape": [1, ROWS, COLUMNS], "external": "STREAM:"},
            "rot": {"source": "x", "dtype": "number", "shape": []},
        }
        descriptor = bundle.compose_descriptor(name="primary", data_keys=keys).descriptor_doc
        path = folder / f"{seed}-{number}.h5"
        resource = bundle.compose_stream_resource(
            mimetype="application/x-hdf5", uri=f"file://localhost{path}", data_key="det", parameters={"dataset": "/data"}
        ).stream_resource_doc  # fmt: skip
        for name, doc in (("start", bundle.start_doc), ("descriptor", descriptor), ("stream_resource", resource)):
            at(0.0, publisher, name, dict(doc))
        writer, swmr = [None], rng.random() < 0.7
        when = rng.uniform(0.0, 1.0)
        at(when, lambda writer=writer, path=path, swmr=swmr: writer.__setitem__(0, Writer(path, swmr)))
        flush_every, reopens = rng.choice([1, 3]), rng.random() < 0.4
        for row, frame in enumerate(SimulatedSource(config).frames()):
            when += rng.expovariate(25.0)
            at(when, lambda w=writer, d=frame.data, f=row % flush_every == 0: w[0].put(d, f))
            if reopens and row == PROJECTIONS // 2:
                at(when, lambda w=writer: w[0].again())
            said = when + rng.uniform(-0.3, 0.1)  # often before the row is there
            at(said, publisher, "stream_datum", {
                "uid": f"{resource['uid']}/{row}", "stream_resource": resource["uid"], "descriptor": descriptor["uid"],
                "indices": {"start": row, "stop": row + 1}, "seq_nums": {"start": row + 1, "stop": row + 2},
            })  # fmt: skip
            at(said, publisher, "event", {
                "uid": f"{descriptor['uid']}-{row}", "descriptor": descriptor["uid"], "seq_num": row + 1, "time": 0.0,
                "data": {"rot": float(np.rad2deg(frame.theta or 0.0))}, "timestamps": {"rot": 0.0}, "filled": {},
            })  # fmt: skip
        at(when + rng.uniform(0.0, 1.0), lambda w=writer: w[0].file.close())
        at(when + 0.2, publisher, "stop", {
            "uid": f"{bundle.start_doc['uid']}-s", "run_start": bundle.start_doc["uid"], "time": 0.0, "exit_status": "success",
            "num_events": {"primary": PROJECTIONS},
        })  # fmt: skip
        print(bundle.start_doc["uid"], flush=True)
    began = time.monotonic()
    while events:
        when, _, call = heapq.heappop(events)
        time.sleep(max(0.0, began + when - time.monotonic()))
        call()
    publisher.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
