"""What one page is told, and when; without a socket."""

from __future__ import annotations

import dataclasses
import hmac
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from streamrecon.version import __version__
from streamrecon.viewer.requests import Control, Hello, Request, Values, Want
from streamrecon.viewer.source import Place, Shown, Source
from streamrecon.viewer.words import line
from streamrecon.wire.messages import Picture, Progress, Result, Update

Role: TypeAlias = Literal["view", "control"]

PROGRESS_EVERY = 0.5
"""Seconds between two words of progress, at least."""
ALIVE_EVERY = 5.0
"""Seconds after which it is said again, so that a page sees that its connection lives."""
GATHER = 0.25
"""Seconds in which the slices of a version that come one by one are gathered, so that they are shown together."""
MOST_VALUES, MOST_CONTROLS = 6, 4
"""Requests of a page that may wait for an answer."""
VALUES_WITHIN = 30.0
"""Seconds."""


PER_SECOND, BURST = 60.0, 120.0
"""Texts of a page that are read a second, and at once."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture to be sent."""

    shown: Shown
    size: int = 0
    """Pixels of its longest side, at most; 0 for any."""
    floats: bool = False
    serial: int | None = None


Outgoing: TypeAlias = dict[str, Any] | Encoded


@dataclass(frozen=True, slots=True)
class Tokens:
    """What lets a page in."""

    view: str
    control: str | None = None

    def role(self, token: str) -> Role | None:
        """What somebody with a token may do; None: nothing. How long it takes does not tell how much of it was right."""
        given = token.encode("utf-8", "replace")
        controls = hmac.compare_digest(given, (self.control or "").encode()) and self.control is not None
        views = hmac.compare_digest(given, self.view.encode())
        return "control" if controls else "view" if views else None


class Pace:
    """How fast a page is listened to; one that says more is read when it is its turn, and not closed.

    Parameters
    ----------
    now
        Monotonic, s.
    per_second
        Texts, in the long run.
    burst
        Texts at once.
    """

    def __init__(self, now: float, per_second: float = PER_SECOND, burst: float = BURST) -> None:
        self._rate, self._burst, self._left, self._at = per_second, burst, burst, now

    def wait(self, now: float) -> float:
        """Seconds to wait before the next text is followed."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1.0
        self._at = now
        return max(0.0, -self._left / self._rate)


class Session:
    """One page that was let in; used by one thread.

    Parameters
    ----------
    source
        What it shows.
    role
        What it may do.
    volume
        Whether the library of the volume view is installed.
    wake
        Called from any thread when there is something to `take`.
    """

    def __init__(self, source: Source, role: Role, volume: bool, wake: Callable[[], None]) -> None:
        self._source, self._role, self._wake = source, role, wake
        self._texts: list[Outgoing] = [
            {"type": "welcome", "role": role, "program": __version__, "volume": volume},
        ]
        self._want: Want | None = None
        """What is not answered yet: the page's credit."""
        self._shows: Want | None = None
        """What it looks at, answered or not."""
        self._sent: dict[tuple[str, str, int], tuple[tuple[str, int, int], Picture, int]] = {}
        self._told_update: Update | None = None
        self._told_link: dict[str, Any] | None = None
        self._told_progress: dict[str, Any] | None = None
        self._progress_at = self._link_at = -math.inf
        self._gathering_since: float | None = None
        self._values: dict[int, tuple[Place, float]] = {}
        self._controls: dict[int, Future[tuple[Result, list[Shown]]]] = {}

    def hear(self, request: Request, now: float) -> None:
        """What the page says."""
        if isinstance(request, Want):
            self._want = self._shows = request
            wanted = self._keys(request)
            # What it does not look at any more it does not keep either.
            self._sent = {key: sent for key, sent in self._sent.items() if key in wanted}
            self._tell_source()
        elif isinstance(request, Values):
            if len(self._values) >= MOST_VALUES:
                self._refuse(request.serial, f"{MOST_VALUES} slices wait to be sent already")
            else:
                self._values[request.serial] = request.place, now + VALUES_WITHIN
                self._tell_source()
        elif isinstance(request, Control):
            self._control(request)
        elif isinstance(request, Hello):
            self._refuse(None, "you were let in already")
        self._wake()

    def show(self, source: Source) -> None:
        """From now on another source."""
        self._source.want(self, ())
        self._source = source
        self._sent.clear()
        self._told_update = self._told_link = self._told_progress = None
        self._tell_source()
        self._wake()

    def leave(self) -> None:
        """The page is gone."""
        self._source.want(self, ())

    @property
    def waits(self) -> bool:
        """Whether it waits for something of the source; how that is doing it learns by taking once in a while."""
        return self._want is not None or bool(self._values or self._controls)

    def take(self, now: float) -> list[Outgoing]:
        """What is to be sent now, in this order."""
        texts, self._texts = self._texts, []
        return [*texts, *self._news(now), *self._results(), *self._floats(now), *self._batch(now)]

    def _keys(self, want: Want) -> list[tuple[str, str, int]]:
        keys: list[tuple[str, str, int]] = [("slice", axis, index) for axis, index in want.places]
        if want.preview:
            keys.append(("preview", "", 0))
        if want.beside:
            keys.append(("projection", "", 0))
            keys += [("sinogram", "", index) for axis, index in want.places if axis == "z"][:1]
        return keys

    def _tell_source(self) -> None:
        shows = self._shows
        places = dict.fromkeys([*(shows.places if shows else ()), *(place for place, _ in self._values.values())])
        self._source.want(self, tuple(places), shows.preview if shows else 0, shows.beside if shows else False)

    def _control(self, request: Control) -> None:
        if self._role != "control":
            result = Result(serial=request.serial, done=False, text="this link is for looking only")
        elif len(self._controls) >= MOST_CONTROLS or request.serial in self._controls:
            result = Result(serial=request.serial, done=False, text="other changes wait for an answer already")
        else:
            future = self._source.control(request.action, request.numbers, request.text)
            self._controls[request.serial] = future
            future.add_done_callback(lambda _: self._wake())
            return
        self._texts.append({"type": "result", "serial": request.serial, "done": result.done, "text": result.text})

    def _refuse(self, serial: int | None, text: str) -> None:
        self._texts.append({"type": "error", "text": text} | ({} if serial is None else {"serial": serial}))

    def _news(self, now: float) -> list[Outgoing]:
        """How the source is doing, where that has changed."""
        link, progress, news = self._source.link, self._source.progress, list[Outgoing]()
        said: dict[str, Any] = {"type": "link", "state": link.state, "text": link.text}
        if said != self._told_link or now - self._link_at >= ALIVE_EVERY:
            self._told_link, self._link_at = said, now
            news.append(said)
        if progress is not None and now - self._progress_at >= PROGRESS_EVERY:
            words = line(link, progress, self._source.update)
            said = {"type": "progress", **_fields(progress), "line": words}
            if said != self._told_progress:
                self._told_progress, self._progress_at = said, now
                news.append(said)
        return news

    def _results(self) -> list[Outgoing]:
        done = [(serial, future) for serial, future in self._controls.items() if future.done()]
        results: list[Outgoing] = []
        for serial, future in done:
            del self._controls[serial]
            result, pictures = future.result()
            results += [Encoded(shown, serial=serial) for shown in pictures]
            results.append({"type": "result", "serial": serial, "done": result.done, "text": result.text})
        return results

    def _floats(self, now: float) -> list[Outgoing]:
        """Slices as they are, that were asked for and are there."""
        found: list[Outgoing] = []
        for serial, (place, until) in list(self._values.items()):
            shown = self._source.slice(place)
            if shown is not None:
                found.append(Encoded(shown, floats=True, serial=serial))
            elif now > until or self._is_beyond(place):
                found.append({"type": "error", "serial": serial, "text": f"there is no slice {place[0]} = {place[1]}"})
            else:
                continue
            del self._values[serial]
        if found:
            self._tell_source()
        return found

    def _is_beyond(self, place: Place) -> bool:
        update = self._source.update
        return update is not None and place[1] >= update.full["zyx".index(place[0])]

    def _batch(self, now: float) -> list[Outgoing]:
        """The answer to what is wanted, if there is anything new: each picture, and the update."""
        want, update = self._want, self._source.update
        if want is None or update is None:
            return []
        fresh, complete = list[Encoded](), True
        sent = dict(self._sent)
        for kind, axis, index in self._keys(want):
            shown = self._picture(kind, axis, index)
            if kind == "slice" and (shown is None or shown.key != update.key):
                complete = False
            if shown is None:
                continue
            size = min(want.size, want.preview) if kind == "preview" else want.size
            what = shown.key, shown.picture, size
            if sent.get((kind, axis, index)) != what:
                sent[kind, axis, index] = what
                fresh.append(Encoded(shown, size))
        if not fresh and update == self._told_update:
            return []
        if self._gathering_since is None:
            self._gathering_since = now
        if not complete and now - self._gathering_since < GATHER:
            return []
        self._want = self._gathering_since = None
        self._sent, self._told_update = sent, update
        return [*fresh, {"type": "update", "serial": want.serial, **_told(update)}]

    def _picture(self, kind: str, axis: str, index: int) -> Shown | None:
        if kind == "slice":
            return self._source.slice((axis, index))  # type: ignore[arg-type]
        return self._source.other(kind, index)  # type: ignore[arg-type]


def _told(update: Update) -> dict[str, Any]:
    """An update's fields; JSON knows no number that is none."""
    fields = _fields(update)
    del fields["pictures"]
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }


def _fields(message: Update | Progress) -> dict[str, Any]:
    # `dataclasses.asdict` copies each number of a tuple, for each page.
    return {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
