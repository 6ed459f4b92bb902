"""Attached to the real thing: runs of the RunEngine, over the real proxy, of ophyd-async detectors that write real files."""

from __future__ import annotations

import datetime
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zmq
from bluesky_proxy import running_proxy
from system_processes import Process, Processes, free_endpoint, processes, told, until, volume

from streamrecon import Config, reconstruct
from streamrecon.config import ReconConfig, SimulatedConfig

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
CONFIG = """
[engine]
heartbeat = 0.2
return_timeout = 30.0
sync_seconds = 0.1
[emit]
every = 30
"""


MAPPING = """
[run]
match = { plan_name = "scan" }
[theta]
from = "event"
key = "rot"
units = "deg"
[scan]
pixel_size = 1e-6
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Processes]:
    yield from processes(tmp_path)


class Beamline:
    """The proxy, an engine, an attachment, and scans."""

    def __init__(self, started: Processes, folder: Path, addresses: tuple[str, str]) -> None:
        self.started, self.folder = started, folder
        self.publish, self.subscribe = (address.removeprefix("tcp://") for address in addresses)
        self.images, self.out, self.keep = folder / "images", folder / "out", folder / "keep"
        self.images.mkdir()
        self.config = folder / "c.toml"
        self.config.write_text(CONFIG)
        self.endpoint = free_endpoint()

    def recon(self, *options: Any) -> Process:
        recon = self.started.streamrecon(
            "recon", "--listen", self.endpoint, "--out", self.out, "--config", self.config, "--quiet", *options
        )
        until(lambda: told(self.out, "listen"), what="an engine")
        return recon

    def attach(self, mapping: Any, *options: Any) -> Process:
        attach = self.started.streamrecon(
            "attach", f"bluesky+zmq://{self.subscribe}", "--to", self.endpoint, "--mapping", mapping,
            "--root", self.images, "--keep", self.keep, "--config", self.config, *options,
        )  # fmt: skip
        until(lambda: "waiting for documents" in attach.err, what=f"an attachment: {attach.err}")
        time.sleep(0.5)  # ZeroMQ does not say when a subscription is there
        return attach

    def scan(self, kind: str, *options: Any) -> Process:
        script = EXAMPLES / f"bluesky_{kind}_scan.py"
        return self.started.start(
            self.started.python, script, "--publish", self.publish, "--folder", self.images, *options
        )

    def recorded(self, out: Path) -> dict[str, Any]:
        """The volume of the recorded file, where it lies now."""
        (path,) = self.images.glob("*.h5")
        with h5py.File(path, "r", locking=False) as file:
            frames, angles = file["entry/data/data"][:], file["entry/angles"][:]
        with h5py.File(self.folder / "recorded.h5", "w") as file:
            exchange = file.create_group("exchange")
            exchange["data_dark"], exchange["data_white"], exchange["data"] = frames[:5], frames[5:10], frames[10:]
            exchange["theta"] = angles[10:]
            exchange["theta"].attrs["units"] = "deg"
        run = self.started.streamrecon("run", self.folder / "recorded.h5", "--out", out, "--quiet")
        assert run.wait(150) == 0, run.err
        return volume(out)


@pytest.fixture
def beamline(started: Processes, tmp_path: Path) -> Iterator[Beamline]:
    with running_proxy() as addresses:
        yield Beamline(started, tmp_path, addresses)


def seconds(entry: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(entry["time"]).timestamp()


@pytest.mark.parametrize("kind", ["step", "fly"])
def test_a_run_is_reconstructed_while_it_happens(beamline: Beamline, kind: str) -> None:
    recon = beamline.recon("--once")
    mapping = "step-scan" if kind == "step" else EXAMPLES / "bluesky_fly_scan.toml"
    attach = beamline.attach(mapping, "--once")
    scan = beamline.scan(kind, "--projections", 90, *(["--seconds", 12] if kind == "fly" else []))
    assert scan.wait(150) == 0, scan.err
    assert attach.wait(150) == 0, attach.err
    assert recon.wait(150) == 0, recon.err
    found, expected = volume(beamline.out), beamline.recorded(beamline.folder / "recorded")
    assert found["final"]
    assert list(found["indices"]) == list(range(90))
    assert np.abs(found["data"] - expected["data"]).max() < 1e-4 * np.abs(expected["data"]).max()
    # Versions appeared before the last frame was written.
    (path,) = beamline.images.glob("*.h5")
    assert seconds(told(beamline.out, "version")[0]) < path.stat().st_mtime


@pytest.mark.parametrize("when", [1.5, 3.0])
def test_attach_is_killed_and_started_again(beamline: Beamline, when: float) -> None:
    """What documents and files still hold is not lost: of a fly scan everything."""
    recon = beamline.recon("--once")
    attach = beamline.attach(EXAMPLES / "bluesky_fly_scan.toml")
    scan = beamline.scan("fly", "--projections", 90, "--seconds", 4)
    until(lambda: list(beamline.keep.glob("*.documents")), what="a run")
    time.sleep(when)
    attach.kill()
    time.sleep(0.7)
    again = beamline.attach(EXAMPLES / "bluesky_fly_scan.toml", "--once")
    assert scan.wait(150) == 0, scan.err
    assert again.wait(150) == 0, again.err
    assert recon.wait(150) == 0, recon.err
    found, expected = volume(beamline.out), beamline.recorded(beamline.folder / "recorded")
    assert list(found["indices"]) == list(range(90))
    assert np.abs(found["data"] - expected["data"]).max() < 1e-4 * np.abs(expected["data"]).max()


def test_run_after_run_and_hostile_documents_between(beamline: Beamline) -> None:
    recon, attach = beamline.recon(), beamline.attach("step-scan")
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.connect(f"tcp://{beamline.publish}")
    bombs = [
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.", b"{" * 10_000,
        b"\xdd\xff\xff\xff\xff", pickle.dumps({"uid": "../../etc"}), pickle.dumps([1, 2]), b"",
    ]  # fmt: skip
    for number in range(2):
        for bomb in bombs:
            for name in (b"start", b"event", b"__init__"):
                socket.send(b" ".join([b"", name, bomb]))
        scan = beamline.scan("step", "--projections", 40)
        assert scan.wait(150) == 0, scan.err
        until(lambda number=number: attach.err.count("is reconstructed") == number + 1, what=f"a scan: {attach.err}")
    socket.close()
    context.term()
    assert attach.popen.poll() is None
    assert recon.popen.poll() is None
    assert not Path("/tmp/owned").exists()
    volumes = list(beamline.out.glob("*/volume.h5"))
    assert len(volumes) == 2
    for path in volumes:
        assert volume(path.parent)["final"]


@pytest.mark.slow
def test_schedules_of_slow_writers_and_interleaved_runs(beamline: Beamline) -> None:
    """Five, each of two runs: every frame is in the volume once, with its angle."""
    beamline.config.write_text(CONFIG + '[attach]\nwaiting = 20\n[recon]\ncenter = 31.5\nmethod = "direct"\n')
    mapping = beamline.folder / "map.toml"
    mapping.write_text(MAPPING)
    recon, attach = beamline.recon(), beamline.attach(mapping)
    schedules = [
        beamline.started.start(
            beamline.started.python,
            Path(__file__).parent / "bluesky_schedule.py",
            seed,
            beamline.publish,
            beamline.images,
        )
        for seed in range(5)
    ]
    for schedule in schedules:
        assert schedule.wait(150) == 0, schedule.err
    until(lambda: attach.err.count("is reconstructed") == 10, 90, what="all runs")
    uids = [uid for schedule in schedules for uid in schedule.out.split()]
    expected = [reference(number) for number in range(2)]
    for place, uid in enumerate(uids):
        found = volume(beamline.out / uid)
        assert found["final"]
        assert list(found["indices"]) == list(range(40))
        assert np.abs(found["data"] - expected[place % 2]).max() < 1e-4 * np.abs(expected[place % 2]).max()
    assert recon.popen.poll() is None


def reference(number: int) -> Any:
    simulated = SimulatedConfig(phantom="disc", rows=4, columns=64, projections=40, flats=0, darks=0, seed=number)
    return reconstruct("simulated", config=Config(simulated=simulated, recon=ReconConfig(center=31.5, method="direct")))


def test_dry_run(beamline: Beamline) -> None:
    dry = beamline.started.streamrecon(
        "attach",
        f"bluesky+zmq://{beamline.subscribe}",
        "--dry-run",
        "--mapping",
        "step-scan",
        "--root",
        beamline.images,
    )
    until(lambda: "waiting for documents" in dry.err, what="a dry run")
    time.sleep(0.5)
    scan = beamline.scan("step", "--projections", 10)
    assert scan.wait(150) == 0, scan.err
    out = until(lambda: dry.out if "state" in dry.out else "", what=f"what would map: {dry.err}")
    assert "projections 10 so far, detector of the stream primary" in out
    assert "0.0000 to 162.0000 degrees" in out
    assert "flats       5 so far" in out
    assert "state       ended: success" in out
