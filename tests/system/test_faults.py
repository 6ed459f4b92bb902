"""Faults, each by its name: a scan that was interrupted ends as one that was not."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from system_processes import Process, Processes, processes, told, until, volume

from streamrecon.failpoints import VARIABLE

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
method = "direct"
[emit]
every = 10
[engine]
heartbeat = 0.2
peer_timeout = 2.0
return_timeout = 30.0
sync_seconds = 0.1
[send]
return_timeout = 60.0
"""


@pytest.fixture(name="started")
def _started(tmp_path: Path) -> Iterator[Processes]:
    yield from processes(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def where() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    path = folder / "c.toml"
    path.write_text(CONFIG)
    for started in processes(folder):
        run = started.streamrecon("run", "simulated", "--out", folder / "out", "--config", path)
        assert run.wait(60) == 0, run.err
    return volume(folder / "out")


def same(out: Path, undisturbed: dict[str, object]) -> None:
    """The same frames, once each; the same volume."""
    found = volume(out)
    assert found["final"]
    assert found["missing"] is None
    np.testing.assert_array_equal(found["indices"], undisturbed["indices"])
    expected = np.asarray(undisturbed["data"])
    assert np.abs(found["data"] - expected).max() < 1e-5 * np.abs(expected).max()
    assert not (out / "journal").exists(), "the journal of a finished scan is left behind"


def supervised(started: Processes, where: str, out: Path, config: Path, **environment: str) -> Process:
    return started.streamrecon(
        "supervise", "--backoff", "0.1", "--restarts", "8", "--",
        "streamrecon", "recon", "--listen", where, "--out", out, "--config", config, "--quiet", **environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "live"),
    [
        pytest.param("journal.write=kill:61", False, id="before a write"),
        pytest.param("journal.between=kill:40", True, id="during a write"),
        pytest.param("journal.written=kill:60", False, id="after a write"),
        pytest.param("journal.sync=kill:8", True, id="before fsync"),
        pytest.param("journal.synced=kill:8", True, id="between fsync and ACK"),
    ],
)
def test_rank_killed(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object], point: str, live: bool
) -> None:
    """Every restarted process is killed at the same point again, until the scan is through."""
    out = tmp_path / "out"
    job = supervised(started, where, out, config, **{VARIABLE: point})
    replay = started.streamrecon(
        "replay", "simulated", "--to", where, "--config", config, "--fps", "80", *(["--live"] if live else [])
    )
    assert replay.wait(100) == 0, replay.err
    assert job.wait(30) == 0, job.err
    assert "killed by signal 9" in job.err
    assert told(out, "resume")
    same(out, undisturbed)


def test_receiver_restarted_in_the_middle_of_a_burst(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """The new one sees frames before any HELLO."""
    out = tmp_path / "out"
    job = supervised(started, where, out, config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "60", "--live")
    until(lambda: told(out, "version"), what="a version")
    (engine,) = [child for child in job.children() if "recon" in child.cmdline()]
    engine.send_signal(signal.SIGKILL)
    assert replay.wait(60) == 0, replay.err
    assert job.wait(30) == 0, job.err
    assert "sessions" in replay.out
    same(out, undisturbed)


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
def test_producer_killed_and_succeeded_by_another(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object], live: bool
) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--listen", where, "--out", out, "--config", config)
    command = ["replay", "simulated", "--to", where, "--config", config, "--fps", "60", *(["--live"] if live else [])]
    first = started.streamrecon(*command)
    until(lambda: told(out, "version"), what="a version")
    first.signal(signal.SIGKILL)
    second = started.streamrecon(*command)
    assert second.wait(60) == 0, second.err
    assert recon.wait(30) == 0, recon.err
    same(out, undisturbed)


def test_producer_stopped_succeeded_and_continued_is_fenced(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--listen", where, "--out", out, "--config", config)
    command = ["replay", "simulated", "--to", where, "--config", config, "--fps", "40"]
    first = started.streamrecon(*command)
    until(lambda: told(out, "version"), what="a version")
    first.signal(signal.SIGSTOP)
    second = started.streamrecon(*command)
    until(lambda: told(out, "sender_back"), what="the second sender")
    first.signal(signal.SIGCONT)
    assert first.wait(30) == 1
    assert "replaced" in first.err
    assert second.wait(60) == 0, second.err
    assert recon.wait(30) == 0, recon.err
    same(out, undisturbed)


def test_rank_frozen(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """Longer than either side waits for a word of the other."""
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--listen", where, "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "60")
    until(lambda: told(out, "version"), what="a version")
    recon.signal(signal.SIGSTOP)
    time.sleep(3.0)
    recon.signal(signal.SIGCONT)
    assert replay.wait(60) == 0, replay.err
    assert recon.wait(30) == 0, recon.err
    same(out, undisturbed)


def test_journal_disk_full(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """Credit stops, an alarm is told, and the scan goes on when there is space."""
    out = tmp_path / "out"
    recon = started.streamrecon(
        "recon", "--listen", where, "--out", out, "--config", config, **{VARIABLE: "journal.write=full:50:53"}
    )
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config)
    assert replay.wait(60) == 0, replay.err
    assert recon.wait(30) == 0, recon.err
    (alarm,) = told(out, "disk_full")
    assert "make space" in alarm["text"]
    same(out, undisturbed)


def test_a_scan_that_cannot_be_sent_again_is_not_overwritten(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--listen", where, "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "60", "--live")
    until(lambda: told(out, "version"), what="a version")
    recon.signal(signal.SIGKILL)
    recon.wait()
    again = started.streamrecon("recon", "--listen", where, "--out", out, "--config", config)
    assert again.wait(30) == 2
    assert "--resume" in again.err
    resumed = started.streamrecon("recon", "--listen", where, "--out", out, "--config", config, "--resume")
    assert replay.wait(60) == 0, replay.err
    assert resumed.wait(30) == 0, resumed.err
    same(out, undisturbed)


def test_a_job_that_cannot_be_helped_is_given_up(started: Processes, tmp_path: Path) -> None:
    job = started.streamrecon("supervise", "--backoff", "0.05", "--restarts", "2", "--", "sh", "-c", "exit 70")
    assert job.wait(30) == 70
    assert job.err.count("started again") == 2
    assert "given up" in job.err
    job = started.streamrecon(
        "supervise", "--", "streamrecon", "recon", "--listen", "nonsense", "--out", tmp_path / "o"
    )
    assert job.wait(30) == 2, "a job that is misused is not started again"
    job = started.streamrecon("supervise", "--", "no-such-program")
    assert job.wait(30) == 2
    assert "no-such-program" in job.err
    job = started.streamrecon("supervise")
    assert job.wait(30) == 2
    assert "expected a command" in job.err


def test_a_supervisor_that_is_ended_ends_its_job(started: Processes, tmp_path: Path, config: Path, where: str) -> None:
    job = supervised(started, where, tmp_path / "out", config)
    until(lambda: told(tmp_path / "out", "listen"), what="an engine")
    job.signal(signal.SIGTERM)
    assert job.wait(30) == 130
    assert "started again" not in job.err
