"""Where viewers come in: a thread of its own, so that none of them ever holds up a frame."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.exhibit import Exhibit, Shot, change
from streamrecon.errors import StreamreconError
from streamrecon.transport import Poller, Publisher, Wakeup
from streamrecon.wire.audience import Audience
from streamrecon.wire.messages import Axis, Control, Look, Picture, Progress, Result, Want

log = logging.getLogger(__name__)

PLANES = 16
"""Slices that a viewer may ask for at once."""

ROWS = 4
"""Rows whose sinograms are made, at most: those asked for last."""

CACHED = 128 << 20
"""Bytes of pictures that are kept for other viewers of the same version."""

FRESH = 0.2
"""Seconds for which the same word of progress serves all viewers."""

Answer = Callable[[Result, Sequence[NDArray[np.float32]]], None]
"""Sends the answer to a CONTROL, with the pixels of its pictures; any thread."""


class Gallery(threading.Thread):
    """Offers the newest version to viewers, and takes their requests; it outlives the engines of a series.

    Parameters
    ----------
    endpoint
        Where to listen.
    insecure
        Allow an endpoint that other machines can reach.
    token
        Whoever has it may change the reconstruction; None: nobody may.

    Raises
    ------
    EndpointError
        If the endpoint cannot be used.
    """

    def __init__(self, endpoint: str, insecure: bool = False, token: str | None = None) -> None:
        super().__init__(name="streamrecon-gallery", daemon=True)
        self._publisher = Publisher(endpoint, insecure)
        self.endpoint, self.token = self._publisher.endpoint, token
        self.look: Callable[[int], Progress] | None = None
        """Says what is happening, and is told how many viewers there are; set by each engine."""
        self.control: Callable[[Control, Answer], None] | None = None
        """Takes a request; set by each engine while a scan is in work."""
        self.attend: Callable[[tuple[int, ...]], None] | None = None
        """Told which slices' sinograms are looked at; set by each engine while a scan is in work."""
        self.attended: tuple[int, ...] = ()
        """Slices whose sinograms are looked at."""
        self._audience, self._wakeup = Audience(), Wakeup()
        self._calls: deque[Callable[[], None]] = deque()
        self._exhibit: Exhibit | None = None
        self._shots: dict[tuple[Axis, int | None, int], Shot] = {}
        self._word: tuple[float, Progress | None] = 0.0, None
        self._stopped, self._over = False, threading.Event()

    # Called by other threads: each is carried out by this one.

    def show(self, exhibit: Exhibit) -> None:
        """There is a newer version."""
        self._do(lambda: self._show(exhibit))

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        if self.ident is None:  # never started
            self._close()
            return
        self._wakeup.set()
        self._over.wait()

    def _do(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._wakeup.set()

    # This thread.

    def run(self) -> None:
        try:
            poller = Poller(self._wakeup, self._publisher)
            while not self._stopped:
                poller.wait(0.2)
                while self._calls:
                    self._calls.popleft()()
                for viewer, request in self._publisher.requests():
                    self._audience.hear(viewer, time.monotonic())
                    self._serve(viewer, request)
                self._answer_all()
        except BaseException:
            log.exception("viewers are not served any more")  # the scan goes on
        finally:
            self._close()
            self._over.set()

    def _close(self) -> None:
        self._publisher.close()
        self._wakeup.close()
        self._exhibit = None

    def _show(self, exhibit: Exhibit) -> None:
        self._exhibit = change(self._exhibit, exhibit)
        self._shots = {}

    def _serve(self, viewer: bytes, request: Want | Look | Control) -> None:
        if isinstance(request, Look):
            word = self._progress()
            if word is not None:
                self._publisher.send(viewer, word)
        elif isinstance(request, Want):
            self._audience.ask(viewer, replace(request, planes=request.planes[:PLANES]))
            self._attend(request.sinogram)
        else:
            self._take(viewer, request)

    def _progress(self) -> Progress | None:
        now = time.monotonic()
        if self.look is not None and now - self._word[0] > FRESH:
            self._word = now, self.look(self._audience.present(now))
        return self._word[1]

    def _attend(self, row: int | None) -> None:
        if row is None or row in self.attended[-1:]:
            return
        wanted = {want.sinogram for want in self._audience.wants}
        kept = [other for other in self.attended if other in wanted and other != row]
        self.attended = (*kept, row)[-ROWS:]
        if self.attend is not None:
            self.attend(self.attended)

    def _take(self, viewer: bytes, request: Control) -> None:
        def answer(result: Result, pixels: Sequence[NDArray[np.float32]] = ()) -> None:
            payload = b"".join(np.ascontiguousarray(each, "<f4").tobytes() for each in pixels)
            self._do(lambda: self._publisher.send(viewer, result, payload))

        refusal = None
        if self.token is None:
            refusal = "this engine takes no requests from viewers"
        elif not hmac.compare_digest(self.token.encode(), request.token.encode()):
            log.warning("a viewer asked for %s with a wrong control token", request.action)
            refusal = "the control token is wrong: the engine's is in its output folder, in control.token"
        elif self.control is None:
            refusal = "no scan is in work: nothing was changed"
        if refusal is None and self.control is not None:
            self.control(request, answer)
        else:
            answer(Result(serial=request.serial, done=False, text=str(refusal)))

    def _answer_all(self) -> None:
        while (exhibit := self._exhibit) is not None:
            due = self._audience.due(exhibit.update.uid, exhibit.update.version)
            if due is None:
                return
            viewer, want = due
            try:
                shots = self._shots_of(exhibit, want)
            except OSError as error:
                # Such as a version that was deleted; there will be another one.
                log.warning("version %d cannot be shown any more: %s", exhibit.update.version, error)
                self._exhibit = None
                self._audience.ask(viewer, want)
                return
            update = replace(exhibit.update, pictures=tuple(picture for picture, _ in shots))
            try:
                payload = b"".join(np.ascontiguousarray(pixels, "<f4").tobytes() for _, pixels in shots)
                self._publisher.send(viewer, update, payload)
            except StreamreconError:
                log.exception("version %d cannot be sent to a viewer", update.version)

    def _shots_of(self, exhibit: Exhibit, want: Want) -> list[tuple[Picture, NDArray[np.float32]]]:
        shots: list[Shot | None] = [self._slice(exhibit, each.axis, each.index, want.most) for each in want.planes]
        if want.preview:
            shots.append(exhibit.small(want.preview))
        if want.projection:
            shots.append(exhibit.newest_projection(want.most))
        if want.sinogram is not None:
            shots.append(exhibit.sinogram(want.sinogram, want.most))
        return [shot for shot in shots if shot is not None]

    def _slice(self, exhibit: Exhibit, axis: Axis, index: int | None, most: int) -> Shot:
        key = axis, index, most
        if key not in self._shots:
            while self._shots and sum(pixels.nbytes for _, pixels in self._shots.values()) > CACHED:
                del self._shots[next(iter(self._shots))]
            self._shots[key] = exhibit.slice(axis, index, most)
        return self._shots[key]
