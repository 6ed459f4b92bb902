"""Where viewers come in: a thread of its own, so that none of them ever holds up a frame."""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.engine.exhibit import Exhibit, Shot, change
from streamrecon.engine.orders import Attend
from streamrecon.errors import StreamreconError
from streamrecon.scan import Axis
from streamrecon.transport import Poller, Publisher, Wakeup
from streamrecon.wire.audience import LIMIT, Audience
from streamrecon.wire.codec import Buffer
from streamrecon.wire.messages import (
    PLANES,
    SINOGRAMS,
    Control,
    Look,
    Message,
    Picture,
    Progress,
    Result,
    Update,
    Want,
)

log = logging.getLogger(__name__)

CACHED = 128 << 20
"""Bytes of pictures that are kept for other viewers of the same version."""

RETRY = 0.2
"""Seconds after which a viewer that has not taken its last answer is tried again."""

RESULTS_WITHIN = 30.0
"""Seconds for which the answer to a request is kept for a viewer that does not take it."""

MOST_RESULTS = 64
"""Answers that are kept so."""

WARN_EVERY = 10.0
"""Seconds between two warnings of what viewers do wrong."""

ROUND, REQUESTS = 0.02, 16
"""Seconds of a round, and messages that are taken in one: others wait where they are, and cost the scan nothing."""

REST, BYTES_PER_SECOND = 0.04, 400e6
"""How long a viewer that was answered is not answered again: so many seconds at least, and longer for large answers. A page asks
for all who look at it; what they scroll to meanwhile is one answer."""

LINGER, RECENT = 2.0, 5.0
"""Seconds, at most, for which an engine that ends waits for those to take its last version that have asked so lately."""

ATTEND = 0.1
"""Seconds between two words to the ranks of what is looked at: who scrolls looks at many slices a second."""

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
        self.attend: Callable[[Attend], None] | None = None
        """Told what is looked at; set by each engine while a scan is in work."""
        self.attended = Attend()
        """What is looked at."""
        self._other_looks, self._attended_at = False, -math.inf
        """Whether viewers have asked since then, monotonic."""
        self._audience, self._wakeup = Audience(), Wakeup()
        self._calls: deque[Callable[[], None]] = deque()
        self._exhibit: Exhibit | None = None
        self._cutter = ThreadPoolExecutor(1, "streamrecon-cut")
        """Where slices are cut: a slow disk is not to make viewers take the engine for dead."""
        self._busy: set[bytes] = set()
        """Viewers whose slices are being cut."""
        self._resting: dict[bytes, float] = {}
        """Viewers that were answered just now, and until when they are not answered again; monotonic."""
        self._asked: dict[bytes, float] = {}
        """When viewers asked last for a version; the latest at the end."""
        self._has: set[bytes] = set()
        """Those that were sent the newest one."""
        self._full: set[bytes] = set()
        """Viewers that have not taken what was sent before."""
        self._retried = 0.0
        self._results: deque[tuple[float, bytes, Result, Buffer]] = deque()
        """Answers that could not be sent yet, each until when it is tried."""
        self._shots: dict[tuple[Axis, int | None, int], Shot] = {}
        self._shots_are_of: Exhibit | None = None
        self._word: tuple[float, Progress | None] = 0.0, None
        self._warned = -math.inf
        self._stopped: float | None = None
        """When it was told to end, monotonic."""
        self._over = threading.Event()

    # Called by other threads: each is carried out by this one.

    def show(self, exhibit: Exhibit) -> None:
        """There is a newer version."""
        self._do(lambda: self._show(exhibit))

    def stop(self) -> None:
        """End the thread, once who looks has the last version, or does not take it."""
        self._stopped = time.monotonic()
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
            # What was said before it was told to end is still done: it may be the last version.
            while self._stopped is None or self._calls or self._is_waited_for(time.monotonic() - self._stopped):
                soon = self._stopped is not None or self._resting or self._other_looks
                poller.wait(REST if soon else RETRY)
                while self._calls:
                    self._calls.popleft()()
                for viewer, request in self._publisher.requests(REQUESTS):
                    self._serve(viewer, request)
                self._attend(time.monotonic())
                self._send_results()
                self._answer_all()
                if self._publisher.socket.poll(0):
                    time.sleep(ROUND)
        except BaseException:
            log.exception("viewers are not served any more")  # the scan goes on
        finally:
            self._close()
            self._over.set()

    def _close(self) -> None:
        self._cutter.shutdown(wait=True, cancel_futures=True)
        self._publisher.close()
        self._wakeup.close()
        self._exhibit = None

    def _is_waited_for(self, since: float) -> bool:
        now = time.monotonic()
        lately = {viewer for viewer, at in self._asked.items() if now - at < RECENT}
        return self._exhibit is not None and since < LINGER and not lately <= self._has

    def _show(self, exhibit: Exhibit) -> None:
        self._audience.next_version()
        self._has = set()
        self._exhibit = change(self._exhibit, exhibit)

    def _send(self, viewer: bytes, message: Message, payload: Buffer | None = None) -> bool:
        """Send, or give up what cannot be sent at all; False where it may be tried again."""
        try:
            return self._publisher.send(viewer, message, payload)
        except StreamreconError as error:
            self._warn(f"{message.name()} cannot be sent to a viewer: {error}")
            return True

    def _warn(self, text: str) -> None:
        """Say what viewers do wrong, but not as often as they do it."""
        now = time.monotonic()
        if now - self._warned >= WARN_EVERY:
            self._warned = now
            log.warning("%s", text)

    def _serve(self, viewer: bytes, request: Want | Look | Control) -> None:
        if isinstance(request, Look):
            self._audience.hear(viewer, time.monotonic())
            word = self._progress()
            if word is not None:
                self._send(viewer, word)
        elif isinstance(request, Want):
            self._audience.ask(viewer, replace(request, planes=request.planes[-PLANES:]))
            self._asked.pop(viewer, None)
            self._asked[viewer] = time.monotonic()
            if len(self._asked) > LIMIT:
                del self._asked[next(iter(self._asked))]
            self._other_looks = True
        else:
            self._take(viewer, request)

    def _progress(self) -> Progress | None:
        now = time.monotonic()
        if self.look is not None and now - self._word[0] > FRESH:
            self._word = now, self.look(self._audience.present(now))
        return self._word[1]

    def _attend(self, now: float) -> None:
        """Say what is looked at. Where not all of it has room, it is what was asked for last."""
        if not self._other_looks or now - self._attended_at < ATTEND:
            return
        self._other_looks, self._attended_at = False, now
        wants = self._audience.looking
        sinograms = dict.fromkeys(row for want in wants for row in (want.sinograms + want.also_sinograms)[:SINOGRAMS])
        looked_at = [plane for want in wants for plane in (*want.also[-PLANES:], *want.planes)]
        latest = dict.fromkeys((plane.axis, plane.index) for plane in reversed(looked_at))
        attended = Attend(tuple(sinograms)[-SINOGRAMS:], tuple(latest)[:PLANES][::-1])
        before, self.attended = self.attended, attended
        other = set(attended.sinograms) != set(before.sinograms) or attended.planes != before.planes
        if other and self.attend is not None:
            self.attend(attended)

    def _take(self, viewer: bytes, request: Control) -> None:
        def answer(result: Result, pixels: Sequence[NDArray[np.float32]] = ()) -> None:
            payload = _payload(pixels)
            self._do(lambda: self._results.append((time.monotonic() + RESULTS_WITHIN, viewer, result, payload)))

        refusal = None
        if self.token is None:
            refusal = "this engine takes no requests from viewers"
        elif not hmac.compare_digest(self.token.encode(), request.token.encode()):
            self._warn(f"a viewer asked for {request.action} with a wrong control token")
            refusal = "the control token is wrong: the engine's is in its output folder, in control.token"
        elif self.control is None:
            refusal = "no scan is in work: nothing was changed"
        if refusal is None and self.control is not None:
            self.control(request, answer)
        else:
            result = Result(serial=request.serial, done=False, text=str(refusal))
            self._results.append((time.monotonic() + RESULTS_WITHIN, viewer, result, b""))

    def _send_results(self) -> None:
        now, waiting = time.monotonic(), deque[tuple[float, bytes, Result, Buffer]]()
        for until, viewer, result, payload in self._results:
            if now < until and not self._send(viewer, result, payload):
                waiting.append((until, viewer, result, payload))
        while len(waiting) > MOST_RESULTS:
            waiting.popleft()
        self._results = waiting

    def _answer_all(self) -> None:
        exhibit = self._exhibit
        now = time.monotonic()
        self._resting = {viewer: until for viewer, until in self._resting.items() if until > now}
        if exhibit is None:
            return
        if now - self._retried >= RETRY:
            self._retried, self._full = now, set()
        not_now = self._busy | self._full | self._resting.keys()
        for viewer, want in self._audience.due(exhibit.update.key, not_now):
            if exhibit.files.held and not self._busy:  # or both threads would keep pictures
                self._answered(exhibit, viewer, want, *self._cut(exhibit, want))
            else:
                self._busy.add(viewer)
                self._cutter.submit(self._cut_aside, exhibit, viewer, want)

    def _answered(self, exhibit: Exhibit, viewer: bytes, want: Want, update: Update | None, payload: Buffer) -> None:
        self._busy.discard(viewer)
        if update is None:
            if self._exhibit is exhibit:
                self._exhibit = None  # there will be another one
        elif self._send(viewer, update, payload):
            self._resting[viewer] = time.monotonic() + max(REST, len(payload) / BYTES_PER_SECOND)
            if exhibit is self._exhibit:
                self._has.add(viewer)
            return
        self._audience.put_back(viewer, want)
        if update is not None:
            # It has not taken what was sent before: it is asked again a little later, not at once.
            self._full.add(viewer)

    # The thread of the cutter, or this one while that one does nothing and no disk is needed.

    def _cut_aside(self, exhibit: Exhibit, viewer: bytes, want: Want) -> None:
        update, payload = self._cut(exhibit, want)
        self._do(lambda: self._answered(exhibit, viewer, want, update, payload))

    def _cut(self, exhibit: Exhibit, want: Want) -> tuple[Update | None, Buffer]:
        update: Update | None = None
        payload: Buffer = b""
        try:
            shots = self._shots_of(exhibit, want)
            update = replace(exhibit.update, pictures=tuple(picture for picture, _ in shots))
            payload = _payload([pixels for _, pixels in shots])
        except OSError as error:
            # Such as a version that was deleted.
            log.warning("version %d cannot be shown any more: %s", exhibit.update.version, error)
        except Exception:
            log.exception("version %d cannot be shown", exhibit.update.version)
        return update, payload

    def _shots_of(self, exhibit: Exhibit, want: Want) -> list[tuple[Picture, NDArray[np.float32]]]:
        if self._shots_are_of is not exhibit:
            self._shots_are_of, self._shots = exhibit, {}
        across = [plane.index for plane in want.planes if plane.axis == "x"]
        exhibit.across(across, self.attended.sagittal[::-1])
        shots: list[Shot | None] = [self._slice(exhibit, each.axis, each.index, want.most) for each in want.planes]
        if want.preview:
            shots.append(exhibit.small(want.preview))
        if want.projection:
            shots.append(exhibit.newest_projection(want.most))
        shots += [exhibit.sinogram(row, want.most) for row in want.sinograms[:SINOGRAMS]]
        return [shot for shot in shots if shot is not None]

    def _slice(self, exhibit: Exhibit, axis: Axis, index: int | None, most: int) -> Shot:
        key = axis, index, most
        if key not in self._shots:
            coarse = exhibit.coarse(index, most) if axis == "x" else None
            if coarse is not None:
                return coarse  # and not kept: it may be had better
            while self._shots and sum(pixels.nbytes for _, pixels in self._shots.values()) > CACHED:
                del self._shots[next(iter(self._shots))]
            self._shots[key] = exhibit.slice(axis, index, most)
        return self._shots[key]


def _payload(pictures: Sequence[NDArray[np.float32]]) -> Buffer:
    """Pixels of pictures, one after the other."""
    # By NumPy, which lets others have the interpreter meanwhile, unlike `join`.
    pixels, end = np.empty(sum(picture.size for picture in pictures), "<f4"), 0
    for picture in pictures:
        begin, end = end, end + picture.size
        pixels[begin:end].reshape(picture.shape)[...] = picture
    return pixels.data.cast("B")
