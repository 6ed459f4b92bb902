"""Ranks under a real mpiexec: slabs, faults of one of them, restarts with as many or with others."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from system_processes import (
    Process,
    Processes,
    beside_python,
    finished,
    free_endpoint,
    processes,
    same,
    told,
    until,
    volume,
)

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
peer_timeout = 30.0
return_timeout = 30.0
sync_seconds = 0.1
rank_timeout = 30.0
[send]
return_timeout = 60.0
"""

MPIEXEC = beside_python("mpiexec") or shutil.which("mpiexec")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mpi,
    pytest.mark.skipif(
        MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
        reason="there is no MPI: pip install 'streamrecon[mpi]'",
    ),
]


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
    return free_endpoint(4)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return finished(tmp_path_factory.mktemp("undisturbed"), CONFIG)


@pytest.fixture
def attentive(config: Path) -> None:
    """Who says nothing for three seconds is gone."""
    config.write_text(
        CONFIG.replace("peer_timeout = 30.0", "peer_timeout = 3.0").replace("rank_timeout = 30.0", "rank_timeout = 3.0")
    )


def failures(out: Path) -> list[str]:
    """Why engines ended, as their logs have it."""
    lines = [
        line for path in out.glob("scan.log*.jsonl") for line in path.read_text().splitlines() if '"failed"' in line
    ]
    return [json.loads(line)["text"] for line in lines]


class Job:
    """How engines of several ranks are started and sent to."""

    def __init__(self, started: Processes, where: str, out: Path, config: Path) -> None:
        self._started, self._where, self.out, self._config = started, where, out, config

    def recon(self, ranks: int | None, *more: str, supervised: bool = False, **environment: str) -> Process:
        command = [
            "streamrecon",
            "recon",
            "--once",
            "--listen",
            self._where,
            "--out",
            self.out,
            "--config",
            self._config,
            "--quiet",
        ]
        launch: list[Any] = [] if ranks is None else ["mpiexec", "-n", str(ranks)]
        if supervised:
            supervise = ["supervise", "--backoff", "0.1", "--restarts", "8", "--"]
            return self._started.streamrecon(*supervise, *launch, *command, *more, **environment)
        python = [self._started.python, "-m"]
        if launch:
            launch[0] = MPIEXEC
        return self._started.start(*launch, *python, *command, *more, **environment)

    def replay(self, *more: str) -> Process:
        return self._started.streamrecon(
            "replay", "simulated", "--to", self._where, "--config", self._config, "--fps", "60", *more
        )

    def half(self) -> None:
        until(lambda: len(told(self.out, "version")) >= 3, what="three versions")

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("PMI_RANK") == str(number) and str(self.out) in process.cmdline():
                    return process
            except psutil.Error:
                continue
        raise AssertionError(f"there is no rank {number}")


@pytest.fixture
def job(started: Processes, where: str, tmp_path: Path, config: Path) -> Job:
    return Job(started, where, tmp_path / "out", config)


@pytest.mark.parametrize("ranks", [1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_mpiexec(job: Job, undisturbed: dict[str, Any], ranks: int) -> None:
    recon, replay = job.recon(ranks), job.replay()
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    same(job.out, undisturbed)
    assert len(list((job.out / "partials" / "v0001").glob("slab-*.h5"))) == ranks
    assert recon.err == "", "a job that ends well says nothing"


def test_more_ranks_than_rows(job: Job, config: Path, undisturbed: dict[str, Any]) -> None:
    """One of them has nothing to do, and ends with the others."""
    recon, replay = job.recon(3, "--rows", "2:4"), job.replay()
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    found = volume(job.out)
    expected = undisturbed["data"][2:4]
    assert np.abs(found["data"] - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_rank_killed_under_mpiexec_supervised_restart(job: Job, undisturbed: dict[str, Any], number: int) -> None:
    recon, replay = job.recon(2, supervised=True), job.replay("--live", "--fps", "20")
    job.half()
    job.rank(number).kill()
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    assert recon.err.count("started again") == 1
    assert told(job.out, "resume")
    same(job.out, undisturbed)


@pytest.mark.usefixtures("attentive")
@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_rank_frozen_under_mpiexec(job: Job, undisturbed: dict[str, Any], number: int) -> None:
    """Nobody hears of it for three seconds: the job is ended, and started again."""
    recon, replay = job.recon(2, supervised=True), job.replay("--live", "--fps", "20")
    job.half()
    job.rank(number).send_signal(signal.SIGSTOP)
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    # Not what is written to the terminal: a launcher may lose what its processes say last.
    assert any(f"rank {number} has not been heard" in text for text in failures(job.out))
    assert recon.err.count("started again") == 1
    same(job.out, undisturbed)


@pytest.mark.usefixtures("attentive")
@pytest.mark.slow
def test_rank_frozen_before_the_scan(job: Job, undisturbed: dict[str, Any]) -> None:
    """Nothing has come yet, and it is found all the same."""
    recon = job.recon(2, supervised=True)
    until(lambda: told(job.out, "listen"), what="rank 0")
    job.rank(1).send_signal(signal.SIGSTOP)
    until(lambda: "started again" in recon.err, what="another start")
    replay = job.replay()
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    same(job.out, undisturbed)


@pytest.mark.slow
def test_restart_on_another_rank_count_under_mpiexec(job: Job, undisturbed: dict[str, Any]) -> None:
    """Three, then two, then one without MPI."""
    replay = job.replay("--live", "--fps", "8")
    recon = job.recon(3)
    job.half()
    job.rank(2).kill()
    assert recon.wait(150) != 0
    recon = job.recon(2, "--resume")
    until(lambda: len(told(job.out, "version")) >= 6, what="more versions")
    job.rank(1).kill()
    assert recon.wait(150) != 0
    recon = job.recon(None, "--resume")
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    assert len(told(job.out, "assemble")) == 2
    same(job.out, undisturbed)


@pytest.mark.slow
def test_slow_rank_under_mpiexec(started: Processes, job: Job, undisturbed: dict[str, Any], where: str) -> None:
    """The disk of one takes a second for some frames: the others wait for it, by no more than the ring."""
    command = [started.python, "-m", "streamrecon", "recon", "--once", "--listen", where, "--out", job.out, "--config",
               job.out.parent / "c.toml", "--quiet"]  # fmt: skip
    slow = f"{VARIABLE}=journal.write=slow:100:102"
    recon = started.start(MPIEXEC, "-n", "1", *command, ":", "-n", "1", "env", slow, *command)
    replay = job.replay()
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    same(job.out, undisturbed)


def test_stopping_a_job(job: Job) -> None:
    """Ctrl-C reaches all ranks: the first one ends the scan, the others with it, in a last partial volume of all slabs."""
    recon, replay = job.recon(2), job.replay("--fps", "15")
    job.half()
    os.kill(job.rank(0).pid, signal.SIGINT)
    assert recon.wait(150) == 1, recon.err
    assert replay.wait(150) == 1
    assert "interrupted" in replay.err
    found = volume(job.out)
    assert not found["final"]
    assert found["data"].shape == (6, 64, 64)
    assert np.isfinite(found["data"]).all()


def test_a_plan_that_does_not_fit_is_refused_under_mpiexec(job: Job, config: Path) -> None:
    config.write_text(CONFIG.replace("[engine]", "[engine]\nmemory_bytes = 1000000"))
    recon, replay = job.recon(2), job.replay()
    assert replay.wait(150) == 1
    assert "memory" in replay.err
    assert recon.wait(150) == 2
    assert "engine.memory_bytes" in recon.err
    assert "Traceback" not in recon.err


def test_a_port_that_is_taken_ends_the_job(
    started: Processes, job: Job, where: str, config: Path, tmp_path: Path
) -> None:
    first = started.streamrecon("recon", "--once", "--listen", where, "--out", tmp_path / "other", "--config", config)
    until(lambda: told(tmp_path / "other", "listen"), what="the engine that has the port")
    recon = job.recon(2)
    assert recon.wait(150) == 2
    assert "cannot listen" in recon.err
    first.signal(signal.SIGTERM)
    first.wait(150)
