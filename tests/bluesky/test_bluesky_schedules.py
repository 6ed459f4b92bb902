"""Slow writers, late flushes, files that are closed and opened again, interleaved runs: seeded, on a clock that is injected."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky_scans import COLUMNS, ROWS, STEP, Scan, image, projections, source_of
from source_writer import Writer, writing

from streamrecon.bluesky.collect import Collector
from streamrecon.bluesky.run import Run

DET = {"shape": [1, ROWS, COLUMNS], "dtype": "array", "external": "STREAM:"}


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    with writing() as started:
        yield started


class World:
    """What happens, when."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), call))

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self._queue and self._queue[0][0] <= until:
            self.now, _, call = heapq.heappop(self._queue)
            call()
        self.now = until


def schedule(
    rng: random.Random, world: World, writer: Writer, path: Path, number: int, count: int, began: float
) -> Scan:
    """One run: what its writer and its documents do, each in its own time."""
    scan = Scan()
    scan.stream(det=DET, rot={})
    resource = scan.resource(path)
    swmr, reopens = rng.random() < 0.7, rng.random() < 0.4
    flush_every, lag = rng.choice([1, 1, 2, 5]), rng.choice([0.0, 0.2, 2.0])
    file = f"f{number}"
    when = began + lag

    def tell(code: str, **values: Any) -> Callable[[], None]:
        return lambda: writer.tell(code, **values)

    create = (
        f"{file} = h5py.File(path, 'w', libver='latest')\n"
        f"{file}.create_dataset('entry/data/data', (0, {ROWS}, {COLUMNS}), 'u2', maxshape=(None, {ROWS}, {COLUMNS}), "
        f"chunks=(1, {ROWS}, {COLUMNS}))" + (f"\n{file}.swmr_mode = True" if swmr else "")
    )
    world.at(when, tell(create, path=str(path)))
    for row in range(count):
        when += rng.expovariate(3.0)
        put = (
            f"d = {file}['entry/data/data']\nd.resize({row + 1}, 0)\nd[{row}] = np.array(v, 'u2')"
            + (f"\n{file}.flush()" if row % flush_every == flush_every - 1 else "")
        )  # fmt: skip
        world.at(when, tell(put, v=image(100 * number + row).tolist()))
        if reopens and row == count // 2:
            again = f"{file}.close()\n{file} = h5py.File(path, 'a', libver='latest')"
            world.at(when, tell(again + (f"\n{file}.swmr_mode = True" if swmr else ""), path=str(path)))
        # A document may well come before its row can be read.
        scan.rows(resource, (row, row + 1), (row + 1, row + 2))
        scan.event(row + 1, rot=10.0 * row)
    world.at(when + rng.uniform(0.0, 3.0), tell(f"{file}.close()"))
    scan.stop(primary=count)
    return scan


@pytest.mark.parametrize("seed", range(50))
def test_every_image_comes_once_and_as_it_was_written(tmp_path: Path, writer: Writer, seed: int) -> None:
    rng, world = random.Random(seed), World()
    runs: dict[str, Run] = {}
    collector = Collector(lambda run: runs.update({run.uid: run}))
    counts = [rng.randint(3, 12) for _ in range(rng.choice([1, 2, 2, 3]))]
    scans = [
        schedule(rng, world, writer, tmp_path / f"{n}.h5", n, count, 1000.0 + rng.uniform(0.0, 3.0))
        for n, count in enumerate(counts)
    ]
    for scan in scans:
        when = 1000.0 + rng.uniform(0.0, 2.0)
        for name, doc in scan.documents:
            world.at(when, lambda name=name, doc=doc: collector.hear(name, doc))  # type: ignore[misc]
            when += rng.expovariate(6.0) * (name != "stream_datum")
    while len(runs) < len(scans):
        world.sleep(0.1)
    for number, (scan, count) in enumerate(zip(scans, counts, strict=True)):
        source = source_of(runs[scan.uid], STEP, tmp_path, clock=world, sleep=world.sleep)
        found = [(item, item.data[0, 0] - 1) for item in source.frames() if hasattr(item, "data")]
        assert [int(value) for _, value in found] == [100 * number + row for row in range(count)]
        for item, value in found:
            assert (item.data == image(int(value))).all()
        assert {i: theta for i, (_, theta) in projections([item for item, _ in found]).items()} == {
            row: 10.0 * row for row in range(count)
        }
