"""Which command a supervisor runs: that of a job that goes on with its scan, whatever starts its ranks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamrecon.errors import ConfigError
from streamrecon.supervise import resuming

ENGINE = ["streamrecon", "recon", "--listen", "tcp://127.0.0.1:5555", "--out", "o"]
RESUMED = ["streamrecon", "recon", "--resume", "--listen", "tcp://127.0.0.1:5555", "--out", "o"]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder on the path, and that of the interpreter, which is not."""
    path, beside = tmp_path / "path", tmp_path / "beside"
    for folder in (path, beside):
        folder.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    return path, beside


def program(folder: Path, name: str) -> str:
    place = folder / name
    place.write_text("#!/bin/sh\n")
    place.chmod(0o755)
    return str(place)


LAUNCHERS = [[], ["mpiexec", "-n", "4"], ["mpirun", "-np", "2", "--host", "recon,a"], ["srun"]]


@pytest.mark.parametrize("launch", LAUNCHERS, ids=" ".join)
def test_a_job_that_died_goes_on_with_its_scan(environment: tuple[Path, Path], launch: list[str]) -> None:
    for name in ("streamrecon", *launch[:1]):
        program(environment[0], name)
    assert resuming([*launch, *ENGINE]) == [*launch, *RESUMED]
    assert resuming([*launch, *RESUMED]) == [*launch, *RESUMED]


@pytest.mark.parametrize("launch", LAUNCHERS, ids=" ".join)
def test_programs_of_an_environment_that_is_not_active_are_found_beside_the_interpreter(
    environment: tuple[Path, Path], launch: list[str]
) -> None:
    _, beside = environment
    found = [program(beside, launch[0]), *launch[1:]] if launch else []
    module = [str(beside / "python"), "-m", *RESUMED]
    assert resuming([*launch, *ENGINE]) == [*found, *module]


def test_programs_on_the_path_come_before_those_beside_the_interpreter(environment: tuple[Path, Path]) -> None:
    for folder in environment:
        program(folder, "mpiexec")
    assert resuming(["mpiexec", "true"]) == ["mpiexec", "true"]


def test_what_is_nowhere_is_left_to_fail(environment: tuple[Path, Path]) -> None:
    assert resuming(["no-such-program", "x"]) == ["no-such-program", "x"]


def test_an_engine_that_reads_a_file_named_like_the_command_is_still_resumed(environment: tuple[Path, Path]) -> None:
    program(environment[0], "streamrecon")
    assert resuming(["streamrecon", "recon", "--out", "results"])[:3] == ["streamrecon", "recon", "--resume"]


@pytest.mark.parametrize("name", ["--out", "--config"])
@pytest.mark.parametrize("launch", LAUNCHERS, ids=" ".join)
def test_an_option_may_be_called_like_the_command(environment: tuple[Path, Path], launch: list[str], name: str) -> None:
    for each in ("streamrecon", *launch[:1]):
        program(environment[0], each)
    command = [*launch, "streamrecon", "recon", name, "recon"]
    assert resuming(command) == [*command, "--resume"]


def test_other_commands_are_left_as_they_are(environment: tuple[Path, Path]) -> None:
    program(environment[0], "streamrecon")
    command = ["streamrecon", "replay", "scan.h5"]
    assert resuming(command) == command
    assert command == ["streamrecon", "replay", "scan.h5"]


def test_a_command_is_needed() -> None:
    with pytest.raises(ConfigError, match="expected a command"):
        resuming([])


JOB = """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).touch()
time.sleep(float(sys.argv[3]))
pathlib.Path(sys.argv[2]).touch()
"""


@pytest.mark.parametrize("ignored", [True, False])
def test_the_end_of_the_terminal_is_heard_unless_nohup_keeps_it_away(tmp_path: Path, ignored: bool) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    job = [sys.executable, "-c", JOB, str(begun), str(done), "1.5" if ignored else "100"]
    command = [sys.executable, "-m", "streamrecon", "supervise", "--", *job]
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    with subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGHUP, handler)) as supervisor:
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        supervisor.send_signal(signal.SIGHUP)
        code = supervisor.wait(60)
    assert done.exists() is ignored
    assert (code == 0) is ignored
