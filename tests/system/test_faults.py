"""Faults, each by its name: a scan that was interrupted ends as one that was not."""

from __future__ import annotations

import contextlib
import random
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from system_network import Wire
from system_processes import Process, Processes, finished, free_endpoint, processes, same, told, until, volume

from streamrecon.cli import FILES
from streamrecon.failpoints import VARIABLE

pytestmark = pytest.mark.slow

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

LARGE = """
[simulated]
phantom = "disc"
rows = 128
columns = 1024
projections = 36
flats = 2
darks = 2
photons = 0
[recon]
center = 511.5
method = "direct"
side = 32
[emit]
every = 10
[engine]
heartbeat = 0.2
peer_timeout = 5.0
return_timeout = 30.0
sync_seconds = 0.1
"""
LARGE_FRAME = 128 * 1024 * 2
"""Bytes."""

MANY = """
[simulated]
phantom = "disc"
rows = 4
columns = 256
projections = 20000
flats = 2
darks = 2
photons = 0
[recon]
center = 127.5
method = "direct"
side = 16
[emit]
every = 2000
keep = 2
keep_seconds = 0
[engine]
heartbeat = 0.2
peer_timeout = 2.0
return_timeout = 60.0
batch = 64
sync_seconds = 0.2
"""
MANY_FRAME = 4 * 256 * 2
"""Bytes."""
BOOKKEEPING = 1000
"""Bytes that an engine may keep in memory of each frame: where it is in the journal, its angle, its hash."""
AGAIN = 200
"""Bytes of them that come only as it is accumulated: its weight, and that all slabs have it."""
NOISE = 4 << 20
"""Bytes by which a process that has just begun may grow for reasons of its own."""
LONG = 4 * NOISE // MANY_FRAME
"""Frames whose bytes would show beside that, if they stayed."""


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
    return free_endpoint()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return finished(tmp_path_factory.mktemp("undisturbed"), CONFIG)


@pytest.fixture(scope="module")
def undisturbed_large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return finished(tmp_path_factory.mktemp("undisturbed"), LARGE)


def limited(started: Processes, files: int, *arguments: Any) -> Process:
    """streamrecon with a limit of open files."""
    command = shlex.join(map(str, [sys.executable, "-m", "streamrecon", *arguments]))
    return started.start("sh", "-c", f"ulimit -n {files}; exec {command}")


def supervised(started: Processes, where: str, out: Path, config: Path, **environment: str) -> Process:
    return started.streamrecon(
        "supervise", "--backoff", "0.1", "--restarts", "8", "--",
        "streamrecon", "recon", "--once", "--listen", where, "--out", out, "--config", config, "--quiet", **environment,
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
    assert replay.wait(150) == 0, replay.err
    assert job.wait(150) == 0, job.err
    assert "killed by signal 9" in job.err
    assert told(out, "resume")
    same(out, undisturbed)


def test_receiver_restarted_in_the_middle_of_a_burst(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """The new one sees frames before any HELLO."""
    out = tmp_path / "out"
    job = supervised(started, where, out, config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "15", "--live")
    until(lambda: told(out, "version"), what="a version")
    (engine,) = [child for child in job.children() if "recon" in child.cmdline()]
    engine.send_signal(signal.SIGKILL)
    assert replay.wait(150) == 0, replay.err
    assert job.wait(150) == 0, job.err
    assert "sessions" in replay.out
    same(out, undisturbed)


@pytest.mark.parametrize(("dies", "live"), [("sender", False), ("connection", True)])
def test_producer_killed_mid_multipart(
    started: Processes, tmp_path: Path, where: str, undisturbed_large: dict[str, object], dies: str, live: bool
) -> None:
    """Half a frame is on the wire when the sender, or only its connection, dies: it is never taken, and comes again whole."""
    out, config = tmp_path / "out", tmp_path / "large.toml"
    config.write_text(LARGE)
    recon = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    # What is not pixels are some kilobytes: this is far within the frame after the first twenty.
    with Wire(where, cut_after=int(20.5 * LARGE_FRAME)) as wire:
        command = ["replay", "simulated", "--config", config, *(["--live"] if live else [])]
        first = started.streamrecon(*command, "--to", wire.endpoint)
        assert wire.full.wait(150), first.err
        (journal,) = until(lambda: list((out / "journal").glob("*/*.frames")), what="a journal")
        until(lambda: journal.stat().st_size > 20 * LARGE_FRAME, what="twenty frames in the journal")
        time.sleep(0.5)
        assert journal.stat().st_size < 20.5 * LARGE_FRAME, "half a frame was taken"
        if dies == "sender":
            first.signal(signal.SIGKILL)
            first.wait()
        wire.cut()
        last = started.streamrecon(*command, "--to", where) if dies == "sender" else first
        assert last.wait(150) == 0, last.err
    assert recon.wait(150) == 0, recon.err
    assert recon.err == ""
    same(out, undisturbed_large)


@pytest.mark.parametrize("live", [False, True], ids=["file", "live"])
def test_producer_killed_and_succeeded_by_another(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object], live: bool
) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    command = ["replay", "simulated", "--to", where, "--config", config, "--fps", "15", *(["--live"] if live else [])]
    first = started.streamrecon(*command)
    until(lambda: told(out, "version"), what="a version")
    first.signal(signal.SIGKILL)
    second = started.streamrecon(*command)
    assert second.wait(150) == 0, second.err
    assert recon.wait(150) == 0, recon.err
    same(out, undisturbed)


def test_producer_stopped_succeeded_and_continued_is_fenced(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    command = ["replay", "simulated", "--to", where, "--config", config, "--fps", "15"]
    first = started.streamrecon(*command)
    until(lambda: told(out, "version"), what="a version")
    first.signal(signal.SIGSTOP)
    second = started.streamrecon(*command)
    until(lambda: told(out, "sender_back"), what="the second sender")
    first.signal(signal.SIGCONT)
    assert first.wait(150) == 1
    assert "replaced" in first.err
    assert second.wait(150) == 0, second.err
    assert recon.wait(150) == 0, recon.err
    same(out, undisturbed)


def test_rank_frozen(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """Longer than either side waits for a word of the other."""
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "60")
    until(lambda: told(out, "version"), what="a version")
    recon.signal(signal.SIGSTOP)
    time.sleep(3.0)
    recon.signal(signal.SIGCONT)
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    same(out, undisturbed)


@pytest.mark.parametrize(
    ("point", "what"),
    [
        pytest.param("journal.sync=hang:8", "syncing the journal", id="in the journal"),
        pytest.param("output.slab=hang:3", "writing a version", id="in a version"),
    ],
)
def test_disk_that_does_not_answer(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object], point: str, what: str
) -> None:
    """In another thread than the one that computes: the engine ends, and another one goes on with the scan."""
    out, short = tmp_path / "out", tmp_path / "short.toml"
    short.write_text(config.read_text().replace("[engine]", "[engine]\nwork_timeout = 3.0"))
    arguments = ["recon", "--once", "--listen", where, "--out", out]
    first = started.streamrecon(*arguments, "--config", short, **{VARIABLE: point})
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--live", "--fps", "60")
    assert first.wait(150) == 75, first.err
    assert f"rank 0 has been {what}" in first.err
    last = started.streamrecon(*arguments, "--resume", "--config", config)
    assert replay.wait(150) == 0, replay.err
    assert last.wait(150) == 0, last.err
    same(out, undisturbed)


def test_engine_that_takes_long_to_get_ready(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """Longer than a sender waits for one that says nothing: a large journal takes minutes to be read."""
    out, short = tmp_path / "out", tmp_path / "short.toml"
    short.write_text(config.read_text().replace("return_timeout = 60.0", "return_timeout = 6.0"))
    arguments = ["recon", "--once", "--listen", where, "--out", out, "--config", config]
    first = started.streamrecon(*arguments, **{VARIABLE: "journal.written=kill:40"})
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", short, "--live")
    assert first.wait(150) == -signal.SIGKILL
    last = started.streamrecon(*arguments, "--resume", **{VARIABLE: "journal.recover=slow:1:12"})
    assert replay.wait(150) == 0, replay.err
    assert "getting ready" in replay.err
    assert last.wait(150) == 0, last.err
    same(out, undisturbed)


@pytest.mark.parametrize("left", ["nothing", "a journal"])
def test_engine_killed_when_all_is_done(
    started: Processes, tmp_path: Path, config: Path, where: str, left: str
) -> None:
    """Started again, it neither waits for another scan nor takes what is left of the journals for the scan."""
    out = tmp_path / "out"
    if left == "a journal":
        first = started.streamrecon(
            "recon",
            "--once",
            "--listen",
            where,
            "--out",
            out,
            "--config",
            config,
            **{VARIABLE: "journal.delete=kill:1"},
        )
    else:
        first = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config)
    code = first.wait(150)
    replay.kill()
    before = volume(out)
    assert code == (-signal.SIGKILL if left == "a journal" else 0)
    again = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config, "--resume")
    assert again.wait(150) == 0, again.err
    assert not (out / "journal").exists()
    assert volume(out)["version"] == before["version"]
    assert before["final"]


def test_engine_that_hangs_in_its_journal(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """The disk does not answer while what the last engine left is read: this is noticed, and the scan waits."""
    out, short = tmp_path / "out", tmp_path / "short.toml"
    short.write_text(config.read_text().replace("[engine]", "[engine]\nwork_timeout = 4.0"))
    arguments = ["recon", "--once", "--listen", where, "--out", out]
    first = started.streamrecon(*arguments, "--config", config, **{VARIABLE: "journal.written=kill:40"})
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--live")
    assert first.wait(150) == -signal.SIGKILL
    hanging = started.streamrecon(*arguments, "--config", short, "--resume", **{VARIABLE: "journal.recover=hang:20"})
    assert hanging.wait(150) == 75, hanging.err
    assert "engine.work_timeout" in hanging.err
    last = started.streamrecon(*arguments, "--config", config, "--resume")
    assert replay.wait(150) == 0, replay.err
    assert last.wait(150) == 0, last.err
    same(out, undisturbed)


def test_journal_disk_full(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """Credit stops, an alarm is told, and the scan goes on when there is space."""
    out = tmp_path / "out"
    recon = started.streamrecon(
        "recon", "--once", "--listen", where, "--out", out, "--config", config, **{VARIABLE: "journal.write=full:50:53"}
    )
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config)
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    (alarm,) = told(out, "disk_full")
    assert "make space" in alarm["text"]
    same(out, undisturbed)


def test_spool_disk_full(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """The detector's sender cannot spool for a while: it says so, its source waits, nothing is dropped."""
    out = tmp_path / "out"
    sender = tmp_path / "sender.toml"
    sender.write_text(CONFIG + f'retain_bytes = 3000\nwhen_full = "spool"\nspool = "{tmp_path}"\n')
    replay = started.streamrecon(
        "replay", "simulated", "--to", where, "--config", sender, "--live", **{VARIABLE: "spool.write=full:5:40"}
    )
    recon = started.streamrecon(
        "recon", "--once", "--listen", where, "--out", out, "--config", config, "--delay", "0.01"
    )
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    assert replay.err.count("the disk of the spool is full") == 1
    assert "make space" in replay.err
    assert "dropped" not in replay.err
    same(out, undisturbed)


# 17 starts an engine that can write no version, 13 a sender; below 6 Python itself does not start.
@pytest.mark.parametrize("files", [6, 8, 10, 13, 15, 17, 40])
@pytest.mark.parametrize("command", ["recon", "replay"])
def test_file_descriptor_limit(started: Processes, tmp_path: Path, where: str, command: str, files: int) -> None:
    """Refused at once, with what to do: ZeroMQ would abort, and versions of the volume could not be written."""
    arguments = ["--listen", where, "--out", tmp_path / "out"] if command == "recon" else ["simulated", "--to", where]
    job = limited(started, files, command, *arguments)
    assert job.wait(150) == 2
    (line,) = job.err.splitlines()
    assert "ulimit -n" in line
    assert str(files) in line
    assert not (tmp_path / "out").exists()


def test_file_descriptor_limit_that_is_enough(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """What is let in goes through to the end."""
    out = tmp_path / "out"
    recon = limited(started, FILES + 8, "recon", "--once", "--listen", where, "--out", out, "--config", config)
    replay = limited(started, FILES + 8, "replay", "simulated", "--to", where, "--config", config, "--live")
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    same(out, undisturbed)


def most_files(process: Process, more: int | None) -> None:
    """Let a process open so many more files and sockets; None for any number."""
    job = psutil.Process(process.popen.pid)
    now, (_, hard) = job.num_fds(), job.rlimit(psutil.RLIMIT_NOFILE)
    job.rlimit(psutil.RLIMIT_NOFILE, (hard if more is None else now + more, hard))


def test_file_descriptors_run_out_in_the_engine(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """Versions cannot be written, which is told; frames go on coming in, and the next version that can be holds them."""
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "15", "--live")
    until(lambda: told(out, "version"), what="a version")
    most_files(recon, 0)
    until(lambda: len(told(out, "not_written")) >= 2, what="a version that cannot be written")
    most_files(recon, None)
    assert replay.wait(150) == 0, replay.err
    assert recon.wait(150) == 0, recon.err
    assert "Too many open files" in told(out, "not_written")[0]["text"]
    assert "Traceback" not in recon.err
    same(out, undisturbed)


def test_file_descriptors_run_out_in_the_sender(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    """Just when the engine is restarted: it keeps what it has, and connects again when it can."""
    out = tmp_path / "out"
    job = supervised(started, where, out, config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "15", "--live")
    until(lambda: told(out, "version"), what="a version")
    most_files(replay, -2)
    (engine,) = [child for child in job.children() if "recon" in child.cmdline()]
    engine.send_signal(signal.SIGKILL)
    until(lambda: "Too many open files" in replay.err, what="a connection that cannot be opened")
    most_files(replay, None)
    assert replay.wait(150) == 0, replay.err
    assert job.wait(150) == 0, job.err
    same(out, undisturbed)


def test_a_scan_that_cannot_be_sent_again_is_not_overwritten(
    started: Processes, tmp_path: Path, config: Path, where: str, undisturbed: dict[str, object]
) -> None:
    out = tmp_path / "out"
    recon = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    replay = started.streamrecon("replay", "simulated", "--to", where, "--config", config, "--fps", "15", "--live")
    until(lambda: told(out, "version"), what="a version")
    recon.signal(signal.SIGKILL)
    recon.wait()
    again = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config)
    assert again.wait(150) == 2
    assert "--resume" in again.err
    resumed = started.streamrecon("recon", "--once", "--listen", where, "--out", out, "--config", config, "--resume")
    assert replay.wait(150) == 0, replay.err
    assert resumed.wait(150) == 0, resumed.err
    same(out, undisturbed)


def test_a_job_that_cannot_be_helped_is_given_up(started: Processes, tmp_path: Path) -> None:
    job = started.streamrecon("supervise", "--backoff", "0.05", "--restarts", "2", "--", "sh", "-c", "exit 70")
    assert job.wait(150) == 70
    assert job.err.count("started again") == 2
    assert "given up" in job.err
    job = started.streamrecon(
        "supervise", "--", "streamrecon", "recon", "--once", "--listen", "nonsense", "--out", tmp_path / "o"
    )
    assert job.wait(150) == 2, "a job that is misused is not started again"
    job = started.streamrecon("supervise", "--", "no-such-program")
    assert job.wait(150) == 2
    assert "no-such-program" in job.err
    job = started.streamrecon("supervise")
    assert job.wait(150) == 2
    assert "expected a command" in job.err


def test_a_supervisor_that_is_ended_ends_its_job(started: Processes, tmp_path: Path, config: Path, where: str) -> None:
    job = supervised(started, where, tmp_path / "out", config)
    until(lambda: told(tmp_path / "out", "listen"), what="an engine")
    job.signal(signal.SIGTERM)
    assert job.wait(150) == 130
    assert "started again" not in job.err


class Memory:
    """Resident bytes of an engine's processes, one after the other, by the frames in the journal."""

    def __init__(self, job: Process, journal: Path) -> None:
        self._job, self._journal = job, journal
        self.seen: dict[int, list[tuple[int, int]]] = {}
        self.engine: psutil.Process | None = None

    def look(self) -> int:
        """Take one measurement; the frames in the journal."""
        frames = 0
        with contextlib.suppress(FileNotFoundError):  # it is deleted when the scan is complete
            frames = sum(path.stat().st_size for path in self._journal.glob("*/*.frames")) // (MANY_FRAME + 64)
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            self.engine = next((child for child in self._job.children() if "recon" in child.cmdline()), None)
            if self.engine is not None:
                self.seen.setdefault(self.engine.pid, []).append((frames, self.engine.memory_info().rss))
        return frames


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_stays_flat_over_a_soak(started: Processes, tmp_path: Path, where: str) -> None:
    """20,000 small frames, engine and sender killed at random: each is in the volume once, and none stays in memory."""
    undisturbed = finished(tmp_path / "undisturbed", MANY)
    out, config = tmp_path / "out", tmp_path / "c.toml"
    config.write_text(MANY)
    rng = random.Random(5)
    kills = sorted((rng.randrange(500, 19000), rng.choice(["engine", "engine", "sender"])) for _ in range(5))
    job = supervised(started, where, out, config)
    command = ["replay", "simulated", "--to", where, "--config", config]
    sender, memory = started.streamrecon(*command), Memory(job, out / "journal")
    while job.popen.poll() is None:
        frames = memory.look()
        if kills and frames >= kills[0][0] and memory.engine is not None:
            _, victim = kills.pop(0)
            if victim == "engine":
                memory.engine.kill()
            else:
                sender.signal(signal.SIGKILL)
                sender = started.streamrecon(*command)
        time.sleep(0.02)
    assert not kills
    assert job.wait() == 0, job.err
    assert sender.wait(150) == 0, sender.err
    assert len(memory.seen) >= 3
    judged = 0
    for seen in memory.seen.values():
        first = next(frames for frames, _ in seen if frames)
        warm = [(frames, rss) for frames, rss in seen if frames >= first + 500]
        if warm:
            (began, before), (ended, after) = warm[0], warm[-1]
            print(f"{began} to {ended} frames: {before / 1e6:.1f} to {after / 1e6:.1f} MB")
            if ended - began >= LONG:
                judged += 1
                # What was recovered may still be accumulated again when the measuring begins.
                assert after - before < NOISE + BOOKKEEPING * (ended - began) + AGAIN * began
    assert judged
    same(out, undisturbed)
