"""The writer thread of a rank: the only user of h5py, so that a slow disk holds up neither frames nor the maths."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamrecon.engine.output import Output, Provenance
from streamrecon.errors import OutputError
from streamrecon.scan import VolumeUpdate


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A version to be written."""

    update: VolumeUpdate
    provenance: Provenance
    arrivals: list[float]
    """When the projections arrived that this version is the first to hold; seconds, monotonic."""


class Writer(threading.Thread):
    """Writes one version at a time.

    Parameters
    ----------
    output
        Where to.
    written
        Called in this thread with each job that can now be read, and the seconds it took.
    failed
        Called in this thread with each job that could not be written, and why. The scan goes on: the next one may do better.
    """

    def __init__(
        self, output: Output, written: Callable[[Job, float], None], failed: Callable[[Job, Exception], None]
    ) -> None:
        super().__init__(name="streamrecon-write", daemon=True)
        self._output, self._written, self._failed = output, written, failed
        self._jobs: queue.Queue[Job | None] = queue.Queue(1)
        self._idle = threading.Event()
        self._idle.set()
        self.error: Exception | None = None
        """Why the newest version could not be written, if it could not."""

    @property
    def newest(self) -> int:
        """Number of the newest version that an earlier process wrote; 0 is none."""
        return self._output.newest

    @property
    def idle(self) -> bool:
        """Whether a new version would be written at once."""
        return self._idle.is_set()

    def wait_idle(self, seconds: float) -> None:
        """Wait until a new version would be written at once, at most so long."""
        self._idle.wait(seconds)

    def put(self, job: Job) -> None:
        """Hand over a version; waits while another is being written."""
        self._idle.wait()
        self._idle.clear()
        self._jobs.put(job)

    def close(self) -> None:
        """Finish what was handed over and end the thread."""
        self._idle.wait()
        self._jobs.put(None)
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            began = time.perf_counter()
            try:
                self._output.write(job.update, job.provenance)
                self.error = None
                self._written(job, time.perf_counter() - began)
            except BaseException as error:
                self.error = error if isinstance(error, Exception) else OutputError(f"{type(error).__name__}: {error}")
                self._failed(job, self.error)
            finally:
                self._idle.set()
