"""Real writers of HDF5 files, in processes of their own and in their own time, and this reader beside them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from system_processes import Process, Processes, processes, until, volume

import streamrecon
from streamrecon.config import Config, EmitConfig, ReconConfig, SourceConfig
from streamrecon.errors import SourceFileError
from streamrecon.replayer import replay
from streamrecon.scan import Frame
from streamrecon.sources import SwmrSource
from streamrecon.sources.growing import GrowingStack
from streamrecon.sources.roots import Roots
from streamrecon.sources.visit import NotYetError

PLACE = "entry/data/data"
ROWS, COLUMNS = 8, 32

FRAME = f"""
import os, random, sys, time
import h5py, numpy as np
def frame(i):
    return (np.arange({ROWS} * {COLUMNS}).reshape({ROWS}, {COLUMNS}) * (i + 3) % 251 + 1 + i).astype("u2")
"""

HAMMER = (
    FRAME
    + f"""
path = sys.argv[1]
for turn in range(25):
    with h5py.File(path, "w", libver="latest") as f:
        f.create_dataset("entry/data/data", (0, {ROWS}, {COLUMNS}), maxshape=(None, {ROWS}, {COLUMNS}), dtype="u2")
    for mode in ("a", "r+"):
        with h5py.File(path, mode, libver="latest") as f:
            d = f["entry/data/data"]
            f.swmr_mode = True
            for i in range(3):
                d.resize(len(d) + 1, 0)
                d[-1] = frame(i)
                d.flush()
print("hammered")
"""
)

MOODY = (
    FRAME
    + f"""
path, seed, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
mood = random.Random(seed)
swmr, chunk = seed % 3 != 2, mood.choice([1, 1, 4])
def rest():
    time.sleep(mood.uniform(0, 0.03))
time.sleep(mood.uniform(0, 0.5))
if seed % 2:
    with h5py.File(path, "w") as f:  # of a run before, replaced before anything of this one is there
        f["entry/other"] = 1
    time.sleep(0.3)
    os.unlink(path)
def create(f):
    shape = ({ROWS}, {COLUMNS})
    f.create_dataset("entry/data/data", (0, *shape), maxshape=(None, *shape), chunks=(chunk, *shape), dtype="u2")
with h5py.File(path, "w", libver="latest") as f:
    create(f)
done = 0
while done < total:
    with h5py.File(path, "a", libver="latest") as f:
        d = f["entry/data/data"]
        rest()
        if swmr:
            f.swmr_mode = True
        for _ in range(mood.randint(1, total)):
            if done == total:
                break
            d.resize(done + 1, 0)
            if mood.random() < 0.3:
                d.flush()
                rest()
            d[done] = frame(done)
            done += 1
            if mood.random() < 0.5:
                d.flush()
            rest()
    rest()
print("written")
"""
)

SILENT = (
    FRAME
    + f"""
f = h5py.File(sys.argv[1], "w", libver="latest")
d = f.create_dataset("entry/data/data", (9, {ROWS}, {COLUMNS}), chunks=(1, {ROWS}, {COLUMNS}), dtype="u2")
if sys.argv[2] == "swmr":
    f.swmr_mode = True
for i in range(5):
    d[i] = frame(i)
d.flush()
print("silent", flush=True)
time.sleep(600)
"""
)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    yield from processes(tmp_path)


def _python(started: Processes, code: str, *arguments: object) -> Process:
    return started.start(sys.executable, "-c", code, *arguments)


def _frame(index: int) -> np.ndarray:
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * (index + 3) % 251 + 1 + index).astype("u2")


def test_our_open_handles_never_make_a_writer_fail(started: Processes, tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    writer = _python(started, HAMMER, path)
    stack = GrowingStack(path, PLACE, Roots([tmp_path]))
    visits = 0
    while writer.popen.poll() is None:
        try:
            with stack._arrive() as arrival:
                visits += 1
                # Held for as long as it takes the writer to do several things.
                threading.Event().wait(0.02)
                arrival.dataset.refresh()
        except NotYetError:
            pass
    assert writer.wait() == 0, writer.err
    assert "hammered" in writer.out
    assert visits


@pytest.mark.slow
def test_moody_writers_are_followed_frame_by_frame(started: Processes, tmp_path: Path) -> None:
    total = 40
    writers = [_python(started, MOODY, tmp_path / f"scan{seed}.h5", seed, total) for seed in range(5)]
    config = SourceConfig(data=PLACE, angle_step=1.0, patience=30.0)

    def follow(seed: int) -> list[Frame]:
        items = list(SwmrSource(tmp_path / f"scan{seed}.h5", config).frames())
        return [item for item in items if isinstance(item, Frame)]

    with ThreadPoolExecutor(5) as pool:
        followed = list(pool.map(follow, range(5)))
    for writer, frames in zip(writers, followed, strict=True):
        assert writer.wait() == 0, writer.err
        assert [frame.index for frame in frames] == list(range(total))
        for index, frame in enumerate(frames):
            assert np.array_equal(frame.data, _frame(index))


@pytest.mark.parametrize(("kind", "frames"), [("swmr", 5), ("alone", 0)])
def test_what_a_killed_writer_left_is_read_and_its_end_is_an_error(
    kind: str, frames: int, started: Processes, tmp_path: Path
) -> None:
    path = tmp_path / "scan.h5"
    writer = _python(started, SILENT, path, kind)
    until(lambda: "silent" in writer.out, what="frames")
    writer.signal(signal.SIGKILL)
    writer.wait()
    came: list[object] = []
    said = "after 5 projections.*its writer died" if frames else "not turned SWMR on"
    with pytest.raises(SourceFileError, match=said):
        came.extend(SwmrSource(path, SourceConfig(data=PLACE, angle_step=20.0, patience=1.0)).frames())
    assert len(came) == frames


@pytest.mark.parametrize("killed", [False, True])
def test_a_growing_file_becomes_a_volume(killed: bool, started: Processes, tmp_path: Path) -> None:
    path, out = tmp_path / "scan.h5", tmp_path / "out"
    total = 24
    writer = _python(started, SILENT if killed else MOODY, path, "swmr" if killed else 4, total)
    config = Config(
        source=SourceConfig(data=PLACE, angle_step=180.0 / total, patience=3.0 if killed else 30.0),
        recon=ReconConfig(center=15.5),
        emit=EmitConfig(every=10),
    )
    if killed:
        until(lambda: "silent" in writer.out, what="frames")
    with streamrecon.Engine(config, out) as engine:
        if killed:
            with pytest.raises(SourceFileError, match="after 5 projections"):
                replay(f"file+swmr://{path}", engine.endpoint, config, live=True)
        else:
            assert replay(f"file+swmr://{path}", engine.endpoint, config, live=True).frames == total
        result = engine.wait(150)
    assert result is not None
    assert result.final is not killed
    got = volume(out)
    assert got["indices"].tolist() == list(range(5 if killed else total))
    assert got["final"] is not killed
    if not killed:
        assert writer.wait() == 0
    with h5py.File(path, "r+", locking=False) if not killed else h5py.File(out / "volume.h5", "r") as file:
        assert file  # nothing of ours keeps it open
