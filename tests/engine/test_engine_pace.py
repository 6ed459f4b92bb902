"""Back pressure, bounded memory, and the plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_scans import D, F, P, Scan, batch, config, difference, held, simulated, stream

from streamrecon.config import Config
from streamrecon.engine import Engine, make_plan
from streamrecon.errors import PeerLostError, PlanError, ScanAbortedError
from streamrecon.scan import Frame
from streamrecon.transport import send_scan

FRAME = 6 * 48 * 2
READ_AHEAD = 6
"""What the sender itself holds: its queue, one that waits for credit, and one being read."""


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(center=24.3)


class Watched:
    """Counts how far the source is read ahead of the volume."""

    def __init__(self, scan: Scan) -> None:
        self.scan, self.engine, self.most, self.read = scan, None, 0, 0

    def frames(self, rows: slice) -> Iterator[Frame]:
        for frame in self.scan.frames(rows):
            if frame.kind == P:
                self.read += 1
                if self.engine is not None:
                    self.most = max(self.most, self.read - self.engine.status().in_volume)
            yield frame

    def watch(self, engine: Engine) -> None:
        self.engine = engine


def paced(**engine: Any) -> Config:
    return config(engine={"delay": 0.01, "ring_bytes": 4 * FRAME, **engine})


@pytest.mark.parametrize(("ring", "size"), [(4, 16), (4, 2), (2, 16), (2, 1), (2, 2), (3, 5), (100, 1)])
def test_a_slow_engine_paces_the_sender(scan: Scan, tmp_path: Path, ring: int, size: int) -> None:
    watched = Watched(scan)
    options = paced(ring_bytes=ring * FRAME, batch=size)
    streamed = stream(scan, options, tmp_path, frames=watched.frames, watch=watched.watch)
    assert difference(streamed.volume, batch(scan, options)) < 1e-5
    assert streamed.result is not None
    assert streamed.result.status.ring_frames == min(ring, 70)
    assert streamed.result.status.in_volume == streamed.result.status.projections == 60
    assert streamed.report is not None
    if ring < 10:
        assert streamed.report.waited > 0.1
        # one ring, one batch being accumulated and one waiting, and what the sender holds
        assert watched.most <= ring + 2 * size + READ_AHEAD, watched.most


def test_a_ring_for_less_than_a_frame_holds_two(scan: Scan, tmp_path: Path) -> None:
    options = config(engine={"ring_bytes": 1})
    streamed = stream(scan, options, tmp_path)
    assert difference(streamed.volume, batch(scan, options)) < 1e-5
    assert streamed.result is not None
    assert streamed.result.status.ring_frames == 2


@pytest.mark.parametrize("order", ["recorded", "flats last"])
def test_a_tiny_ring_while_the_center_is_waited_for(tmp_path: Path, order: str) -> None:
    """Nothing may wait for a frame while it withholds credit."""
    scan = simulated(center=27.0)
    sent = scan if order == "recorded" else scan.arranged(scan.of(P), scan.of(F), scan.of(D))
    options = config(
        recon={"center": None, "center_wait": 1.0}, emit={"every": 10}, engine={"ring_bytes": 2 * FRAME, "batch": 64}
    )
    streamed = stream(sent.unknown(), options, tmp_path)
    assert streamed.result is not None
    assert streamed.result.final


def test_versions_of_a_slow_engine_with_a_small_ring(scan: Scan, tmp_path: Path) -> None:
    watched = Watched(scan)
    options = config(emit={"every": 5}, engine={"delay": 0.005, "ring_bytes": 2 * FRAME, "batch": 4})
    streamed = stream(scan, options, tmp_path, frames=watched.frames, watch=watched.watch)
    assert difference(streamed.volume, batch(scan, options)) < 1e-5
    assert watched.most <= 2 * 2 + 2 * 4 + READ_AHEAD


def test_the_counters_say_so(scan: Scan, tmp_path: Path) -> None:
    looks: list[Any] = []

    def watch(engine: Engine) -> None:
        while engine.status().in_volume < 40:
            looks.append(engine.status())
            time.sleep(0.01)

    stream(scan, paced(), tmp_path, watch=watch)
    running = [s for s in looks if s.phase == "accumulating"]
    assert all(0 <= s.credit_frames <= s.ring_frames == 4 for s in running)
    assert min(s.credit_frames for s in running) == 0
    assert all(s.projections >= s.in_volume for s in running)
    assert any(s.rate > 0 for s in running)
    assert running[-1].uid == scan.info.uid


@pytest.mark.parametrize(
    ("limit", "names"),
    [
        ({"memory_bytes": 1_000_000}, ("engine.memory_bytes", "--rows")),
        ({"disk_bytes": 50_000}, ("engine.disk_bytes", "--every")),
    ],
)
def test_what_does_not_fit_is_refused(
    scan: Scan, tmp_path: Path, limit: dict[str, int], names: tuple[str, ...]
) -> None:
    options = config(engine=limit)
    with pytest.raises(PlanError) as raised:
        make_plan(scan.info, (0, 6), options, tmp_path)
    assert all(name in str(raised.value) for name in names)
    streamed = stream(scan, options, tmp_path)
    assert isinstance(streamed.sender_error, ScanAbortedError)
    assert all(name in str(streamed.sender_error) for name in names), streamed.sender_error
    assert all(name in str(streamed.engine_error) for name in names)
    assert isinstance(streamed.engine_error, PlanError), type(streamed.engine_error)
    assert not (tmp_path / "journal").exists()


def test_another_scan_in_the_folder_is_an_output_error(scan: Scan, tmp_path: Path) -> None:
    from streamrecon.errors import OutputError

    stream(scan, config(), tmp_path)
    streamed = stream(simulated(center=24.3, seed=77), config(), tmp_path)
    assert isinstance(streamed.engine_error, OutputError), type(streamed.engine_error)


def test_the_plan_covers_what_is_used(scan: Scan, tmp_path: Path) -> None:
    for method in ("direct", "fourier"):
        plan = make_plan(scan.info, (0, 6), config(recon={"method": method}), tmp_path)
        assert plan.method == method
        assert plan.memory["ring"] == 70 * FRAME
        assert plan.disk["journal"] == 70 * FRAME
        assert all(value >= 0 for value in (*plan.memory.values(), *plan.disk.values()))
        assert "memory" in "\n".join(plan.lines())


def test_a_center_far_away_is_refused_or_planned(scan: Scan, tmp_path: Path) -> None:
    """A mistyped center must not ask for terabytes or crash."""
    streamed = stream(scan, config(recon={"center": 1e9}), tmp_path)
    assert streamed.engine_error is not None
    assert streamed.sender_error is not None
    assert "center" in str(streamed.engine_error) or "engine.memory_bytes" in str(streamed.engine_error)


def test_a_second_sender_is_told_that_the_engine_is_busy(scan: Scan, tmp_path: Path) -> None:
    other = simulated(center=24.3, seed=50)
    errors: list[Exception] = []
    busy: list[str] = []
    go = threading.Event()

    def watch(engine: Engine) -> None:
        while engine.status().projections < 2:
            time.sleep(0.01)
        try:
            send_scan(
                other.info,
                other.frames,
                engine.endpoint,
                connect_timeout=3.0,
                progress=lambda end: busy.append(end.busy.reason) if end.busy else None,
            )
        except Exception as error:
            errors.append(error)
        go.set()

    streamed = stream(scan, paced(delay=0.01), tmp_path, frames=held(scan, 20, go), watch=watch)
    assert isinstance(errors[0], PeerLostError)
    assert scan.info.uid in str(errors[0])
    assert any(scan.info.uid in reason for reason in busy)
    assert difference(streamed.volume, batch(scan, config())) < 1e-5


def test_a_sender_may_come_before_the_engine(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    endpoint = f"ipc://{tmp_path}/s/e"
    if len(endpoint) > 100:
        pytest.skip("the temporary folder's path is too long for an ipc socket")
    reports: list[Any] = []
    sender = threading.Thread(
        target=lambda: reports.append(send_scan(scan.info, scan.frames, endpoint, connect_timeout=20)), daemon=True
    )
    sender.start()
    time.sleep(0.3)
    with Engine(config(engine={"listen": endpoint}), tmp_path / "out") as engine:
        result = engine.wait(30)
        sender.join(10)
    assert result is not None
    assert result.final
    assert reports[0].frames == 70


def test_two_engines_in_one_process(tmp_path: Path) -> None:
    """Two scans at once in a notebook: numba's workqueue aborts the process when two threads call parallel kernels."""
    import subprocess
    import sys

    code = """
import threading, sys, pathlib
sys.path.insert(0, sys.argv[2])
from engine_scans import simulated, config, stream
out = pathlib.Path(sys.argv[1])
scans = [simulated(rows=16, columns=128, projections=150, seed=s, center=63.0) for s in (1, 2)]
def one(i):
    r = stream(scans[i], config(recon={"center": 63.0}, engine={"batch": 1}), out / str(i))
    assert r.result is not None and r.result.final, r
threads = [threading.Thread(target=one, args=(i,)) for i in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]
print("both done")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "both done" in ran.stdout
    assert "Traceback" not in ran.stderr, ran.stderr


def test_frames_of_each_kind_are_counted(scan: Scan, tmp_path: Path) -> None:
    streamed = stream(scan, config(), tmp_path)
    assert streamed.result is not None
    status = streamed.result.status
    assert (status.frames, status.projections, status.expected) == (70, 60, 60)
    assert status.nbytes == 70 * FRAME
    assert status.dropped == 0
    assert status.latency is not None
    assert len(scan.of(D)) + len(scan.of(F)) == 10
