"""Several ranks in threads of this process: the same engines, endpoints and messages as under mpiexec, without its start-up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine_scans import SECONDS, Scan, Streamed

from streamrecon.config import Config
from streamrecon.engine import Engine
from streamrecon.errors import RankError
from streamrecon.scan import Frame
from streamrecon.transport import send_scan


class Job:
    """What the ranks of one job share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size)
        self._things: list[Any] = [None] * size

    def worlds(self) -> list[InThread]:
        return [InThread(self, rank) for rank in range(self.size)]

    def share(self, rank: int, thing: Any, seconds: float) -> list[Any]:
        try:
            self._things[rank] = thing
            self._barrier.wait(seconds)
            things = list(self._things)
            self._barrier.wait(seconds)
        except threading.BrokenBarrierError as error:
            raise RankError(f"rank {rank} waits for another one, which has failed") from error
        return things

    def abort(self) -> None:
        self._barrier.abort()


class InThread:
    """See `streamrecon.engine.world.World`."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job, self.rank, self.size = job, rank, job.size

    def share(self, thing: Any, seconds: float = SECONDS, watch: Any = None) -> list[Any]:
        return self._job.share(self.rank, thing, min(seconds, SECONDS))


class Ranks:
    """The engines of a job, each begun, run and ended by a thread of its own."""

    def __init__(self, size: int, options: Config, out: Path, **arguments: Any) -> None:
        self.job = Job(size)
        self.events: list[dict[str, Any]] = []
        self.engines: list[Engine | None] = [None] * size
        self.results: list[Any] = [None] * size
        self.errors: list[Exception | None] = [None] * size
        self._options, self._out, self._arguments = options, out, arguments
        self._started = threading.Barrier(size + 1)
        self._threads = [threading.Thread(target=self._run, args=(w,), daemon=True) for w in self.job.worlds()]
        for thread in self._threads:
            thread.start()
        self._started.wait(SECONDS)
        error = next((error for error in self.errors if error is not None), None)
        if error is not None:
            raise error

    def _run(self, world: InThread) -> None:
        listener = self.events.append if world.rank == 0 else None
        begun = False
        try:
            engine = Engine(self._options, self._out, listener, world=world, **self._arguments)
            self.engines[world.rank] = engine
            with engine:
                begun = True
                self._started.wait(SECONDS)
                self.results[world.rank] = engine.wait(SECONDS)
        except Exception as error:
            self.errors[world.rank] = error
            lead = self.engines[0]
            deadline = time.monotonic() + SECONDS
            # Rank 0 has been told, and ends the job.
            while world.rank and lead is not None and not lead._done.is_set() and time.monotonic() < deadline:
                time.sleep(0.02)
            self._abort()
        if not begun:
            self._started.wait(SECONDS)

    def _abort(self) -> None:
        """As a launcher does when one of its processes ends itself, the others with it."""
        self.job.abort()
        for engine in self.engines:
            if engine is not None:
                if not engine._done.is_set():
                    engine._failed("the job was aborted")
                engine._ingest._do(engine._ingest._stop)

    @property
    def lead(self) -> Engine:
        engine = self.engines[0]
        assert engine is not None
        return engine

    def join(self, seconds: float = SECONDS) -> None:
        for rank, thread in enumerate(self._threads):
            thread.join(seconds)
            assert not thread.is_alive(), f"rank {rank} hangs: {self.engines[rank] and self.engines[rank].status()}"
        for engine in self.engines:
            if engine is not None and engine._hangs:  # it gave nothing back, as its process would have ended
                engine._story.close()
                if engine._lock is not None:
                    engine._lock.release()


def stream_ranks(
    scan: Scan,
    options: Config,
    out: Path,
    size: int,
    *,
    frames: Callable[[slice], Iterator[Frame]] | None = None,
    watch: Callable[[Engine], None] = lambda engine: None,
    progress: Callable[[Any], None] = lambda end: None,
    can_replay: bool = True,
    **arguments: Any,
) -> Streamed:
    """Send a scan into several ranks."""
    ranks = Ranks(size, options, out, **arguments)
    streamed = Streamed(None, None, None, None, ranks.events, out)

    def send() -> None:
        try:
            streamed.report = send_scan(
                scan.info,
                frames or scan.frames,
                ranks.lead.endpoint,
                heartbeat=options.engine.heartbeat,
                peer_timeout=options.engine.peer_timeout,
                connect_timeout=10.0,
                progress=progress,
                can_replay=can_replay,
            )
        except Exception as error:
            streamed.sender_error = error

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    watch(ranks.lead)
    ranks.join()
    sender.join(10)
    assert not sender.is_alive(), "the sender hangs"
    streamed.result = ranks.results[0]
    streamed.engine_error = next((error for error in ranks.errors if error is not None), None)
    return streamed
