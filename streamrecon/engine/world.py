"""The ranks of a job: the only place that imports mpi4py. MPI serves at the start and at the end, never while a scan runs.

Nothing here waits in MPI: a rank that waits there spins, and one whose peer has died waits for ever. It asks, sleeps, and has a
deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

from streamrecon.errors import ConfigError, RankError

POLL = 0.005
"""Seconds between two looks."""

LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")
"""Set by the launchers of MPICH, Open MPI and Slurm in the processes of a job."""

START_SECONDS = 60.0
"""Longest that ranks wait for each other to be there."""

LAST_WORDS = 0.2
"""Seconds in which a launcher can pass on what a rank has written, before it is told to end the job."""

Watch = Callable[[], None]
"""Called while one waits; raises where it is in vain."""


def _nothing() -> None:
    """Nothing is watched."""


class World(Protocol):
    """The processes that reconstruct a scan together."""

    rank: int
    """Of this process, 0, 1, ..."""
    size: int
    """Number of ranks."""

    def share(self, thing: Any, seconds: float = START_SECONDS, watch: Watch = _nothing) -> list[Any]:
        """Tell all ranks something, and hear from each, in the order of ranks.

        Parameters
        ----------
        thing
            What is told; it is pickled.
        seconds
            Longest to wait.
        watch
            Called now and then.

        Raises
        ------
        RankError
            If one of them says nothing in time.
        """
        ...


class Alone:
    """One process: rank 0 of 1."""

    rank = 0
    size = 1

    def share(self, thing: Any, seconds: float = START_SECONDS, watch: Watch = _nothing) -> list[Any]:
        """See `World.share`."""
        return [thing]

    def leave(self, seconds: float) -> None:
        """See `Mpi.leave`: nobody waits."""

    def abort(self, code: int) -> NoReturn:
        """See `Mpi.abort`."""
        os._exit(code)


class Mpi:
    """The ranks that `mpiexec` has started."""

    def __init__(self) -> None:
        try:
            import mpi4py

            # One thread at a time calls it, but for the end of the job, which does not wait for another one's call.
            mpi4py.rc.thread_level = "multiple"
            with _deadline(START_SECONDS):
                from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"this process was started by an MPI launcher, but there is no MPI to be had ({error}): "
                "pip install 'streamrecon[mpi]', or start it without mpiexec"
            ) from error
        self._comm = MPI.COMM_WORLD
        self._watch: Watch = _nothing
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()

    def share(self, thing: Any, seconds: float = START_SECONDS, watch: Watch = _nothing) -> list[Any]:
        """See `World.share`."""
        self._watch, deadline = watch, time.monotonic() + seconds
        if self.rank:
            self._send(thing, 0, deadline)
            return list(self._receive(0, deadline))
        things = [thing, *(self._receive(rank, deadline) for rank in range(1, self.size))]
        for rank in range(1, self.size):
            self._send(things, rank, deadline)
        return things

    def _send(self, thing: Any, rank: int, deadline: float) -> None:
        request = self._comm.isend(thing, rank)
        while not request.Test():
            self._sleep(rank, deadline)

    def _receive(self, rank: int, deadline: float) -> Any:
        while (message := self._comm.improbe(rank)) is None:
            self._sleep(rank, deadline)
        return message.recv()

    def _sleep(self, rank: int, deadline: float) -> None:
        self._watch()
        if time.monotonic() > deadline:
            raise RankError(f"rank {self.rank} waits for rank {rank}, which says nothing")
        time.sleep(POLL)

    def leave(self, seconds: float) -> None:
        """Wait, without spinning, until all ranks are through, at most so long; MPI's own end, which follows, spins."""
        self.share(None, seconds)

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once, with this exit code."""
        time.sleep(LAST_WORDS)
        self._comm.Abort(code)
        os._exit(code)  # the launcher ends this process any moment


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Kill this process, and by that the job, where MPI waits for a rank that does not come: it has no deadline of its own.

    By a signal that the kernel sends and nobody handles: MPI holds the interpreter while it starts, so no thread of Python could.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def join() -> Alone | Mpi:
    """The ranks that this process was started with.

    Raises
    ------
    ConfigError
        If a launcher of MPI has started it and there is no MPI.
    """
    steps = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1") or 1)
    if steps > 1 or any(name in os.environ for name in LAUNCHED):
        world = Mpi()
        return world if world.size > 1 else Alone()
    return Alone()


def machine() -> str:
    """Name of this machine, by which ranks tell whether they share one."""
    return socket.gethostname()
