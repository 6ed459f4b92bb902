"""What a running engine shows: one subscription for all viewers, in a thread of its own."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal

from streamrecon.errors import MessageError, RemoteProtocolError, StreamreconError
from streamrecon.transport import Poller, Subscription, Wakeup
from streamrecon.transport.subscription import Pictures
from streamrecon.viewer.source import Link, Place, Shown
from streamrecon.viewer.wants import Wanted, Wants
from streamrecon.wire.messages import (
    PLANES,
    PREVIEW,
    SINOGRAMS,
    Action,
    Control,
    Look,
    Picture,
    Plane,
    Progress,
    Result,
    Update,
    Want,
)

LOOKS = 0.5
"""Seconds between two questions what is happening."""
SILENCE = 3.0
"""Seconds without an answer after which the engine counts as gone."""
PATIENCE = 1.0
"""Seconds within which a version that is there should have come; then it may be asked for anew."""
REMINDERS = 10.0
"""Seconds after which a request is said again: one that went to an engine that has died is lost."""
WAITING = 64
"""Requests for a change that may wait for an answer."""
DIMENSIONS = {"slice": 2, "preview": 3, "projection": 2, "sinogram": 2, "centers": 3}

Key = Place | tuple[str, int]
Answered = tuple[Result, list[Shown]]
Token = str | Callable[[], str | None] | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for a change, on its way."""

    control: Control
    future: Future[Answered]
    until: float
    """When its answer is not waited for any more; monotonic, s."""


class LiveSource:
    """The versions that an engine publishes.

    Slices are had in full resolution, whatever the size of a page: their values can be read, and one answer serves all.

    Parameters
    ----------
    endpoint
        Of the publisher.
    token
        The engine's control token, or what gives it, as another engine may come that has another one; None where there is
        none, or it is not known (yet: `token` can be set later).
    timeout
        Seconds in which a change is answered.

    Raises
    ------
    EndpointError
        If the endpoint is malformed.
    """

    def __init__(self, endpoint: str, token: Token = None, timeout: float = 30.0) -> None:
        self.endpoint, self._timeout = endpoint, timeout
        self.token: Token = token
        self._subscription, self._looks = Subscription(endpoint), Subscription(endpoint)
        """What is happening is heard beside the pictures: over a slow link they may take long to come."""
        self._wakeup, self._wants = Wakeup(), Wants()
        self._changed: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._link = Link("waiting", f"waiting for an engine at {endpoint}")
        self._progress: Progress | None = None
        self._update: Update | None = None
        self._held: dict[Key, Shown] = {}
        self._serials, self._orders = itertools.count(1), queue.Queue[_Asked](WAITING)
        self._controls: dict[int, _Asked] = {}
        self._asked: Want | None = None
        self._soon = False
        """Whether that is answered at once."""
        self._asked_at = self._looked_at = self._heard_at = 0.0
        self._anew = False
        """Whether what is there may have a lower number than the newest version that was seen: of an engine that was started
        again, or a scan that is reconstructed again."""
        self._tried: set[Key] = set()
        """What was asked for of this version, and so is not asked for again."""
        self._trying: set[Key] = set()
        """What of it was asked for last."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to listen."""
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="streamrecon-live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; changes that wait for an answer get none."""
        self._closing.set()
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join()
        else:
            self._hang_up()
        self._forget_controls("the viewer was closed")
        self._wakeup.close()

    @property
    def link(self) -> Link:
        """How it is doing."""
        return self._link

    @property
    def progress(self) -> Progress | None:
        """What the engine said last of what is happening."""
        return self._progress

    @property
    def update(self) -> Update | None:
        """Newest version, without its pictures."""
        return self._update

    def want(self, viewer: object, places: Collection[Place], preview: int = 0, beside: bool = False) -> None:
        """What a viewer looks at from now on."""
        self._wants.put(viewer, places, preview, beside)
        self._wakeup.set()

    def slice(self, place: Place) -> Shown | None:
        """The newest of a slice."""
        return self._held.get(place)

    def other(self, kind: Literal["preview", "projection", "sinogram"], index: int = 0) -> Shown | None:
        """The newest of something else."""
        return self._held.get((kind, index if kind == "sinogram" else 0))

    def control(self, action: Action, numbers: tuple[float, ...] = (), text: str = "") -> Future[Answered]:
        """Ask the engine for a change."""
        future = Future[Answered]()
        if self._closing.is_set():
            return _refused(future, "the viewer was closed")
        try:
            token = self.token() if callable(self.token) else self.token
        except StreamreconError as error:
            return _refused(future, str(error))
        if token is None:
            return _refused(future, "this viewer has no control token of the engine; --control-token-file gives it one")
        control = Control(serial=next(self._serials), token=token, action=action, numbers=numbers, text=text)
        # A strip of candidate centers is many backprojections.
        seconds = self._timeout * (4 if action == "centers" else 1)
        try:
            self._orders.put_nowait(_Asked(control, future, time.monotonic() + seconds))
        except queue.Full:
            return _refused(future, f"{WAITING} changes wait for an answer already")
        self._wakeup.set()
        return future

    # The thread.

    def _run(self) -> None:
        self._heard_at = time.monotonic()
        try:
            poller = Poller(self._wakeup, self._subscription, self._looks)
            while not self._closing.is_set():
                try:
                    self._ask(time.monotonic())
                    poller.wait(self._pause(time.monotonic()))
                    for connection in (self._looks, self._subscription):
                        while not self._closing.is_set() and (answer := connection.receive()) is not None:
                            self._hear(*answer)
                    trouble = None
                except RemoteProtocolError as error:
                    trouble = str(error)
                now = time.monotonic()
                self._give_up(now)
                if trouble is not None:
                    self._closing.wait(PATIENCE)  # whatever is there will not be another thing at once
                if trouble is not None or now - self._heard_at > SILENCE:
                    self._lose(trouble)
                    poller = Poller(self._wakeup, self._subscription, self._looks)
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        self._subscription.close()
        self._looks.close()

    def _pause(self, now: float) -> float:
        return max(0.02, min(self._looked_at + LOOKS - now, self._heard_at + SILENCE - now))

    def _lose(self, trouble: str | None) -> None:
        """Begin anew: the connection may be one that never comes back, such as through a tunnel that was made again."""
        self._hang_up()
        self._subscription, self._looks = Subscription(self.endpoint), Subscription(self.endpoint)
        self._heard_at, self._looked_at, self._asked = time.monotonic(), 0.0, None
        self._tried.clear()
        self._forget_controls("the engine went away before it had answered; it may have been done or not")
        if trouble is not None:
            self._show(Link("gone", f"{trouble}; trying again"))
        elif self._link.state != "waiting":
            self._show(Link("gone", f"the engine at {self.endpoint} is gone; waiting for it to come back"))

    def _show(self, link: Link) -> None:
        if link != self._link:
            self._link = link
            self._changed()

    def _ask(self, now: float) -> None:
        if now - self._looked_at >= LOOKS:
            self._looked_at = now
            self._looks.ask(Look())
        with contextlib.suppress(queue.Empty):
            while True:
                self._order(self._orders.get_nowait())
        wanted = self._wants.together()
        self._forget_pictures(wanted)
        waits = self._soon and self._asked is not None
        if waits and now - self._asked_at < PATIENCE:
            return  # it is being answered
        if waits:
            self._tried -= self._trying  # the engine may not have read it yet, and what is said next replaces it
        want, tried = self._next(wanted)
        if want == self._asked and not waits and now - self._asked_at < REMINDERS:
            return
        self._asked, self._asked_at, self._soon = want, now, not want.after and self._update is not None
        self._tried, self._trying = self._tried | tried, tried
        self._subscription.ask(want)

    def _order(self, asked: _Asked) -> None:
        try:
            self._subscription.ask(asked.control)
        except MessageError as error:
            _refused(asked.future, str(error))
            return
        self._controls[asked.control.serial] = asked

    def _next(self, wanted: Wanted) -> tuple[Want, set[Key]]:
        """What to ask for now, and what of it is not to be asked for again until there is another version."""
        newest, places, rows = self._update, wanted.places, wanted.sinograms[:SINOGRAMS]
        if newest is not None:
            places = tuple((axis, i) for axis, i in places if i < newest.full["zyx".index(axis)])
        others: list[Key] = [("preview", 0)] if wanted.preview else []
        others += [("projection", 0)] if wanted.projection else []
        others += [("sinogram", row) for row in rows]
        lacking = {key for key in (*places, *others) if key not in self._tried and not self._has(key, wanted)}
        # What is lacking is had from what is there already; while there is nothing yet, all is, as soon as there is something.
        soon = newest is None or self._anew or bool(lacking)
        asking = lacking if newest is not None and not self._anew and lacking else {*places, *others}
        planes = [place for place in places if place in asking][:PLANES]
        also = [place for place in places if place not in planes][:PLANES]
        want = Want(
            uid="" if soon or newest is None else newest.uid,
            reconstruction=0 if soon or newest is None else newest.reconstruction,
            after=0 if soon or newest is None else newest.version,
            planes=_planes(planes),
            preview=wanted.preview if ("preview", 0) in asking else 0,
            projection=("projection", 0) in asking,
            sinograms=tuple(row for row in rows if ("sinogram", row) in asking),
            also=_planes(also),
            also_sinograms=tuple(row for row in rows if ("sinogram", row) not in asking),
        )
        return want, {*planes, *(lacking & set(others))} if newest is not None and lacking else set()

    def _has(self, key: Key, wanted: Wanted) -> bool:
        held, newest = self._held.get(key), self._update
        if held is None or newest is None or held.key != newest.key:
            return False
        return key[0] != "preview" or max(held.pixels.shape) + 1 >= _best_preview(max(newest.shape), wanted.preview)

    def _forget_pictures(self, wanted: Wanted) -> None:
        keep: set[Key] = {*wanted.places, *(("sinogram", row) for row in wanted.sinograms)}
        keep |= {("preview", 0)} if wanted.preview else set()
        keep |= {("projection", 0)} if wanted.projection else set()
        self._tried &= keep  # who comes back to it asks again
        # A new dictionary, so that others can look into the old one meanwhile.
        self._held = {key: shown for key, shown in self._held.items() if key in keep}

    def _hear(self, message: Update | Progress | Result, pictures: Pictures) -> None:
        self._heard_at = time.monotonic()
        for picture, _ in pictures:
            if len(picture.shape) != DIMENSIONS[picture.kind] or (picture.kind == "slice") != (picture.axis != ""):
                raise RemoteProtocolError(f"{self.endpoint} sent a {picture.kind} of the shape {picture.shape}")
        self._link = Link("live", f"listening to {self.endpoint}")
        if isinstance(message, Progress):
            self._progress, newest = message, self._update
            if newest is not None and message.uid == newest.uid and message.version:
                other = message.reconstruction != newest.reconstruction
                self._anew = self._anew or other or message.version < newest.version
        elif isinstance(message, Update):
            self._take(message, pictures)
        else:
            self._answer(message, pictures)
        self._changed()

    def _take(self, update: Update, pictures: Pictures) -> None:
        self._asked, self._anew = None, False
        newest = replace(update, pictures=())
        if self._update is None or newest.key != self._update.key:
            self._tried.clear()
        held = dict(self._held) if self._update is not None and newest.key[:2] == self._update.key[:2] else {}
        for picture, pixels in pictures:
            held[_key(picture)] = Shown(update.key, picture, pixels)
        self._held, self._update = held, newest

    def _answer(self, result: Result, pictures: Pictures) -> None:
        asked = self._controls.pop(result.serial, None)
        if asked is not None:
            key = self._update.key if self._update is not None else ("", 0, 0)
            shown = [Shown(key, picture, pixels) for picture, pixels in pictures]
            asked.future.set_result((replace(result, pictures=()), shown))

    def _give_up(self, now: float) -> None:
        for serial, asked in list(self._controls.items()):
            if now > asked.until:
                del self._controls[serial]
                _refused(asked.future, "the engine has not answered in time; it may be done all the same")

    def _forget_controls(self, why: str) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                _refused(self._orders.get_nowait().future, why)
        for asked in self._controls.values():
            _refused(asked.future, why)
        self._controls.clear()


def _key(picture: Picture) -> Key:
    if picture.kind == "slice" and picture.axis:
        return picture.axis, picture.index
    return picture.kind, picture.index if picture.kind == "sinogram" else 0


def _planes(places: Sequence[Place]) -> tuple[Plane, ...]:
    # The latest last: where the engine has not room for all, it takes those.
    return tuple(Plane(axis=axis, index=index) for axis, index in reversed(places))


def _best_preview(side: int, most: int) -> int:
    """Longest side that a preview of at most so many voxels has: the engine bins by whole numbers, and then what it has again."""
    side //= math.ceil(side / PREVIEW)
    return side // math.ceil(side / most)


def _refused(future: Future[Answered], why: str) -> Future[Answered]:
    future.set_result((Result(serial=0, done=False, text=why), []))
    return future
