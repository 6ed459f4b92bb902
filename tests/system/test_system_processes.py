"""Sender and engine as processes of their own: the end of one is noticed by the other, and what arrived is kept."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from system_processes import Processes, processes, told, until, volume
from websockets.sync.client import connect

CONFIG = """
[simulated]
phantom = "disc"
rows = 6
columns = 64
projections = 100
flats = 4
darks = 4
[recon]
center = 31.5
[emit]
every = 10
[engine]
heartbeat = 0.2
peer_timeout = 3.0
return_timeout = 0.5
[send]
return_timeout = 2.0
"""

pytestmark = pytest.mark.slow
HANGING_UP = pytest.param(
    signal.SIGHUP,
    marks=pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="the end of the terminal is ignored here (nohup)"
    ),
)


@pytest.fixture(name="started")
def _started(tmp_path: Path) -> Iterator[Processes]:
    yield from processes(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    return path


def endpoint(out: Path) -> str:
    return str(until(lambda: told(out, "listen"), what="an engine that listens")[-1]["endpoint"])


def test_two_processes_over_tcp(started: Processes, tmp_path: Path, config: Path) -> None:
    out = tmp_path / "out"
    config.write_text(CONFIG.replace("peer_timeout = 3.0", "peer_timeout = 30.0"))
    recon = started.streamrecon("recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", endpoint(out), "--config", config)
    assert replay.wait() == 0, replay.err
    assert recon.wait() == 0, recon.err
    assert "108 frames" in replay.out
    assert recon.err == ""
    found = volume(out)
    assert found["final"]
    assert list(found["indices"]) == list(range(100))
    assert len(told(out, "version")) >= 5


def test_a_killed_sender_leaves_a_partial_volume(started: Processes, tmp_path: Path, config: Path) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", endpoint(out), "--config", config, "--fps", "10")
    until(lambda: len(told(out, "version")) >= 3, what="three versions")
    replay.signal(signal.SIGKILL)
    assert recon.wait(150) == 1
    assert "silent" in recon.err
    assert "partial volume" in recon.err
    assert "Traceback" not in recon.err
    found = volume(out)
    assert not found["final"]
    assert "silent" in found["missing"]
    assert 30 <= len(found["indices"]) < 100
    assert np.isfinite(found["data"]).all()
    assert not list((out / "partials").glob(".v*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sender_says_so(started: Processes, tmp_path: Path, config: Path, number: int) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", endpoint(out), "--config", config, "--fps", "10")
    until(lambda: told(out, "version"), what="a version")
    replay.signal(number)
    assert replay.wait(150) == 130
    assert "Traceback" not in replay.err
    assert recon.wait(150) == 1
    assert "interrupted" in recon.err
    assert not volume(out)["final"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGING_UP])
def test_an_interrupted_engine_keeps_what_it_has(started: Processes, tmp_path: Path, config: Path, number: int) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", endpoint(out), "--config", config, "--fps", "10")
    until(lambda: told(out, "version"), what="a version")
    recon.signal(number)
    assert recon.wait(150) in (1, 130), recon.err
    assert "Traceback" not in recon.err
    assert replay.wait(150) not in (0, None)
    assert "interrupted" in replay.err
    assert "Traceback" not in replay.err
    found = volume(out)
    assert not found["final"]
    assert 10 <= len(found["indices"]) < 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGING_UP])
def test_an_engine_that_is_interrupted_while_it_waits(
    started: Processes, tmp_path: Path, config: Path, number: int
) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", out, "--config", config)
    endpoint(out)
    time.sleep(0.5)
    recon.signal(number)
    code = recon.wait(150)
    assert "Traceback" not in recon.err
    assert code == 130, (code, recon.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGING_UP])
def test_an_interrupted_run_leaves_no_process_and_a_partial_volume(
    started: Processes, tmp_path: Path, config: Path, number: int
) -> None:
    out = tmp_path / "out"
    run = started.streamrecon("run", "simulated", "--out", out, "--config", config, "--fps", "10")
    until(lambda: told(out, "version"), what="a version")
    children = run.children()
    assert children
    run.signal(number)
    assert run.wait(150) in (1, 130)
    assert "Traceback" not in run.err
    assert not psutil.wait_procs(children, timeout=60)[1], "the sender's process is left behind"
    found = volume(out)
    assert not found["final"]
    assert len(found["indices"]) >= 10


def test_a_run_whose_sender_dies(started: Processes, tmp_path: Path, config: Path) -> None:
    out = tmp_path / "out"
    run = started.streamrecon("run", "simulated", "--out", out, "--config", config, "--fps", "10")
    until(lambda: told(out, "version"), what="a version")
    for child in run.children():
        child.send_signal(signal.SIGKILL)
    assert run.wait(150) == 1
    assert "killed by signal 9" in run.err
    assert "partial volume" in run.err
    assert "Traceback" not in run.err
    assert not volume(out)["final"]


def test_a_killed_engine_is_noticed(started: Processes, tmp_path: Path, config: Path) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", endpoint(out), "--config", config, "--fps", "10")
    until(lambda: told(out, "version"), what="a version")
    recon.signal(signal.SIGKILL)
    assert replay.wait(150) not in (0, None)
    assert "silent" in replay.err
    assert "Traceback" not in replay.err
    assert not volume(out)["final"], "what was published before stays readable"


@pytest.mark.slow
def test_an_engine_that_is_started_anew_gets_the_whole_scan(started: Processes, tmp_path: Path, config: Path) -> None:
    out = tmp_path / "out"
    config.write_text(CONFIG.replace("peer_timeout = 3.0", "peer_timeout = 30.0"))
    recon = started.streamrecon("recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", out, "--config", config)
    where = endpoint(out)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "15")
    until(lambda: told(out, "version"), what="a version")
    recon.signal(signal.SIGKILL)
    recon.wait()
    again = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    assert again.wait(150) == 0, again.err
    assert replay.wait(150) == 0, replay.err
    found = volume(out)
    assert found["final"]
    assert len(found["indices"]) == 100


def test_a_run_with_a_page(started: Processes, tmp_path: Path, config: Path) -> None:
    """It shows the volume as it grows, then the finished one, until it is interrupted."""
    out = tmp_path / "out"
    run = started.streamrecon(
        "run", "simulated", "--out", out, "--config", config, "--fps", "8", "--log-json", "--view"
    )

    def told_of(event: str) -> dict[str, Any] | None:
        entries = [json.loads(line) for line in run.out.splitlines() if line.endswith("}")]
        return next((each for each in entries if each["event"] == event), None)

    url = until(lambda: told_of("view"), what="the page's address")["url"]
    assert url.startswith("http://127.0.0.1:")
    address, token = url.split("/#token=")
    assert b"<html" in urllib.request.urlopen(address, timeout=10).read()
    origin, socket_url = address, address.replace("http", "ws") + "/ws"
    with connect(socket_url, origin=origin, compression=None, max_size=None, proxy=None) as socket:

        def say(**fields: Any) -> None:
            socket.send(json.dumps(fields))

        def hear(kind: str) -> dict[str, Any]:
            while True:
                message = socket.recv(60)
                if isinstance(message, str) and (text := json.loads(message))["type"] == kind:
                    return dict(text)

        say(type="hello", token=token)
        assert hear("welcome")["role"] == "control"
        updates: list[dict[str, Any]] = []
        while not updates or not updates[-1]["final"]:
            say(type="want", serial=len(updates), places=[["z", 0]], size=512)
            updates.append(hear("update"))
        assert len({update["version"] for update in updates}) > 1
        until(lambda: told_of("stay"))
        while hear("link")["state"] != "file":
            pass
        say(type="want", serial=1000, places=[["z", 1]], size=512)
        assert hear("update")["final"]
    run.signal(signal.SIGINT)
    assert run.wait() == 0, run.err
    assert [json.loads(line) for line in run.out.splitlines()]


def test_a_closed_terminal(started: Processes, tmp_path: Path, config: Path) -> None:
    """`streamrecon run ... --log-json | head -1` ends before the scan would, and without a traceback."""
    out = tmp_path / "out"
    command = (
        f"{sys.executable} -m streamrecon run simulated --out {out} --config {config} --fps 0.5 --log-json | head -1"
    )
    shell = started.start("/bin/sh", "-c", command)
    shell.wait(150)  # the scan would take 216 s
    until(
        lambda: not [p for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or [])], 60
    )
    assert "Traceback" not in shell.err, shell.err


def test_a_real_limit_of_the_file_system(started: Processes, tmp_path: Path, config: Path) -> None:
    """No file may grow beyond 60 kB: the journal hits it. A clear line, no traceback, no hang."""
    out = tmp_path / "out"
    shell = started.start(
        sys.executable,
        "-c",
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from streamrecon.cli import main; sys.exit(main(sys.argv[1:]))",
        "run", "simulated", "--out", out, "--config", config,
    )  # fmt: skip
    assert shell.wait(150) == 74
    assert "Traceback" not in shell.err, shell.err
    assert "File too large" in shell.err
    assert "journal" in shell.err


def test_a_limit_that_the_volume_hits(started: Processes, tmp_path: Path, config: Path) -> None:
    """h5py itself fails to write: 6 x 64 x 64 x 4 is more than 90 kB, the journal of 48 frames is less."""
    out = tmp_path / "out"
    config.write_text(CONFIG.replace("projections = 100", "projections = 40"))
    shell = started.start(
        sys.executable,
        "-c",
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000));"
        "from streamrecon.cli import main; sys.exit(main(sys.argv[1:]))",
        "run", "simulated", "--out", out, "--config", config,
    )  # fmt: skip
    assert shell.wait(150) == 74
    assert "Traceback" not in shell.err, shell.err
    assert "cannot write version" in shell.err, shell.err
    assert "File too large" in shell.err
    assert not (out / "volume.h5").exists()


@pytest.mark.slow
def test_a_slow_engine_keeps_both_small(started: Processes, tmp_path: Path) -> None:
    """Show 4: the scan is far larger than the ring; the memory of neither grows with it."""
    path, out = tmp_path / "slow.toml", tmp_path / "out"
    path.write_text(
        '[simulated]\nphantom = "disc"\nrows = 64\ncolumns = 256\nprojections = 1000\nflats = 5\ndarks = 5\n'
        "photons = 0\n[recon]\ncenter = 127.5\nrows = [0, 64]\nside = 32\n[emit]\nevery = 200\n"
        "[engine]\nring_bytes = 327680\nheartbeat = 0.2\nbatch = 8\n"
    )
    recon = started.streamrecon(
        "recon",
        "--once",
        "--listen",
        "tcp://127.0.0.1:*",
        "--out",
        out,
        "--config",
        path,
        "--delay",
        "0.01",
        "--log-json",
    )
    replay = started.streamrecon("replay", "simulated", "--to", endpoint(out), "--config", path)
    memory: list[tuple[float, float]] = []
    both = [psutil.Process(p.popen.pid) for p in (recon, replay)]
    while replay.popen.poll() is None and recon.popen.poll() is None:
        memory.append(tuple(p.memory_info().rss for p in both))  # type: ignore[arg-type]
        time.sleep(0.05)
    assert replay.wait() == 0, replay.err
    assert recon.wait() == 0, recon.err
    found = np.array(memory[len(memory) // 4 : -2]) / 1e6
    assert len(found) > 40
    growth = found[-5:].mean(axis=0) - found[:5].mean(axis=0)
    assert (growth < 16).all(), f"MB grown by engine and sender: {growth}; the scan has 33 MB"
    assert np.ptp(found, axis=0).max() < 25
    assert len(volume(out)["indices"]) == 1000
    waited = float(replay.out.split(" s of it without credit")[0].rsplit(" ", 1)[-1])
    assert waited > 1
    statuses = [json.loads(line) for line in recon.out.splitlines()]
    statuses = [s for s in statuses if s["event"] == "status" and s["phase"] == "accumulating"]
    assert statuses
    assert all(s["ring_frames"] == 10 and s["credit_frames"] <= 10 for s in statuses)
    assert any(s["credit_frames"] == 0 for s in statuses)
