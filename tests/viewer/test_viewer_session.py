"""What one page is told, and when: one answer for each credit, the newest, and only what it does not have."""

from __future__ import annotations

import math
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from streamrecon.viewer.requests import Control, Hello, Values, Want
from streamrecon.viewer.session import GATHER, PROGRESS_EVERY, VALUES_WITHIN, Encoded, Outgoing, Pace, Session, Tokens
from streamrecon.viewer.source import Link, Place, Shown
from streamrecon.wire.messages import Action, Picture, Progress, Result, Update

SIDE = 8
PROGRESS = Progress(
    uid="s", title="t", phase="accumulating", frames=110, projections=100, expected=400, in_volume=100, coverage=0.25,
    version=2, center=31.5, filter="ramp", rows=4, columns=64, side=None,
    credit_frames=60, ring_frames=64, rate=25.0, quiet=None, nbytes=10**6, latency=0.2, dropped=0,
    alarm=None, ranks=1, angles=(), paused=False, advice=None, every=20, interval=None, viewers=1,
)  # fmt: skip
ALL: tuple[Place, ...] = (("z", 1), ("y", 2), ("x", 3))


class Fake:
    """A source whose versions the test makes."""

    def __init__(self) -> None:
        self.link, self.progress, self.update = Link("waiting", "waiting"), None, None
        self.link: Link
        self.progress: Progress | None
        self.update: Update | None
        self.pictures: dict[Any, Shown] = {}
        self.wanted: dict[object, tuple[Any, ...]] = {}
        self.controls: list[Future[tuple[Result, list[Shown]]]] = []

    def start(self, changed: Any) -> None: ...

    def close(self) -> None: ...

    def want(self, viewer: object, places: Collection[Place], preview: int = 0, beside: bool = False) -> None:
        self.wanted[viewer] = (tuple(places), preview, beside)

    def slice(self, place: Place) -> Shown | None:
        return self.pictures.get(place)

    def other(self, kind: Literal["preview", "projection", "sinogram"], index: int = 0) -> Shown | None:
        return self.pictures.get((kind, index))

    def control(
        self, action: Action, numbers: tuple[float, ...] = (), text: str = ""
    ) -> Future[tuple[Result, list[Shown]]]:
        self.controls.append(Future())
        return self.controls[-1]

    def make(self, version: int, places: Collection[Any] = ALL, uid: str = "s") -> None:
        shape = SIDE, SIDE, SIDE
        self.update = Update(
            version=version, uid=uid, projections=10 * version, coverage=0.1, final=False, binning=1, shape=shape, full=shape
        )  # fmt: skip
        for place in places:
            kind = place[0] if len(place[0]) > 1 else "slice"
            axis = place[0] if kind == "slice" else ""
            picture = Picture(kind=kind, axis=axis, index=place[1], shape=(SIDE, SIDE), full=(SIDE, SIDE))
            pixels = np.full((SIDE, SIDE), version, np.float32)
            self.pictures[place] = Shown((uid, 0, version), picture, pixels)


@pytest.fixture(autouse=True)
def _says_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrecon.viewer.session.ALIVE_EVERY", math.inf)


@pytest.fixture
def source() -> Fake:
    return Fake()


@pytest.fixture
def session(source: Fake) -> Session:
    made = Session(source, "control", True, lambda: None)
    made.take(0.0)
    return made


def test_values_of_a_slice_beyond_the_volume_are_refused_at_once(session: Session, source: Fake) -> None:
    source.make(1)
    session.hear(Values(serial=4, place=("z", SIDE)), 0.0)
    assert [each["serial"] for each in session.take(0.0) if isinstance(each, dict) and each["type"] == "error"] == [4]


def kinds(outgoing: list[Outgoing]) -> list[Any]:
    """In short: of a picture, axis (or kind), index and version; of a text, its type and serial."""
    short: list[Any] = []
    for each in outgoing:
        if isinstance(each, Encoded):
            picture = each.shown.picture
            short.append((picture.axis or picture.kind, picture.index, each.shown.key[2]))
        else:
            short.append((each["type"], each.get("serial")))
    return short


def test_it_begins_with_a_welcome(source: Fake) -> None:
    welcome, link = Session(source, "view", False, lambda: None).take(0.0)
    assert isinstance(welcome, dict)
    assert (welcome["type"], welcome["role"], welcome["volume"]) == ("welcome", "view", False)
    assert link == {"type": "link", "state": "waiting", "text": "waiting"}


def test_one_answer_for_each_credit(source: Fake, session: Session) -> None:
    source.make(1)
    assert session.take(1.0) == []
    session.hear(Want(1, ALL, 512), 1.0)
    assert kinds(session.take(1.0)) == [("z", 1, 1), ("y", 2, 1), ("x", 3, 1), ("update", 1)]
    source.make(2)
    source.make(3)
    assert session.take(2.0) == []
    session.hear(Want(2, ALL, 512), 2.0)
    assert kinds(session.take(2.0)) == [("z", 1, 3), ("y", 2, 3), ("x", 3, 3), ("update", 2)]
    session.hear(Want(3, ALL, 512), 3.0)
    assert session.take(3.0) == []
    source.make(4)
    assert kinds(session.take(4.0))[-1] == ("update", 3)
    assert session.take(5.0) == []


def test_only_what_the_page_does_not_have(source: Fake, session: Session) -> None:
    source.make(1, [*ALL, ("z", 5)])
    session.hear(Want(1, ALL, 512), 0.0)
    session.take(0.0)
    session.hear(Want(2, (("z", 5), *ALL[1:]), 512), 1.0)
    assert kinds(session.take(1.0)) == [("z", 5, 1), ("update", 2)]
    session.hear(Want(3, ALL, 512), 2.0)
    assert kinds(session.take(2.0)) == [("z", 1, 1), ("update", 3)], "what it does not show it has forgotten"
    session.hear(Want(4, ALL, 256), 3.0)
    assert kinds(session.take(3.0)) == [("z", 1, 1), ("y", 2, 1), ("x", 3, 1), ("update", 4)], "another size"


def test_a_new_want_takes_the_place_of_the_one_before(source: Fake, session: Session) -> None:
    session.hear(Want(1, (("z", 1),), 512), 0.0)
    session.hear(Want(2, (("z", 2),), 512), 0.0)
    assert source.wanted[session] == ((("z", 2),), 0, False)
    source.make(1, [("z", 1), ("z", 2)])
    assert kinds(session.take(1.0)) == [("z", 2, 1), ("update", 2)]
    assert session.take(2.0) == []


def test_slices_that_come_one_by_one_are_shown_together(source: Fake, session: Session) -> None:
    session.hear(Want(1, ALL, 512), 0.0)
    source.make(1, ALL[:1])
    assert session.take(0.0) == []
    source.make(1, ALL)
    assert len(session.take(0.1)) == 4
    session.hear(Want(2, ALL, 512), 1.0)
    source.make(2, ALL[:1])
    assert session.take(1.0) == []
    assert kinds(session.take(1.0 + GATHER)) == [("z", 1, 2), ("update", 2)], "but not waited for for ever"
    session.hear(Want(3, ALL, 512), 2.0)
    source.make(2, ALL[1:])
    assert kinds(session.take(2.0)) == [("y", 2, 2), ("x", 3, 2), ("update", 3)]


def test_what_is_beside_and_the_preview(source: Fake, session: Session) -> None:
    source.make(1, [*ALL, ("preview", 0), ("projection", 0), ("sinogram", 1), ("sinogram", 2)])
    session.hear(Want(1, ALL, 512, preview=32, beside=True), 0.0)
    assert source.wanted[session] == (ALL, 32, True)
    answer = session.take(0.0)
    assert kinds(answer)[3:] == [("preview", 0, 1), ("projection", 0, 1), ("sinogram", 1, 1), ("update", 1)]
    sizes = {each.shown.picture.kind: each.size for each in answer if isinstance(each, Encoded)}
    assert sizes == {"slice": 512, "preview": 32, "projection": 512, "sinogram": 512}


def test_an_update_without_pictures_is_news_too(source: Fake, session: Session) -> None:
    session.hear(Want(1, (), 512), 0.0)
    source.make(1, ())
    answer = session.take(0.0)
    assert kinds(answer) == [("update", 1)]
    assert isinstance(answer[0], dict)
    assert "pictures" not in answer[0]
    assert answer[0]["full"] == (SIDE, SIDE, SIDE)


def test_a_page_hears_that_its_connection_lives(
    source: Fake, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrecon.viewer.session.ALIVE_EVERY", 5.0)
    source.progress, source.link = None, Link("file", "a.h5")
    told = [tick for tick in range(100) if any(each["type"] == "link" for each in session.take(0.2 * tick))]  # type: ignore[index]
    assert [0.2 * tick for tick in told] == pytest.approx([0.0, 5.0, 10.0, 15.0], abs=0.25)


def test_progress_twice_a_second_at_most_and_only_what_changed(source: Fake, session: Session) -> None:
    source.link, told = Link("live", "listening"), []
    for tick in range(100):
        source.progress = replace(PROGRESS, frames=tick if tick < 50 else 50)
        told += [(0.02 * tick, each) for each in session.take(0.02 * tick) if isinstance(each, dict)]
    times = [at for at, each in told if each["type"] == "progress"]
    assert len(times) == 3
    assert np.diff(times).min() >= PROGRESS_EVERY - 1e-9
    last = told[-1][1]
    assert (last["frames"], last["line"], last["center"]) == (
        50,
        "Accumulating: 100 of 400 projections",
        31.5,
    )
    assert [each["state"] for _, each in told if each["type"] == "link"] == ["live"]


def test_values_come_when_they_are_there(source: Fake, session: Session) -> None:
    session.hear(Values(5, ("z", 6)), 0.0)
    assert source.wanted[session] == ((("z", 6),), 0, False)
    assert session.take(0.0) == []
    source.make(1, [("z", 6)])
    (found,) = session.take(1.0)
    assert found == Encoded(source.pictures["z", 6], floats=True, serial=5)
    assert source.wanted[session] == ((), 0, False)
    assert session.take(2.0) == []
    session.hear(Values(6, ("z", 7)), 2.0)
    assert session.take(2.0 + VALUES_WITHIN) == []
    assert kinds(session.take(2.1 + VALUES_WITHIN)) == [("error", 6)]
    for serial in range(7):
        session.hear(Values(serial, ("y", serial)), 50.0)
    assert kinds(session.take(50.0)) == [("error", 6)], "too many at once"


def test_a_change_is_answered_when_it_is(source: Fake, session: Session) -> None:
    session.hear(Control(8, "centers", (1, 2, 3, 4)), 0.0)
    assert session.take(0.0) == []
    strip = Shown(
        ("s", 0, 1), Picture(kind="centers", shape=(1, 2, 2), full=(1, 2, 2)), np.zeros((1, 2, 2), np.float32)
    )
    source.controls[0].set_result((Result(serial=77, done=True, text="so"), [strip]))
    assert session.take(1.0) == [Encoded(strip, serial=8), {"type": "result", "serial": 8, "done": True, "text": "so"}]
    for serial in range(5):
        session.hear(Control(serial, "snapshot"), 1.0)
    assert len(source.controls) == 5
    assert kinds(session.take(1.0)) == [("result", 4)]


def test_who_may_only_look_changes_nothing(source: Fake) -> None:
    session = Session(source, "view", True, lambda: None)
    session.take(0.0)
    session.hear(Control(8, "center", (3.0,)), 0.0)
    (result,) = session.take(0.0)
    assert isinstance(result, dict)
    assert (result["serial"], result["done"]) == (8, False)
    assert source.controls == []


def test_a_second_greeting(session: Session) -> None:
    session.hear(Hello("x"), 0.0)
    assert kinds(session.take(0.0)) == [("error", None)]


def test_another_source(source: Fake, session: Session) -> None:
    source.make(4)
    session.hear(Want(1, ALL, 512), 0.0)
    session.take(0.0)
    session.hear(Want(2, ALL, 512), 0.0)
    after = Fake()
    after.link = Link("file", "a.h5")
    after.make(4)
    session.show(after)
    assert source.wanted[session] == ((), 0, False)
    assert after.wanted[session] == (ALL, 0, False)
    assert kinds(session.take(1.0)) == [("link", None), ("z", 1, 4), ("y", 2, 4), ("x", 3, 4), ("update", 2)]
    session.leave()
    assert after.wanted[session] == ((), 0, False)


def test_it_wakes_whoever_sends(source: Fake) -> None:
    woken: list[int] = []
    session = Session(source, "control", True, lambda: woken.append(1))
    session.hear(Want(1, ALL, 512), 0.0)
    assert woken
    session.hear(Control(1, "snapshot"), 0.0)
    woken.clear()
    source.controls[0].set_result((Result(serial=1, done=True, text=""), []))
    assert woken


def test_tokens() -> None:
    tokens = Tokens("looks", "changes")
    assert tokens.role("looks") == "view"
    assert tokens.role("changes") == "control"
    for wrong in ("", "look", "lookss", "changes ", "\ud800", "é"):
        assert tokens.role(wrong) is None
    only = Tokens("looks")
    assert only.role("") is None
    assert only.role("looks") == "view"


def test_who_says_too_much_is_read_more_slowly() -> None:
    pace, now = Pace(0.0, per_second=10.0, burst=5.0), 0.0
    assert [pace.wait(now) for _ in range(5)] == [0.0] * 5
    for _ in range(50):
        now += pace.wait(now)
    assert now == pytest.approx(5.0)
    assert pace.wait(now + 100.0) == 0.0
