"""An engine that serves scans one after the other, as processes: several senders, signals, restarts, ranks."""

from __future__ import annotations

import importlib.util
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

from streamrecon.config import load
from streamrecon.sources import open_source

pytestmark = pytest.mark.slow

CONFIG = """
[simulated]
phantom = "disc"
rows = 6
columns = 64
projections = 60
flats = 4
darks = 4
photons = 0.0
bad_columns = 0
[recon]
center = 31.5
method = "direct"
[emit]
every = 10
[engine]
heartbeat = 0.2
peer_timeout = 3.0
return_timeout = 30.0
sync_seconds = 0.1
[send]
return_timeout = 60.0
"""
MPIEXEC = beside_python("mpiexec") or shutil.which("mpiexec")


@pytest.fixture(name="started")
def _started(tmp_path: Path) -> Iterator[Processes]:
    yield from processes(tmp_path)


@pytest.fixture
def where() -> str:
    return free_endpoint()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return finished(tmp_path_factory.mktemp("undisturbed"), CONFIG)


def _config(folder: Path, number: int) -> Path:
    """Options of a scan, which is the same as the others but for its uid, as there is no noise: it has more flats."""
    path = folder / f"{number}.toml"
    if not path.exists():  # a process may be reading it
        path.write_text(CONFIG.replace("flats = 4", f"flats = {3 + number}"))
    return path


def uid_of(path: Path) -> str:
    return open_source("simulated", load(path)).info().uid


class Service:
    """How one is started, and sent to."""

    def __init__(self, started: Processes, folder: Path) -> None:
        self._started, self._folder, self.out = started, folder, folder / "out"
        self._config = _config(folder, 1)

    def recon(self, *before: Any) -> Process:
        command = ["recon", "--listen", "tcp://127.0.0.1:*", "--out", self.out, "--config", self._config]
        launch = [*before, self._started.python, "-m", "streamrecon"] if before else []
        return self._started.start(*launch, *command) if before else self._started.streamrecon(*command)

    def supervised(self, where: str) -> Process:
        job = ["streamrecon", "recon", "--listen", where, "--out", self.out, "--config", self._config]
        return self._started.streamrecon("supervise", "--backoff", "0.1", "--", *job)

    @property
    def endpoint(self) -> str:
        return str(until(lambda: told(self.out, "serving"), what="a service")[-1]["endpoint"])

    def replay(self, number: int, *more: Any, where: str | None = None) -> Process:
        command = ["replay", "simulated", "--to", where or self.endpoint, "--config", _config(self._folder, number)]
        return self._started.streamrecon(*command, *more)

    def folder(self, number: int) -> Path:
        return self.out / uid_of(_config(self._folder, number))

    def served(self) -> list[str]:
        return [each["uid"] for each in told(self.out, "served")]


@pytest.fixture
def service(started: Processes, tmp_path: Path) -> Service:
    return Service(started, tmp_path)


@pytest.mark.parametrize(
    ("number", "ranks"),
    [
        (signal.SIGINT, None),
        pytest.param(
            signal.SIGTERM,
            2,
            marks=[
                pytest.mark.mpi,
                pytest.mark.skipif(
                    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
                    reason="there is no MPI: pip install 'streamrecon[mpi]'",
                ),
            ],
        ),
    ],
)
def test_one_after_the_other_and_two_at_once(
    service: Service, undisturbed: dict[str, Any], ranks: int | None, number: int
) -> None:
    recon = service.recon(*([MPIEXEC, "-n", ranks] if ranks else []))
    first = service.replay(1)
    assert first.wait(150) == 0, first.err
    both = [service.replay(each, "--fps", "12") for each in (2, 3)]  # long enough for the other to come
    for replay in both:
        assert replay.wait(150) == 0, replay.err
    assert sum("busy" in replay.err for replay in both) == 1, "one of them had to wait"
    assert sum(replay.err.count("busy") for replay in both) <= 4, "and says so now and then, not once a second"
    until(lambda: len(service.served()) == 3, what="all three")
    for each in (1, 2, 3):
        same(service.folder(each), undisturbed)
    lead(recon, ranks).send_signal(number)
    assert recon.wait(150) == 0, recon.err
    assert "3 scans were done" in recon.out
    assert recon.err == ""


def lead(recon: Process, ranks: int | None) -> psutil.Process:
    """The process of rank 0."""
    if ranks is None:
        return psutil.Process(recon.popen.pid)
    return next(child for child in recon.children() if child.environ().get("PMI_RANK") == "0" and not child.children())


def test_an_interrupted_scan_ends_the_service(service: Service) -> None:
    recon = service.recon()
    replay = service.replay(1, "--fps", "8")
    until(lambda: told(service.folder(1), "version"), what="a version")
    recon.signal(signal.SIGTERM)
    assert recon.wait(150) == 1, recon.err
    assert "0 scans were done" in recon.out
    assert replay.wait(150) == 1
    assert "interrupted" in replay.err
    assert not volume(service.folder(1))["final"]


def test_killed_in_the_second_scan_and_started_again(
    service: Service, started: Processes, undisturbed: dict[str, Any], where: str
) -> None:
    """It goes on with the second one, serves the third, which has waited, and ends when it is told to."""
    job = service.supervised(where)
    first = service.replay(1, where=where)
    assert first.wait(150) == 0, first.err
    second = service.replay(2, "--fps", "6", "--live", where=where)
    until(lambda: told(service.folder(2), "scan"), what="the second scan")
    third = service.replay(3, where=where)
    until(lambda: told(service.folder(2), "version"), what="a version")
    until(lambda: "busy" in third.err, what="a sender that waits")
    (engine,) = [child for child in job.children() if "recon" in child.cmdline()]
    engine.kill()
    for replay in (second, third):
        assert replay.wait(150) == 0, replay.err
    until(lambda: service.served()[-2:] == [service.folder(each).name for each in (2, 3)], what="both")
    assert told(service.folder(2), "resume")
    for each in (1, 2, 3):
        same(service.folder(each), undisturbed)
    job.signal(signal.SIGTERM)
    assert job.wait(150) == 0, job.err
    assert job.err.count("started again") == 1


def test_one_scan_only(service: Service, started: Processes, tmp_path: Path) -> None:
    """With --once a second sender hears that the engine is busy, and then that none is there."""
    recon = started.streamrecon(
        "recon", "--once", "--listen", "tcp://127.0.0.1:*", "--out", service.out, "--config", tmp_path / "1.toml"
    )
    where = str(until(lambda: told(service.out, "listen"), what="an engine")[-1]["endpoint"])
    first = service.replay(1, "--fps", "8", where=where)
    until(lambda: told(service.out, "scan"), what="the first scan")
    second = service.replay(2, "--timeout", "3", where=where)
    assert first.wait(150) == 0, first.err
    assert recon.wait(150) == 0, recon.err
    assert second.wait(150) == 1
    assert "busy" in second.err
    assert "no engine took the scan" in second.err
    assert volume(service.out)["final"]
