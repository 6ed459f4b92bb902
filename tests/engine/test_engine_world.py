"""The ranks of a job by a communicator of these tests: who hears what, who waits how long, and who needs mpi4py."""

from __future__ import annotations

import builtins
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from typing import Any

import pytest

from streamrecon.engine import world
from streamrecon.engine.world import LAUNCHED, Alone, Mpi, join
from streamrecon.errors import ConfigError, RankError


class Network:
    """Messages between the ranks of one process; some never arrive."""

    def __init__(self, silent: int | None = None) -> None:
        self.boxes: defaultdict[tuple[int, int], deque[Any]] = defaultdict(deque)
        self.silent = silent

    def world(self, rank: int, size: int) -> Mpi:
        each = Mpi.__new__(Mpi)
        each._comm = Communicator(self, rank)
        each.rank, each.size = rank, size
        return each


class Request:
    def __init__(self, tests: int) -> None:
        self._tests = tests

    def Test(self) -> bool:  # noqa: N802
        self._tests -= 1
        return self._tests < 0


class Communicator:
    def __init__(self, network: Network, rank: int) -> None:
        self._network, self._rank = network, rank

    def isend(self, thing: Any, rank: int) -> Request:
        if self._network.silent not in (self._rank, rank):
            self._network.boxes[self._rank, rank].append(thing)
            return Request(1)
        return Request(1 << 40)

    def improbe(self, rank: int) -> Any:
        box = self._network.boxes[rank, self._rank]
        return Message(box.popleft()) if box else None


class Message:
    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def recv(self) -> Any:
        return self._thing


class Clock:
    """Of a rank that sleeps: time passes only there."""

    def __init__(self) -> None:
        self.now, self.naps = 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.naps += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    each = Clock()
    monkeypatch.setattr(world, "time", each)
    return each


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_hear_what_all_have_told_in_the_order_of_ranks_time_after_time(size: int) -> None:
    network = Network()
    worlds = [network.world(rank, size) for rank in range(size)]
    heard: dict[int, list[list[Any]]] = {}

    def play(rank: int) -> None:
        heard[rank] = [worlds[rank].share((rank, turn), 60.0) for turn in range(3)]
        worlds[rank].leave(60.0)

    threads = [threading.Thread(target=play, args=(rank,)) for rank in reversed(range(size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [[(rank, turn) for rank in range(size)] for turn in range(3)]
    assert heard == dict.fromkeys(range(size), expected)


@pytest.mark.parametrize(("rank", "silent"), [(0, 1), (0, 2), (1, 0)])
def test_a_silent_rank_is_an_error_after_the_deadline_and_is_waited_for_asleep(
    clock: Clock, rank: int, silent: int
) -> None:
    network = Network(silent)
    if rank == 0 and silent == 2:
        network.boxes[1, 0].append("here")
    with pytest.raises(RankError, match=f"rank {rank} waits for rank {silent}"):
        network.world(rank, 3).share("here", 10.0)
    assert 10.0 < clock.now <= 10.0 + 2 * world.POLL
    assert clock.naps <= 10.0 / world.POLL + 2


def test_the_deadline_is_one_for_all_ranks_together(clock: Clock) -> None:
    """Rank 1 answers just in time; rank 2 has no more time for that."""
    network = Network()
    each = network.world(0, 3)
    sleep = clock.sleep

    def late(seconds: float) -> None:
        sleep(seconds)
        if clock.now > 9.0 and not network.boxes[1, 0] and clock.now < 9.0 + 2 * world.POLL:
            network.boxes[1, 0].append("late")

    clock.sleep = late  # type: ignore[method-assign]
    with pytest.raises(RankError, match="waits for rank 2"):
        each.share("here", 10.0)
    assert clock.now < 11.0


def test_at_the_end_all_wait_a_minute_for_each_other(clock: Clock) -> None:
    with pytest.raises(RankError):
        Network(0).world(1, 2).leave(60.0)
    assert 60.0 < clock.now < 61.0


def test_one_process_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHED, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    each = join()
    assert isinstance(each, Alone)
    assert (each.rank, each.size) == (0, 1)
    assert each.share("thing") == ["thing"]
    each.leave(1.0)


@pytest.fixture
def no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed."""
    for name in (*LAUNCHED, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    found = builtins.__import__

    def imported(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("mpi4py"):
            raise ImportError("there is no mpi4py")
        return found(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", imported)
    for name in [name for name in sys.modules if name.startswith("mpi4py")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("no_mpi")
@pytest.mark.parametrize(
    ("name", "value"), [*((name, "2") for name in LAUNCHED), ("PMIX_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "2")]
)
def test_a_process_of_a_launcher_needs_mpi4py(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"streamrecon\[mpi\].*without mpiexec"):
        join()


@pytest.mark.usefixtures("no_mpi")
@pytest.mark.parametrize("tasks", ["1", ""])
def test_a_job_of_one_task_needs_none(monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    """Slurm says so in each shell of a job, too."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    assert isinstance(join(), Alone)


@pytest.mark.parametrize(("size", "kind"), [(1, Alone), (3, Mpi)])
def test_a_launcher_of_one_process_starts_one_alone(
    monkeypatch: pytest.MonkeyPatch, size: int, kind: type[Alone] | type[Mpi]
) -> None:
    monkeypatch.setattr(Mpi, "__init__", lambda self: vars(self).update(rank=0, size=size))
    monkeypatch.setenv("PMI_SIZE", str(size))
    assert type(join()) is kind


def test_time_is_that_of_the_machine() -> None:
    """The clock of these tests stands for it."""
    assert world.time is time


def test_ranks_that_do_not_come_while_mpi_starts_end_the_process() -> None:
    """MPI itself would wait for ever, and holds the interpreter meanwhile, as this library call does."""
    code = (
        "import ctypes, time\nfrom streamrecon.engine import world\n"
        "with world._deadline(0.3):\n    pass\n"
        "time.sleep(0.5)\nprint('on', flush=True)\n"
        "with world._deadline(0.3):\n    ctypes.PyDLL(None).sleep(1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "on\n"
    assert done.returncode == -signal.SIGALRM
