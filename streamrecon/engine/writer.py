"""The writer thread of a rank: the only user of h5py, so that a slow disk holds up neither frames nor the maths."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamrecon.engine.journal import AtWork
from streamrecon.engine.loan import Loan
from streamrecon.engine.nxtomoproc import Provenance
from streamrecon.engine.orders import LAST, Aside, Part
from streamrecon.engine.output import Output
from streamrecon.errors import OutputError
from streamrecon.scan import VolumeUpdate
from streamrecon.wire.messages import Range


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A slab of a version, to be written."""

    cut: int
    """Number of the cut; `LAST` for the last version."""
    update: VolumeUpdate
    """Its version is that of the cut, until it is shown."""
    provenance: Provenance
    content: tuple[int, ...]
    """As in `Part`."""
    arrivals: list[float]
    """When the projections arrived that this version is the first to hold; seconds, monotonic."""
    side: int
    """Of a slice without binning, pixels."""
    aside: Aside
    """What the compute thread has for viewers."""
    loan: Loan
    """Of its volume."""
    sagittal: Callable[[], tuple[Range, ...]] = tuple
    """Slices across x to put there, too, voxels of the version: asked as late as can be, as viewers scroll."""


class Writer(threading.Thread):
    """Writes one slab at a time and, of rank 0, shows versions whose slabs are all there.

    Parameters
    ----------
    output
        Where to.
    written
        Called in this thread with each job whose slab is on the disk, the byte of the file where its pixels begin, and the
        seconds it took.
    failed
        Called in this thread with each cut that could not be written, and why. The scan goes on: the next one may do better.
    shown
        Called in this thread with each job whose version can be read, with its number in the update, and all its slabs.
    at_work
        Entered while the disk is waited for; gives what is to be called as a long piece of work goes on.
    """

    def __init__(
        self,
        output: Output,
        written: Callable[[Job, int, float], None],
        failed: Callable[[int, Exception], None],
        shown: Callable[[Job, VolumeUpdate, Sequence[Part], float], None],
        at_work: AtWork = lambda name: contextlib.nullcontext(lambda: None),
    ) -> None:
        super().__init__(name="streamrecon-write", daemon=True)
        self._at_work = at_work
        self._output, self._written, self._failed, self._shown = output, written, failed, shown
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._jobs: dict[int, Job] = {}
        self.error: Exception | None = None
        """Why the last version could not be written, if it could not; one before it is told, and the scan goes on."""

    @property
    def idle(self) -> bool:
        """Whether a new slab would be written at once."""
        return self._idle.is_set()

    def wait_idle(self, seconds: float) -> None:
        """Wait until a new slab would be written at once, at most so long."""
        self._idle.wait(seconds)

    def put(self, job: Job) -> None:
        """Hand over a slab; waits while another is being written."""
        self._idle.wait()
        self._idle.clear()
        self._calls.put(lambda: self._write(job))

    def show(self, cut: int, parts: list[Part]) -> None:
        """All slabs of a version are there: show it."""
        self._calls.put(lambda: self._show(cut, parts))

    def forget(self, cut: int) -> None:
        """All slabs of this cut are there, and will not become a version."""
        self._calls.put(lambda: self._output.forget(cut))

    def close(self) -> None:
        """Finish what was handed over and end the thread."""
        self._idle.wait()
        self._calls.put(None)
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def _write(self, job: Job) -> None:
        began = time.perf_counter()
        try:
            with self._at_work("writing a version") as go_on:
                offset = self._output.write_slab(job.cut, job.update, job.provenance, go_on)
            self._jobs[job.cut] = job
            self._written(job, offset, time.perf_counter() - began)
        except BaseException as error:
            self._fail(job.cut, error)
        finally:
            self._idle.set()

    def _show(self, cut: int, parts: list[Part]) -> None:
        began = time.perf_counter()
        try:
            job = self._jobs[cut]
            self._jobs = {} if cut == LAST else {c: j for c, j in self._jobs.items() if c > cut or c == LAST}
            with self._at_work("writing a version"):
                update = self._output.publish(cut, job.update, job.provenance, parts)
            self._shown(job, update, parts, time.perf_counter() - began)
        except BaseException as error:
            self._fail(cut, error)

    def _fail(self, cut: int, error: BaseException) -> None:
        known = error if isinstance(error, Exception) else OutputError(f"{type(error).__name__}: {error}")
        if cut == LAST:
            self.error = known
        self._failed(cut, known)
